"""A studio without its widgets: drags made in the background, kept as snapshots, looked into and gone on from."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dragnb import features, glimpse, pipeline, sd
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.prepare import Event, Prepared
from dragnb.result import Result
from dragnb.store import Store
from dragnb.task import DragTask
from dragnb.ui import pace
from dragnb.ui.worker import Worker

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
        self.pace = pace.Pace(self.store)
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
        model, side = self.model, self.side
        events = pipeline.run(task, model, self.settings, self.store, side=side, start=latent)
        self._begin_drag("drag", events, model, lambda result: self._keep(result, model, side, start))

    def measure(self, image: np.ndarray) -> None:
        """Do two steps of each stage on a picture in the background, so that `notes` knows what a drag takes."""
        h, w = image.shape[:2]
        task, model, side = DragTask(image, [[w // 3, h // 2]], [[w // 2, h // 2]]), self.model, self.side
        settings = pace.trial(pipeline.default_settings(model) if self.settings is None else self.settings)

        def events():
            with tempfile.TemporaryDirectory() as folder:  # a trial is of no use to any later drag
                yield from pipeline.run(task, model, settings, Store(folder), side=side)

        self._begin_drag("trial", events(), model, lambda result: self.say("measured"))

    def notes(self, image: np.ndarray, prompt: str) -> list[str]:
        """What a drag on this picture will take with model and settings as they are now, in a sentence."""
        settings = pipeline.default_settings(self.model) if self.settings is None else self.settings
        done = self._done(image, prompt, settings)
        return self.pace.notes(self.model, settings, (image.shape[1], image.shape[0]), self.side, done)

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

    def _begin_drag(self, name: str, events: Generator[Event], model, then: Callable) -> None:
        """Do it, and remember what its stages took."""
        device = model.device if isinstance(model, sd.Model) else sd.pick_device("auto")

        def learn(result: Result) -> None:
            self.pace.keep(model, result, self.began, self.progress, pace.peak(device))
            then(result)

        self.do(name, events, learn)
        pace.reset_peak(device)

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


def summary(result: Result) -> str:
    """A finished drag in a line."""
    left = np.linalg.norm(result.tracks_xy[-1] - result.task.targets, axis=1).mean()
    steps, seconds = len(result.states) - 1, sum(result.timings.values())
    stopped = ", stopped early" if result.interrupted else ""
    return f"{steps} steps in {seconds:.0f} s{stopped}; the tracker sees {left:.1f} px left to go"
