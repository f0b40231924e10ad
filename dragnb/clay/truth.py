"""What really happens when a pose changes: where every surface point goes, whether it stays in view, what moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dragnb.clay.render import grid, to_pixel
from dragnb.clay.scene import Scene

_DEPTH_TOLERANCE = 0.03  # scene units: about 4 px of depth at 256 px
_VISIBLE_CHANGE = 4  # grey levels of 255 below which a pixel counts as unchanged
_PATH = 5  # poses between before and after whose pictures the mask must hold as well


@dataclass(frozen=True)
class Flow:
    """The true correspondence between two poses of one scene, at pixel centres of the picture before.

    xy       (h, w, 2) where the surface point seen at each pixel lies afterwards, in pixels, (x, y); backdrop stays
    visible  (h, w) whether that point is still seen afterwards
    solid    (h, w) whether the pixel shows a solid (not the backdrop)
    """

    xy: np.ndarray
    visible: np.ndarray
    solid: np.ndarray


def place_of(scene: Scene, part: str, point, size=256):
    """Where a point of a part (in the part's own coordinates) lies in the picture: ((x, y) in pixels, depth)."""
    solid = {s.name: s for s in scene.solids}[part]
    world = solid.world(point)
    return to_pixel(world[:2], size), world[2]


def is_visible(scene: Scene, part: str, point, size=256):
    """Whether that point is inside the picture and hidden by nothing."""
    (x, y), depth = place_of(scene, part, point, size)
    if not (0 <= round(x) < size and 0 <= round(y) < size):
        return False
    seen, parts = scene.trace(size)
    row, column = round(y), round(x)
    name = scene.solids[parts[row, column]].name if parts[row, column] >= 0 else None
    return name == part and abs(seen[row, column] - depth) < _DEPTH_TOLERANCE


def flow(before: Scene, after: Scene, size=256) -> Flow:
    """The exact Flow from one pose to another of the same scene."""
    if (before.kind, before.size) != (after.kind, after.size):
        raise ValueError(f"flow: both scenes must be the same {before.kind} in two poses, got a {after.kind}")
    depth, part = before.trace(size)
    depth_after, part_after = after.trace(size)
    axis = grid(size)
    xy = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(np.float64)
    visible = (part < 0) & (part_after < 0)
    for i, (a, b) in enumerate(zip(before.solids, after.solids, strict=True)):
        iy, ix = np.nonzero(part == i)
        if not len(iy):
            continue
        p = np.stack(a.local(axis[ix], axis[iy], depth[iy, ix]), -1)
        world = b.world(p)
        there = to_pixel(world[:, :2], size)
        xy[iy, ix] = there
        jx, jy = np.rint(there).astype(int).T
        inside = (jx >= 0) & (jx < size) & (jy >= 0) & (jy < size)
        jx, jy = np.clip(jx, 0, size - 1), np.clip(jy, 0, size - 1)
        near = np.abs(depth_after[jy, jx] - world[:, 2]) < _DEPTH_TOLERANCE
        visible[iy, ix] = inside & (part_after[jy, jx] == i) & near
    return Flow(xy, visible, part >= 0)


def moved(before: Scene, after: Scene, size=256, margin=8):
    """(size, size) bool: all pixels that differ between the poses or on the way, shadows too, grown by `margin` px."""
    names = [k for k in before.pose if before.pose[k] != after.pose[k]]
    start = before.picture(size, samples=1).astype(np.int16)
    changed = np.zeros((size, size), bool)
    for step in range(1, _PATH + 1):
        w = step / _PATH
        between = before.posed(**{k: (1 - w) * before.pose[k] + w * after.pose[k] for k in names})
        changed |= np.abs(between.picture(size, samples=1) - start).max(-1) > _VISIBLE_CHANGE
    return grow(changed, margin)


def grow(mask, margin):
    """The mask with every pixel within `margin` (in x and in y) of it."""
    out = np.pad(mask, margin)
    for axis in (0, 1):
        out = np.logical_or.reduce([np.roll(out, k, axis) for k in range(-margin, margin + 1)])
    return out[margin:-margin, margin:-margin] if margin else out
