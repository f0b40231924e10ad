"""Reference-latent-control: cached equals batched, layers by name, processors always put back."""

import dataclasses

import numpy as np
import pytest
import torch

from dragnb import attention, clay, config, ddim, metrics, pipeline, sd
from dragnb.errors import InputError

BLOCKS = (1, 2, 3)


@pytest.fixture(scope="module")
def cond(smoke):
    return sd.embed(smoke, "a cat")


@pytest.fixture(scope="module")
def latents():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).split(1)


def last(states):
    return list(states)[-1].z_next


TS = ddim.timesteps(10)[3:]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_recorded_reference_equals_both_branches_in_one_batch(smoke, cond, latents, guidance):
    fn, (reference, edited) = sd.eps_fn(smoke, cond, guidance), latents
    with attention.batched(smoke, BLOCKS):
        ref, edit = (last(ddim.sample(fn, torch.cat(latents), smoke.abar, TS))).split(1)
    with attention.recording(smoke, BLOCKS) as kv:
        alone = last(ddim.sample(kv.follow(fn), reference, smoke.abar, TS))
    with attention.referenced(smoke, kv, BLOCKS):
        cached = last(ddim.sample(kv.follow(fn), edited, smoke.abar, TS))

    torch.testing.assert_close(alone, ref, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(cached, edit, atol=2e-4, rtol=1e-4)
    free = last(ddim.sample(fn, edited, smoke.abar, TS))
    assert (cached - free).abs().max() > 1e-2, "the reference must matter for this test to mean anything"


def test_the_reference_under_its_own_control_is_itself(smoke, cond, latents):
    fn = sd.eps_fn(smoke, cond)
    with attention.recording(smoke, BLOCKS) as kv:
        alone = last(ddim.sample(kv.follow(fn), latents[0], smoke.abar, TS))
    with attention.referenced(smoke, kv, BLOCKS):
        again = last(ddim.sample(kv.follow(fn), latents[0], smoke.abar, TS))
    torch.testing.assert_close(again, alone, atol=1e-5, rtol=1e-5)


def test_one_record_serves_a_batch_of_edits(smoke, cond, latents):
    fn = sd.eps_fn(smoke, cond)
    with attention.recording(smoke, BLOCKS) as kv:
        kv.at(681)
        fn(latents[0], 681)
    with attention.referenced(smoke, kv, BLOCKS):
        both, one = fn(torch.cat(latents), 681), fn(latents[1], 681)
    torch.testing.assert_close(both[1:], one, atol=1e-5, rtol=1e-4)


def test_outside_the_controlled_steps_the_model_is_free(smoke, cond, latents):
    fn = sd.eps_fn(smoke, cond)
    with attention.referenced(smoke, attention.ReferenceKV(), BLOCKS) as kv:
        assert torch.equal(kv.follow(fn, TS[1:])(latents[1], TS[0]), fn(latents[1], TS[0]))


def test_an_unrecorded_step_is_an_error_that_names_it(smoke, cond, latents):
    fn = sd.eps_fn(smoke, cond)
    with attention.referenced(smoke, attention.ReferenceKV(), BLOCKS) as kv:
        with pytest.raises(InputError, match="nothing is recorded at t = 681"):
            kv.follow(fn)(latents[0], 681)


def test_layers_are_the_self_attentions_of_the_named_up_blocks(smoke):
    names = attention.layer_names(smoke, (2, 3))
    assert len(names) == 4 and all(
        n.startswith(("up_blocks.2.", "up_blocks.3.")) and ".attn1." in n for n in names
    )
    assert attention.layer_names(smoke, (0,)) == [], "up block 0 of this layout has no attention"
    with pytest.raises(InputError, match="numbered 0 to 3"):
        attention.layer_names(smoke, (4,))


@pytest.mark.parametrize("control", ["recording", "referenced", "batched"])
def test_processors_are_put_back_after_an_error(smoke, control):
    before = dict(smoke.unet.attn_processors)
    extra = (attention.ReferenceKV(),) if control == "referenced" else ()
    with pytest.raises(ZeroDivisionError), getattr(attention, control)(smoke, *extra, ref_blocks=BLOCKS):
        assert smoke.unet.attn_processors != before
        1 / 0  # noqa: B018
    after = smoke.unet.attn_processors
    assert after.keys() == before.keys() and all(after[k] is before[k] for k in before)


def test_an_interrupted_pass_does_not_shift_the_steps(smoke, cond, latents):
    fn = sd.eps_fn(smoke, cond)
    with attention.recording(smoke, BLOCKS) as kv:
        follow = kv.follow(fn)
        follow(latents[0], 681)
        whole = {n: x.clone() for n, x in kv.layers[681].items()}
        with pytest.raises(RuntimeError):
            follow(latents[0][:, :2], 681)
        follow(latents[0], 681)
    assert list(kv.layers) == [681] and all(torch.equal(kv.layers[681][n], x) for n, x in whole.items())


def test_a_record_goes_to_the_cache_and_back(smoke, cond, latents):
    with attention.recording(smoke, (3,)) as kv:
        kv.follow(sd.eps_fn(smoke, cond))(latents[0], 21)
    again = attention.ReferenceKV.from_dict(kv.as_dict())
    assert again.bytes() == kv.bytes() > 0
    assert all(torch.equal(again.layers[21][n], x) for n, x in kv.layers[21].items())


def test_a_record_in_half_precision_keeps_what_it_cannot_hold_and_what_is_half_already():
    rows = {"plain": torch.rand(1, 3, 2) * 4, "beyond": torch.full((1, 3, 2), 1e6)}
    rows["half already"] = torch.rand(1, 3, 2).bfloat16()
    halved = attention.ReferenceKV({681: rows}).halved().layers[681]

    assert [x.dtype for x in halved.values()] == [torch.float16, torch.float32, torch.bfloat16]
    assert torch.equal(halved["beyond"], rows["beyond"])
    assert (halved["plain"] - rows["plain"]).abs().max() <= 4 / 2048


def test_the_final_picture_hardly_knows_a_halved_record(cache):
    """80 dB is one grey level in a thousandth of the values; `halved` states what was measured on whole edits."""
    task = clay.task(810_001, "rabbit", "stretch").task
    prepared = pipeline.prepare(task, "clay", config.profile("clay", lora_steps=0), cache, device="cpu")
    z = prepared.z_t + 0.05 * torch.randn(prepared.z_t.shape, generator=torch.Generator().manual_seed(0))
    pictures = []
    for kv in (prepared.kv, prepared.kv.halved()):
        *_, end = pipeline.denoise(dataclasses.replace(prepared, kv=kv), z)
        pictures.append(prepared.picture(end.z_next))
    off = np.abs(np.subtract(*pictures, dtype=int))

    assert prepared.kv.halved().bytes() == prepared.kv.bytes() / 2
    assert off.max() <= 1 and metrics.psnr(*pictures) > 80
