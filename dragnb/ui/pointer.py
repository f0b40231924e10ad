"""What pressing, dragging, lifting and pinching mean, at places of the sheet (`window` says where on the picture)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dragnb.errors import InputError
from dragnb.ui.picks import Picks

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


TOOLS = ("points", "brush", "rectangle", "lasso", "pan")
GRAB = 10  # sheet pixels: a press so near to a point or path takes hold of it
SLACK = 4  # sheet pixels: a press that moves less is a click


class Hand:
    """A tool held over picks: the events of mouse, pen or finger, in sheet pixels, become steps of the picks.

    tool, erase, radius  what is held; `erase` turns brush, rectangle and lasso round; radius in picture pixels
    selected             the point that delete and the arrow keys mean, or None
    trail                places of the rectangle (two) or lasso being drawn
    fresh                segments the brush has painted and nobody has shown yet
    """

    def __init__(self, picks: Picks, window: Window):
        self.picks, self.window = picks, window
        self.tool, self.erase, self.radius = TOOLS[0], False, 12
        self.trail: list[tuple[float, float]] = []
        self.fresh: list[tuple] = []
        self._down: tuple[float, float] | None = None  # where the press was
        self._at = (0.0, 0.0)
        self._selected: int | None = None
        self._follow = None  # what a move does
        self._moved = self._pulled = False
        self._pinch: tuple[np.ndarray, float] | None = (
            None  # between two fingers: the middle, and how far apart
        )

    @property
    def busy(self) -> bool:
        """Is it pressed down?"""
        return self._down is not None

    @property
    def selected(self) -> int | None:
        known = self._selected is not None and self._selected < len(self.picks.points)
        return self._selected if known else None

    @selected.setter
    def selected(self, k: int | None) -> None:
        self._selected = k

    def press(self, x: float, y: float) -> None:
        """Put down; a press without a lift before it lifts first."""
        self.lift()
        if not self.window.covers(x, y):
            raise InputError("that was outside the picture: nothing is changed")
        place = self.window.on_picture(x, y)
        self._down, self._at = (x, y), (x, y)
        self._moved = self._pulled = False
        self.picks.begin()
        try:
            getattr(self, f"_{self.tool}")(place)
        except InputError:
            self.cancel()
            raise

    def move(self, x: float, y: float) -> None:
        """Drag, if it is down."""
        if not self.busy or (not self._moved and self._still(x, y)):
            return
        self._moved = True
        self._follow(self.window.on_picture(x, y))
        self._at = x, y

    def lift(self) -> None:
        """Let go: what was done since the press becomes one step."""
        if not self.busy:
            return
        self._down = None
        if len(self.trail) > 1 and self.tool == "rectangle":
            self.picks.rectangle(*self.trail, self.erase)
        elif len(self.trail) > 2:
            self.picks.lasso(self.trail, self.erase)
        self._drop_empty_pair()
        self.trail = []
        self.picks.end()

    def cancel(self) -> None:
        """Let go and take back what was done since the press; else let go of the selected point."""
        if self.busy:
            self._down, self.trail, self.fresh = None, [], []
            self.picks.cancel()
        else:
            self.selected = None

    @property
    def pinching(self) -> bool:
        """Were there two fingers, and not all of them gone yet? Until then the one that is left does nothing."""
        return self._pinch is not None

    def pinch(self, places) -> None:
        """Two fingers at places of the sheet, again and again: they zoom and push what they hold. None: all lifted.

        What the first finger began before the second came is taken back.
        """
        if not len(places):
            self._pinch = None
        if len(places) < 2:
            return
        a, b = np.array(places[:2], float)
        middle, apart = (a + b) / 2, max(float(np.hypot(*(a - b))), 1.0)
        if self._pinch is None and self.busy:
            self.cancel()
        if self._pinch is not None:
            was, far = self._pinch
            self.window.zoom_by(apart / far, *was)
            self.window.pan(*(middle - was))
        self._pinch = middle, apart

    def nudge(self, dx: int, dy: int) -> None:
        """Shift the selected point by pixels of the picture; without one, the view by a tenth of the sheet."""
        if self.selected is None:
            w, h = self.window.sheet
            self.window.pan(-dx * w / 10, -dy * h / 10)
        else:
            x, y = self.picks.points[self.selected]
            self.picks.move(self.selected, x + dx, y + dy)

    def delete(self, pair: bool = False) -> None:
        """Delete the selected point, or its pair; without a selection the last one."""
        if not self.picks.points:
            raise InputError("there is no point to delete")
        k = len(self.picks.points) - 1 if self.selected is None else self.selected
        self.selected = None
        self.picks.remove_pair(k // 2) if pair else self.picks.remove(k)

    def _still(self, x, y) -> bool:
        return self.tool == "points" and math.dist((x, y), self._down) < SLACK

    def _points(self, place):
        """Take hold of a point, else place the target that is missing, else take hold of a path, else a handle."""
        waiting = self.picks.waiting  # then a press beside a point is a target, and only one on it takes it
        near, pair = self._nearest(place, GRAB / 2 if waiting else GRAB), self._path(place)
        if near is not None:
            self._take(near, place)
        elif pair is not None and not waiting:
            self._take_pair(pair, place)
        else:
            self.picks.add(*place)
            self._take(len(self.picks.points) - 1, place)
            if not waiting:
                self._follow = self._pull

    def _take(self, k: int, place):
        self.selected = k
        (x, y), (x0, y0) = self.picks.points[k], place
        self._follow = lambda to: self.picks.move(k, x + to[0] - x0, y + to[1] - y0)

    def _take_pair(self, pair: int, place):
        self.selected, gone = 2 * pair, [0, 0]

        def follow(to):
            want = [to[i] - place[i] - gone[i] for i in (0, 1)]
            for i, step in enumerate(self.picks.move_pair(pair, *want)):
                gone[i] += step

        self._follow = follow

    def _pull(self, to):
        """The same press goes on from the new handle to its target."""
        if self.picks.snap(*to) != self.picks.points[-1]:
            self.picks.add(*to)
            self._take(len(self.picks.points) - 1, to)
            self._pulled = True

    def _drop_empty_pair(self):
        """A drag that comes back to its handle has placed no target."""
        points = self.picks.points
        if self._pulled and points[-1] == points[-2]:
            self.picks.remove(len(points) - 1)

    def _brush(self, place):
        self._follow = self._paint
        self._paint(place)

    def _paint(self, to):
        start = self.window.on_picture(*self._at)
        self.picks.stroke(start, to, self.radius, self.erase)
        self.fresh.append((start, to))

    def _rectangle(self, place):
        self.trail = [place]
        self._follow = lambda to: self.trail.__setitem__(slice(1, None), [to])

    def _lasso(self, place):
        self.trail = [place]
        self._follow = self.trail.append

    def _pan(self, place):
        self._follow = lambda to: self.window.pan(*np.multiply(np.subtract(to, place), self.window.scale))

    def _nearest(self, place, reach: float) -> int | None:
        far = [math.dist(place, point) * self.window.scale for point in self.picks.points]
        return int(np.argmin(far)) if far and min(far) <= reach else None

    def _path(self, place) -> int | None:
        """The pair whose arrow runs under a place."""
        points = self.picks.points
        for pair in range(len(points) // 2):
            a, b = np.array(points[2 * pair : 2 * pair + 2])
            along = np.clip(np.dot(place - a, b - a) / max(np.dot(b - a, b - a), 1e-9), 0, 1)
            if math.dist(place, a + along * (b - a)) * self.window.scale <= GRAB / 2:
                return pair
        return None
