"""A studio without its widgets: drags made in the background, kept as snapshots, looked into and gone on from."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dragnb import checkpoints, features, metrics, pipeline, sd
from dragnb.config import STAGES, Settings, suited, suited_settings
from dragnb.errors import InputError, WriteError
from dragnb.geometry import keep_outside
from dragnb.pipeline import Event, Prepared, Result
from dragnb.pipeline.generated import Generated, generating
from dragnb.store import Store, replacing
from dragnb.task import DragTask
from dragnb.ui import frames
from dragnb.ui.worker import CLOSED, Worker

# in the cache folder: what a step of each stage took, by model, device and side
SECONDS = "seconds.json"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A finished drag and what was asked for. No model hangs on it, so that many can be kept.

    result  light: without `prepared`
    start   the snapshot and step whose latent it began at; None where it began at the picture itself
    generated  of a picture that a model made, the latents on its way
    number  from 1, in the order in which they were made
    """

    result: Result
    model: str | sd.Model
    side: int | None
    start: tuple[Snapshot, int] | None = None
    number: int = 0
    generated: Generated | None = None


class StepView(NamedTuple):
    """A step of a drag: the picture in one leap (blurred), `as_result`; its features in colours, float (h, w, 3)."""

    image: np.ndarray
    features: np.ndarray


class Session(Worker):
    """A studio without its widgets: a Worker whose jobs are drags and films of them.

    model, settings, side  as `pipeline.run` takes them; may be changed at any time, a run reads them when it begins
    snapshots  the finished drags; made: how many ever; scores: what else is said of each; starred: those marked
    shown      the one that is looked at; looks: its steps that were looked at

    Stop ends a drag under way and finishes its picture; pressed once more, in one leap. Before the first step there is
    nothing to keep.
    """

    def __init__(self, model="clay", settings: Settings | None = None, store=None, side: int | None = None):
        super().__init__()
        self.model, self.settings, self.side, self.store = model, settings, side, store or Store()
        self.snapshots: list[Snapshot] = []
        self.made, self.starred = 0, set()
        self.scores: list[Callable[[Result], str]] = [rest_line]
        self.shown: Snapshot | None = None
        self.looks: dict[int, StepView] = {}
        self.expected: dict[str, float] | None = None
        self._wanted, self._looking, self._colors = 0, False, None
        self._dragged: DragTask | None = None
        # of the picture that was selected on last: what was asked for, the picture, its features, its frame
        self._features: tuple = (None,)
        self._prepared: tuple[Snapshot | None, Prepared | None] = None, None

    def run(
        self, task: DragTask, start: tuple[Snapshot, int] | None = None, generated: Generated | None = None
    ) -> None:
        """Drag in the background; InputError while busy.

        start  branch: begin at this step of this snapshot. The task's points are places in the picture as it was
               there (`looks` shows it); what is dragged is the snapshot's own picture.
        generated  the task's picture was made by `generate`: it is dragged from its own latents
        """
        latent = None
        if start is not None:
            result, generated = start[0].result, start[0].generated
            if generated is not None and generated.model != self.model:
                name = getattr(generated.model, "name", generated.model)
                raise InputError(f"branch: {name} made this picture; choose that model to go on from it")
            latent, task = result.at(start[1]), replace(task, image=result.task.image)
        self.expected, self._dragged = self._expected(task.image, task.prompt, generated), task
        model, side, name = self.model, self.side, self._timed_as()
        done = self._done(task.image, task.prompt, generated)
        events = pipeline.run(
            task, model, self.settings, self.store, side=side, start=latent, generated=generated
        )

        def keep(result: Result) -> None:
            self._remember_seconds(name, done)
            said = "; ".join(filter(None, [summary(result), *(score(result) for score in self.scores)]))
            self.made += 1
            snapshot = Snapshot(result.light(), model, side, start, self.made, generated)
            with self.lock:
                self.snapshots.append(snapshot)
                self._prepared = snapshot, result.prepared
                self.message = f"drag {snapshot.number}: {said}"
            self.show(snapshot)

        self.do("drag", events, keep)

    def generate(self, then: Callable[[Generated], None], **recipe) -> None:
        """Make a picture of a prompt in the background, as `pipeline.generated.generate` does; `then` is given it.

        What it is given holds no model, only how it was asked for, so that many can be kept.
        """
        self.do("picture", self._generate(self.model, recipe), then)

    def _generate(self, model, recipe: dict) -> Generator[Event]:
        begin, n = time.perf_counter(), recipe["steps"]
        steps = generating(sd.load(model), **recipe)
        for k in itertools.count(1):
            try:
                next(steps)
            except StopIteration as end:
                made = replace(end.value, model=model)
                break
            yield Event("picture", k, n, time.perf_counter() - begin)
        yield Event("done", 1, 1, time.perf_counter() - begin, made)

    def show(self, snapshot: Snapshot | None) -> None:
        """Look at this one from now on; None: at nothing."""
        with self.lock:
            self.shown, self.looks, self._colors = snapshot, {}, None
        self._notify()

    def look(self, step: int) -> None:
        """Look at a step of the shown drag: `looks[step]` is filled in the background. Only the newest wish counts."""
        with self.lock:
            self._wanted = step
            if self._looking or self._closed:
                return
            self._looking = True
        self._begin(self._look)

    def select(self, image: np.ndarray, prompt: str, place, then: Callable[[np.ndarray], object]) -> None:
        """Ask in the background how like a place (x, y) every pixel is: `then` gets (h, w) in [-1, 1], or None.

        By the model's own features, at the timestep and block that suit it. InputError while a job is under way.
        """
        if self.busy or self._closed:
            raise InputError(f"a {self.busy} is being made; wait for it" if self.busy else CLOSED)
        self._begin(self._select, image, prompt, place, then)

    def _select(self, image, prompt, place, then) -> None:
        try:
            with self._computing:
                name = self.model
                model, about, asked = sd.load(name), suited(name), (id(image), prompt, name, self.side)
                if self._features[0] != asked:
                    made = features.of_picture(model, image, prompt, about.t, about.block, self.side)
                    self._features = asked, image, *made
                _, _, feat, frame = self._features
                (cell,) = frame.xy_to_yx([place], feat.shape[-2:]).round().int().tolist()
                alike = features.likeness(feat, tuple(cell))
            then(frame.map_to_picture(alike))
        except Exception as error:
            self.report(error)
            then(None)

    def film(self, snapshot: Snapshot, save: Callable, then: Callable | None = None) -> None:
        """Make a film in the background; `save` gets the pictures as (step, image) and returns a path, for `then`."""
        self.do("film", self._film(snapshot, save), then or (lambda path: self.report(f"saved: {path}")))

    def delete(self, snapshot: Snapshot) -> None:
        """Forget a finished drag; those that branched from it keep what they need of it."""
        with self.lock:
            self.snapshots = [other for other in self.snapshots if other is not snapshot]
            self.starred.discard(snapshot)
        if self.shown is snapshot:
            self.show(self.snapshots[-1] if self.snapshots else None)
        else:
            self._notify()

    def star(self, snapshot: Snapshot, yes: bool = True) -> None:
        """Mark a finished drag, or take the mark off; an exported picture says so in its record."""
        with self.lock:
            (self.starred.add if yes else self.starred.discard)(snapshot)
        self._notify()

    def close(self) -> None:
        """End what runs and free pictures, states and models; other sessions are not touched."""
        super().close()
        with self.lock:
            self.snapshots, self.shown, self.looks, self.preview = [], None, {}, None
            self.starred.clear()
            self._prepared, self._colors, self._features = (None, None), None, (None,)

    def canvas_side(self) -> int | None:
        """The longer side of the canvas that the next drag works on; None where only loading the model will tell."""
        if self.side or isinstance(self.model, sd.Model):
            return self.side or self.model.side
        made = [s.result.record["side"] for s in self.snapshots if s.model == self.model and s.side is None]
        return made[-1] if made else checkpoints.side(sd.wanted(self.model).model)

    def estimate(self, image: np.ndarray, prompt: str, generated: Generated | None = None) -> float | None:
        """Seconds that a drag on this picture will take, by the last ones of this model, device and canvas side.

        What this session has done already is not counted. None where a stage that is to be done was never timed.
        """
        stages = self._expected(image, prompt, generated)
        return None if stages is None else sum(stages.values())

    def _expected(self, image: np.ndarray, prompt: str, generated=None) -> dict[str, float] | None:
        """Seconds by stage, in the order of the work; None where one was never timed."""
        settings = self.settings or suited_settings(self.model)
        done = self._done(image, prompt, generated) | {"done"}
        try:
            seconds = self._seconds()[self._timed_as()]
            steps = settings.stage_steps().items()
            stages = {stage: k * seconds[stage] for stage, k in steps if k and stage not in done}
        except (LookupError, TypeError):  # no such drag yet, or the file holds something else
            return None
        return stages if math.isfinite(sum(stages.values())) else None

    def left(self) -> float | None:
        """Seconds until the drag under way is done: the rest of its stage, and what the later ones usually take."""
        expected, events = self.expected, list(self.progress.values())
        if self.busy != "drag" or expected is None or not events or events[-1].left is None:
            return None
        order = list(STAGES)
        later = [s for stage, s in expected.items() if order.index(stage) > order.index(events[-1].stage)]
        return events[-1].left + sum(later)

    def _done(self, image: np.ndarray, prompt: str, generated: Generated | None = None) -> set[str]:
        """The stages that this session has already done for such a drag, or that such a picture does without."""
        if generated is not None:
            return {"load", "encode", "finetune", "invert"}
        settings, done = self.settings or suited_settings(self.model), set()
        for made in (s.result for s in self.snapshots if s.model == self.model and s.side == self.side):
            done |= {"load"}
            if made.task.prompt == prompt and np.array_equal(made.task.image, image):
                kept = (stage for stage, about in STAGES.items() if about.kept)
                done |= {stage for stage in kept if settings.deciding(stage) == made.settings.deciding(stage)}
        return done

    def _timed_as(self) -> str:
        if isinstance(self.model, sd.Model):
            name, device = self.model.name, self.model.device
        else:
            asked = sd.wanted(self.model)
            name, device = asked.name, sd.pick_device(asked.device)
        return f"{name} on {device} at {self.side or 'its own'} px"

    def _seconds(self) -> dict[str, dict]:
        """What a step of each stage took, by `_timed_as`; empty where the file is absent or damaged."""
        try:
            known = json.loads((self.store.root / SECONDS).read_text(encoding="utf-8"))
            return {name: stages for name, stages in known.items() if isinstance(stages, dict)}
        except (OSError, ValueError, AttributeError):
            return {}

    def _remember_seconds(self, name: str, done: set[str]) -> None:
        """Write down what a step of each stage took that was worked on; where the disk is full it is forgotten."""
        skip, known = done | self.reused | {"done"}, self._seconds()
        new = {e.stage: e.seconds / e.i for e in self.progress.values() if e.i and e.stage not in skip}
        with contextlib.suppress(WriteError), replacing(self.store.root / SECONDS) as temp:
            temp.write_text(json.dumps(known | {name: known.get(name, {}) | new}), encoding="utf-8")

    def _look(self) -> None:
        """Fulfil the newest wish, and again while a newer one came meanwhile."""
        while True:
            with self.lock:
                step, shown = self._wanted, self.shown
                if self._closed or shown is None or step in self.looks:
                    self._looking = False
                    return
            try:
                with self._computing:
                    view = self._view(shown, step)
            except Exception as error:
                with self.lock:
                    self._looking = False
                self.report(error)
                return
            with self.lock:
                if self.shown is shown:
                    self.looks[step] = view
            self._notify()

    def _picture(self, event: Event) -> np.ndarray | None:
        image = super()._picture(event)
        return image if image is None else as_result(self._dragged, event.prepared.settings, image)

    def _view(self, shown: Snapshot, step: int) -> StepView:
        prepared, states = self._prepared_for(shown), shown.result.states
        image, feat = prepared.preview(states[step])
        colors = self._colors
        if colors is None:  # one basis for all steps, or the colours would jump
            colors = features.pca_colors([prepared.preview(states[k])[1].cells for k in (0, -1)])
            with self.lock:
                self._colors = colors if self.shown is shown else None
        return StepView(as_result(shown.result.task, shown.result.settings, image), colors(feat.cells))

    def _prepared_for(self, snapshot: Snapshot) -> Prepared:
        """That of the last drag is at hand; that of an earlier one comes from the cache."""
        if self._prepared[0] is not snapshot:
            self._prepared, result = (None, None), snapshot.result
            prepared = pipeline.prepare(
                result.task, snapshot.model, result.settings, self.store, snapshot.side, snapshot.generated
            )
            if prepared.base_hash != result.record["model"]["hash"]:
                raise InputError(f"model = {snapshot.model!r} has changed since this drag; run it again")
            self._prepared = snapshot, prepared
        return self._prepared[1]

    def _film(self, snapshot: Snapshot, save: Callable) -> Generator[Event]:
        begin, states, pictures = time.perf_counter(), snapshot.result.states, []
        for step, image in frames.film(self._prepared_for(snapshot), states):
            pictures.append((step, as_result(snapshot.result.task, snapshot.result.settings, image)))
            yield Event("film", step, len(states) - 1, time.perf_counter() - begin)
        pictures.append((len(states) - 1, snapshot.result.image))
        yield Event("done", 1, 1, time.perf_counter() - begin, save(pictures))


def as_result(task: DragTask, settings: Settings, image: np.ndarray) -> np.ndarray:
    """A preview as the result will be: with the original outside the mask, where the settings put it back."""
    return keep_outside(task, image, settings.feather) if settings.keep_outside else image


def rest_line(result: Result) -> str:
    """How much the method itself changed outside the mask, in words; "" where nothing is held."""
    task = result.task
    if task.free or task.mask.all():
        return ""
    rest = metrics.psnr(task.image, result.unpasted, ~task.mask)
    if np.isinf(rest):
        return "outside the mask the method changes nothing"
    later = ", measured before the original was put back there" if result.settings.keep_outside else ""
    return f"outside the mask the method keeps {rest:.1f} dB{later}"


def summary(result: Result) -> str:
    """A finished drag in a line."""
    left = np.linalg.norm(result.tracks_xy[-1] - result.task.targets, axis=1)
    steps, seconds = len(result.states) - 1, sum(result.timings.values())
    stopped = ", stopped early" if result.interrupted else ""
    several = " on average" if len(left) > 1 else ""
    if result.states[-1].kept is not None:  # a method that moves pixels tracks nothing
        return f"moved and painted in {seconds:.0f} s{stopped}"
    return f"{steps} steps in {seconds:.0f} s{stopped}; the tracker sees {left.mean():.1f} px left to go{several}"


def lineage(snapshot: Snapshot) -> str:
    """Which drag it is and what it began at: "2 · from 1, step 6"."""
    start = snapshot.start
    return f"{snapshot.number}" + (f" · from {start[0].number}, step {start[1]}" if start else "")


def differences(snapshot: Snapshot, other: Snapshot | None) -> str:
    """How a drag's settings differ from another's, as "r1 4, reference off"; "" where there is no other, or none."""
    if other is None:
        return ""
    one, two = snapshot.result.settings.as_dict(), other.result.settings.as_dict()
    words = {True: "on", False: "off"}
    changed = {name: value for name, value in one.items() if two.get(name) != value}
    return ", ".join(f"{name} {words[v] if isinstance(v, bool) else v}" for name, v in changed.items())
