"""Stable Diffusion XL's layout: what diffusers' own pipeline computes, the same drag, and what is refused by name."""

import json
import types
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionXLPipeline
from narrow import EULER, PNDM, SECOND_WIDTH, autoencoder, folder, parts, xl_parts
from original_format import clip_of, open_clip, pictures_of
from safetensors.torch import save_file

import dragnb
from dragnb import attention, checkpoints, ddim, features, lora, pipeline, sd
from dragnb.checkpoints import files, scheduler
from dragnb.config import profile
from dragnb.errors import InputError
from dragnb.task import DragTask

PROMPT = "a cat on a chair!"  # the second tokenizer pads with "!", and reads it otherwise
DDIM = {k: v for k, v in PNDM.items() if k != "skip_prk_steps"} | {
    "_class_name": "DDIMScheduler", "clip_sample": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return xl_parts()


@pytest.fixture(scope="module")
def place(made, tmp_path_factory):
    return folder(tmp_path_factory.mktemp("xl") / "model", made, scheduler=EULER)


@pytest.fixture(scope="module")
def model(place):
    return sd.load(str(place), device="cpu")


@pytest.fixture(scope="module")
def pipe(place):
    pipe = StableDiffusionXLPipeline.from_pretrained(place)
    pipe.scheduler = DDIMScheduler.from_config(DDIM)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def z():
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


# Against diffusers' own pipeline


@pytest.mark.parametrize("prompt", [PROMPT, "", "! !", "a red fox " * 60])
def test_both_embeddings_are_those_of_diffusers(model, pipe, prompt):
    words, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last prompt is cut, which is said
        cond = sd.embed(model, prompt)
    assert torch.equal(cond[:, :-1], words)
    assert torch.equal(cond[:, -1, :SECOND_WIDTH], pooled) and not cond[:, -1, SECOND_WIDTH:].any()


@pytest.mark.parametrize("hw", [(16, 16), (8, 24)])
def test_the_noise_is_that_of_diffusers_told_the_same_sizes(model, pipe, hw):
    z = torch.randn(2, 4, *hw)
    words, _, pooled, _ = pipe.encode_prompt(PROMPT, device="cpu", do_classifier_free_guidance=False)
    height, width = (8 * n for n in hw)
    sizes = pipe._get_add_time_ids(
        (height, width), (0, 0), (height, width), torch.float32, pipe.text_encoder_2.config.projection_dim
    )
    more = {"text_embeds": pooled.expand(2, -1), "time_ids": sizes.expand(2, -1)}
    with torch.no_grad():
        want = pipe.unet(z, 681, words.expand(2, -1, -1), added_cond_kwargs=more).sample
        elsewhere = {**more, "time_ids": sizes.expand(2, -1) * 2}
        other = pipe.unet(z, 681, words.expand(2, -1, -1), added_cond_kwargs=elsewhere).sample

    got = sd.eps(model, z, 681, sd.embed(model, PROMPT))

    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert (got - other).abs().max() > 1e-4, "the sizes count"


@pytest.mark.parametrize(("negative", "guidance"), [("", 3.0), ("a boat!", 3.0), ("", 1)])
def test_a_generated_picture_is_the_one_of_diffusers(model, pipe, negative, guidance):
    ours = dragnb.generate(model, PROMPT, negative, seed=3, steps=5, guidance=guidance, size=(192, 128))
    theirs = pipe(
        PROMPT, negative_prompt=negative or None, num_inference_steps=5, guidance_scale=guidance,
        latents=ours.zs[:1], height=128, width=192, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours.zs[-1:], theirs, atol=1e-4, rtol=1e-4)


def test_no_prompt_is_zeros_only_for_a_model_that_was_trained_so(place, model, made, tmp_path):
    other = folder(tmp_path / "m", made, scheduler=EULER, force_zeros_for_empty_prompt=False)
    other = sd.load(str(other), device="cpu")
    assert not sd.unconditional(model).any() and sd.embed(model, "").any()
    assert torch.equal(sd.unconditional(other), sd.embed(other, ""))
    assert torch.equal(sd.unconditional(model, "a boat"), sd.embed(model, "a boat"))
    assert other.hash != model.hash


def test_inversion_is_that_of_diffusers_inverse_scheduler(model, pipe, z):
    words, _, pooled, _ = pipe.encode_prompt(PROMPT, device="cpu", do_classifier_free_guidance=False)
    more = {"text_embeds": pooled, "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]])}
    inverse, want = DDIMInverseScheduler.from_config(DDIM), z
    inverse.set_timesteps(5)
    for t in inverse.timesteps:
        with torch.no_grad():
            eps = pipe.unet(want, t, words, added_cond_kwargs=more).sample
        want = inverse.step(eps, t, want).prev_sample

    *_, up = ddim.invert(sd.eps_fn(model, sd.embed(model, PROMPT)), z, model.abar, ddim.timesteps(5))

    torch.testing.assert_close(up.z, want, atol=1e-4, rtol=1e-4)


def test_inversion_and_back_returns_the_nearer_the_smaller_its_steps(model, z):
    eps_fn, miss = sd.eps_fn(model, sd.embed(model, PROMPT)), []
    for steps in (10, 50):
        ts = ddim.timesteps(steps)[ddim.start_index(steps, 0.7) :]
        *_, up = ddim.invert(eps_fn, z, model.abar, ts)
        *_, down = ddim.sample(eps_fn, up.z, model.abar, ts)
        assert (up.z - z).abs().mean() > 0.4, "it has gone somewhere"
        miss.append((down.z_next - z).abs().mean())
    assert miss[1] < 0.06 and miss[1] < miss[0] / 2.5


def test_clip_skip_counts_from_the_last_layer_but_one_as_in_diffusers(place, pipe):
    words, _, pooled, _ = pipe.encode_prompt(
        PROMPT, device="cpu", do_classifier_free_guidance=False, clip_skip=1
    )
    skipped = sd.load(str(place), device="cpu", clip_skip=1)
    cond = sd.embed(skipped, PROMPT)
    assert torch.equal(cond[:, :-1], words) and torch.equal(cond[:, -1, :SECOND_WIDTH], pooled)
    assert skipped.hash != sd.load(str(place), device="cpu").hash
    with pytest.raises(InputError, match="clip_skip = 3: the text encoder has 3 layers"):
        sd.load(str(place), device="cpu", clip_skip=3)


# Which block is the third of four


def of_shape(kind):
    """A model of the published shape without memory for its weights, by the configs that come with the package."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(
            checkpoints.read_json(files.CONFIGS / kind / "unet/config.json")
        )
    vae = types.SimpleNamespace(config=checkpoints.read_json(files.CONFIGS / kind / "vae/config.json"))
    return sd.Model(
        unet, vae, None, None, scheduler.abar(DDIMScheduler.from_config(DDIM)), "epsilon", 1.0,
        torch.device("meta"), torch.float32, kind, "", "", 0,
    )  # fmt: skip


def test_a_block_number_means_cells_of_one_size_in_sd15_and_sdxl():
    one, xl = (features.cells(of_shape(kind), 64) for kind in ("sd15", "sdxl"))
    assert one == {0: (1280, 8), 1: (1280, 16), 2: (1280, 32), 3: (640, 64), 4: (320, 64)}
    assert xl == {0: (1280, 16), 1: (1280, 16), 2: (1280, 32), 3: (640, 64), 4: (320, 64)}


def test_the_layers_of_reference_control_have_cells_of_one_size_too(model):
    names = [attention.layer_names(model, (b,)) for b in range(4)]
    assert [len(n) for n in names] == [0, 9, 6, 0]
    assert names[1][0].startswith("up_blocks.0.") and names[2][0].startswith("up_blocks.1.")
    with attention.recording(model, (1, 2, 3)) as kv, torch.no_grad():
        kv.at(1)
        sd.predict(model, torch.zeros(1, 4, 16, 16), 1, sd.embed(model, ""))
    cells = {name.split(".")[1]: x.shape[1] for name, x in kv.layers[1].items()}
    assert cells == {"0": 4 * 4, "1": 8 * 8}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_block_three_is_the_deepest_that_knows_every_place(family, model, tmp_path):
    """Random weights know no things, but places: all of a latent is shifted, and each place is searched for."""
    if family == "sd15":
        model = sd.load(str(folder(tmp_path / "m", parts())), device="cpu")
    cond, shift = sd.embed(model, PROMPT), torch.tensor([4.0, 8.0])  # whole cells of every block
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    looks = z, torch.roll(z, (4, 8), (2, 3))
    with torch.no_grad():
        maps = [features.capture(model, x, 301, cond, (1, 2, 3))[0] for x in looks]
    rows, columns = torch.meshgrid(torch.arange(8, 20.0), torch.arange(8, 20.0), indexing="ij")
    here, share = torch.stack([rows, columns], -1).reshape(-1, 2), {}
    for block in (1, 2, 3):
        before, after = (features.FeatureMap(feats[block], (32, 32)) for feats in maps)
        miss = (features.match(before, after, here) - here - shift).norm(dim=1)
        share[block] = (miss < 1).float().mean().item()
    assert share[3] > 0.9 and max(share[1], share[2]) < 0.75, share


# The same method


@pytest.fixture(scope="module")
def a_task():
    rng = np.random.default_rng(0)
    mask = np.zeros((128, 192), bool)
    mask[32:96, 32:160] = True
    image = rng.integers(0, 255, (128, 192, 3), dtype=np.uint8)
    return DragTask(image, [[60.0, 64.0]], [[100.0, 64.0]], mask, PROMPT)


@pytest.fixture(scope="module")
def settings():
    return profile("reference", steps=10, lora_steps=3, lora_batch=2, lora_rank=2, drag_steps=3)


@pytest.fixture(scope="module")
def edited(a_task, model, settings, kept):
    return pipeline.edit(a_task, model, settings, kept, side=192)


def test_a_whole_edit_runs_to_its_end(edited, a_task, model, settings, kept):
    assert edited.image.shape == a_task.image.shape and len(edited.states) == 4
    assert all(np.isfinite(edited.losses)) and edited.losses[-1] > 0
    assert torch.isfinite(edited.z).all() and not np.array_equal(edited.image, a_task.image)
    assert edited.prepared.look(edited.z, 1)[0].cells.shape[1:] == (16, 16, 24), (
        "block 3: the latent's own cells"
    )
    assert edited.prepared.cond.shape == (1, 78, 40)
    again = pipeline.edit(a_task, model, settings, kept, side=192)
    assert again.from_cache == {"encode", "finetune", "invert", "reference"}
    assert np.array_equal(again.image, edited.image)


def test_the_fine_tune_learns_the_picture(edited, model):
    weights = edited.prepared.weights
    assert len(weights) == 2 * 4 * len(model.unet.attn_processors)
    assert all(w.abs().max() > 0 for name, w in weights.items() if name.endswith(lora.UP))
    saved = [n for n in weights if ".transformer_blocks.2." in n]
    assert saved, "the deepest transformers are adapted too"


@pytest.mark.parametrize("loading", [{"low_memory": True}, {"dtype": "bf16"}], ids=str)
def test_an_edit_that_saves_memory_or_time_runs_as_well(edited, a_task, place, settings, cache, loading):
    result = pipeline.edit(a_task, str(place), settings, cache, side=192, device="cpu", **loading)
    assert torch.isfinite(result.z).all()
    apart = (result.prepared.z_t - edited.prepared.z_t).abs().max()
    assert apart < (1e-4 if "low_memory" in loading else 0.2)


def test_a_generated_picture_is_dragged_under_guidance(model, settings, kept):
    cat = dragnb.generate(model, PROMPT, seed=3, steps=10, guidance=3.0, size=(128, 128))
    result = pipeline.edit(cat.task([[40, 64]], [[80, 64]]), settings=settings, store=kept, generated=cat)
    assert not {"encode", "invert"} & set(result.from_cache) and torch.isfinite(result.z).all()
    assert result.prepared.look(cat.zs[3:4], cat.ts[3])[0].cells.shape[1] == 32, "both prompts' features"
    assert torch.allclose(result.prepared.back, cat.zs[-1:], atol=1e-4)


def test_the_hash_is_of_both_encoders_and_both_tokenizers(model, place, made, tmp_path):
    def hashed(name, seed=None, **changes):
        fresh = xl_parts(seed) if seed else made
        at = folder(tmp_path / name, [fresh[k] if k in changes.get("of", ()) else made[k] for k in range(4)],
                    scheduler=EULER)  # fmt: skip
        return sd.hash_of(sd.wanted(str(at), device="cpu"))

    plain = sd.hash_of(sd.wanted(str(place), device="cpu"))
    assert hashed("same") == plain == model.hash
    assert len({plain, hashed("first", 1, of=(2,)), hashed("second", 1, of=(3,))}) == 3
    weight = model.text_encoder.second.get_parameter("text_projection.weight")
    try:
        weight.data += 1
        assert model.hash != plain
    finally:
        weight.data -= 1
    one, other = model.text_encoder.tokenizers, (model.tokenizer,)
    try:
        model.text_encoder.tokenizers = other
        assert model.hash != plain
    finally:
        model.text_encoder.tokenizers = one


# Files


@pytest.fixture(scope="module")
def state(made):
    unet, vae, first, second = made
    found = pictures_of(types.SimpleNamespace(unet=unet, vae=vae), plain=None)
    found |= clip_of(first, files.XL_TEXT) | open_clip(second, files.XL_OPEN_CLIP, more=0)
    return {k: x.clone() for k, x in found.items()}


def write(path, state, metadata=None):
    save_file({k: x.contiguous() for k, x in state.items()}, path, metadata=metadata)
    return str(path)


def test_a_single_file_is_the_same_model(model, place, state, tmp_path, z):
    other = sd.load(write(tmp_path / "a.safetensors", state), device="cpu", config=str(place))
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    cond = sd.embed(model, PROMPT)
    torch.testing.assert_close(sd.embed(other, PROMPT), cond)
    assert other.side == 1024
    torch.testing.assert_close(sd.eps(other, z, 681, cond), sd.eps(model, z, 681, cond))
    torch.testing.assert_close(sd.encode(other, x), sd.encode(model, x))


def test_the_configs_that_come_with_the_package_are_base_1_0s():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    at = lambda part: checkpoints.read_json(files.CONFIGS / "sdxl" / part / "config.json")  # noqa: E731
    with torch.device("meta"):
        parts = [
            UNet2DConditionModel.from_config(at("unet")), AutoencoderKL.from_config(at("vae")),
            CLIPTextModel(CLIPTextConfig(**at("text_encoder"))),
            CLIPTextModelWithProjection(CLIPTextConfig(**at("text_encoder_2"))),
        ]  # fmt: skip
    counted = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counted == [2_567_463_684, 83_653_863, 123_060_480, 694_659_840]
    assert checkpoints.side_of(parts[0].config, parts[1].config) == 1024
    assert parts[1].config.scaling_factor == 0.13025


def test_a_single_file_needs_no_config_of_its_own(place, state, tmp_path, monkeypatch):
    """The package's configs, with the narrow widths in place of base 1.0's."""
    import shutil

    from dragnb.checkpoints import originals

    root = shutil.copytree(files.CONFIGS, tmp_path / "configs")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        shutil.copy(place / part / "config.json", root / "sdxl" / part / "config.json")
    monkeypatch.setattr(files, "CONFIGS", root)
    monkeypatch.setattr(originals, "CONFIGS", root)
    plain = sd.load(write(tmp_path / "a.safetensors", state), device="cpu")
    torch.testing.assert_close(sd.embed(plain, PROMPT), sd.embed(sd.load(str(place), device="cpu"), PROMPT))
    marked = write(tmp_path / "v.safetensors", state | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    v = sd.load(marked, device="cpu")
    assert v.prediction_type == "v_prediction" and v.abar[-1] == scheduler.LEAST_ABAR
    assert plain.prediction_type == "epsilon" and v.hash != plain.hash


def test_another_autoencoder_as_the_fp16_fix_is_laid_over(place, model, tmp_path):
    torch.manual_seed(9)
    fix = autoencoder(scaling_factor=0.13025)
    fix.save_pretrained(tmp_path / "fix")
    fixed = sd.load(str(place), device="cpu", vae=str(tmp_path / "fix"))
    assert torch.equal(fixed.vae.decoder.conv_in.weight, fix.decoder.conv_in.weight)
    assert fixed.scaling_factor == 0.13025 and fixed.hash != model.hash
    assert {p.dtype for p in fixed.vae.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("conditioner.embedders.0", "not both text encoders .*embedders.0"),
        ("conditioner.embedders.1", "not both text encoders .*embedders.1"),
        (files.XL_OPEN_CLIP + "text_projection", "lacks 1 weights of its text_encoder_2"),
        ("model.diffusion_model.label_emb.0.2", "lacks .* of its unet"),
    ],
)
def test_a_single_file_that_lacks_something_is_refused_by_name(place, state, tmp_path, gone, said):
    left = {k: x for k, x in state.items() if not k.startswith(gone)}
    with pytest.raises(InputError, match=said):
        sd.load(write(tmp_path / "a.safetensors", left), device="cpu", config=str(place))


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_a_folder_that_lacks_its_second_half_is_refused_by_name(made, tmp_path, part):
    import shutil

    at = folder(tmp_path / "m", made, scheduler=EULER)
    shutil.rmtree(at / part)
    with pytest.raises(InputError, match=f"the part {part}/ is missing"):
        sd.load(str(at), device="cpu")


# What is refused


TRAILING = EULER | {"timestep_spacing": "trailing"}
TURBO = TRAILING | {"_class_name": "EulerAncestralDiscreteScheduler"}
LCM = {k: v for k, v in DDIM.items() if k != "_class_name"} | {"_class_name": "LCMScheduler"}


@pytest.mark.parametrize(
    ("name", "plan", "unet", "index", "said"),
    [
        ("refiner", EULER, {}, {"requires_aesthetics_score": True}, "is the SDXL refiner"),
        ("refiner", EULER, {}, {"text_encoder": [None, None]}, "is the SDXL refiner"),
        ("turbo", TURBO, {"sample_size": 64}, {}, r"distilled to few steps \(turbo\)"),
        ("quick", TURBO, {"sample_size": 64}, {}, r"distilled to few steps \(turbo\)"),
        ("SDXL-Lightning", EULER, {}, {}, r"distilled to few steps \(lightning\)"),
        ("quick", LCM, {}, {}, r"distilled to few steps \(LCM\)"),
        ("quick", EULER, {"time_cond_proj_dim": 8}, {}, r"distilled to few steps \(LCM\)"),
        ("paint", EULER, {"in_channels": 9}, {}, "U-Net of 9 channels, so it is an inpainting"),
        ("edits", EULER, {"in_channels": 8}, {}, "U-Net of 8 channels, so it is an inpainting or editing"),
        ("kind", EULER, {"addition_embed_type": "image"}, {}, "no Stable Diffusion 1, 2 or XL"),
        ("flow", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {}, {}, "matches flows"),
        ("playground", {"_class_name": "EDMEulerScheduler"}, {}, {}, "has no cumulative signal"),
    ],
)
def test_relatives_are_refused_by_name(made, tmp_path, name, plan, unet, index, said):
    at = folder(tmp_path / name, made, scheduler=plan, **index)
    path = at / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | unet))
    with pytest.raises(InputError, match=said):
        sd.load(str(at), device="cpu")


def test_an_autoencoder_that_shifts_its_latents_is_refused(made, tmp_path):
    at = folder(tmp_path / "playground", made, scheduler=EULER)
    path = at / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latents_mean": [0.0] * 4}))
    with pytest.raises(InputError, match="shifts its latents"):
        sd.load(str(at), device="cpu")


def test_what_is_doubtful_gets_a_warning_and_pure_noise_at_the_end_none(made, tmp_path):
    doubtful = folder(tmp_path / "one", made, scheduler=TRAILING)
    with pytest.warns(UserWarning, match="distilled to few steps"):
        sd.load(str(doubtful), device="cpu")
    zero = folder(tmp_path / "two", made, scheduler=TRAILING | {"rescale_betas_zero_snr": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.load(str(zero), device="cpu")


@pytest.mark.parametrize(
    ("name", "changes", "metadata", "said"),
    [
        ("a", {"conditioner.embedders.0.model.ln_final.weight": torch.zeros(1)}, None, "is the SDXL refiner"),
        ("a", {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, None, "inpainting model"),
        ("myXL_turbo", {}, None, r"distilled to few steps \(turbo\)"),
        ("a", {}, {"modelspec.title": "XL Lightning 4"}, r"distilled to few steps \(lightning\)"),
    ],
)  # fmt: skip
def test_single_files_of_relatives_are_refused_by_name(place, state, tmp_path, name, changes, metadata, said):
    with pytest.raises(InputError, match=said):
        sd.load(write(tmp_path / f"{name}.safetensors", state | changes, metadata), config=str(place))


def test_a_file_and_a_config_of_two_families_are_told(place, state, tmp_path):
    other = folder(tmp_path / "sd15", parts())
    with pytest.raises(InputError, match="only one of both is an SDXL"):
        sd.load(write(tmp_path / "a.safetensors", state), device="cpu", config=str(other))
