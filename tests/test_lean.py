"""The light U-Net is diffusers' own in values, gradients, attention control, adapters; only its detours are gone."""

from collections import Counter

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D

from dragnb import attention, edit, features, lean, lora, sd
from dragnb.config import Settings

CLOSE = dict(atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module", params=["smoke", "clay"])
def pair(request, smoke):
    """A model and the same with diffusers' own forward passes."""
    light = smoke if request.param == "smoke" else sd.load("clay", device="cpu")
    plain = sd.private(light)
    lean.restore(plain.unet)
    return light, plain


@pytest.fixture(scope="module")
def tiny(smoke):
    """The smoke model twice: light and plain."""
    plain = sd.private(smoke)
    lean.restore(plain.unet)
    return smoke, plain


def latents(n=1, side=16):
    return torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(0))


def kinds(unet):
    return Counter(type(m) for m in unet.modules())


def test_every_block_of_the_bundled_layout_is_light_and_restore_undoes_it(tiny):
    light, plain = (kinds(m.unet) for m in tiny)
    for heavy, lighter in lean.LIGHT.items():
        assert light[heavy] == 0 and light[lighter] == plain[heavy] > 0
        assert plain[lighter] == 0
    assert all(type(p) is AttnProcessor2_0 for p in tiny[1].unet.attn_processors.values())
    again = sd.private(tiny[1])
    assert kinds(lean.lighten(again.unet)) == light


@pytest.mark.parametrize("rows", [1, 3])
def test_the_same_noise_is_seen(pair, rows):
    cond = sd.embed(pair[0], "a red cat")
    t = torch.linspace(1, 981, rows).long()
    with torch.no_grad():
        light, plain = (sd.predict(m, latents(rows), t, cond) for m in pair)
    torch.testing.assert_close(light, plain, **CLOSE)


@pytest.mark.parametrize("block", [0, 1, 2, 3, 4])
def test_features_and_their_gradients_are_the_same(pair, block):
    found = []
    for model in pair:
        z = latents().requires_grad_(True)
        feats, _ = features.capture(model, z, 681, sd.embed(model, "a red cat"), (block,))
        found.append((feats[block], *torch.autograd.grad(feats[block].square().mean(), z)))
    for light, plain in zip(*found, strict=True):
        torch.testing.assert_close(light, plain, **CLOSE)


def test_reference_control_is_the_same_recorded_batched_and_cached(pair):
    cond = sd.embed(pair[0], "a red cat")
    found = []
    for model in pair:
        with attention.recording(model, (1, 2, 3)) as kv:
            kv.at(681)
            sd.eps(model, latents(), 681, cond)
        with attention.referenced(model, kv, (1, 2, 3)):
            found.append(sd.eps(model, latents().flip(-1), 681, cond))
        with attention.batched(model, (1, 2, 3)):
            both = torch.cat([latents(), latents().flip(-1)])
            found.append(sd.eps(model, both, 681, cond)[1:])
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, **CLOSE)


def test_half_precision_sees_nearly_the_same_noise(smoke_folder, tiny):
    exact = sd.eps(tiny[1], latents(side=32), 301, sd.embed(tiny[1], "a cat"))
    for dtype in ("bf16", "fp16"):
        model = sd.load(str(smoke_folder), device="cpu", dtype=dtype)
        found = sd.eps(model, latents(side=32), 301, sd.embed(model, "a cat"))
        assert found.dtype == torch.float32 and (found - exact).norm() < 0.03 * exact.norm()


def test_different_prompts_in_one_batch_stay_apart(tiny):
    rows = torch.cat([sd.embed(tiny[0], "a red cat"), sd.embed(tiny[0], "")])
    light, plain = (sd.predict(m, latents(2), 301, rows) for m in tiny)
    torch.testing.assert_close(light, plain, **CLOSE)
    assert (light[0] - sd.predict(tiny[0], latents(2), 301, rows.flip(0))[0]).abs().max() > 0


def test_a_mask_goes_diffusers_own_way(tiny):
    mask = torch.ones(1, 77)
    mask[:, 5:] = 0
    cond = sd.embed(tiny[0], "a red cat")
    light, plain = (m.unet(latents(), 301, cond, encoder_attention_mask=mask).sample for m in tiny)
    torch.testing.assert_close(light, plain, **CLOSE)


def test_a_module_that_does_something_else_is_left_alone(tiny):
    other = sd.private(tiny[1])
    odd = other.unet.mid_block.resnets[0]
    odd.output_scale_factor = 2.0
    lean.lighten(other.unet)
    assert type(odd) is ResnetBlock2D and kinds(other.unet)[lean.LightResnet] > 0


def test_an_unmerged_adapter_is_heard(tiny):
    settings, cond = Settings(lora_rank=2, lora_targets=("to_q", "to_v", "to_out.0")), sd.embed(tiny[0], "")
    found = []
    for model in tiny:
        own = sd.private(model)
        before = sd.eps(own, latents(), 301, cond)
        with lora.attached(own, settings) as params, torch.no_grad():
            for i, p in enumerate(params):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
            found.append(sd.eps(own, latents(), 301, cond))
        assert (found[-1] - before).abs().max() > 1e-3
    torch.testing.assert_close(*found, **CLOSE)


def kept_bytes(work):
    """What a piece of work keeps for its backward pass, and what it returns."""
    sizes = {}

    def pack(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        return work(), sum(sizes.values())


def test_low_memory_keeps_less_and_changes_nothing(smoke_folder, drag_task, quick, tmp_path):
    found, bytes_kept, edits = [], [], []
    for low in (False, True):
        model = sd.load(str(smoke_folder), device="cpu", low_memory=low)
        z, cond = latents(side=32).requires_grad_(True), sd.embed(model, "a cat")
        (feats, _), kept = kept_bytes(lambda: features.capture(model, z, 681, cond, (3,)))  # noqa: B023
        found.append(torch.autograd.grad(feats[3].square().mean(), z)[0])
        bytes_kept.append(kept)
        edits.append(edit.edit(drag_task, model, quick, edit.Store(tmp_path / str(low))))
    torch.testing.assert_close(*found, **CLOSE)
    assert bytes_kept[1] < 0.5 * bytes_kept[0]
    torch.testing.assert_close(edits[0].z, edits[1].z, atol=1e-2, rtol=1e-2)
    assert all(p.device.type == "cpu" for rows in edits[1].prepared.kv.layers.values() for p in rows.values())


def test_a_whole_edit_is_the_same_edit(tiny, drag_task, quick, tmp_path):
    light, plain = (edit.edit(drag_task, m, quick, edit.Store(tmp_path / str(i))) for i, m in enumerate(tiny))
    torch.testing.assert_close(light.prepared.zs, plain.prepared.zs, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(light.z, plain.z, atol=1e-2, rtol=1e-2)
