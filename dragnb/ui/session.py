"""A studio without its widgets: drags made in the background, kept as snapshots, looked into and gone on from."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dragnb import checkpoints, ddim, features, glimpse, pipeline, sd
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.prepare import Event, Prepared
from dragnb.result import Result
from dragnb.store import Store, replacing
from dragnb.task import DragTask

TELL_EVERY = 0.1  # seconds between two reports of progress, and between two live previews
PREVIEW_SHARE = 5  # after a preview that took so long, the next one comes this many times as long later
CLOSING = 5.0  # seconds that closing waits for the step under way; a download may take minutes
FINISHING = ("decode", "done")  # too late to stop: the picture is there

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
    """Does one job at a time in the background and says how it goes.

    busy      the job's name; "" where there is none
    began     the first event of each of its stages, without its data; progress: the last of each
    preview   the newest picture of it
    said      what happened last, in a line; problem: the error that ended it, until the next job
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.busy, self.said = "", ""
        self.problem: Problem | None = None
        self.began: dict[str, Event] = {}
        self.progress: dict[str, Event] = {}
        self.preview: np.ndarray | None = None
        self._listeners: list[Callable[[], None]] = []
        self._threads: list[threading.Thread] = []
        self._in_use = threading.Lock()  # held by whoever computes: hooks and processors are put on the model
        self._stop, self._closed = threading.Event(), False
        self._told = self._preview_after = 0.0

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after changes; it may be called from any thread."""
        self._listeners.append(listener)

    def do(self, name: str, events: Generator[Event], then: Callable = lambda data: None) -> None:
        """Work through a generator of events; `then` is given the data of the last. InputError while busy.

        Stop throws KeyboardInterrupt into the generator between two events, as Ctrl-C would.
        """
        with self.lock:
            if self._closed:
                raise InputError("this studio is closed; make a new one")
            if self.busy:
                raise InputError(f"a {self.busy} is being made; press Stop first, or wait for it")
            self.busy, self.said, self.problem, self.preview = name, "", None, None
            self.began, self.progress = {}, {}
            self._stop.clear()
        self._begin(self._work, events, then)

    def stop(self) -> None:
        """End the job at its next event."""
        if self.busy:
            self._stop.set()
            self.say("stopping")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is worked on; False when that takes longer than `timeout` seconds."""
        for thread in list(self._threads):
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End the job at its next event, tell nobody any more, take no other."""
        self._closed = True
        self._stop.set()
        self._listeners.clear()
        self.wait(CLOSING)

    def say(self, line: str) -> None:
        """Tell what happened."""
        with self.lock:
            self.said = line
        self._tell()

    def report(self, error: Exception) -> None:
        """Tell of an error; nothing else changes."""
        with self.lock:
            self.problem = Problem.of(error)
        self._tell()

    def _begin(self, work: Callable, *args) -> None:
        thread = threading.Thread(target=work, args=args, name="dragnb studio", daemon=True)
        with self.lock:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        self._tell()

    def _work(self, events: Generator[Event], then: Callable) -> None:
        last, ended = None, {}
        try:
            with self._in_use:
                while (event := self._next(events, last)) is not None:
                    self._saw(event)
                    last = event
            then(last.data)
        except KeyboardInterrupt:
            ended = {"said": "stopped; there was nothing to keep yet"}
        except Exception as error:
            ended = {"said": "", "problem": Problem.of(error)}
        finally:
            events.close()
        with self.lock:
            vars(self).update(ended, busy="")
        self._tell()

    def _next(self, events: Generator[Event], last: Event | None) -> Event | None:
        """The next event, None at the end; after Stop, what the job makes of a KeyboardInterrupt."""
        if self._stop.is_set() and (last is None or last.stage not in FINISHING):
            self._stop.clear()
            return events.throw(KeyboardInterrupt())
        if self._closed:
            raise KeyboardInterrupt
        return next(events, None)

    def _saw(self, event: Event) -> None:
        now = time.monotonic()
        image = glimpse.preview(event) if now >= self._preview_after else None
        if image is not None:
            took = time.monotonic() - now
            self._preview_after = now + max(TELL_EVERY, PREVIEW_SHARE * took)
        with self.lock:
            first = event.stage not in self.progress
            self.progress[event.stage] = replace(event, data=None, prepared=None)
            self.began.setdefault(event.stage, self.progress[event.stage])
            self.preview = self.preview if image is None else image
        if first or event.i == event.n or now - self._told >= TELL_EVERY:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:  # a broken view must not end the work
                log.exception("a listener failed")


SECONDS = "seconds.json"  # in the cache folder: what a step of each stage took, by model, device and side
DECIDED = {  # stage -> what of the settings decides its outcome
    "finetune": lambda s: s.stage_key("lora"),
    "invert": lambda s: (s.stage_key("invert"), s.reference, s.ref_blocks, s.ref_start),
}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A finished drag and what was asked for. No model hangs on it, so that many can be kept.

    result  light: without `prepared`
    began   the snapshot and step whose latent it began at; None where it began at the picture itself
    """

    result: Result
    model: str | sd.Model
    side: int | None
    began: tuple[Snapshot, int] | None = None


class Look(NamedTuple):
    """A step of a drag: the picture in one leap (blurred), uint8; its features in colours, (h, w, 3) in [0, 1]."""

    image: np.ndarray
    features: np.ndarray


class Session(Worker):
    """What a studio knows and does; a Worker whose jobs are drags and films of them.

    model, settings, side  as `pipeline.run` takes them; may be changed at any time, a run reads them when it begins
    snapshots  the finished drags; shown: the one that is looked at; looks: what was seen of it so far, by step

    Stop ends a drag under way and finishes its picture; pressed once more, in one leap. Before the first step there is
    nothing to keep.
    """

    def __init__(self, model="clay", settings: Settings | None = None, store=None, side: int | None = None):
        super().__init__()
        self.model, self.settings, self.side, self.store = model, settings, side, store or Store()
        self.snapshots: list[Snapshot] = []
        self.shown: Snapshot | None = None
        self.looks: dict[int, Look] = {}
        self._wanted, self._looking, self._colors = 0, False, None
        self._prepared: tuple[Snapshot | None, Prepared | None] = None, None

    def run(self, task: DragTask, start: tuple[Snapshot, int] | None = None) -> None:
        """Drag in the background; InputError while busy.

        start  branch: begin at this step of this snapshot. The task's points are places in the picture as it was
               there (`looks` shows it); what is dragged is the snapshot's own picture.
        """
        latent = None
        if start is not None:
            result = start[0].result
            latent, task = result.at(start[1]), replace(task, image=result.task.image)
        model, side, settings = self.model, self.side, self._settings()
        name, done = self._timed_as(), self._done(task.image, task.prompt, settings)
        events = pipeline.run(task, model, settings, self.store, side=side, start=latent)

        def keep(result: Result) -> None:
            self._remember(name, done)
            self._keep(result, model, side, start)

        self.do("drag", events, keep)

    def estimate(self, image: np.ndarray, prompt: str) -> float | None:
        """Seconds that a drag on this picture will take at most, as the last ones of this model did on this device.

        Stages that this session has done already are not counted. None where one that is to be done was never timed.
        """
        settings = self._settings()
        done = self._done(image, prompt, settings)
        try:
            known = self._seconds()[self._timed_as()]
            total = sum(
                n * known[stage] for stage, n in most_steps(settings).items() if n and stage not in done
            )
        except (LookupError, TypeError):  # nobody has dragged yet, or the file holds something else
            return None
        return total if math.isfinite(total) else None

    def canvas_side(self) -> int | None:
        """The longer side of the canvas that the next drag works on; None where only loading the model will tell."""
        if self.side or isinstance(self.model, sd.Model):
            return self.side or self.model.side
        made = [s.result.record["side"] for s in self.snapshots if s.model == self.model and s.side is None]
        return made[-1] if made else checkpoints.side(self.model)

    def show(self, snapshot: Snapshot) -> None:
        """Look at this one from now on."""
        with self.lock:
            self.shown, self.looks, self._colors = snapshot, {}, None
        self._tell()

    def look(self, step: int) -> None:
        """See a step of the shown drag: `looks[step]` is filled in the background. Only the newest wish counts."""
        with self.lock:
            self._wanted = step
            if self._looking or self._closed:
                return
            self._looking = True
        self._begin(self._look)

    def film(self, snapshot: Snapshot, save: Callable, draw: Callable = lambda step, image: image) -> None:
        """Make a film in the background: `save` is given the frames, as `draw(step, image)` has them; it says where."""
        self.do("film", self._film(snapshot, save, draw), lambda path: self.say(f"saved: {path}"))

    def close(self) -> None:
        """End what runs and let go of pictures, states and models; other sessions are not touched."""
        super().close()
        with self.lock:
            self.snapshots, self.shown, self.looks, self.preview = [], None, {}, None
            self._prepared, self._colors = (None, None), None

    def _settings(self) -> Settings:
        return pipeline.default_settings(self.model) if self.settings is None else self.settings

    def _seconds(self) -> dict[str, dict]:
        """What a step of each stage took, by `_timed_as`; empty where the file is absent or damaged."""
        try:
            known = json.loads((self.store.root / SECONDS).read_text(encoding="utf-8"))
            return {name: stages for name, stages in known.items() if isinstance(stages, dict)}
        except (OSError, ValueError, AttributeError):
            return {}

    def _timed_as(self) -> str:
        ready = isinstance(self.model, sd.Model)
        name, device = (self.model.name, self.model.device) if ready else (self.model, sd.pick_device("auto"))
        return f"{name} on {device} at {self.side or 'its own'} px"

    def _remember(self, name: str, done: set[str]) -> None:
        """Write down what a step took of each stage that was worked on; where the disk is full it is forgotten."""
        with self.lock:
            worked = [e for e in self.progress.values() if e.i and e.stage not in done | {"done"}]
            new = {e.stage: e.seconds / e.i for e in worked if not (e.cached or self.began[e.stage].cached)}
        known = self._seconds()
        with contextlib.suppress(OSError), replacing(self.store.root / SECONDS) as temp:
            temp.write_text(json.dumps(known | {name: known.get(name, {}) | new}), encoding="utf-8")

    def _done(self, image: np.ndarray, prompt: str, settings: Settings) -> set[str]:
        """The stages that a drag of this session has already done for this one."""
        done: set[str] = set()
        for one in self.snapshots:
            task, made = one.result.task, one.result.settings
            if one.model == self.model and one.side == self.side:
                done |= {"load"}
                if task.prompt == prompt and np.array_equal(task.image, image):
                    done |= {"encode"} | {s for s, of in DECIDED.items() if of(made) == of(settings)}
        return done

    def _keep(self, result: Result, model, side, began) -> None:
        snapshot = Snapshot(result.light(), model, side, began)
        with self.lock:
            self.snapshots.append(snapshot)
            self._prepared = snapshot, result.prepared
            self.said = f"drag {len(self.snapshots)}: {summary(result)}"
        self.show(snapshot)

    def _look(self) -> None:
        """Fulfil the newest wish, and again while a newer one came meanwhile."""
        while True:
            with self.lock:
                step, shown = self._wanted, self.shown
                if self._closed or shown is None or step in self.looks:
                    self._looking = False
                    return
            try:
                with self._in_use:
                    found = self._look_at(shown, step)
            except Exception as error:
                with self.lock:
                    self._looking = False
                self.report(error)
                return
            with self.lock:
                if self.shown is shown:
                    self.looks[step] = found
            self._tell()

    def _look_at(self, shown: Snapshot, step: int) -> Look:
        prepared, states = self._prepared_for(shown), shown.result.states
        seen = glimpse.glimpse(prepared, shown.result.at(step).z)
        colors = self._colors
        if colors is None:  # one basis for all steps, or the colours would jump
            ends = [glimpse.glimpse(prepared, states[k].z).feat for k in (0, -1)]
            colors = features.pca_colors(ends)
            with self.lock:
                self._colors = colors if self.shown is shown else None
        return Look(seen.image, colors(seen.feat))

    def _prepared_for(self, snapshot: Snapshot) -> Prepared:
        """That of the last drag is at hand; that of an earlier one comes from the cache."""
        if self._prepared[0] is not snapshot:
            self._prepared = None, None
            result = snapshot.result
            prepared = pipeline.prepare(
                result.task, snapshot.model, result.settings, self.store, snapshot.side
            )
            if prepared.model.hash != result.record["model"]["hash"]:
                raise InputError(f"model = {snapshot.model!r} has changed since this drag; run it again")
            self._prepared = snapshot, prepared
        return self._prepared[1]

    def _film(self, snapshot: Snapshot, save: Callable, draw: Callable) -> Generator[Event]:
        begin, states, frames = time.perf_counter(), snapshot.result.states, []
        prepared = self._prepared_for(snapshot)
        for step, image in glimpse.film(prepared, states):
            frames.append(draw(step, image))
            yield Event("film", step, len(states) - 1, time.perf_counter() - begin)
        frames.append(draw(len(states) - 1, snapshot.result.image))
        yield Event("done", 1, 1, time.perf_counter() - begin, save(frames))


def most_steps(settings: Settings) -> dict[str, int]:
    """How many steps each stage has at most."""
    n = settings.steps - ddim.start_index(settings.steps, settings.strength)
    stages = {"load": 1, "encode": 1, "finetune": settings.lora_steps, "invert": n * (1 + settings.reference)}
    return stages | {"drag": settings.drag_steps, "denoise": n, "decode": 1}


def summary(result: Result) -> str:
    """A finished drag in a line."""
    left = np.linalg.norm(result.tracks_xy[-1] - result.task.targets, axis=1).mean()
    steps, seconds = len(result.states) - 1, sum(result.timings.values())
    stopped = ", stopped early" if result.interrupted else ""
    return f"{steps} steps in {seconds:.0f} s{stopped}; the tracker sees {left:.1f} px left to go"
