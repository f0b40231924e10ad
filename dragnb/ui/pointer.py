"""What pressing, dragging, releasing and pinching mean, at places of the canvas.

Places on the canvas are in its own pixels from its top left corner; places on the picture are in picture pixels, (0, 0)
the centre of the top left one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dragnb.errors import InputError
from dragnb.ui.picks import Picks

TOOLS = ("points", "brush", "rectangle", "lasso", "pan")
# asks a model what is like the place that is pressed, so it is there only where there is one
SELECT = "select"
# tools that paint what may change
PAINTERS = ("brush", "rectangle", "lasso", SELECT)
# canvas pixels: one picture pixel is enlarged to at most so many, unless all of the picture fits so
CLOSEST = 16
# pixels of the screen: a press so near to a point or path grabs it
GRAB = 10
# pixels of the screen: a press that moves less is a click
SLACK = 4


@dataclass
class Viewport:
    """The part of a picture that a canvas shows; the canvas has the whole picture's shape, nothing is cropped.

    picture    (width, height) in pixels
    side       the canvas' longer side
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
        """Canvas pixels to a picture pixel."""
        return self.zoom * self.side / max(self.picture)

    @property
    def canvas(self) -> tuple[int, int]:
        """(width, height) of the canvas."""
        return tuple(math.ceil(n * self.side / max(self.picture) - 1e-9) for n in self.picture)

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        return x / self.scale + self.left - 0.5, y / self.scale + self.top - 0.5

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        return (x + 0.5 - self.left) * self.scale, (y + 0.5 - self.top) * self.scale

    def contains(self, x: float, y: float) -> bool:
        """Is a place on the canvas?"""
        return 0 <= x <= self.canvas[0] and 0 <= y <= self.canvas[1]

    def zoom_by(self, factor: float, x: float, y: float) -> None:
        """Zoom in (or out), so that what is at a place of the canvas stays there."""
        place = self.to_picture(x, y)
        most = max(1.0, CLOSEST / (self.scale / self.zoom))
        self.zoom = min(max(self.zoom * factor, 1.0), most)
        now = self.to_canvas(*place)
        self.pan(x - now[0], y - now[1])

    def pan(self, dx: float, dy: float) -> None:
        """Push the picture over the canvas, no further than to its edge."""
        room = [n * (1 - 1 / self.zoom) for n in self.picture]
        self.left = min(max(self.left - dx / self.scale, 0.0), room[0])
        self.top = min(max(self.top - dy / self.scale, 0.0), room[1])

    def fit(self) -> None:
        """Show all."""
        self.zoom, self.left, self.top = 1.0, 0.0, 0.0


class Pointer:
    """A tool over picks: the events of mouse, pen or finger, in canvas pixels, become steps of the picks.

    tool, erase, radius  `erase` reverses brush, rectangle and lasso; the brush's radius is in pixels of the screen
    shown_width          how many pixels of the screen the canvas is wide, as the page says; None: as many as its own
    selected             the point that delete and the arrow keys mean, or None
    hover                where on the canvas the mouse is, or None
    outline              places of the rectangle (two) or lasso being drawn
    new_segments         what the brush has painted and the canvas has not drawn yet
    """

    def __init__(self, picks: Picks, viewport: Viewport):
        self.picks, self.viewport = picks, viewport
        self.tool, self.erase, self.radius = TOOLS[0], False, 12
        self.shown_width: float | None = None
        self.hover: tuple[float, float] | None = None
        self.outline: list[tuple[float, float]] = []
        self.new_segments: list[tuple] = []
        self._pressed_at: tuple[float, float] | None = None
        self._last = (0.0, 0.0)
        self._selected: int | None = None
        # what a move does, given the place on the picture
        self._on_move = None
        self._moved = self._target_pulled = False
        # of two fingers: the middle between them, and how far apart they are
        self._pinch: tuple[np.ndarray, float] | None = None

    @property
    def pressed(self) -> bool:
        return self._pressed_at is not None

    @property
    def pressed_place(self) -> tuple[float, float] | None:
        """Where on the picture the gesture under way began."""
        return self.viewport.to_picture(*self._pressed_at) if self.pressed else None

    @property
    def unit(self) -> float:
        """Canvas pixels to a pixel of the screen: over 1 where a narrow page shows the canvas smaller."""
        return self.viewport.canvas[0] / self.shown_width if self.shown_width else 1.0

    @property
    def brush(self) -> float:
        """The brush's radius in picture pixels."""
        return self.radius * self.unit / self.viewport.scale

    @property
    def selected(self) -> int | None:
        exists = self._selected is not None and self._selected < len(self.picks.points)
        return self._selected if exists else None

    @selected.setter
    def selected(self, k: int | None) -> None:
        self._selected = k

    def press(self, x: float, y: float) -> None:
        """Begin a gesture; a press without a release before it releases first."""
        self.release()
        if not self.viewport.contains(x, y):
            raise InputError("that was outside the picture: nothing is changed")
        place = self.viewport.to_picture(x, y)
        self._pressed_at = self._last = x, y
        self._moved = self._target_pulled = False
        self.picks.begin()
        try:
            getattr(self, f"_{self.tool}")(place)
        except InputError:
            self.cancel()
            raise

    def move(self, x: float, y: float) -> None:
        """Go on with the gesture, if there is one."""
        if not self.pressed or (not self._moved and self._is_click(x, y)):
            return
        self._moved = True
        self._on_move(self.viewport.to_picture(x, y))
        self._last = x, y

    def release(self) -> None:
        """End the gesture: what was done since the press becomes one step."""
        if not self.pressed:
            return
        self._pressed_at = None
        if len(self.outline) > 1 and self.tool == "rectangle":
            self.picks.rectangle(*self.outline, self.erase)
        elif len(self.outline) > 2:
            self.picks.lasso(self.outline, self.erase)
        points = self.picks.points
        # a gesture that comes back to its handle has placed no target
        if self._target_pulled and points[-1] == points[-2]:
            self.picks.remove(len(points) - 1)
        self.outline = []
        self.picks.end()

    def cancel(self) -> None:
        """Undo the gesture under way; without one, deselect the point."""
        if self.pressed:
            self._pressed_at, self.outline, self.new_segments = None, [], []
            self.picks.cancel()
        else:
            self.selected = None

    @property
    def pinching(self) -> bool:
        """Were there two fingers, and not all of them gone yet? Until then the one that is left does nothing."""
        return self._pinch is not None

    def pinch(self, places) -> None:
        """Two fingers at places of the canvas, again and again: they zoom and push the picture. None: all released.

        What the first finger began before the second came is cancelled.
        """
        if not len(places):
            self._pinch = None
        if len(places) < 2:
            return
        a, b = np.array(places[:2], float)
        middle, distance = (a + b) / 2, max(float(np.hypot(*(a - b))), 1.0)
        if self._pinch is None and self.pressed:
            self.cancel()
        if self._pinch is not None:
            last_middle, last_distance = self._pinch
            self.viewport.zoom_by(distance / last_distance, *last_middle)
            self.viewport.pan(*(middle - last_middle))
        self._pinch = middle, distance

    def nudge(self, dx: int, dy: int) -> None:
        """Shift the selected point by pixels of the picture; without one, the view by a tenth of the canvas."""
        if self.selected is None:
            w, h = self.viewport.canvas
            self.viewport.pan(-dx * w / 10, -dy * h / 10)
        else:
            x, y = self.picks.points[self.selected]
            self.picks.move(self.selected, x + dx, y + dy)

    def place(self) -> None:
        """A new point without pointing, chosen: a handle in the middle of the view, or a target beside its handle."""
        self.release()
        if self.picks.waiting:
            (x, y), step = self.picks.points[-1], self.viewport.canvas[0] / 10 / self.viewport.scale
            self.picks.add(x + step if x + step < self.picks.size[0] else x - step, y)
        else:
            w, h = self.viewport.canvas
            self.picks.add(*self.viewport.to_picture(w / 2, h / 2))
        self.selected = len(self.picks.points) - 1

    def choose_next(self) -> None:
        """Choose the point after the chosen one, the first after the last."""
        if not self.picks.points:
            raise InputError("there is no point to choose")
        self.selected = 0 if self.selected is None else (self.selected + 1) % len(self.picks.points)

    def delete(self, pair: bool = False) -> None:
        """Delete the selected point, or its pair; without a selection the last one."""
        if not self.picks.points:
            raise InputError("there is no point to delete")
        k = len(self.picks.points) - 1 if self.selected is None else self.selected
        self.selected = None
        self.picks.remove(k // 2 * 2 if pair else k)

    def _is_click(self, x, y) -> bool:
        return self.tool == "points" and math.dist((x, y), self._pressed_at) < SLACK * self.unit

    def _points(self, place):
        """Grab a point, else place the target that is missing, else grab a path, else place a handle."""
        # while a handle waits, a press beside a point is its target, and only one on the point grabs it
        waiting = self.picks.waiting
        near, pair = self._nearest(place, GRAB / 2 if waiting else GRAB), self._path(place)
        if near is not None:
            self._grab(near, place)
        elif pair is not None and not waiting:
            self._grab_pair(pair, place)
        else:
            self.picks.add(*place)
            self._grab(len(self.picks.points) - 1, place)
            if not waiting:
                self._on_move = self._pull_target

    def _grab(self, k: int, place):
        self.selected = k
        (x, y), (x0, y0) = self.picks.points[k], place
        self._on_move = lambda to: self.picks.move(k, x + to[0] - x0, y + to[1] - y0)

    def _grab_pair(self, pair: int, place):
        self.selected, shifted = 2 * pair, np.zeros(2)

        def follow(to):
            nonlocal shifted
            shifted = shifted + self.picks.move_pair(pair, *np.subtract(to, place) - shifted)

        self._on_move = follow

    def _pull_target(self, to):
        """The same gesture goes on from the new handle to its target."""
        if self.picks.snap(*to) != self.picks.points[-1]:
            self.picks.add(*to)
            self._grab(len(self.picks.points) - 1, to)
            self._target_pulled = True

    def _brush(self, place):
        self._on_move = self._paint
        self._paint(place)

    def _paint(self, to):
        start = self.viewport.to_picture(*self._last)
        self.picks.stroke(start, to, self.brush, self.erase)
        self.new_segments.append((start, to))

    def _rectangle(self, place):
        self.outline = [place]
        self._on_move = lambda to: self.outline.__setitem__(slice(1, None), [to])

    def _lasso(self, place):
        self.outline = [place]
        self._on_move = self.outline.append

    def _select(self, place):
        # the picker asks, once the press is over
        self._on_move = lambda to: None

    def _pan(self, place):
        self._on_move = lambda to: self.viewport.pan(
            *np.multiply(np.subtract(to, place), self.viewport.scale)
        )

    def _nearest(self, place, reach: float) -> int | None:
        """The point that is nearest to a place, if within `reach` pixels of the screen."""
        distances = [math.dist(place, point) * self.viewport.scale for point in self.picks.points]
        return int(np.argmin(distances)) if distances and min(distances) <= reach * self.unit else None

    def _path(self, place) -> int | None:
        """The pair whose arrow runs under a place."""
        points = self.picks.points
        for pair in range(len(points) // 2):
            a, b = np.array(points[2 * pair : 2 * pair + 2])
            along = np.clip(np.dot(place - a, b - a) / max(np.dot(b - a, b - a), 1e-9), 0, 1)
            if math.dist(place, a + along * (b - a)) * self.viewport.scale <= GRAB / 2 * self.unit:
                return pair
        return None
