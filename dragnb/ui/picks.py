"""Picks: points and a mask on one picture, in which every change can be undone. Knows no widget and no browser."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from dragnb.errors import InputError
from dragnb.task import DragTask, check_image, check_mask, pair_up
from dragnb.ui import masks

UNDO_LIMIT = 100  # steps


class History:
    """Steps that can be undone and redone. A subclass says how a state is stored and restored:

    _state()        the present state as a value that never changes; equal states compare equal
    _restore(state) makes a stored state the present one
    """

    def __init__(self):
        self._past: list = []
        self._future: list = []
        self._before = None  # the state before the step under way
        self._listeners: list[Callable[[], object]] = []

    def on_change(self, listener: Callable[[], object]) -> None:
        """Have `listener()` called after every step, undo and redo."""
        self._listeners.append(listener)

    def begin(self) -> None:
        """Start a step of several changes, such as a stroke; it lasts until `end` or `cancel`."""
        self.end()
        self._before = self._state()

    def end(self) -> None:
        """Finish the step; one that changed nothing leaves no trace."""
        before, self._before = self._before, None
        if before is not None and before != self._state():
            self._past = [*self._past[1 - UNDO_LIMIT :], before]
            self._future = []
            self._notify()

    def cancel(self) -> None:
        """Take back what the step under way has done by now."""
        before, self._before = self._before, None
        if before is not None:
            self._restore(before)

    @contextmanager
    def action(self):
        """All changes in the block are one step; if it raises, none of them happened."""
        if self._before is not None:  # part of a larger step
            yield
            return
        self.begin()
        try:
            yield
        except BaseException:
            self.cancel()
            raise
        self.end()

    def undo(self) -> None:
        """Take the last step back; nothing to take back is no error."""
        self._swap("_past", "_future")

    def redo(self) -> None:
        """Do again what was undone last; any new step forgets it."""
        self._swap("_future", "_past")

    @property
    def can_undo(self) -> bool:
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        return bool(self._future)

    def _swap(self, source: str, other: str) -> None:
        self.end()  # a new step empties the future, so the lists are looked up afterwards
        if getattr(self, source):
            getattr(self, other).append(self._state())
            self._restore(getattr(self, source).pop())
            self._notify()

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()


@dataclass(frozen=True)
class State:
    """A state that undo goes back to, its mask compressed."""

    image: np.ndarray = field(compare=False)
    # pictures are never written to, so the same array is the same picture
    image_id: int
    points: tuple
    mask: bytes
    prompt: str
    name: str


class Picks(History):
    """Points and mask on one picture. Change them by the methods only: each is one step of undo and redo.

    image   uint8 (h, w, 3)
    points  list of (x, y) in picture pixels, handle and target in turn; an odd one at the end is a handle that waits
    mask    bool (h, w), True = may change; nothing painted leaves the whole picture free; a copy, read-only
    version  another object after every change of the mask
    prompt, name  as in DragTask
    """

    def __init__(self, image: np.ndarray, points=(), mask=None, prompt: str = "", name: str = ""):
        super().__init__()
        self._copy = None, None  # the mask that was handed out last, and its version
        self._fill_in(image, points, mask, prompt, name)

    @classmethod
    def of(cls, task: DragTask | np.ndarray) -> Picks:
        """The picks of a task, to go on from, or of a picture on which nothing is picked yet."""
        return cls(*_contents(task))

    def _fill_in(self, image, points=(), mask=None, prompt="", name=""):
        check_image(image)
        self.image, self.prompt, self.name = image, prompt, name
        self.points = _check_points(points, self.size)
        self._put(np.zeros(image.shape[:2], bool) if mask is None else check_mask(mask, self.size))

    def load(self, task: DragTask | np.ndarray) -> None:
        """Put a task, or a bare picture, in the place of what is here; `undo` brings that back, picture and all."""
        with self.action():
            self._fill_in(*_contents(task))

    def _state(self) -> State:
        mask = zlib.compress(np.packbits(self._mask).tobytes(), 1)
        return State(self.image, id(self.image), tuple(self.points), mask, self.prompt, self.name)

    def _restore(self, state: State) -> None:
        self.image, self.points = state.image, list(state.points)
        self.prompt, self.name = state.prompt, state.name
        bits = np.frombuffer(zlib.decompress(state.mask), np.uint8)
        h, w = self.image.shape[:2]
        self._put(np.unpackbits(bits, count=h * w).reshape(h, w).astype(bool))

    @property
    def mask(self) -> np.ndarray:
        version = self.version
        if self._copy[0] is not version:
            copy = self._mask.copy()
            copy.flags.writeable = False  # what is written here would be lost without a word
            self._copy = version, copy
        return self._copy[1]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def waiting(self) -> bool:
        """Does the last handle still wait for its target?"""
        return len(self.points) % 2 == 1

    def snap(self, x: float, y: float) -> tuple[float, float]:
        """The pixel nearest to a place that may lie between pixels or outside."""
        w, h = self.size
        return float(min(max(round(x), 0), w - 1)), float(min(max(round(y), 0), h - 1))

    def add(self, x: float, y: float) -> None:
        """Add a point, rounded to a pixel of the picture: a handle, or the target of the handle that waits."""
        point = self.snap(x, y)
        if self.waiting and point == self.points[-1]:
            raise InputError("the target lies on its own handle: there is nothing to drag")
        with self.action():
            self.points = [*self.points, point]

    def move(self, k: int, x: float, y: float) -> None:
        """Put the k-th point elsewhere, rounded to a pixel of the picture."""
        with self.action():
            self.points = [*self.points[:k], self.snap(x, y), *self.points[k + 1 :]]

    def move_pair(self, pair: int, dx: float, dy: float) -> tuple[int, int]:
        """Shift both ends of a pair by whole pixels, no further than the picture goes; returns by how much."""
        ends = np.array(self.points[2 * pair : 2 * pair + 2])
        free = np.array(self.size) - 1 - ends.max(0)
        shift = np.clip(np.rint([dx, dy]), -np.floor(ends.min(0)), np.floor(free))
        with self.action():
            moved = [tuple(end) for end in (ends + shift).tolist()]
            self.points = [*self.points[: 2 * pair], *moved, *self.points[2 * pair + 2 :]]
        return int(shift[0]), int(shift[1])

    def remove(self, k: int) -> None:
        """Delete a point. A handle takes its pair with it; a target leaves its handle waiting, if none waits yet."""
        pair, handle = k // 2, self.points[k // 2 * 2]
        keep = [handle] if k % 2 and not self.waiting else []
        with self.action():
            self.points = [*self.points[: 2 * pair], *self.points[2 * pair + 2 :], *keep]

    def set_points(self, points) -> None:
        """Replace all points; InputError names the one that lies outside the picture."""
        with self.action():
            self.points = _check_points(points, self.size)

    def clear_points(self) -> None:
        self.set_points([])

    def stroke(self, start, end, radius: float, erase: bool = False) -> None:
        """Paint, or erase, with a round brush along the line between two places (x, y)."""
        self._paint(masks.stroke, start, end, radius, not erase)

    def rectangle(self, corner, opposite, erase: bool = False) -> None:
        self._paint(masks.rectangle, corner, opposite, not erase)

    def lasso(self, places, erase: bool = False) -> None:
        """Paint, or erase, inside a closed line through places (x, y)."""
        self._paint(masks.polygon, places, not erase)

    def fill(self) -> None:
        """Paint what the paint encloses; InputError if it encloses nothing."""
        holes = masks.holes(self.mask)
        if not holes.any():
            raise InputError("fill: the paint encloses nothing; draw a closed outline first")
        self.set_mask(self.mask | holes)

    def invert(self) -> None:
        self.set_mask(~self.mask)

    def around_paths(self) -> None:
        """Paint a generous region around every path from handle to target: a first guess at what has to change."""
        if len(self.points) < 2:
            raise InputError("around the path: there is none yet; pick a handle and its target first")
        self._paint(masks.around, self.points)

    def set_mask(self, mask) -> None:
        """Replace the mask by one of the picture's size; None clears it."""
        with self.action():
            self._put(np.zeros_like(self._mask) if mask is None else check_mask(mask, self.size))

    def clear_mask(self) -> None:
        self.set_mask(None)

    def _paint(self, shape: Callable[..., None], *args) -> None:
        """Paint on the array that nobody else has: a cell may read the mask while another thread hears the page, and
        numpy's nonzero, for one, writes beyond its result, and ends the kernel, where an array changes under it."""
        with self.action():
            shape(self._mask, *args)
            self.version = object()

    def _put(self, mask: np.ndarray) -> None:
        """Another mask, an array that nobody else has."""
        self._mask, self.version = mask, object()

    def set_prompt(self, prompt: str) -> None:
        """Say what the picture shows."""
        with self.action():
            self.prompt = prompt

    def summary(self) -> str:
        """One line: what is picked and what comes next."""
        pairs = -(-len(self.points) // 2)
        action = "click its target" if self.waiting else "click a handle"
        free = f"{self._mask.mean():.0%} may change" if self._mask.any() else "the whole picture may change"
        return f"{pairs} {'pair' if pairs == 1 else 'pairs'}; {action}; {free}"

    def task(self, prompt: str | None = None) -> DragTask:
        """The drag task of the picks; InputError says what is missing."""
        handles, targets = pair_up(self.points)
        mask, prompt = self.mask if self.mask.any() else None, self.prompt if prompt is None else prompt
        return DragTask(self.image, handles, targets, mask, prompt, self.name)


def _contents(what: DragTask | np.ndarray) -> tuple:
    if not isinstance(what, DragTask):
        return (what,)
    points = np.stack([what.handles, what.targets], axis=1).reshape(-1, 2)
    return what.image, points, what.mask, what.prompt, what.name


def _check_points(points, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Points as a list of (x, y), all of them on the picture."""
    w, h = size
    try:
        points = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        raise InputError(f"points = {points!r} are not a list of [x, y]") from None
    for k, (x, y) in enumerate(points):
        if not (0 <= x <= w - 1 and 0 <= y <= h - 1):  # NaN is outside too
            end = "target" if k % 2 else "handle"
            raise InputError(
                f"pair {k // 2 + 1}: its {end} ({x:g}, {y:g}) lies outside the {w}×{h} picture: "
                f"x goes from 0 to {w - 1}, y from 0 to {h - 1}"
            )
    return points
