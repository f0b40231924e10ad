"""The whole edit: events, cache, cancelling, Ctrl-C, and a model that is left as it was."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from dragnb import config, features, metrics, pipeline, sd, store, task
from dragnb.errors import InputError
from dragnb.store import Store

KEPT = {"encode", "finetune", "invert", "reference"}


def stages(events):
    return list(dict.fromkeys(event.stage for event in events))


def moved(drag_task, **changes):
    return dataclasses.replace(drag_task, **changes)


def untouched(model):
    plain = all(isinstance(p, AttnProcessor2_0) for p in model.unet.attn_processors.values())
    hooked = any(m._forward_hooks for m in model.unet.modules())
    graded = any(p.requires_grad or p.grad is not None for p in model.unet.parameters())
    return plain and not hooked and not graded and not getattr(model.unet, "peft_config", None)


def test_an_edit_tells_every_stage_in_order_and_ends_with_the_result(smoke, drag_task, quick, cache):
    before = {name: p.clone() for name, p in smoke.unet.named_parameters()}
    events = list(pipeline.run(drag_task, smoke, quick, cache))

    assert tuple(stages(events)) == tuple(config.STAGES)
    assert [e.i for e in events if e.stage == "finetune"] == [1, 2, 3]
    assert [e.i for e in events if e.stage == "invert"] == [1, 2, 3, 4], "four up"
    assert [e.i for e in events if e.stage == "reference"] == [1, 2, 3, 4], "four back"
    assert all(0 <= e.i <= e.n and e.seconds >= 0 and not e.cached for e in events)
    result = events[-1].data
    assert result.image.shape == drag_task.image.shape and result.image.dtype == np.uint8
    assert set(result.timings) == set(config.STAGES) - {"done"}
    assert result.tracks_xy.shape == (len(result.states), 1, 2) and len(result.losses) == len(result.states)
    np.testing.assert_allclose(result.tracks_xy[0], drag_task.handles, atol=1e-3)
    assert untouched(smoke)
    assert all(torch.equal(p, before[name]) for name, p in smoke.unet.named_parameters())


def test_a_second_drag_repeats_the_drag_and_what_follows_only(smoke, drag_task, quick, cache):
    pipeline.edit(drag_task, smoke, quick, cache)
    other = moved(drag_task, targets=np.array([[40.0, 70.0]]))
    events = []
    again = pipeline.edit(other, smoke, quick, Store(cache.root), on_event=events.append)

    assert again.from_cache == KEPT
    assert {e.stage for e in events if e.cached} == KEPT
    fresh = pipeline.edit(other, smoke, quick, Store(cache.root.parent / "other"))
    assert not fresh.from_cache
    np.testing.assert_array_equal(again.image, fresh.image, err_msg="cached and fresh must be one result")


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"lam": 0.5, "drag_lr": 0.02, "r2": 2}, KEPT),
        ({"ref_start": 2}, {"encode", "finetune", "invert"}),
        ({"reference": False}, KEPT - {"reference"}),
        ({"strength": 0.5}, {"encode", "finetune"}),
        ({"lora_lr": 1e-3}, {"encode"}),
        ({"seed": 1}, {"encode"}),
    ],
)
def test_a_setting_repeats_the_stages_that_read_it(smoke, drag_task, quick, cache, changes, kept):
    pipeline.prepare(drag_task, smoke, quick, cache)
    assert pipeline.prepare(drag_task, smoke, quick.replace(**changes), cache).from_cache == kept


def test_another_picture_prompt_or_model_shares_nothing(smoke, drag_task, quick, cache):
    pipeline.prepare(drag_task, smoke, quick, cache)
    picture = drag_task.image.copy()
    picture[0, 0] ^= 1
    for changed in (moved(drag_task, image=picture), moved(drag_task, prompt="a dog")):
        assert not pipeline.prepare(changed, smoke, quick, cache).from_cache
    other = dataclasses.replace(smoke, given="another")
    assert not pipeline.prepare(drag_task, other, quick, cache).from_cache


def test_leaving_the_loop_leaves_all_usable(smoke, drag_task, quick, cache):
    for last in list(config.STAGES)[:-1]:
        events = pipeline.run(drag_task, smoke, quick, cache)
        next(e for e in events if e.stage == last)
        events.close()
        assert untouched(smoke)
    assert pipeline.edit(drag_task, smoke, quick, cache).image.shape == drag_task.image.shape


@pytest.mark.parametrize(("stage", "step"), [("drag", 2), ("denoise", 3)])
def test_ctrl_c_returns_the_best_so_far(smoke, drag_task, quick, cache, stage, step):
    def press(event):
        if (event.stage, event.i) == (stage, step):
            raise KeyboardInterrupt

    result = pipeline.edit(drag_task, smoke, quick, cache, on_event=press)
    assert result.interrupted and result.image.shape == drag_task.image.shape
    assert len(result.states) == (3 if stage == "drag" else quick.drag_steps + 1)
    assert untouched(smoke)


def test_ctrl_c_inside_the_mathematics_is_caught_too(smoke, drag_task, quick, cache, monkeypatch):
    original, calls = sd.predict, []

    def predict(model, z, t, cond):
        calls.append(z.requires_grad)
        if calls[-1] and sum(calls) == 3:
            raise KeyboardInterrupt
        return original(model, z, t, cond)

    monkeypatch.setattr(sd, "predict", predict)
    result = pipeline.edit(drag_task, smoke, quick, cache)
    assert result.interrupted and len(result.states) == 2


def test_ctrl_c_before_there_is_anything_to_show_is_raised(smoke, drag_task, quick, cache):
    def press(event):
        if event.stage == "finetune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.edit(drag_task, smoke, quick, cache, on_event=press)
    assert untouched(smoke)
    assert pipeline.prepare(drag_task, smoke, quick, cache).from_cache == {"encode"}, (
        "half a fine-tune is not kept"
    )


def test_ctrl_c_before_the_first_step_of_the_drag_is_raised(smoke, drag_task, quick, cache):
    def press(event):
        if (event.stage, event.i) == ("drag", 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.edit(drag_task, smoke, quick, cache, on_event=press)


def test_a_drag_begins_where_another_was_and_goes_on_from_there(smoke, drag_task, quick, cache):
    whole = pipeline.edit(drag_task, smoke, quick, cache)
    again = pipeline.edit(drag_task, smoke, quick, cache, start=whole.light().at(0))
    np.testing.assert_array_equal(again.image, whole.image, err_msg="step 0 is the picture itself")

    handles = whole.tracks_xy[2]
    other = moved(drag_task, handles=handles, targets=np.array([[40.0, 70.0]]))
    branch = pipeline.edit(other, smoke, quick.replace(lam=0.5), cache, start=whole.at(2))

    assert torch.equal(branch.states[0].z, whole.states[2].z)
    assert not torch.equal(branch.states[-1].z, whole.states[-1].z)
    np.testing.assert_allclose(branch.tracks_xy[0], handles, atol=1e-3)
    assert branch.states[0].mask_loss == 0, "what the mask holds is held as it is there"
    assert branch.record["began"]["step"] == 2 and branch.record["began"]["of"] == whole.record


def test_a_latent_of_another_noise_level_or_size_is_refused(smoke, drag_task, quick, cache):
    start = pipeline.edit(drag_task, smoke, quick, cache).at(1)
    with pytest.raises(InputError, match="at t = 601, but this edit drags .* at t = 401; keep"):
        pipeline.edit(drag_task, smoke, quick.replace(strength=0.6), cache, start=start)
    with pytest.raises(InputError, match=r"a latent \(1, 4, 8, 8\)"):
        pipeline.edit(drag_task, smoke, quick, cache, start=start._replace(z=start.z[..., :8, :8]))


@pytest.mark.parametrize("step", [-1, 4])
def test_a_step_that_was_not_made_is_no_place_to_begin(smoke, drag_task, quick, cache, step):
    result = pipeline.edit(drag_task, smoke, quick, cache)
    with pytest.raises(InputError, match=f"step = {step}: this drag has the steps 0 to 3"):
        result.at(step)


def test_a_record_says_what_made_the_picture_without_a_path(smoke, drag_task, quick, cache):
    record = pipeline.edit(drag_task, smoke, quick, cache).record

    assert record["pairs"] == [[[40.0, 45.0], [90.0, 45.0]]]
    assert config.Settings(**record["settings"]) == quick
    assert record["model"] == {"name": "smoke", "hash": smoke.hash, "dtype": "float32"}
    assert {"torch", "diffusers", "dragnb"} <= set(record["versions"]) and record["began"] is None
    assert "/" not in str(record), "no folder of this machine"


def test_a_running_drag_can_be_looked_at_without_changing_it(smoke, drag_task, quick, cache):
    plain = pipeline.edit(drag_task, smoke, quick, cache)
    seen = {}

    def look(event):
        seen[event.stage] = pipeline.preview(event)

    watched = pipeline.edit(drag_task, smoke, quick, cache, on_event=look)

    np.testing.assert_array_equal(watched.image, plain.image)
    assert seen["finetune"] is None and seen["invert"] is None
    off = np.abs(seen["denoise"].astype(int) - plain.image).max()
    assert off <= 3, "the last leap is the picture, but for the noise that the schedule keeps at its end"
    assert seen["drag"].shape == plain.image.shape


def test_the_time_left_is_told_at_the_pace_so_far():
    assert pipeline.Event("drag", 20, 80, 5.0).left == 15.0
    assert pipeline.Event("drag", 0, 80, 5.0).left is None


def test_a_torn_cache_file_is_made_anew(smoke, drag_task, quick, cache):
    first = pipeline.edit(drag_task, smoke, quick, cache)
    for file in cache.root.glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="made anew"):
        again = pipeline.edit(drag_task, smoke, quick, cache)
    np.testing.assert_array_equal(first.image, again.image)


def test_a_cache_that_cannot_be_written_costs_no_result(smoke, drag_task, quick, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written"):
        result = pipeline.edit(drag_task, smoke, quick, Store(tmp_path / "file" / "cache"))
    assert result.image.shape == drag_task.image.shape


@pytest.fixture
def all_references_large(monkeypatch):
    """As at 512 pixels, where a record of float32 takes 0.4 to 0.9 GiB."""
    monkeypatch.setattr(store, "LARGE", 2**18)


ELSEWHERE = """
import sys
import numpy as np
from dragnb import config, pipeline, store
from dragnb.task import DragTask
store.LARGE = 2**18
model, task, cache, out = sys.argv[1:]
quick = config.profile("fast", steps=5, lora_steps=3, lora_rank=2, lora_batch=1, drag_steps=3)
result = pipeline.edit(DragTask.load(task), model, quick, store.Store(cache), device="cpu")
assert result.from_cache == {"encode", "finetune", "invert", "reference"}, result.from_cache
np.save(out, result.image)
"""


def test_a_second_drag_in_a_new_process_takes_a_large_reference_from_the_disk(
    smoke, smoke_folder, drag_task, quick, cache, tmp_path, all_references_large
):
    first = pipeline.edit(drag_task, smoke, quick, cache)
    rows = [x for step in first.prepared.kv.layers.values() for x in step.values()]
    (file,) = cache.root.glob("reference/*.safetensors")
    assert {x.dtype for x in rows} == {torch.float16}
    assert 2**18 < file.stat().st_size < 1.1 * first.prepared.kv.bytes(), (
        "it is large, and half as large as it was"
    )
    drag_task.save(tmp_path / "task")
    told = [
        sys.executable,
        "-c",
        ELSEWHERE,
        smoke_folder,
        tmp_path / "task",
        cache.root,
        tmp_path / "image.npy",
    ]

    subprocess.run(told, check=True)

    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), first.image)


def test_a_large_reference_without_room_on_the_disk_stays_at_hand(
    smoke, drag_task, quick, cache, monkeypatch, all_references_large
):
    monkeypatch.setattr(store, "SHARE", 0)
    pipeline.prepare(drag_task, smoke, quick, cache)
    assert not list(cache.root.glob("reference/*.safetensors"))
    assert pipeline.prepare(drag_task, smoke, quick, cache).from_cache == KEPT
    store.forget()
    assert pipeline.prepare(drag_task, smoke, quick, cache).from_cache == KEPT - {"reference"}


def test_without_a_drag_the_edit_is_the_way_there_and_back(smoke, drag_task, quick, cache):
    result = pipeline.edit(drag_task, smoke, quick.replace(drag_steps=0), cache)
    torch.testing.assert_close(result.z, result.prepared.back, atol=1e-4, rtol=1e-4)
    assert torch.equal(result.states[0].z, result.prepared.z_t)


def test_guidance_no_fine_tune_and_no_reference_are_served(smoke, drag_task, quick, cache):
    settings = quick.replace(guidance=2.0, lora_steps=0)
    assert pipeline.edit(drag_task, smoke, settings, cache).prepared.weights == {}
    plain = pipeline.edit(drag_task, smoke, settings.replace(reference=False), cache)
    assert plain.prepared.kv is None and plain.prepared.back is None


@pytest.mark.parametrize("profile", list(config.PROFILES))
def test_every_profile_runs(smoke, drag_task, cache, profile):
    settings = config.profile(profile, steps=5, lora_steps=1, lora_batch=1, drag_steps=1)
    assert not pipeline.edit(drag_task, smoke, settings, cache).interrupted


@pytest.mark.parametrize("size", [(16, 16), (20, 200), (256, 256)])
def test_pictures_of_any_size_come_back_in_their_size(smoke, quick, cache, size):
    width, height = size
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    one = task.DragTask(image, [[0.0, 0.0]], [[width - 1.0, height - 1.0]])
    assert pipeline.edit(one, smoke, quick, cache).image.shape == image.shape


def test_the_side_sets_the_canvas(smoke, drag_task, quick, cache):
    assert pipeline.prepare(drag_task, smoke, quick, cache, side=128).z0.shape == (1, 4, 16, 16)


def test_what_is_no_task_or_settings_is_named(smoke, drag_task):
    with pytest.raises(InputError, match="task is a str; it must be a DragTask"):
        next(pipeline.run("cat.png", smoke))
    with pytest.raises(InputError, match="settings is a dict"):
        next(pipeline.run(drag_task, smoke, {"lam": 1}))


def test_out_of_memory_says_what_lowers_it(smoke, drag_task, quick, cache, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sd, "decode", full)
    with pytest.raises(InputError, match="lower `side`"):
        pipeline.edit(drag_task, smoke, quick, cache)


def test_nan_in_the_latent_is_named(smoke, drag_task, quick, cache, monkeypatch):
    monkeypatch.setattr(sd, "embed", lambda model, prompt: torch.full((1, 77, 32), float("nan")))
    with pytest.raises(InputError, match="NaN|nan"):
        pipeline.edit(drag_task, smoke, quick, cache)


def test_metrics_take_a_result_as_it_is(smoke, drag_task, quick, cache):
    result = pipeline.edit(drag_task, smoke, quick, cache)
    assert np.isfinite(metrics.psnr(drag_task.image, result.image, ~drag_task.mask))


def kept_bytes(work):
    """What a piece of work keeps for its backward pass, and what it returns."""
    sizes = {}

    def pack(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        return work(), sum(sizes.values())


def test_low_memory_keeps_less_and_changes_no_bit(smoke_folder, drag_task, tmp_path):
    settings = config.profile("reference", steps=5, lora_steps=2, lora_rank=2, lora_batch=1, drag_steps=2)
    grads, bytes_kept, edits = [], [], []
    for low in (False, True):
        model = sd.load(str(smoke_folder), device="cpu", low_memory=low)
        z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        cond = sd.embed(model, "a cat")
        (feats, _), kept = kept_bytes(lambda: features.capture(model, z, 681, cond, (3,)))  # noqa: B023
        grads.append(torch.autograd.grad(feats[3].square().mean(), z)[0])
        bytes_kept.append(kept)
        edits.append(pipeline.edit(drag_task, model, settings, Store(tmp_path / str(low))))
    one, two = edits

    assert bytes_kept[1] < 0.5 * bytes_kept[0]
    assert torch.equal(*grads) and grads[0].abs().max() > 0
    assert all(torch.equal(w, two.prepared.weights[k]) for k, w in one.prepared.weights.items())
    assert all(torch.equal(a.z, b.z) for a, b in zip(one.states, two.states, strict=True))
    assert torch.equal(one.z, two.z)
    assert all(p.device.type == "cpu" for rows in two.prepared.kv.layers.values() for p in rows.values())


@pytest.mark.parametrize("fit", ["width", "native"])
def test_a_picture_is_edited_at_any_height_without_padding(smoke, quick, drag_task, cache, fit):
    settings = quick.replace(fit=fit, points="rounded", mask_cells="nearest", between="fine")
    result = pipeline.edit(drag_task, smoke, settings, cache, side=100 if fit == "width" else None)
    width, height = (100, 60) if fit == "width" else drag_task.size

    assert result.image.shape == drag_task.image.shape
    assert result.prepared.map_hw == (height // 2, width // 2)
    assert (result.prepared.frame.canvas_width, result.prepared.frame.canvas_height) == (width, height)
    problem = result.prepared.problem(drag_task)
    assert torch.equal(problem.handles, problem.handles.round())
    assert problem.mask.shape[-2:] == result.z.shape[-2:]


def test_an_edit_keeps_the_original_outside_the_mask_and_gives_the_methods_own_picture_to_who_measures(
    drag_task, smoke, quick, cache
):
    plain = pipeline.edit(drag_task, smoke, quick, cache)
    kept = pipeline.edit(drag_task, smoke, quick.replace(keep_outside=True), cache)
    outside = ~drag_task.mask
    assert (kept.image[outside] == drag_task.image[outside]).all()
    assert (kept.unpasted == plain.image).all() and (plain.unpasted == plain.image).all()
    assert (plain.image[outside] != drag_task.image[outside]).any()
    assert {"encode", "finetune", "invert", "reference"} <= kept.from_cache, (
        "it repeats no stage that is kept"
    )
