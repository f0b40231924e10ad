"""Undo and redo of whatever can be remembered and restored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

UNDO_LIMIT = 100  # steps


class History:
    """Steps that can be undone and redone. Whoever inherits says how a state is kept, and how it comes back:

    _now()          the present state, as something that never changes and compares by what it holds
    _restore(kept)  makes a kept state the present one
    """

    def __init__(self):
        self._past: list = []
        self._future: list = []
        self._before = None  # where the step under way began
        self._listeners: list[Callable[[], object]] = []

    def on_change(self, listener: Callable[[], object]) -> None:
        """Have `listener()` called after every step, undo and redo."""
        self._listeners.append(listener)

    def begin(self) -> None:
        """Start a step of several changes, such as a stroke; it lasts until `end` or `cancel`."""
        self.end()
        self._before = self._now()

    def end(self) -> None:
        """Finish the step; one that changed nothing leaves no trace."""
        before, self._before = self._before, None
        if before is not None and before != self._now():
            self._past = [*self._past[1 - UNDO_LIMIT :], before]
            self._future = []
            self._tell()

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
            getattr(self, other).append(self._now())
            self._restore(getattr(self, source).pop())
            self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()
