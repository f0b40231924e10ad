"""Models as users have them: each layout gives the right numbers, or one clear error."""

import dataclasses
import json
import os
import shutil
import types

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from narrow import PNDM, WIDTH, folder, parts
from original_format import one_file, open_clip
from safetensors.torch import load_file, save_file

from dragnb import checkpoints, lora, pipeline, sd
from dragnb.checkpoints import files, originals, places, scheduler
from dragnb.config import SUITED, profile
from dragnb.errors import InputError
from dragnb.store import files as files_on_disk

BETAS = {k: v for k, v in PNDM.items() if k.startswith(("beta", "num"))}


@pytest.fixture(scope="module")
def narrow():
    return parts()


@pytest.fixture(scope="module")
def whole(narrow, tmp_path_factory):
    return folder(tmp_path_factory.mktemp("narrow") / "model", narrow)


@pytest.fixture(scope="module")
def state(narrow):
    """The narrow model in the original names."""
    made = one_file(types.SimpleNamespace(unet=narrow[0], vae=narrow[1], text_encoder=narrow[2]))
    return {k: x.clone() for k, x in made.items()}


@pytest.fixture
def other(whole, tmp_path):
    """A copy of the folder that a test may spoil."""
    import shutil

    return shutil.copytree(whole, tmp_path / "other")


def load(model, **loading):
    return sd.load(str(model), device="cpu", **loading)


def seen(model):
    """What a model makes of one prompt, latent and picture."""
    seeded = torch.Generator().manual_seed(0)
    z, x = torch.randn(1, 4, 16, 16, generator=seeded), torch.rand(1, 3, 32, 32, generator=seeded) * 2 - 1
    cond = sd.embed(model, "a cat on a chair")
    return cond, sd.eps(model, z, 681, cond), sd.encode(model, x), sd.decode(model, z)


def same(one, two, atol=1e-5):
    for a, b in zip(seen(one), seen(two), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


def plan(place, **changes):
    path = place / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return place


def spoil(place, part, keep):
    path = next((place / part).glob("*.safetensors"))
    save_file({k: x for k, x in load_file(path).items() if keep(k)}, path, {"format": "pt"})
    return place


# Single files


def write(path, state, metadata=None):
    save_file({k: x.contiguous() for k, x in state.items()}, path, metadata=metadata)
    return path


@pytest.fixture
def as_shipped(whole, tmp_path, monkeypatch):
    """The configs that come with the package, with the narrow widths in place of SD 1.5's."""
    import shutil

    root = shutil.copytree(files.CONFIGS, tmp_path / "configs")
    for kind in ("sd15", "sd21-base", "sd21-v"):
        for part in ("unet", "vae", "text_encoder"):
            shutil.copy(whole / part / "config.json", root / kind / part / "config.json")
    monkeypatch.setattr(files, "CONFIGS", root)
    monkeypatch.setattr(originals, "CONFIGS", root)
    monkeypatch.setattr(places, "download", lambda *a: pytest.fail("it asked the network"))


def test_a_single_file_loads_offline_by_the_configs_that_come_with_the_package(
    whole, state, tmp_path, as_shipped
):
    same(load(write(tmp_path / "Ünï v1.2.SAFETENSORS", state)), load(whole))


@pytest.mark.parametrize("spelling", ["NovelAI", "vae.", "matrices", "extra keys"])
def test_other_spellings_of_a_single_file_are_read(whole, state, tmp_path, spelling):
    changed = {
        "NovelAI": {k.replace("transformer.text_model.", "transformer."): x for k, x in state.items()},
        "vae.": {k.replace("first_stage_model.", "vae."): x for k, x in state.items()},
        "matrices": {
            k: x[..., 0, 0] if "first_stage" in k and ".attn_1." in k and x.ndim == 4 else x
            for k, x in state.items()
        },
        "extra keys": state
        | {"betas": torch.rand(1000), "cond_stage_model.logit_scale": torch.ones(1)}
        | {
            "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None].half()
            - 0.4
        }
        | {
            "model_ema." + k.removeprefix("model.").replace(".", ""): torch.randn_like(x)
            for k, x in state.items()
        },
    }
    same(load(write(tmp_path / "a.safetensors", changed[spelling]), config=str(whole)), load(whole))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_each_part_of_a_single_file_is_rounded_once(state, whole, tmp_path, kind):
    path = write(tmp_path / "a.safetensors", {k: x.to(kind) for k, x in state.items()})
    model = load(path, config=str(whole), dtype="bf16")
    stored = load_file(path)["first_stage_model.decoder.conv_in.weight"]
    assert model.vae.dtype == model.text_encoder.dtype == torch.float32 and model.unet.dtype == torch.bfloat16
    assert torch.equal(model.vae.decoder.conv_in.weight, stored.float())

    precise = load(write(tmp_path / "b.safetensors", state), config=str(whole), dtype="bf16")
    assert torch.equal(
        precise.vae.decoder.conv_in.weight, state["first_stage_model.decoder.conv_in.weight"]
    ), "bf16 is of the U-Net"


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (lambda k: not k.startswith("cond_stage_model."), "holds no text encoder"),
        (lambda k: k.startswith("model."), "holds no text encoder"),
        (lambda k: ".layers.2." not in k, "lacks .* weights of its text_encoder"),
        (lambda k: "first_stage_model.encoder" not in k, "lacks .* of its vae"),
        (lambda k: "output_blocks.5" not in k, "lacks .* of its unet"),
    ],
)
def test_a_single_file_without_all_its_parts_is_refused_by_name(state, whole, tmp_path, keep, said):
    path = write(tmp_path / "a.safetensors", {k: x for k, x in state.items() if keep(k)})
    with pytest.raises(InputError, match=said):
        load(path, config=str(whole))


def test_a_missing_autoencoder_falls_back_with_a_sentence_or_is_given(
    state, whole, tmp_path, as_shipped, monkeypatch
):
    path = write(tmp_path / "a.safetensors", {k: x for k, x in state.items() if "first_stage_model" not in k})
    with pytest.warns(UserWarning, match="holds no autoencoder; Stable Diffusion 1.5's is used"):
        same(load(path, config=str(whole)), load(whole))
    monkeypatch.setattr(originals, "download", lambda *a: whole)
    with pytest.warns(UserWarning, match="holds no autoencoder"):
        same(load(path), load(whole))
    same(load(path, vae=str(whole)), load(whole))


def test_a_file_of_other_widths_than_its_configs_is_refused(state, tmp_path):
    with pytest.raises(InputError, match="do not fit its config"):
        load(write(tmp_path / "a.safetensors", state))


V = {"prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    "mark", ["yaml beside it", "key v_pred", "metadata", "config= a yaml", "config= a folder"]
)
def test_a_single_file_that_predicts_v_is_known_by_each_mark(state, whole, other, tmp_path, as_shipped, mark):
    path, config = tmp_path / "a.safetensors", None
    yaml = "model:\n  params:\n    parameterization: v\n"
    if mark == "yaml beside it":
        path.with_suffix(".yaml").write_text(yaml)
    if mark == "config= a yaml":
        config = tmp_path / "c.yaml"
        config.write_text(yaml)
    if mark == "config= a folder":
        config = plan(other, **V)
    write(
        path,
        state | ({"v_pred": torch.zeros(0)} if mark == "key v_pred" else {}),
        {"modelspec.prediction_type": "v"} if mark == "metadata" else None,
    )
    model = load(path, config=config and str(config))

    assert model.prediction_type == "v_prediction"
    assert load(write(tmp_path / "plain.safetensors", state)).prediction_type == "epsilon"
    assert model.hash != load(tmp_path / "plain.safetensors").hash


def test_zero_terminal_snr_is_read_from_a_key(state, tmp_path, as_shipped):
    model = load(
        write(tmp_path / "a.safetensors", state | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    )
    assert abs(model.abar[681] - 0.0660) < 1e-3 and model.abar[-1] == scheduler.LEAST_ABAR


@pytest.mark.parametrize("config", ["~/nothing", "nothing.yaml"])
def test_a_config_that_is_not_there_is_named(state, tmp_path, config):
    with pytest.raises(InputError, match=f"config = '{config}' holds no unet/config.json"):
        load(write(tmp_path / "a.safetensors", state), config=config)


def test_a_damaged_yaml_is_named(state, tmp_path):
    (tmp_path / "a.yaml").write_text("model: [")
    with pytest.raises(InputError, match="a.yaml is no yaml of a model"):
        load(write(tmp_path / "a.safetensors", state))


def test_a_single_file_of_stable_diffusion_2_is_read_and_asked_what_it_predicts(tmp_path):
    made = parts(second=True)
    place = folder(tmp_path / "two", made)
    state = one_file(types.SimpleNamespace(unet=made[0], vae=made[1], text_encoder=made[2]))
    state = {k: x for k, x in state.items() if not k.startswith("cond_stage_model.")} | open_clip(made[2])
    same(load(write(tmp_path / "two.safetensors", state), config=str(place)), load(place))


@pytest.mark.parametrize(("share", "kind"), [(1.0, "epsilon"), (0.05, "v_prediction")])
def test_the_answer_at_the_noisiest_timestep_tells_noise_from_v(narrow, share, kind):
    def unet(z, t, cond):
        return types.SimpleNamespace(sample=share * z + 0.3)

    unet.dtype = torch.float32
    assert originals._asked(unet, narrow[2], originals.bundled_tokenizer()) == kind


def test_the_bundled_tokenizer_is_clips():
    words = originals.bundled_tokenizer()
    assert len(words) == 49408
    assert words("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert words("", padding="max_length", max_length=77).input_ids[1:] == [49407] * 76
    assert originals.bundled_tokenizer(pad="!")("", padding="max_length", max_length=4).input_ids == [
        49406,
        49407,
        0,
        0,
    ]


# What computes


def test_the_hash_is_of_what_computes(whole):
    model = load(whole)
    plain, files_hash = model.hash, checkpoints.resolve(str(whole)).hash()
    assert plain == files_hash
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    weights = {
        f"{layer}.lora.down.weight": torch.ones(4, WIDTH),
        f"{layer}.lora.up.weight": torch.ones(16, 4),
    }
    styled = lora.merged(model, weights)
    rest = [
        styled,
        dataclasses.replace(model, vae=parts(seed=7)[1]),
        dataclasses.replace(model, abar=model.abar * 0.9),
        dataclasses.replace(model, tokenizer=originals.bundled_tokenizer(pad="!")),
        dataclasses.replace(model, prediction_type="v_prediction"),
    ]
    assert len({m.hash for m in rest} | {plain}) == 6
    with lora.applied(model, weights):
        assert model.hash == styled.hash, "the same weights compute the same, however they came"
    assert model.hash == plain
    assert sd.private(model).hash == plain


def test_an_edit_with_a_lora_on_the_model_takes_nothing_of_the_plain_one(whole, drag_task, cache, tmp_path):
    settings = profile("reference", steps=5, lora_steps=1, lora_batch=1, lora_rank=2, drag_steps=1)
    model = load(whole)
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"unet.{n.removesuffix('.weight')}.lora.{half}.weight": torch.randn(shape, generator=generator) / 2
        for n, p in model.unet.named_parameters()
        if n.endswith("to_q.weight")
        for half, shape in (("down", (2, p.shape[1])), ("up", (p.shape[0], 2)))
    }
    path = lora.save(tmp_path / "style.safetensors", weights)
    plain = pipeline.edit(drag_task, model, settings, cache, side=64)
    assert pipeline.edit(drag_task, model, settings, cache, side=64).from_cache >= {"finetune", "invert"}
    styled = pipeline.edit(drag_task, str(whole), settings, cache, side=64, device="cpu", lora=str(path))
    merged = pipeline.edit(drag_task, lora.merged(model, weights), settings, cache, side=64)
    assert not styled.from_cache and not merged.from_cache
    assert not torch.allclose(styled.prepared.z_t, plain.prepared.z_t, atol=1e-3)
    assert torch.equal(styled.prepared.z_t, merged.prepared.z_t)
    assert styled.record["model"]["hash"] == sd.hash_of(sd.wanted(str(whole), lora=str(path), device="cpu"))


def test_another_autoencoder_and_clip_skip_are_laid_over(whole, narrow, tmp_path):
    other = parts(seed=5)[1]
    made = one_file(types.SimpleNamespace(unet=narrow[0], vae=other, text_encoder=narrow[2]))
    alone = {k.removeprefix("first_stage_model."): x for k, x in made.items() if k.startswith("first_stage")}
    for given in (
        write(tmp_path / "vae.safetensors", alone),
        folder(tmp_path / "m", (narrow[0], other, narrow[2])),
    ):
        model = load(whole, vae=str(given))
        assert torch.equal(model.vae.decoder.conv_in.weight, other.decoder.conv_in.weight)
        assert model.hash != load(whole).hash

    pipe = StableDiffusionPipeline.from_pretrained(whole, safety_checker=None, feature_extractor=None)
    ids = pipe.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        norm = getattr(pipe.text_encoder, "text_model", pipe.text_encoder).final_layer_norm
        torch.testing.assert_close(
            sd.embed(load(whole, clip_skip=1), "a cat"), norm(hidden), atol=1e-6, rtol=1e-5
        )
    with pytest.raises(InputError, match="clip_skip = 3: the text encoder has 3 layers"):
        load(whole, clip_skip=3)


@pytest.mark.parametrize("name", checkpoints.BUNDLED)
def test_a_bundled_model_loaded_by_its_path_first_is_itself_all_the_same(name):
    place = checkpoints.clay_folder(name)
    by_path = sd.load(str(place), device="cpu")
    assert by_path.name == name and sd.load(name, device="cpu") is by_path
    assert checkpoints.side(name) == by_path.side == 256 and name in SUITED


def test_unknown_words_of_loading_are_named(whole):
    with pytest.raises(InputError, match="loading: 'dtyp' is unknown; did you mean 'dtype'"):
        sd.load(str(whole), dtyp="fp16")
    with pytest.raises(InputError, match="is loaded already"):
        sd.load(load(whole), dtype="fp16")
    for lost in ("lora", "vae"):
        with pytest.raises(InputError, match=f"{lost} = './nothing'"):
            sd.load(str(whole), **{lost: "./nothing"})


# Noise schedules


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler", **BETAS, "rescale_betas_zero_snr": True, **V},
        {"_class_name": "EulerDiscreteScheduler", **BETAS, "rescale_betas_zero_snr": True, **V},
        {"_class_name": "DDIMScheduler", **BETAS, "beta_schedule": "squaredcos_cap_v2"},
        {"_class_name": "DPMSolverMultistepScheduler", **BETAS, "use_karras_sigmas": True},
        {"_class_name": "LCMScheduler", "num_train_timesteps": 1000},
        {"_class_name": "PNDMScheduler", "num_train_timesteps": 1000},
    ],
)
@pytest.mark.filterwarnings("ignore:.*distilled")
def test_abar_is_that_of_diffusers_own_scheduler(other, config):
    (other / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    import diffusers

    own = getattr(diffusers, config["_class_name"]).from_config(config).alphas_cumprod
    torch.testing.assert_close(load(other).abar, own, atol=1e-6, rtol=1e-6)


def test_a_rescaling_that_the_class_does_not_know_is_done_all_the_same(other):
    plan(other, rescale_betas_zero_snr=True, **V)
    want = DDIMScheduler.from_config({**BETAS, "rescale_betas_zero_snr": True}).alphas_cumprod
    torch.testing.assert_close(load(other).abar, want, atol=1e-6, rtol=1e-5)
    assert abs(load(other).abar[681] - 0.0660) < 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler matches flows"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "matches flows"),
        ({"_class_name": "EDMEulerScheduler"}, "has no cumulative signal"),
        ({"_class_name": "DDIMSchedular"}, "did you mean 'DDIMScheduler'"),
        ({"num_train_timesteps": 500}, "num_train_timesteps = 500"),
        ({"num_train_timesteps": 2000}, "num_train_timesteps = 2000"),
        ({"beta_schedule": "cosine"}, "cosine"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "sample"}, "prediction_type = 'sample'"),
    ],
)
def test_schedules_that_the_method_does_not_hold_for_are_refused_by_name(other, changes, said):
    with pytest.raises(InputError, match=said):
        load(plan(other, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "LCMScheduler"},
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
    ],
)
def test_distilled_models_run_with_a_warning(other, changes):
    with pytest.warns(UserWarning, match="distilled to few steps"):
        load(plan(other, **changes))


# Folders


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_never_filled_with_noise(other, part):
    lost = {"unet": "up_blocks.1.", "vae": "decoder.mid_block.", "text_encoder": ".layers.1."}[part]
    with pytest.raises(InputError, match=f"lacks .* weights of its {part}"):
        load(spoil(other, part, lambda k: lost not in k))


def test_weights_that_do_not_fit_their_config_are_named(other):
    path = other / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 24}))
    with pytest.raises(
        InputError, match="cannot be loaded .*does not suit its weights|do not fit its config"
    ):
        load(other)


def test_a_tokenizer_without_words_is_refused(other):
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (other / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match="has no words"):
        load(other)
    (other / "tokenizer" / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (other / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(InputError, match="tells no words apart"):
        load(other)


def test_fp16_twins_are_used_where_alone_and_preferred_for_half_precision(narrow, tmp_path):
    half = folder(tmp_path / "half", narrow, ("fp16",))
    both = folder(tmp_path / "both", narrow, ("", "fp16"))
    same(load(half), load(both), atol=5e-3)
    names = {
        dtype: {f.name for f in sd.wanted(str(both), dtype=dtype).source().files()}
        for dtype in ("fp32", "fp16")
    }
    assert not any("fp16" in n for n in names["fp32"]) and all("fp16" in n for n in names["fp16"])
    assert load(half).unet.dtype == torch.float32
    mixed = tmp_path / "both" / "unet" / "diffusion_pytorch_model.safetensors"
    mixed.unlink()
    same(load(both), load(half), atol=5e-3)


def test_a_missing_shard_is_named(other):
    path = other / "unet" / "diffusion_pytorch_model.safetensors"
    whole = load_file(path)
    keys = sorted(whole)
    shards = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    split = dict(zip(shards, (keys[:100], keys[100:]), strict=True))
    for name, some in split.items():
        save_file({k: whole[k] for k in some}, other / "unet" / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {k: name for name, some in split.items() for k in some}}
    (other / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()
    assert load(other).hash
    (other / "unet" / shards[1]).unlink()
    with pytest.raises(InputError, match="1 of 2 shards"):
        load(other)


@pytest.mark.parametrize(("size", "side"), [(None, 512), ([32, 48], 384), (96, 768)])
def test_odd_sample_sizes_are_read(other, size, side):
    path = other / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": size}))
    assert load(other).side == checkpoints.side(other) == side


def test_a_scaling_factor_that_is_left_open_is_the_classs(other):
    path = other / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": None}))
    assert load(other).scaling_factor == 0.18215


# The hub


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        ("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", None, None),
        ("a/b", "a/b", None, None),
        ("a/b@fp16", "a/b", "fp16", None),
        ("https://huggingface.co/a/b", "a/b", None, None),
        ("huggingface.co/a/b/tree/main", "a/b", "main", None),
        (
            "https://huggingface.co/a/b/blob/main/x/m.safetensors?download=true",
            "a/b",
            "main",
            "x/m.safetensors",
        ),
        ("https://hf.co/a/b/resolve/v1/m.safetensors", "a/b", "v1", "m.safetensors"),
    ],
)
def test_names_and_addresses_of_the_hub_are_understood(text, repo, revision, file):
    assert places.hub_id(text) == (repo, revision, file)


def test_an_address_elsewhere_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="no address of the hub; download the file"):
        sd.load("https://civitai.com/models/1")


def cached(root, whole, main):
    import shutil

    place = root / "models--a--b"
    shutil.copytree(whole, place / "snapshots" / ("0" * 40))
    if main:
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0" * 40)
    return place


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("name", ["a/b", "a/b@" + "0" * 40, "a/b@0000000"])
def test_offline_the_hubs_cache_is_used_with_or_without_refs(whole, tmp_path, monkeypatch, main, name):
    import huggingface_hub

    cached(tmp_path, whole, main)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    same(load(name), load(whole))
    with pytest.raises(InputError, match="cannot be downloaded"):
        load("a/b@other")


def test_a_folder_of_the_hubs_cache_is_a_model(whole, tmp_path):
    same(load(cached(tmp_path, whole, True)), load(whole))


def test_of_the_hub_only_the_wanted_precision_is_fetched(whole, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **o: asked.append(o) or str(whole))
    load("a/b@rev")
    assert asked[0]["revision"] == "rev" and "*.fp16*" in asked[0]["ignore_patterns"] and len(asked) == 1
    sd.wanted("a/b", dtype="fp16", device="cpu").source()
    assert (
        "unet/*.fp16*" in asked[1]["allow_patterns"]
        and "unet/*.safetensors" not in asked[1]["allow_patterns"]
    )


def test_a_model_folder_left_aside_by_a_kill_is_found_by_the_next_load(smoke_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(smoke_folder, folder)
    aside = folder.with_name(files_on_disk._temporary(folder)).with_suffix(".old")
    os.replace(folder, aside)

    assert sd.load(str(folder), device="cpu").given == sd.hash_of(str(smoke_folder))
    assert folder.is_dir() and not aside.exists()


def test_a_huge_number_in_a_config_is_refused_before_room_is_made(smoke_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(smoke_folder, folder)
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [32, 2**31]}))

    with pytest.raises(
        InputError, match=r"has 2147483648 in unet/config.json: block_out_channels, and 100000"
    ):
        sd.load(str(folder), device="cpu")


def test_a_whole_model_is_not_to_be_downloaded_again(smoke_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(smoke_folder, folder)
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"down_block_types": 7}))

    with pytest.raises(
        InputError, match="its files can be read, but a setting in one of its .json"
    ) as caught:
        sd.load(str(folder), device="cpu")
    assert "download" not in str(caught.value)
