"""One whole edit as a generator of events, stage by stage (`config.STAGES`).

What comes before the drag depends on the picture and not on the points. It is kept on disk under the hash of what
decides it (picture, prompt, weights, libraries, settings), so a second drag on one picture repeats the drag, the
denoising and the decoding only. The model that comes in is never changed: adapters and processors go on private copies
of its module tree, so an edit may be left half-way, and two may run side by side.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dragnb import attention, ddim, drag, features, lora, methods, sd
from dragnb.config import PAPER, Settings, suited_settings
from dragnb.errors import InputError
from dragnb.geometry import Frame, keep_outside
from dragnb.pipeline.generated import Generated
from dragnb.store import Store, is_large, versions
from dragnb.task import DragTask

LOWER_MEMORY = "`side` or lora_batch, or load the model with dtype='fp16'"


@dataclass(frozen=True)
class Event:
    """Something happened: step `i` of `n` of a stage, `seconds` after the stage began.

    data      the stage's own state: LoraState, InvertState, SampleState, DragState; a Result with "done"
    cached    this was read from disk instead of made
    prepared  what the drag works on, from the stage "drag" on
    """

    stage: str
    i: int
    n: int
    seconds: float
    data: object = None
    cached: bool = False
    prepared: Prepared | None = field(default=None, repr=False)

    @property
    def left(self) -> float | None:
        """Seconds until the stage has done all its steps at this pace; None before its first."""
        return self.seconds / self.i * (self.n - self.i) if self.i else None


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a drag on one picture needs and that no point decides.

    model       private, the fine-tune merged into its weights
    z0, zs      (1, 4, h, w) the picture's latent; (k + 1, 4, h, w) from z0 to the latent that is dragged
    ts          the k timesteps, most noise first; the drag is at ts[0]
    cond        (1, 77, c) the prompt
    weights     the fine-tune, by diffusers' names; empty without one
    uncond      (1, 77, c) the negative prompt of a picture that was generated under guidance: the drag's features
                are those of both prompts then; None: they are those of `cond` alone
    generated   the recipe of a picture that the model made; None of any other
    kv, back    what reference control attends to, and where the reference branch ends; None without it
    from_cache  the stages that were read from disk
    base_hash   the hash of the model without the fine-tune
    """

    model: sd.Model
    frame: Frame
    settings: Settings
    cond: Tensor
    z0: Tensor
    zs: Tensor
    ts: tuple[int, ...]
    weights: dict[str, Tensor] = field(repr=False)
    kv: attention.ReferenceKV | None = None
    back: Tensor | None = None
    from_cache: frozenset[str] = frozenset()
    uncond: Tensor | None = None
    generated: dict | None = None
    base_hash: str = ""

    @property
    def z_t(self) -> Tensor:
        """The latent that is dragged, (1, 4, h, w) at timestep ts[0]."""
        return self.zs[-1:]

    @property
    def map_hw(self) -> tuple[int, int]:
        """Rows and columns of the feature map in whose cells the drag's points count; at least 1 x 1."""
        sides = self.frame.canvas_height, self.frame.canvas_width
        # half a cell is none, as in the public code
        return tuple(max(1, math.ceil(n * self.settings.supersample - 0.5)) for n in sides)

    @property
    def controlled(self) -> tuple[int, ...]:
        """The timesteps at which reference control is on."""
        return self.ts[self.settings.ref_start :] if self.settings.reference else ()

    def look(self, z: Tensor, t: int, eps: bool = True, cond: Tensor | None = None):
        """The drag's features of a latent and the noise seen in it, (FeatureMap, eps); see `drag.Problem`."""
        block, cond = self.settings.block, self.cond if cond is None else cond
        with sd.memory_errors("the picture's side, or load the model with dtype='fp16'"):
            if self.uncond is None:
                feats, noise = features.capture(self.model, z, t, cond, (block,), stop_early=not eps)
                feat = feats[block]
            else:
                guidance = self.settings.guidance
                feat, noise = features.capture_guided(
                    self.model, z, t, cond, self.uncond, guidance, block, stop_early=not eps
                )
        ddim.require_finite(feat, f"the features of block {block} at t = {t}")
        return features.FeatureMap(feat, self.map_hw, self.settings.between), noise

    def problem(self, task: DragTask, start: Start | None = None) -> drag.Problem:
        """What a drag method is given for the points and the mask of a task; `start` as in `run`."""
        whole, via = self.settings.points == "rounded", self.map_hw
        handles, targets = (self.frame.xy_to_yx(xy, via, whole) for xy in (task.handles, task.targets))
        via = via if self.settings.mask_cells == "nearest" else None
        mask = (
            None if task.free else self.frame.mask_to_canvas(task.mask, *self.z0.shape[-2:], via).to(self.z0)
        )
        z, ts = self.z_t, self.ts
        if start is not None:
            # only a method that drags while it denoises leaves states at lower timesteps
            allowed = ts[:1] if self.settings.method == PAPER else ts
            if start.z.shape != z.shape or start.t not in allowed:
                raise InputError(
                    f"start: a latent {tuple(start.z.shape)} at t = {start.t}, but this edit drags {tuple(z.shape)} "
                    f"at t = {ts[0]}; keep picture, side, steps and strength"
                )
            z, ts = start.z.to(z), ts[ts.index(start.t) :]
        scale = sd.grad_scale(self.model)
        if start is not None:
            task = None if start.image is None else replace(task, image=start.image)
        return drag.Problem(
            self.look, z, ts, handles, targets, mask, self.settings, self.model.abar, scale, task, self.keep
        )  # fmt: skip

    def keep(self, image: np.ndarray, share: np.ndarray) -> drag.Kept:
        """What an edit keeps of an image, uint8 (height, width, 3), by share, (height, width) from 0 to 1."""
        with torch.no_grad(), sd.memory_errors("the picture's side, or load the model with dtype='fp16'"):
            z0 = sd.encode(self.model, self.frame.to_canvas(image)).to(self.z0)
        open_ = share < drag.FINAL
        touched = self.frame.mask_to_canvas(open_, *z0.shape[-2:]) if open_.any() else torch.zeros(1)
        return drag.Kept(image, share.astype(np.float32), z0, (1 - touched).to(z0).expand_as(z0[:, :1]))

    def pin(self, kept: drag.Kept) -> Callable[[Tensor, int], Tensor]:
        """For `ddim.sample`: what is kept, at each level with the noise of the picture's own way up."""

        def put(z: Tensor, t: int) -> Tensor:
            if t == ddim.CLEAN:
                own = kept.z0
            else:
                k = len(self.ts) - self.ts.index(t)
                a = ddim.abar_at(self.model.abar, t)
                own = self.zs[k : k + 1] + a.sqrt() * (kept.z0 - self.z0)
            return torch.where(kept.cells > 0, own, z)

        return put

    def eps_fn(self, cond: Tensor | None = None) -> Callable:
        """(z, t) -> eps of the fine-tuned model, as inversion and denoising ask it."""
        cond = self.cond if cond is None else cond
        return sd.eps_fn(self.model, cond, self.settings.guidance, self.uncond)

    def picture(self, z0: Tensor) -> np.ndarray:
        """A clean latent as the picture, uint8 in the task's size."""
        return self.frame.from_canvas(sd.decode(self.model, z0))

    def clean(self, z: Tensor, eps: Tensor, t: int) -> Tensor:
        """`ddim.predicted_x0` of a latent at timestep t."""
        return ddim.predicted_x0(z, eps, ddim.abar_at(self.model.abar, t))

    @torch.no_grad()
    def preview(self, state: drag.DragState) -> tuple[np.ndarray, features.FeatureMap]:
        """A state as the picture of its predicted x0 (blurred, cheap), and the features that it is dragged by."""
        feat, eps = self.look(state.z, state.t, eps=state.kept is None)
        if state.kept is not None:
            return state.kept.image, feat
        return self.picture(self.clean(state.z, eps, state.t)), feat


class Start(NamedTuple):
    """A latent to begin a drag at, instead of the picture's own; `Result.at` makes one.

    z       (1, 4, h, w) at timestep t
    origin  where it comes from, for the record of the drag that begins here
    image   the picture that the latent shows, where its method moved the picture's own pixels
    """

    z: Tensor
    t: int
    origin: dict | None = None
    image: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A finished edit.

    image        uint8 (height, width, 3), the task's own size
    prepared     None in a copy made by `light`
    states       the drag's, first to last; z: the denoised latent, (1, 4, h, w)
    tracks_xy    (states, n, 2) where the handles were seen, in picture pixels
    timings      seconds by stage; from_cache: the stages that were read from disk
    record       where the picture comes from, as plain values that a file can carry
    interrupted  Ctrl-C came; the image is the best there was
    unpasted     the method's own picture: with `settings.keep_outside` the image has the original outside the mask, and
                 whoever measures the method must measure this one; without, both are one
    """

    image: np.ndarray
    task: DragTask
    settings: Settings
    prepared: Prepared | None
    states: tuple[drag.DragState, ...]
    tracks_xy: np.ndarray
    z: Tensor
    timings: dict[str, float]
    from_cache: frozenset[str]
    record: dict
    interrupted: bool = False
    unpasted: np.ndarray | None = None

    def __post_init__(self):
        if self.unpasted is None:
            object.__setattr__(self, "unpasted", self.image)

    @property
    def reached(self) -> bool:
        """Did the tracker see every handle arrive?"""
        return self.states[-1].reached

    @property
    def losses(self) -> list[float]:
        """Eq. 3 at every state."""
        return [state.loss for state in self.states]

    def at(self, step: int) -> Start:
        """The latent after `step` updates, to begin another drag at; InputError where there was no such step."""
        if not 0 <= step < len(self.states):
            raise InputError(f"step = {step}: this drag has the steps 0 to {len(self.states) - 1}")
        state = self.states[step]
        image = state.kept.image if state.kept else None
        return Start(state.z, state.t, {"step": step, "of": self.record}, image)

    def light(self) -> Result:
        """A copy without model and reference, which may take a gigabyte: to keep many."""
        return replace(self, prepared=None)


class _Clock:
    """Makes the events of one edit: knows when the stage began, what was read from disk, what the drag works on."""

    def __init__(self):
        self.timings: dict[str, float] = {}
        self.from_cache: set[str] = set()
        self.prepared: Prepared | None = None

    def begin(self, stage: str) -> None:
        self.stage, self.began = stage, time.perf_counter()

    def event(self, i: int, n: int, data=None, cached: bool = False) -> Event:
        self.timings[self.stage] = time.perf_counter() - self.began
        if cached:
            self.from_cache.add(self.stage)
        return Event(self.stage, i, n, self.timings[self.stage], data, cached, self.prepared)


def run(
    task: DragTask,
    model: str | sd.Model = "clay",
    settings: Settings | None = None,
    store: Store | None = None,
    side: int | None = None,
    start: Start | None = None,
    generated: Generated | None = None,
    **loading,
) -> Iterator[Event]:
    """Edit a picture; yields an Event per step, the last one ("done") with the Result.

    settings  default: what suits the model (`config.suited`)
    store     where stages are kept; default: the user's cache folder
    side      the canvas' longer side in pixels (settings.fit "width": its width), default the model's own; lower it
              to save memory
    start     begin at this latent, as `result.at(12)`, of an edit of the same picture. The task's handles are then
              places in the picture as it is there (`result.tracks_xy[12]`), and what the mask holds is held as it
              is there; steps, strength and side must be the earlier edit's
    generated  the task's picture was made by `generate`: the drag begins at its own latent, without fine-tune and
              inversion. Model, side, steps and guidance are the picture's own then, whatever is said here
    loading   how the model is loaded, as `sd.load` takes it: device, dtype, config, low_memory, lora, vae, clip_skip

    Guidance other than 1 steers inversion and denoising; the drag's features are those of the prompt alone, but of
    a generated picture those of both prompts.
    Closing the generator at any event leaves model, task and cache usable. Ctrl-C while dragging or denoising ends
    that stage early and yields the best so far (`interrupted`); before the first step of the drag it is raised.
    """
    model = model if generated is None else generated.model
    settings = suited_settings(model) if settings is None else settings
    for name, value, kind in (("task", task, DragTask), ("settings", settings, Settings)):
        if not isinstance(value, kind):
            raise InputError(f"{name} is a {type(value).__name__}; it must be a {kind.__name__}")
    model = sd.load(model, **loading) if isinstance(model, sd.Model) else sd.wanted(model, **loading)
    clock = _Clock()
    with sd.memory_errors(LOWER_MEMORY):
        clock.prepared = yield from _before(task, model, settings, store or Store(), side, clock, generated)
        yield from _finish(task, clock.prepared, start, clock)


def prepare(
    task: DragTask,
    model="clay",
    settings: Settings | None = None,
    store=None,
    side=None,
    generated=None,
    **loading,
) -> Prepared:
    """All of an edit of `task` that comes before the drag, from the cache where it is there; see `run`."""
    model = model if generated is None else generated.model
    settings = suited_settings(model) if settings is None else settings
    model = sd.load(model, **loading)
    events = _before(task, model, settings, store or Store(), side, _Clock(), generated)
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def _before(task, model, settings, store, side, clock, generated: Generated | None):
    """The stages before the drag, of a generated picture or of any."""
    if generated is None:
        return (yield from _prepare(task, model, settings, store, side, clock))
    return (yield from _prepare_generated(task, generated, settings, store, clock))


def _prepare(task: DragTask, model, settings: Settings, store: Store, side: int | None, clock: _Clock):
    """The stages before the drag: yields events, returns the Prepared."""
    clock.begin("load")
    model = sd.load(model)
    yield clock.event(1, 1)
    frame = Frame.fit(*task.size, side or model.side, settings.fit)
    base = {"picture": task.image, "prompt": task.prompt, "frame": frame} | _decided_by(model)
    kept = _keeping(store, base, settings, clock)
    encoded = yield from kept("encode", lambda: _encode(model, frame, task, clock))
    cond, z0 = encoded["cond"].to(model.device), encoded["mean"].to(model.device)
    weights: dict[str, Tensor] = {}
    if settings.lora_steps:
        weights = yield from kept("finetune", lambda: _finetune(model, encoded, cond, settings, clock))
    else:
        clock.begin("finetune")
        yield clock.event(0, 0)
    ts = tuple(ddim.timesteps(settings.steps)[ddim.start_index(settings.steps, settings.strength) :])
    computes = lora.merged(model, weights)
    part = Prepared(computes, frame, settings, cond, z0, z0, ts, weights, base_hash=base["model"])
    inverted = yield from kept("invert", lambda: _invert(part, clock))
    part = replace(part, zs=inverted["zs"].to(model.device))
    return (yield from _with_reference(part, kept, clock))


def _prepare_generated(task: DragTask, generated: Generated, settings: Settings, store: Store, clock: _Clock):
    """The same of a picture that the model made: its own latents stand where others are inverted."""
    if not np.array_equal(task.image, generated.image):
        raise InputError("task: its picture is not the generated one; make the task by generated.task(...)")
    own = {"steps": generated.steps, "guidance": generated.guidance, "lora_steps": 0, "fit": "native"}
    settings = settings.replace(**own)
    for stage in ("load", "finetune", "invert"):
        clock.begin(stage)
        if stage == "load":
            model = sd.load(generated.model)
        yield clock.event(0, 0)
    first = ddim.start_index(settings.steps, settings.strength)
    zs = generated.zs[first:].flip(0)
    base = {"latent": zs[-1:], "cond": generated.cond, "uncond": generated.uncond} | _decided_by(model)
    part = Prepared(
        lora.merged(model, {}), Frame.fit(*task.size, fit="native"), settings, generated.cond, zs[:1], zs,
        generated.ts[first:], {}, uncond=generated.uncond, generated=generated.recipe, base_hash=base["model"],
    )  # fmt: skip
    return (yield from _with_reference(part, _keeping(store, base, settings, clock), clock))


def _decided_by(model: sd.Model) -> dict:
    """What of model and libraries every stage depends on."""
    return {"model": model.hash, "dtype": str(model.dtype), "versions": versions()}


def _keeping(store: Store, base: dict, settings: Settings, clock: _Clock) -> Callable:
    """(stage, work) -> the events of a stage that is kept under `base` and the settings that decide it; see `_kept`."""

    def kept(stage, work):
        clock.begin(stage)
        return _kept(store, store.key(**base, settings=settings.deciding(stage)), work, clock)

    return kept


def _with_reference(part: Prepared, kept: Callable, clock: _Clock):
    """The Prepared with what reference control attends to, where it is on."""
    if part.settings.reference:
        model = part.model
        rows = dict((yield from kept("reference", lambda: _record(part, clock))))
        back = rows.pop("back").to(model.device)
        # of a model that saves memory, each layer fetches its own rows when it needs them
        kv = attention.ReferenceKV.from_dict(rows, "cpu" if model.low_memory else model.device)
        part = replace(part, back=back, kv=kv)
    return replace(part, from_cache=frozenset(clock.from_cache))


def _kept(store: Store, key: str, work: Callable, clock: _Clock):
    """What the store has under the key, announced by one event; else what `work` makes and reports, kept.

    No lock is held, since the caller may let any amount of time pass between events: two processes may do the same
    work at once, and each writes a whole file.
    """
    tensors = store.get(clock.stage, key)
    if tensors is not None:
        yield clock.event(1, 1, cached=True)
        return tensors
    tensors = yield from work()
    store.put(clock.stage, key, tensors)
    return tensors


def _encode(model: sd.Model, frame: Frame, task: DragTask, clock: _Clock):
    mean, std = sd.encode_dist(model, frame.to_canvas(task.image))
    cond = sd.embed(model, task.prompt)
    yield clock.event(1, 1)
    return {"mean": mean, "std": std, "cond": cond}


def _finetune(model: sd.Model, encoded: dict, cond: Tensor, settings: Settings, clock: _Clock):
    own = sd.private(model)
    with lora.attached(own, settings):
        for state in lora.finetune(own, (encoded["mean"], encoded["std"]), cond, settings):
            yield clock.event(state.step, state.step if state.last else settings.lora_steps, state)
        return lora.weights_of(own)


def _invert(part: Prepared, clock: _Clock):
    zs = [part.z0]
    for state in ddim.invert(part.eps_fn(), part.z0, part.model.abar, part.ts):
        zs.append(state.z)
        yield clock.event(state.i + 1, len(part.ts), state)
    return {"zs": torch.cat(zs)}


def _record(part: Prepared, clock: _Clock):
    """The reference branch of §3.4: denoise the latent that nobody drags, and keep what its attention reads.

    A large record (`store.is_large`) is rounded to half precision, for this edit as for those that read it from the
    disk: one result, whoever made the record.
    """
    back = part.z_t
    with attention.recording(part.model, part.settings.ref_blocks) as kv:
        eps_fn = kv.follow(part.eps_fn(), part.controlled)
        for state in ddim.sample(eps_fn, part.z_t, part.model.abar, part.ts):
            back = state.z_next
            yield clock.event(state.i + 1, len(part.ts), state)
    kv = kv.halved() if is_large(kv.bytes()) else kv
    return kv.as_dict() | {"back": back}


def _finish(task: DragTask, prepared: Prepared, start: Start | None, clock: _Clock):
    """Drag, denoise, decode."""
    states: list[drag.DragState] = []
    clock.begin("drag")
    dragging = _drag(prepared.problem(task, start), states, clock)
    stopped = yield from _until_interrupted(dragging, least=2)
    steps: list[ddim.SampleState] = []
    clock.begin("denoise")
    cut_short = yield from _until_interrupted(_denoise(prepared, states[-1], steps, clock), least=1)
    last = steps[-1]
    z = prepared.clean(last.z, last.eps, last.t) if cut_short else last.z_next
    clock.begin("decode")
    decoded = prepared.picture(z)
    if states[-1].kept is not None:
        decoded = states[-1].kept.over(decoded)
    settings = prepared.settings
    image = decoded
    if settings.keep_outside:
        outside = task if start is None or start.image is None else replace(task, image=start.image)
        image = keep_outside(outside, decoded, settings.feather)
    yield clock.event(1, 1)
    tracks = np.stack([prepared.frame.yx_to_xy(s.handles, prepared.map_hw).numpy() for s in states])
    result = Result(
        image, task, settings, prepared, tuple(states), tracks, z, dict(clock.timings), prepared.from_cache,
        _record_of(task, prepared, states, start), stopped or cut_short, decoded,
    )  # fmt: skip
    clock.begin("done")
    yield clock.event(1, 1, result)


def _drag(problem: drag.Problem, states: list, clock: _Clock):
    most = problem.settings.drag_steps
    for state in methods.drag_of(problem.settings.method)(problem):
        states.append(state)
        yield clock.event(state.step, state.step if state.reached and state.step else most, state)


def _denoise(prepared: Prepared, state: drag.DragState, steps: list, clock: _Clock):
    n = len(prepared.ts) - prepared.ts.index(state.t)
    for step in denoise(prepared, state):
        steps.append(step)
        yield clock.event(len(steps), n, step)


def _until_interrupted(events: Iterator[Event], least: int):
    """The events of a stage; Ctrl-C ends it early, but is raised before `least` events. Returns whether it came."""
    seen = 0
    with contextlib.closing(events):
        try:
            for event in events:
                seen += 1
                yield event
        except KeyboardInterrupt:
            if seen < least:
                raise
            return True
    return False


def denoise(
    prepared: Prepared, state: drag.DragState | Tensor, reference: bool = True
) -> Iterator[ddim.SampleState]:
    """Walk a state of the drag, or a latent at ts[0], down to the picture; under reference control if prepared."""
    if isinstance(state, Tensor):
        z, ts, cond, during, pin = state, prepared.ts, None, None, None
    else:
        z, ts, cond, during = state.z, prepared.ts[prepared.ts.index(state.t) :], state.cond, state.during
        pin = prepared.pin(state.kept) if state.kept else None
    eps_fn = prepared.eps_fn(cond)
    with contextlib.ExitStack() as stack:
        if reference and prepared.kv is not None:
            stack.enter_context(
                attention.referenced(prepared.model, prepared.kv, prepared.settings.ref_blocks)
            )
            eps_fn = prepared.kv.follow(eps_fn, prepared.controlled)
        if during is not None:
            stack.enter_context(during)
        yield from ddim.sample(eps_fn, z, prepared.model.abar, ts, pin)


def _record_of(task: DragTask, prepared: Prepared, states, start: Start | None) -> dict:
    """Where a result comes from: points, settings, model, versions, and the drag it began at. No paths, no times."""
    model, frame = prepared.model, prepared.frame
    name = os.path.basename(model.name) if os.path.isabs(model.name) else model.name
    return {
        "pairs": np.stack([task.handles, task.targets], axis=1).tolist(),
        "prompt": task.prompt,
        "settings": prepared.settings.as_dict(),
        "seed": prepared.settings.seed,
        "model": {"name": name, "hash": prepared.base_hash, "dtype": str(model.dtype).removeprefix("torch.")},
        "versions": versions(),
        "side": frame.inner_width
        if prepared.settings.fit == "width"
        else max(frame.inner_width, frame.inner_height),
        "t": prepared.ts[0],
        "drag_steps": len(states) - 1,
        "began": start.origin if start else None,
        "generated": prepared.generated,
    }


def preview(event: Event) -> np.ndarray | None:
    """The picture as an event of the drag or of the denoising has it, blurred; None at the other stages."""
    if event.stage == "drag":
        return event.prepared.preview(event.data)[0]
    if event.stage == "denoise":
        state = event.data
        return event.prepared.picture(event.prepared.clean(state.z, state.eps, state.t))
    return None


def edit(
    task: DragTask,
    model: str | sd.Model = "clay",
    settings: Settings | None = None,
    store: Store | None = None,
    side: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    start: Start | None = None,
    generated: Generated | None = None,
    **loading,
) -> Result:
    """Edit a picture and return the Result; arguments as in `run`, `on_event` is called with every event.

    Ctrl-C while dragging or denoising returns the best so far.
    """
    events = run(task, model, settings, store, side, start, generated, **loading)
    event = interrupt = None
    while True:
        try:
            event = next(events) if interrupt is None else events.throw(interrupt)
            interrupt = None
            if on_event is not None:
                on_event(event)
        except StopIteration:
            return event.data
        except KeyboardInterrupt as error:
            if events.gi_frame is None:  # it passed through the edit itself: there was nothing to show yet
                raise
            interrupt = error
