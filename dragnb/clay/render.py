"""From solids to a picture, a depth map and a part map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dragnb.clay.patterns import TONE, Pattern, surface
from dragnb.clay.solids import FLOOR_TILT, FLOOR_Y, front, normals, shade, shadows


@dataclass(frozen=True)
class Backdrop:
    """Sky colours (top, horizon), ground colour, the horizon's y, the ground's pattern."""

    sky: tuple
    haze: tuple
    ground: tuple
    horizon: float = 0.42
    pattern: Pattern | None = None


def grid(size):
    """Pixel centres of a size x size picture in scene coordinates: one axis, (size,), within (-1, 1)."""
    return ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)


def to_pixel(xy, size=256):
    """Scene coordinates (..., 2) to picture coordinates in pixels, where (0, 0) is the centre of the first pixel."""
    return (np.asarray(xy) + 1) / 2 * size - 0.5


def trace(solids, size=256):
    """Which solid each pixel sees: (depth, part), depth -inf and part -1 where it sees none."""
    axis = grid(size)
    depth, part = np.full((size, size), -np.inf, np.float32), np.full((size, size), -1, np.int16)
    for i, s in enumerate(solids):
        box = _box(s, size)
        if box is None:
            continue
        rows, cols = box
        z = front(s, axis[None, cols], axis[rows, None])
        nearer = z > depth[rows, cols]
        depth[rows, cols][nearer], part[rows, cols][nearer] = z[nearer], i
    return depth, part


def _box(solid, size):
    half = solid.extent()[:2]
    lo = np.floor((solid.c[:2] - half + 1) / 2 * size - 0.5).astype(int)
    hi = np.ceil((solid.c[:2] + half + 1) / 2 * size + 0.5).astype(int)
    (x0, y0), (x1, y1) = np.clip(lo, 0, size), np.clip(hi, 0, size)
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def paint(solids, backdrop, size=256, samples=2):
    """The picture, (size, size, 3) uint8, with `samples` x `samples` rays a pixel."""
    n = size * samples
    axis = grid(n)
    depth, part = trace(solids, n)
    rgb = _paint_backdrop(solids, backdrop, n)
    for i, s in enumerate(solids):
        box = _box(s, n)
        if box is None:
            continue
        iy, ix = np.nonzero(part[box] == i)
        if not len(iy):
            continue
        iy, ix = iy + box[0].start, ix + box[1].start
        at = axis[ix], axis[iy], depth[iy, ix]
        color = surface(s, *at) if s.pattern else None
        rgb[iy, ix] = shade(s, normals(s, *at).astype(np.float32), color)
    rgb = np.clip(rgb, 0, 1).reshape(size, samples, size, samples, 3).mean((1, 3))
    return (rgb * 255 + 0.5).astype(np.uint8)


def _paint_backdrop(solids, backdrop, n):
    y = grid(n)[:, None]
    sky, haze, ground = (np.asarray(c, np.float32) for c in (backdrop.sky, backdrop.haze, backdrop.ground))
    w = np.clip((y + 1) / (backdrop.horizon + 1), 0, 1)
    column = sky * (1 - w) + haze * w
    near = np.clip((y - backdrop.horizon) / (1 - backdrop.horizon), 0, 1)
    on_floor = y > backdrop.horizon
    column = np.where(on_floor, ground * (1.0 - 0.18 * near), column)
    rgb = np.repeat(column[:, None].astype(np.float32), n, axis=1)
    if backdrop.pattern:
        x, z = np.meshgrid(grid(n), (y[on_floor] - FLOOR_Y) / np.float32(FLOOR_TILT))
        inked = backdrop.pattern.covers(x, z, np.zeros_like(x))
        rgb[on_floor[:, 0]] *= np.where(inked, np.float32(TONE), np.float32(1))[..., None]
    step = max(1, n // 64)  # shadows are smooth: trace them coarsely, then interpolate
    coarse = grid(n // step)
    rows = coarse[coarse > backdrop.horizon - 2 * step / n * 2]
    if len(rows):
        x, yy = np.meshgrid(coarse, rows)
        light = _resize(shadows(solids, x, yy), coarse, rows, grid(n), grid(n)[on_floor[:, 0]])
        rgb[on_floor[:, 0]] *= light[..., None]
    return rgb


def _resize(values, x_from, y_from, x_to, y_to):
    ix, iy = (np.clip((t - f[0]) / (f[1] - f[0]), 0, len(f) - 1) for t, f in ((x_to, x_from), (y_to, y_from)))
    x0, y0 = np.minimum(ix.astype(int), len(x_from) - 2), np.minimum(iy.astype(int), len(y_from) - 2)
    wx, wy = (ix - x0).astype(np.float32), (iy - y0).astype(np.float32)[:, None]
    rows = values[:, x0] * (1 - wx) + values[:, x0 + 1] * wx
    return rows[y0] * (1 - wy) + rows[y0 + 1] * wy
