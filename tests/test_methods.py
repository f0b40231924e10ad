"""A drag method is one file: put into `dragnb/methods` it is known everywhere by its name."""

import dataclasses
import importlib
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from dragnb import clay, config, ddim, drag, methods, pipeline
from dragnb.clay import tasks
from dragnb.errors import InputError
from dragnb.methods import gooddrag
from dragnb.store import Store
from dragnb.task import DragTask

TOY = '''
"""Toy: shift the whole latent by one cell towards the first target, as often as `shifts` says."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dragnb import config
from dragnb.drag import DragState, Problem


@dataclass(frozen=True)
class Settings(config.Settings):
    """The toy's own number, and one of the common ones."""

    shifts: int = config.number(2, 1, 9, "drag", "cells that the latent is shifted by")
    lam: float = config.number(0.5, 0, 1e6, "drag", "not read")


def drag(problem: Problem) -> Iterator[DragState]:
    """Yield the latent shifted by 0, 1, ... cells; the handles go along."""
    way = problem.targets[0] - problem.handles[0]
    step = way.sign().int().tolist()
    cells = torch.tensor(problem.look(problem.z, problem.ts[0], eps=False)[0].hw) / torch.tensor(problem.z.shape[-2:])
    for k in range(problem.settings.shifts + 1):
        z = torch.roll(problem.z, (k * step[0], k * step[1]), dims=(2, 3))
        handles = problem.handles + k * cells * torch.tensor(step)
        distance = (problem.targets - handles).norm(dim=1)
        yield DragState(k, z, problem.ts[0], handles, distance, float(distance.sum()), False)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy method, in a second place that the folder of methods is said to have."""
    (tmp_path / "toy.py").write_text(TOY.lstrip())
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield "toy"
    sys.modules.pop("dragnb.methods.toy", None)


def test_a_file_is_a_method_with_its_own_settings_and_those_of_a_base(toy):
    assert toy in methods.names() and toy in config.profile_names()
    assert config.profile(toy, shifts=3).shifts == 3 and config.profile(toy).lam == 0.5
    base = config.profile("clay", lam=0.2)
    own = methods.settings(toy, base)

    assert (own.method, own.shifts, own.lam) == (toy, 2, 0.5), "what the method says itself stays"
    assert (own.block, own.lora_steps, own.r1) == (base.block, base.lora_steps, base.r1), (
        "the rest is the base's"
    )
    assert config.nearest_profile(config.profile(toy, shifts=4)) == (toy, {"shifts": 4})
    with pytest.raises(InputError, match="shifts = 0 is not a whole number from 1 to 9"):
        config.profile(toy, shifts=0)
    with pytest.raises(InputError, match="unknown setting 'shift'; did you mean 'shifts'"):
        config.profile(toy, shift=1)


def test_a_method_drags_in_a_whole_edit(toy, smoke, drag_task, quick, cache):
    result = pipeline.edit(drag_task, smoke, methods.settings(toy, quick), cache)

    assert [state.step for state in result.states] == [0, 1, 2]
    assert torch.equal(result.states[1].z, torch.roll(result.states[0].z, 1, dims=3))
    assert result.record["settings"]["method"] == toy
    again = pipeline.edit(drag_task, smoke, quick, cache)
    assert again.from_cache >= {"encode", "finetune", "invert"}, "what comes before the drag is shared"


def test_a_method_shows_up_beside_the_paper_in_the_rivals_the_studio_and_on_the_command_line(toy, drag_task):
    from dragnb.sweep import __main__ as command
    from dragnb.sweep import grids

    base = config.profile("clay")
    rivals = grids.rivals(base)
    assert rivals[toy] == methods.settings(toy, base) and {"full", "no edit", "pixel warp"} <= set(rivals)
    assert command.grid([toy])[toy].method == toy

    widgets = pytest.importorskip("ipywidgets", reason="ipywidgets is missing")
    from dragnb.ui import Studio

    studio = Studio(drag_task.image)
    choices = [w.options for w in walk(studio.widget, widgets)]
    studio.close()
    assert any(toy in options for options in choices)


def walk(widget, widgets):
    """All drop-down lists below a widget."""
    if isinstance(widget, widgets.Dropdown):
        yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child, widgets)


def test_an_unknown_method_is_named_with_the_nearest_known_one(toy):
    with pytest.raises(InputError, match="method = 'tooy' is unknown; did you mean 'toy'"):
        config.Settings(method="tooy")
    with pytest.raises(InputError, match="method = 'toy' has numbers of its own"):
        config.Settings(method="toy")


def test_a_state_below_the_first_timestep_goes_on_from_there(smoke, drag_task, quick, cache):
    prepared = pipeline.prepare(drag_task, smoke, quick, cache)
    lower = prepared.ts[1]
    points = torch.zeros(1, 2)
    state = drag.DragState(1, prepared.zs[-2:-1], lower, points, points[0], 0.0, True)
    assert [step.t for step in pipeline.denoise(prepared, state)] == list(prepared.ts[1:])


def test_a_method_may_change_the_prompt_and_hold_a_hook_while_denoising(smoke, drag_task, quick, cache):
    import contextlib

    prepared, held = pipeline.prepare(drag_task, smoke, quick, cache), []

    @contextlib.contextmanager
    def during():
        held.append("on")
        yield
        held.append("off")

    points = torch.zeros(1, 2)
    plain = drag.DragState(0, prepared.z_t, prepared.ts[0], points, points[0], 0.0, True)
    other = drag.DragState(
        0, prepared.z_t, prepared.ts[0], points, points[0], 0.0, True, cond=prepared.cond * 2, during=during()
    )
    ends = [list(pipeline.denoise(prepared, state))[-1].z_next for state in (plain, other)]

    assert held == ["on", "off"]
    assert not torch.equal(*ends)


# warp_inpaint


@pytest.fixture(scope="module")
def warped(tmp_path_factory):
    """A whole edit by warp_inpaint of a tuning task of the clay world, few steps."""
    clay_task = clay.task(846_010, "balloon", "move", version=1)
    store = Store(tmp_path_factory.mktemp("warped"))
    settings = config.profile("warp_inpaint", steps=20, drag_steps=2)
    return clay_task, pipeline.edit(clay_task.task, "clay", settings, store), store


def test_what_is_moved_and_what_is_held_are_the_pictures_own_pixels(warped):
    clay_task, result, _ = warped
    task, kept = clay_task.task, result.states[-1].kept
    assert (result.image[~task.mask] == task.image[~task.mask]).all()
    own = kept.share == 1
    assert (result.image[own] == kept.image[own]).all() and own[task.mask].mean() > 0.1
    assert not np.array_equal(result.image[~own], kept.image[~own]), "the model has painted the rest"
    verdict = clay.judge(clay_task, result.image)
    assert verdict.success, verdict


def test_its_states_are_on_a_straight_way_and_each_has_its_picture(warped):
    clay_task, result, _ = warped
    assert [state.step for state in result.states] == [0, 1, 2]
    middle = (clay_task.task.handles + clay_task.task.targets) / 2
    assert np.allclose(result.tracks_xy[1], middle, atol=0.01)
    assert result.reached and result.states[0].kept is None and not result.states[1].reached
    picture, _ = result.prepared.preview(result.states[1])
    assert (picture == result.states[1].kept.image).all()
    assert torch.equal(result.states[0].z, result.prepared.z_t)


def test_what_is_pinned_stands_in_the_latent_at_every_level(warped):
    _, result, _ = warped
    kept, prepared = result.states[-1].kept, result.prepared
    steps = list(pipeline.denoise(prepared, result.states[-1]))
    cells = (kept.cells > 0).expand_as(kept.z0)
    assert 0.1 < cells.float().mean() < 1 and torch.equal(steps[-1].z_next[cells], kept.z0[cells])
    for step in steps:
        k = len(prepared.ts) - prepared.ts.index(step.t)
        signal = ddim.abar_at(prepared.model.abar, step.t).sqrt()
        own = prepared.zs[k : k + 1] + signal * (kept.z0 - prepared.z0)
        assert torch.allclose(step.z[cells], own[cells], atol=1e-5)


def test_a_second_move_begins_at_the_moved_picture(warped):
    clay_task, first, store = warped
    task = clay_task.task
    back = DragTask(task.image, task.targets, task.handles, task.mask, task.prompt)
    second = pipeline.edit(back, "clay", first.settings.replace(keep_outside=True), store, start=first.at(2))
    inner = ndimage.binary_erosion(first.states[-1].kept.share == 1, iterations=3) & task.mask
    assert torch.allclose(second.states[0].z, first.states[-1].z)
    error = np.abs(second.states[-1].kept.image.astype(int) - task.image)[task.mask].mean()
    left = np.abs(first.image.astype(int) - task.image)[task.mask].mean()
    assert inner.any() and error < 0.5 * left, "there and back is nearly the picture again"


def test_it_refuses_to_begin_at_a_latent_of_another_method(warped, cache):
    clay_task, first, store = warped
    latent = pipeline.Start(first.prepared.z_t, first.prepared.ts[0])
    with pytest.raises(
        InputError, match="method = 'warp_inpaint' moves a picture's pixels .* save its picture"
    ):
        pipeline.edit(clay_task.task, "clay", first.settings, store, start=latent)


# gooddrag


def good(prepared, task, **changes):
    """The problem of a drag by gooddrag on what was prepared, and the settings."""
    settings = config.profile("gooddrag", **{"lam": 0.0, "stop": 0.0, "r2": 3, **changes})
    return dataclasses.replace(prepared, settings=settings).problem(task)


@pytest.fixture
def ready(smoke, drag_task, quick, cache):
    """What the quick settings prepare for the drag task on the smoke model."""
    return pipeline.prepare(drag_task, smoke, quick, cache)


def test_gooddrag_pulls_a_few_times_at_a_level_and_goes_down_to_the_next(ready, drag_task):
    problem = good(ready, drag_task, levels=3, tracks=1, pulls=2, patience=100)
    states = list(gooddrag.drag(problem))

    assert [state.step for state in states] == list(range(7)), "six pulls, each state once"
    ts = ready.ts
    assert [state.t for state in states] == [ts[0]] * 2 + [ts[1]] * 2 + [ts[2]] * 3
    assert torch.equal(states[0].z, ready.z_t)
    short = list(gooddrag.drag(good(ready, drag_task, levels=3, tracks=1, pulls=2, drag_steps=3)))
    assert [state.step for state in short] == [0, 1, 2, 3] and torch.equal(short[-1].z, states[3].z)


def test_gooddrag_goes_down_by_ddim_and_compares_with_the_unedited_patch_of_the_level(ready, drag_task):
    problem = good(ready, drag_task, levels=2, tracks=1, pulls=1, patience=100, motion_norm="sum", r1=1)
    states = list(gooddrag.drag(problem))
    last = states[-1]
    level = problem.ts[1]

    _, noise = problem.look(problem.z, problem.ts[0])
    original = problem.one_step_down(problem.z, noise, problem.ts[0])
    first, now = problem.look(original, level)[0], problem.look(last.z, level)[0]
    way = problem.targets - last.handles
    ahead = last.handles + way / way.norm() * min(4.0, way.norm())
    patch = drag.window(1)
    by_hand = (now.read(ahead[:, None] + patch) - first.read(problem.handles[:, None] + patch)).abs().sum()
    assert last.motion == pytest.approx(by_hand.item(), rel=1e-4)
    assert last.motion != pytest.approx(states[0].motion, rel=1e-2)


def test_gooddrag_holds_what_is_outside_the_mask_to_the_unedited_path(ready, drag_task):
    ends = {}
    for lam in (0.0, 10.0):
        problem = good(ready, drag_task, lam=lam, mask_on="now", levels=2, tracks=2, pulls=3, patience=100)
        state = list(gooddrag.drag(problem))[-1]
        _, noise = problem.look(problem.z, problem.ts[0])
        original = problem.one_step_down(problem.z, noise, problem.ts[0])
        ends[lam] = ((state.z - original) * (1 - problem.mask)).abs().mean().item()
    assert ends[10.0] < 0.5 * ends[0.0]


def test_gooddrag_ends_where_nothing_is_to_be_moved_or_nothing_moves(ready, drag_task):
    still = dataclasses.replace(drag_task, targets=drag_task.handles + 1)
    states = list(gooddrag.drag(good(ready, still, stop=2.0)))
    assert len(states) == 1 and states[0].reached and torch.equal(states[0].z, ready.z_t)

    stuck = good(ready, drag_task, drag_lr=1e-9, patience=2, pulls=3)
    states = list(gooddrag.drag(stuck))
    assert len(states) == 7 and not states[-1].reached, "two looks, three pulls each"


def test_a_whole_edit_by_gooddrag_turns_a_head(tmp_path):
    clay_task = tasks.tasks(1, seed=820_000, version=1)[0]
    settings = config.profile("gooddrag", lora_steps=0, mask_on="now")
    result = pipeline.edit(clay_task.task, "clay", settings, Store(tmp_path))
    assert result.reached and result.states[-1].t < result.states[0].t
    verdict = clay.judge(clay_task, result.image)
    assert verdict.moved > 0.6 and not verdict.gone, verdict
