"""Patterns on clay and ground, glued to the surface: a point keeps its colour however its part moves and stretches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INKS = {
    "white": (0.97, 0.96, 0.94),
    "black": (0.14, 0.12, 0.14),
    "yellow": (0.96, 0.82, 0.30),
    "blue": (0.24, 0.40, 0.74),
}
TONE = 0.80  # of the ground, where its pattern is
CONTRAST = 0.55  # least distance in RGB between a pattern and what it lies on


@dataclass(frozen=True)
class Pattern:
    """One pattern: its name in `PATTERNS`, its ink in `INKS`, its period in scene units, where it begins (periods)."""

    name: str
    ink: str
    period: float
    start: tuple = (0.0, 0.0, 0.0)

    def covers(self, *xyz):
        """Whether the ink lies at points (arrays x, y, z in scene units)."""
        cells = (a / np.float32(self.period) + np.float32(s) for a, s in zip(xyz, self.start, strict=True))
        return PATTERNS[self.name](*cells)


def _fraction(a):
    return a - np.floor(a)


def stripes(x, y, z):
    """Bands across a part."""
    return _fraction(y) < 0.48


def dots(x, y, z):
    """Round dots in rows, every second row shifted by half."""
    row = np.floor(y / 0.9)
    return (_fraction(x + 0.5 * (row % 2)) - 0.5) ** 2 + (_fraction(y / 0.9) - 0.5) ** 2 < 0.09


def patches(x, y, z):
    """Patches without order, as a cow has them."""
    a, b, c = np.sin(2.7 * x + 1.6 * z), np.sin(2.3 * y - 1.2 * x + 2.0), np.sin(1.9 * y + 2.4 * x + 4.0)
    return a + b + c > 0.7


def checks(x, y, z):
    """Squares in two colours."""
    return (np.floor(1.6 * x) + np.floor(1.6 * y)) % 2 == 0


def zigzags(x, y, z):
    """Bands that go up and down."""
    return _fraction(y + np.abs(2 * _fraction(0.8 * x) - 1) * 0.7) < 0.45


def rings(x, y, z):
    """Circles in circles."""
    return _fraction(np.hypot(x, y)) < 0.45


TRAINED = {"stripes": stripes, "dots": dots, "patches": patches}
HELDOUT = {"checks": checks, "zigzags": zigzags, "rings": rings}  # no training meets them
PATTERNS = TRAINED | HELDOUT
GROUND_WORD = {"stripes": "striped", "dots": "dotted", "patches": "patchy"}


def inks_on(color) -> list[str]:
    """The inks that can be told from a colour."""
    return [name for name, ink in INKS.items() if np.linalg.norm(np.subtract(ink, color)) > CONTRAST]


def surface(solid, x, y, z):
    """Colours (m, 3) of a patterned solid at surface points; its own coordinates times its size at rest carry them."""
    own = (np.float32(r) * p for r, p in zip(solid.rest, solid.local(x, y, z), strict=True))
    return np.where(solid.pattern.covers(*own)[:, None], INKS[solid.pattern.ink], solid.color).astype(
        np.float32
    )
