"""Closed-form solids under a parallel camera: where a ray meets them, how they are lit, what shadow they throw.

Space is the picture's: x right, y down, z towards the viewer; the 256 px picture spans [-1, 1] in x and y. Every
solid is the intersection of a quadric and slabs, so a ray (one pixel) crosses it in one interval of z, in closed form.
In a solid's own coordinates p = R^T (x - c) / r, an ellipsoid is |p| <= 1, a frustum p0^2 + p2^2 <= (1 + taper p1)^2
with |p1| <= 1 (a cylinder has taper 0), a box |p_i| <= 1, each cut to lo <= p1 <= hi.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

LIGHT = np.array([-0.5, -0.68, 0.54], np.float32)
HALF = (LIGHT + np.array([0, 0, 1])) / np.linalg.norm(LIGHT + np.array([0, 0, 1]))
FLOOR_TILT = 0.35  # the floor plane is y = FLOOR_Y + FLOOR_TILT * z: it rises towards the horizon
FLOOR_Y = 0.78
WHITE, DARK, PINK = (0.97, 0.96, 0.94), (0.12, 0.10, 0.12), (0.95, 0.62, 0.64)
WOOD, GREEN, STEEL, SUN = (0.55, 0.38, 0.24), (0.36, 0.62, 0.30), (0.62, 0.65, 0.70), (1.0, 0.87, 0.35)
I3 = np.eye(3)


@dataclass(frozen=True)
class Solid:
    """One convex solid: centre, rotation (columns are its axes), radii, linear RGB in [0, 1]."""

    name: str
    c: np.ndarray
    R: np.ndarray
    r: np.ndarray
    color: tuple
    shape: str = "ellipsoid"  # "ellipsoid" | "frustum" | "box"
    clip: tuple = (-1.0, 1.0)
    taper: float = 0.0
    gloss: float = 0.22
    glow: bool = False
    shadow: bool = True
    pattern: object = None  # a patterns.Pattern, and the radii in which it is measured
    rest: tuple = ()

    def extent(self):
        """Half-width of the axis-aligned box around the solid, (3,)."""
        if self.shape == "ellipsoid":
            return np.linalg.norm(self.R * self.r, axis=1)
        return np.abs(self.R * self.r).sum(1) * (1 + abs(self.taper))

    def local(self, x, y, z):
        """World coordinates to the solid's own p, three arrays."""
        d = (x - self.c[0], y - self.c[1], z - self.c[2])
        return tuple(
            (d[0] * self.R[0, i] + d[1] * self.R[1, i] + d[2] * self.R[2, i]) / self.r[i] for i in range(3)
        )

    def world(self, p):
        """The solid's own coordinates (..., 3) to world coordinates (..., 3)."""
        return self.c + (np.asarray(p) * self.r) @ self.R.T


def rotation(yaw=0.0, pitch=0.0, roll=0.0):
    """Rotation matrix: roll in the picture plane, then pitch (nod), then yaw (turn); radians."""
    (cy, cp, cr), (sy, sp, sr) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    Y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    P = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    Z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return Y @ P @ Z


def front(solid, x, y):
    """Depth z at which the rays through (x, y) first meet the solid; -inf where they miss it."""
    p = solid.local(x, y, solid.c[2])
    d = solid.R[2] / solid.r
    lo, hi = np.full(np.shape(p[0]), -np.inf, np.float32), np.full(np.shape(p[0]), np.inf, np.float32)
    if solid.shape != "box":
        k = solid.taper
        if solid.shape == "ellipsoid":
            a, b, c = d @ d, p[0] * d[0] + p[1] * d[1] + p[2] * d[2], p[0] ** 2 + p[1] ** 2 + p[2] ** 2 - 1
        else:
            rho = 1 + k * p[1]
            a = d[0] ** 2 + d[2] ** 2 - (k * d[1]) ** 2
            b, c = p[0] * d[0] + p[2] * d[2] - k * d[1] * rho, p[0] ** 2 + p[2] ** 2 - rho**2
        if a > 1e-6:
            disc = b * b - a * c
            root = np.sqrt(np.maximum(disc, 0))
            lo, hi = np.where(disc > 0, (-b - root) / a, np.inf), np.where(disc > 0, (-b + root) / a, -np.inf)
        else:  # looked at end on: the ray stays inside or outside
            lo = np.where(c < 0, lo, np.inf)
    for axis, (low, high) in _slabs(solid):
        if abs(d[axis]) > 1e-6:
            u, v = (low - p[axis]) / d[axis], (high - p[axis]) / d[axis]
            lo, hi = np.maximum(lo, np.minimum(u, v)), np.minimum(hi, np.maximum(u, v))
        else:
            hi = np.where((p[axis] >= low) & (p[axis] <= high), hi, -np.inf)
    return np.where(hi > lo, solid.c[2] + hi, -np.inf).astype(np.float32)


def _slabs(solid):
    if solid.shape == "box":
        return [(0, (-1, 1)), (1, solid.clip), (2, (-1, 1))]
    return [(1, solid.clip)] if solid.shape == "frustum" or solid.clip != (-1.0, 1.0) else []


def normals(solid, x, y, z):
    """Outward unit normals (3 arrays) at surface points of the solid: of the constraint that is active there."""
    p = np.stack(solid.local(x, y, z))
    rho = 1 + solid.taper * p[1]
    if solid.shape == "ellipsoid":
        g, slack = p.copy(), np.abs((p**2).sum(0) - 1)
    elif solid.shape == "frustum":
        g, slack = np.stack([p[0], -solid.taper * rho, p[2]]), np.abs(p[0] ** 2 + p[2] ** 2 - rho**2)
    else:
        g, slack = np.zeros_like(p), np.full(p.shape[1:], np.inf)
    for axis, bounds in _slabs(solid):
        for bound, sign in zip(bounds, (-1, 1), strict=True):
            near = 2 * np.abs(p[axis] - bound) < slack
            slack = np.where(near, 2 * np.abs(p[axis] - bound), slack)
            flat = np.zeros((3, 1), p.dtype)
            flat[axis] = sign
            g = np.where(near, flat, g)
    n = solid.R @ (g / solid.r[:, None])
    return n / np.maximum(np.linalg.norm(n, axis=0), 1e-6)


def shade(solid, n, color=None):
    """Colour (m, 3) of surface points with normals n (3, m): diffuse, a highlight, a soft rim.

    color   of each point (m, 3), where it is not the solid's own everywhere
    """
    color = np.asarray(solid.color, np.float32) if color is None else color
    if solid.glow:
        return color * (0.92 + 0.08 * n[2])[:, None]
    diffuse = np.maximum(LIGHT @ n, 0)[:, None]
    highlight = np.maximum(HALF @ n, 0)[:, None] ** 28
    rim = (1 - np.clip(n[2], 0, 1))[:, None] ** 3
    return color * (0.44 + 0.66 * diffuse) + solid.gloss * highlight + 0.06 * rim


def shadows(solids, x, y):
    """Light that reaches the floor at (x, y), in (0, 1]: each solid dims it softly around its outline."""
    light = np.ones_like(x)
    z = (y - FLOOR_Y) / FLOOR_TILT
    for s in solids:
        if s.glow or not s.shadow:
            continue
        o = np.stack(s.local(x, y, z))
        d = (s.R.T @ LIGHT) / s.r
        d = d / np.linalg.norm(d)
        along = np.tensordot(d, o, 1)
        miss2 = (o**2).sum(0) - along**2
        soft = 1 / (1 + np.exp(np.clip((miss2 - 0.95) * 5.0, -30, 30)))
        light = light * (1 - 0.5 * soft * (along < 0.3))
    return 0.42 + 0.58 * light


def lighter(color, by=0.45):
    """The colour moved towards white by the fraction `by`."""
    return tuple(c + (1 - c) * by for c in color)


def hsv(h, s, v):
    """RGB of hue, saturation and value, each in [0, 1]."""
    return colorsys.hsv_to_rgb(h % 1, s, v)


class Kit:
    """Collects solids: a size, two colours, how far towards the viewer all of it is moved along the floor."""

    def __init__(self, size, main, second, near=0.0):
        self.size, self.main, self.second, self.solids = size, main, second, []
        self.near = near * np.array([0, FLOOR_TILT, 1])

    def add(self, name, c, r, color, rot=I3, frame=None, **kw):
        """Add one solid; `c` and `r` in the frame's units (before the kit's size), `frame` = (rotation, origin)."""
        R, o = frame if frame is not None else (I3, np.zeros(3))
        c = o + R @ (np.asarray(c, float) * self.size) + self.near
        self.solids.append(Solid(name, c, R @ rot, np.asarray(r, float) * self.size, color, **kw))

    def joint(self, frame, at, **angles):
        """A child frame: placed `at` in its parent's units, turned by yaw, pitch, roll."""
        R, o = frame
        return R @ rotation(**angles), o + R @ (np.asarray(at, float) * self.size)


def ground_frame(x):
    """The frame that stands on the floor at x."""
    return I3, np.array([x, FLOOR_Y, 0.0])
