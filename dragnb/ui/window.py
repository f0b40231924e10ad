"""Where on the picture a place of the canvas is.

Places on the sheet, as the canvas is called here, are in its own pixels from its top left corner; places on the
picture are in picture pixels, (0, 0) the centre of the top left one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CLOSEST = 16  # sheet pixels that one picture pixel is shown in at most, unless all of it fits so


@dataclass
class Window:
    """The part of a picture that a sheet shows; the sheet has the whole picture's shape, nothing is cropped.

    picture    (width, height) in pixels
    side       the sheet's longer side
    zoom       1 shows all
    left, top  what lies outside, in picture pixels from its corner
    """

    picture: tuple[int, int]
    side: int
    zoom: float = 1.0
    left: float = 0.0
    top: float = 0.0

    @property
    def scale(self) -> float:
        """Sheet pixels to a picture pixel."""
        return self.zoom * self.side / max(self.picture)

    @property
    def sheet(self) -> tuple[int, int]:
        """(width, height) of the sheet."""
        return tuple(math.ceil(n * self.side / max(self.picture) - 1e-9) for n in self.picture)

    def on_picture(self, x: float, y: float) -> tuple[float, float]:
        return x / self.scale + self.left - 0.5, y / self.scale + self.top - 0.5

    def on_sheet(self, x: float, y: float) -> tuple[float, float]:
        return (x + 0.5 - self.left) * self.scale, (y + 0.5 - self.top) * self.scale

    def covers(self, x: float, y: float) -> bool:
        """Is a place on the sheet?"""
        return 0 <= x <= self.sheet[0] and 0 <= y <= self.sheet[1]

    def zoom_by(self, factor: float, x: float, y: float) -> None:
        """Come nearer (or go back), so that what is at a place of the sheet stays there."""
        at = self.on_picture(x, y)
        most = max(1.0, CLOSEST / (self.scale / self.zoom))
        self.zoom = min(max(self.zoom * factor, 1.0), most)
        now = self.on_sheet(*at)
        self.pan(x - now[0], y - now[1])

    def pan(self, dx: float, dy: float) -> None:
        """Push the picture over the sheet, no further than to its edge."""
        room = [n * (1 - 1 / self.zoom) for n in self.picture]
        self.left = min(max(self.left - dx / self.scale, 0.0), room[0])
        self.top = min(max(self.top - dy / self.scale, 0.0), room[1])

    def fit(self) -> None:
        """Show all."""
        self.zoom, self.left, self.top = 1.0, 0.0, 0.0
