"""One whole edit as a generator of events: load, encode, fine-tune, invert, drag, denoise, decode, done.

What comes before the drag is kept on disk (`prepare`), so a second drag on one picture repeats the drag, the
denoising and the decoding only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor

from dragnb import attention, ddim, drag, glimpse, sd
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.prepare import Event, Prepared, Reporter, default_settings, prepare, stages
from dragnb.result import Result, Start, record, tracks_xy
from dragnb.store import Store
from dragnb.task import DragTask

__all__ = ["STAGES", "Event", "Prepared", "Result", "Start", "denoise", "edit", "prepare", "run"]

STAGES = ("load", "encode", "finetune", "invert", "drag", "denoise", "decode", "done")
LOWER_MEMORY = "`side` or lora_batch, or load the model with dtype='fp16'"


def run(
    task: DragTask,
    model: str | sd.Model = "clay",
    settings: Settings | None = None,
    store: Store | None = None,
    side: int | None = None,
    start: Start | None = None,
) -> Iterator[Event]:
    """Edit a picture; yields an Event per step, the last one ("done") with the Result.

    settings  default: the profile "clay" for the bundled model, else "fast"
    store     where stages are kept; default: the user's cache folder
    side      the canvas' longer side in pixels, default the model's own; lower it to save memory
    start     begin at this latent, as `result.at(12)`, of an edit of the same picture. The task's handles are then
              places in the picture as it is there (`result.tracks_xy[12]`), and what the mask holds is held as it
              is there; steps, strength and side must be the earlier edit's

    Guidance other than 1 steers inversion and denoising; the drag's features are always those of the prompt alone.
    To stop, close the generator (`close()`) at any event: model, task and cache stay usable. Ctrl-C while dragging or
    denoising ends that stage early and yields the best so far (`interrupted`); before the first step of the drag it is
    raised.
    """
    settings = default_settings(model) if settings is None else settings
    for name, value, kind in (("task", task, DragTask), ("settings", settings, Settings)):
        if not isinstance(value, kind):
            raise InputError(f"{name} is a {type(value).__name__}; it must be a {kind.__name__}")
    report = Reporter()
    with sd.memory_errors(LOWER_MEMORY):
        prepared = yield from stages(task, model, settings, store or Store(), side, report)
        yield from _finish(task, prepared, start, report)


def _finish(task: DragTask, prepared: Prepared, start: Start | None, report: Reporter):
    """Drag, denoise, decode."""
    report.prepared = prepared
    report.begin("drag")
    states, stopped = yield from _drag(task, prepared, _first_latent(prepared, start), report)
    report.begin("denoise")
    z, cut_short = yield from _denoise(prepared, states[-1].z, report)
    report.begin("decode")
    image = glimpse.picture(prepared, z)
    yield from report(1, 1)
    result = Result(
        image,
        task,
        prepared.settings,
        prepared,
        tuple(states),
        tracks_xy(prepared, states),
        z,
        dict(report.timings),
        prepared.from_cache,
        record(task, prepared, states, start),
        stopped or cut_short,
    )
    report.begin("done")
    yield from report(1, 1, result)


def _first_latent(prepared: Prepared, start: Start | None) -> Tensor:
    """The latent that the drag begins at."""
    z, t = prepared.z_t, prepared.ts[0]
    if start is None:
        return z
    if start.z.shape != z.shape or start.t != t:
        raise InputError(
            f"start: a latent {tuple(start.z.shape)} at t = {start.t}, but this edit drags {tuple(z.shape)} at "
            f"t = {t}; keep picture, side, steps and strength"
        )
    return start.z.to(z)


def _drag(task: DragTask, prepared: Prepared, z: Tensor, report: Reporter):
    """All states of the drag from `z`, and whether Ctrl-C ended it."""
    handles, targets = prepared.points_yx(task.handles), prepared.points_yx(task.targets)
    mask = None if task.free else prepared.mask_cells(task.mask)
    states: list[drag.DragState] = []
    settings = prepared.settings
    try:
        for state in drag.optimise(
            prepared.model,
            z,
            prepared.ts[0],
            prepared.cond,
            handles,
            targets,
            mask,
            settings,
            prepared.map_hw,
        ):
            states.append(state)
            over = state.reached and state.step
            yield from report(state.step, state.step if over else settings.drag_steps, state)
    except KeyboardInterrupt:
        if len(states) < 2:  # nothing has moved yet
            raise
        return states, True
    return states, False


def denoise(prepared: Prepared, z: Tensor, reference: bool = True) -> Iterator[ddim.SampleState]:
    """Walk a latent at ts[0] down to the picture, under reference control where it was prepared (§3.4)."""
    eps_fn = prepared.eps_fn()
    with contextlib.ExitStack() as stack:
        if reference and prepared.kv is not None:
            stack.enter_context(
                attention.referenced(prepared.model, prepared.kv, prepared.settings.ref_blocks)
            )
            eps_fn = prepared.kv.follow(eps_fn, prepared.controlled)
        yield from ddim.sample(eps_fn, z, prepared.model.abar, prepared.ts)


def _denoise(prepared: Prepared, z: Tensor, report: Reporter):
    """The denoised latent, and whether Ctrl-C cut it short: then it is what the model last took the picture for."""
    state = None
    try:
        for state in denoise(prepared, z):
            yield from report(state.i + 1, len(prepared.ts), state)
    except KeyboardInterrupt:
        if state is None:
            raise
        return glimpse.leap(prepared, state.z, state.eps, state.t), True
    return state.z_next, False


def edit(
    task: DragTask,
    model: str | sd.Model = "clay",
    settings: Settings | None = None,
    store: Store | None = None,
    side: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    start: Start | None = None,
) -> Result:
    """Edit a picture and return the Result; arguments as in `run`, `on_event` is called with every event.

    Ctrl-C while dragging or denoising returns the best so far.
    """
    events, event, interrupt = run(task, model, settings, store, side=side, start=start), None, None
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
