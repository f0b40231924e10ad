"""Everything of an edit that comes before the drag: it depends on the picture and not on the points.

Each stage is kept on disk under the hash of what decides it: picture, prompt, weights, libraries, and those settings
that the stage reads. The model that comes in is never changed: adapters and processors go on private copies of its
module tree, so an edit may be left half-way, and two may run side by side.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

import dragnb
from dragnb import attention, ddim, drag, lora, sd
from dragnb.config import Settings, profile
from dragnb.geometry import Frame
from dragnb.store import Store
from dragnb.task import DragTask

LIBRARIES = ("torch", "diffusers", "peft", "transformers")
REFERENCE_ON_DISK = 256 * 2**20  # bytes; a larger reference is recorded again by a new process
_reference_at_hand: OrderedDict[str, dict[str, Tensor]] = OrderedDict()  # the last one


def forget() -> None:
    """Let go of the reference kept in memory, as a new process would begin."""
    _reference_at_hand.clear()


@dataclass(frozen=True)
class Event:
    """Something happened: step `i` of `n` of a stage, `seconds` after the stage began.

    data      the stage's own state: LoraState, InvertState (then SampleState: the reference's way back), DragState,
              SampleState; a Result with "done"
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
    kv, back    what reference control attends to, and where the reference branch ends; None without it
    from_cache  the stages that were read from disk
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

    @property
    def z_t(self) -> Tensor:
        """The latent that is dragged, (1, 4, h, w) at timestep ts[0]."""
        return self.zs[-1:]

    @property
    def map_hw(self) -> tuple[int, int]:
        """Size of the map in whose cells the drag's points count."""
        return drag.map_size(self.model, self.z0, self.settings)

    @property
    def controlled(self) -> tuple[int, ...]:
        """The timesteps at which reference control is on."""
        return self.ts[self.settings.ref_start :] if self.settings.reference else ()

    def points_yx(self, points_xy) -> Tensor:
        """Picture pixels (n, 2) -> cells of the drag's map."""
        return self.frame.xy_to_yx(np.array(points_xy), self.map_hw)

    def mask_cells(self, mask) -> Tensor:
        """The task's mask on the latent, (1, 1, h, w); all ones where nothing is masked."""
        return self.frame.mask_to_canvas(mask, *self.z0.shape[-2:]).to(self.z0)

    def eps_fn(self) -> Callable:
        """(z, t) -> eps of the fine-tuned model, as inversion and denoising ask it."""
        return sd.eps_fn(self.model, self.cond, self.settings.guidance)


class Reporter:
    """Makes events: knows the clock, and what was read from disk."""

    def __init__(self):
        self.timings: dict[str, float] = {}
        self.hits: set[str] = set()
        self.prepared: Prepared | None = None
        self.begin("")

    def begin(self, stage: str) -> None:
        """Start the clock of a stage."""
        self.stage, self.began, self.missed = stage, time.perf_counter(), False

    def __call__(self, i: int, n: int, data=None, cached: bool = False) -> Iterator[Event]:
        self.timings[self.stage] = time.perf_counter() - self.began
        yield Event(self.stage, i, n, self.timings[self.stage], data, cached, self.prepared)


def default_settings(model) -> Settings:
    """The profile that suits a model: "clay" for the bundled one, "fast" for any other."""
    return profile("clay" if getattr(model, "name", model) == "clay" else "fast")


def prepare(
    task: DragTask, model="clay", settings: Settings | None = None, store=None, side=None
) -> Prepared:
    """All of an edit of `task` that comes before the drag, from the cache where it is there; see `pipeline.run`."""
    settings = default_settings(model) if settings is None else settings
    events = stages(task, model, settings, store or Store(), side, Reporter())
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def stages(task: DragTask, model, settings: Settings, store: Store, side: int | None, report: Reporter):
    """The generator behind `prepare`: yields events, returns the Prepared."""
    report.begin("load")
    model = sd.load(model)
    yield from report(1, 1)
    frame = Frame.fit(*task.size, side or model.side)
    base = {"picture": task.image, "prompt": task.prompt, "model": model.hash, "dtype": str(model.dtype)}
    base |= {"frame": frame, "versions": versions()}

    report.begin("encode")
    found = yield from _kept(
        store, "encode", store.key(**base), report, lambda: _encode(model, frame, task, report)
    )
    cond, z0 = found["cond"].to(model.device), found["mean"].to(model.device)

    report.begin("finetune")
    weights: dict[str, Tensor] = {}
    if settings.lora_steps:
        key = store.key(**base, settings=settings.stage_key("lora"))
        dist = found["mean"], found["std"]
        weights = yield from _kept(
            store, "lora", key, report, lambda: _finetune(model, dist, cond, settings, report)
        )
    else:
        yield from report(0, 0)
    tuned = lora.merged(model, weights)

    report.begin("invert")
    ts = tuple(ddim.timesteps(settings.steps)[ddim.start_index(settings.steps, settings.strength) :])
    part = Prepared(tuned, frame, settings, cond, z0, z0, ts, weights)
    key = store.key(**base, settings=settings.stage_key("invert"))
    found = yield from _kept(store, "invert", key, report, lambda: _invert(part, report))
    part = replace(part, zs=found["zs"].to(model.device))
    if settings.reference:
        key = store.key(inverted=key, blocks=settings.ref_blocks, start=settings.ref_start)
        flat = yield from _kept(
            store, "reference", key, report, lambda: _record(part, report), _reference_at_hand
        )
        back = flat["back"].to(model.device)
        rows = (
            "cpu" if model.low_memory else model.device
        )  # there each layer fetches its own when it needs them
        flat = {name: x.to(rows) for name, x in flat.items() if name != "back"}
        part = replace(part, back=back, kv=attention.ReferenceKV.from_dict(flat))
    return replace(part, from_cache=frozenset(report.hits))


def _kept(
    store: Store, kind: str, key: str, report: Reporter, work: Callable, at_hand: OrderedDict | None = None
):
    """What the store has under the key, announced by one event; else what `work` makes and reports, kept.

    No lock is held, since the caller may let any amount of time pass between events: two processes may do the same
    work at once, and each writes a whole file.
    """
    found = at_hand.get(key) if at_hand else None
    if found is None and store.has(kind, key):
        found = store.get(kind, key)
    if found is not None:
        if not report.missed:
            report.hits.add(report.stage)
        yield from report(1, 1, cached=True)
        return found
    report.missed = True
    report.hits.discard(report.stage)
    found = yield from work()
    if at_hand is not None:
        at_hand.clear()
        at_hand[key] = found
    if at_hand is None or sum(x.numel() * x.element_size() for x in found.values()) <= REFERENCE_ON_DISK:
        store.put(kind, key, found)
    return found


def _encode(model: sd.Model, frame: Frame, task: DragTask, report: Reporter):
    mean, std = sd.encode_dist(model, frame.to_canvas(task.image))
    cond = sd.embed(model, task.prompt)
    yield from report(1, 1)
    return {"mean": mean, "std": std, "cond": cond}


def _finetune(model: sd.Model, dist, cond: Tensor, settings: Settings, report: Reporter):
    own = sd.private(model)
    with lora.attached(own, settings):
        for state in lora.finetune(own, dist, cond, settings):
            yield from report(state.step, state.step if state.last else settings.lora_steps, state)
        return lora.weights_of(own)


def _invert(part: Prepared, report: Reporter):
    zs, n = [part.z0], len(part.ts) * (2 if part.settings.reference else 1)
    for state in ddim.invert(part.eps_fn(), part.z0, part.model.abar, part.ts):
        zs.append(state.z)
        yield from report(state.i + 1, n, state)
    return {"zs": torch.cat(zs)}


def _record(part: Prepared, report: Reporter):
    """The reference branch of §3.4: denoise the latent that nobody drags, and keep what its attention reads."""
    back, n = part.z_t, len(part.ts)
    with attention.recording(part.model, part.settings.ref_blocks) as kv:
        eps_fn = kv.follow(part.eps_fn(), part.controlled)
        for state in ddim.sample(eps_fn, part.z_t, part.model.abar, part.ts):
            back = state.z_next
            yield from report(n + state.i + 1, 2 * n, state)
    return kv.as_dict() | {"back": back}


def versions() -> dict[str, str]:
    """Of this package and of the libraries that decide what comes out."""
    return {"dragnb": dragnb.__version__} | {name: importlib.metadata.version(name) for name in LIBRARIES}
