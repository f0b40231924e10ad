"""Long work beside a page that stays awake: one job at a time in a thread, with progress, a Stop and errors in a line.

A job is a generator of events. What its thread changes it changes under one lock; listeners are called afterwards, with
the lock released, about ten times a second. A thread lives only while there is something to do.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dragnb import pipeline
from dragnb.errors import InputError
from dragnb.pipeline import Event

# seconds between two reports of progress, and between two live previews
REPORT_EVERY = 0.1
# after a preview that took so long, the next one comes this many times as long later
PREVIEW_SHARE = 5
# seconds that closing waits for the step under way; a download may take minutes
CLOSING = 5.0
CLOSED = "this studio is closed; make a new one"
# too late to stop: the picture is there
FINISHING = ("decode", "done")
log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """An error as a reader wants it: one line, and the traceback for those who ask."""

    line: str
    details: str

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """InputErrors speak for themselves, anything else is named."""
        line = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return cls(" ".join(line.split()), "".join(traceback.format_exception(error)))


class Worker:
    """Does one job at a time in the background.

    busy      the job's name; "" where there is none
    progress  the last event of each of its stages, without data; reused: the stages of which anything was cached
    preview   the newest picture of it
    message   what happened last, in a line; problem: the error that ended it, until the next job
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.busy, self.message = "", ""
        self.problem: Problem | None = None
        self.progress: dict[str, Event] = {}
        self.reused: set[str] = set()
        self.preview: np.ndarray | None = None
        self._listeners: list[Callable[[], None]] = []
        self._threads: list[threading.Thread] = []
        # held by whoever computes: hooks and processors are put on the model
        self._computing = threading.Lock()
        self._stop, self._closed = threading.Event(), False
        self._reported = self._preview_after = 0.0

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after changes; it may be called from any thread."""
        self._listeners.append(listener)

    def do(self, name: str, events: Generator[Event], then: Callable = lambda data: None) -> None:
        """Work through a generator of events; `then` is given the data of the last. InputError while busy.

        Stop throws KeyboardInterrupt into the generator between two events, as Ctrl-C would.
        """
        with self.lock:
            if self._closed:
                raise InputError(CLOSED)
            if self.busy:
                raise InputError(f"a {self.busy} is being made; press Stop first, or wait for it")
            self.busy, self.message, self.problem, self.preview = name, "", None, None
            self.progress, self.reused = {}, set()
            self._stop.clear()
        self._begin(self._work, events, then)

    def stop(self) -> None:
        """End the job at its next event."""
        if self.busy:
            self._stop.set()
            self.report("stopping")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is worked on; False when that takes longer than `timeout` seconds."""
        for thread in list(self._threads):
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End the job at its next event, call no listener any more, take no other job."""
        self._closed = True
        self._stop.set()
        self._listeners.clear()
        self.wait(CLOSING)

    def report(self, message: str | Exception) -> None:
        """Show what happened, or an error; nothing else changes."""
        with self.lock:
            if isinstance(message, str):
                self.message = message
            else:
                self.problem = Problem.of(message)
        self._notify()

    def _begin(self, work: Callable, *args) -> None:
        thread = threading.Thread(target=work, args=args, name="dragnb studio", daemon=True)
        with self.lock:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        self._notify()

    def _work(self, events: Generator[Event], then: Callable) -> None:
        last, end = None, {}
        try:
            with self._computing:
                while (event := self._next(events, last)) is not None:
                    self._record(event)
                    last = event
            then(last.data)
        except KeyboardInterrupt:
            end = {"message": "stopped; there was nothing to keep yet"}
        except Exception as error:
            end = {"message": "", "problem": Problem.of(error)}
        finally:
            events.close()
        with self.lock:
            vars(self).update(end, busy="")
        self._notify()

    def _next(self, events: Generator[Event], last: Event | None) -> Event | None:
        """The next event, None at the end; after Stop, what the job makes of a KeyboardInterrupt."""
        if self._stop.is_set() and (last is None or last.stage not in FINISHING):
            self._stop.clear()
            return events.throw(KeyboardInterrupt())
        if self._closed:
            raise KeyboardInterrupt
        return next(events, None)

    def _record(self, event: Event) -> None:
        now = time.monotonic()
        image = self._picture(event) if now >= self._preview_after else None
        if image is not None:
            seconds = time.monotonic() - now
            self._preview_after = now + max(REPORT_EVERY, PREVIEW_SHARE * seconds)
        with self.lock:
            first = event.stage not in self.progress
            self.progress[event.stage] = replace(event, data=None, prepared=None)
            self.reused |= {event.stage} if event.cached else set()
            self.preview = self.preview if image is None else image
        if first or event.i == event.n or now - self._reported >= REPORT_EVERY:
            self._notify()

    def _picture(self, event: Event) -> np.ndarray | None:
        """What is shown of an event while the work goes on; None: nothing new."""
        return pipeline.preview(event)

    def _notify(self) -> None:
        self._reported = time.monotonic()
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:  # a broken view must not end the work
                log.exception("a listener failed")
