"""The model room: loading, refusing, encoding, and what the U-Net is asked."""

import dataclasses
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from dragnb import checkpoints, doubts, sd
from dragnb.clay.training import parts as clay_model
from dragnb.errors import InputError


@pytest.fixture
def folder(smoke_folder, tmp_path):
    """A copy of the smoke folder that a test may spoil."""
    return shutil.copytree(smoke_folder, tmp_path / "model")


def rewrite(path, **changes):
    data = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**data, **changes}.items() if v is not None}))


def test_a_model_is_loaded_once_per_process(smoke, smoke_folder):
    assert sd.load(str(smoke_folder), device="cpu") is sd.load(str(smoke_folder), device="cpu")
    assert sd.load(smoke) is smoke


def test_of_two_threads_that_ask_for_one_model_one_reads_it(folder):
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: sd.load(str(folder), device="cpu"), range(2))
    assert one is other


@pytest.mark.parametrize(
    ("usable", "chosen", "environment", "threads"),
    [(2, 4, None, 2), (1, 4, None, 1), (8, 4, None, 4), (2, 1, None, 1), (1, 4, "4", 4)],
    ids=["a share", "one core", "all cores", "fewer are chosen in torch", "the environment chooses"],
)
@pytest.mark.parametrize("variable", sd.THREADS_CHOSEN_BY)
def test_loading_lowers_torchs_threads_to_the_cores_it_may_use(
    smoke_folder, monkeypatch, variable, usable, chosen, environment, threads
):
    for name in sd.THREADS_CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    if environment:
        monkeypatch.setenv(variable, environment)
    numbers = [chosen]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(sd.joblib, "cpu_count", lambda: usable)

    sd.load(str(smoke_folder), device="cpu")

    assert numbers[-1] == threads


def test_a_folder_that_is_gone_is_said_to_be_gone(folder):
    sd.load(str(folder), device="cpu")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="there is no such folder; has it been moved"):
        sd.load(str(folder), device="cpu")


def test_a_loaded_model_is_frozen_float32_and_knows_its_size(smoke):
    assert not any(
        p.requires_grad for part in (smoke.unet, smoke.vae, smoke.text_encoder) for p in part.parameters()
    )
    assert not smoke.unet.training
    assert {p.dtype for p in smoke.unet.parameters()} == {torch.float32}
    assert (smoke.side, smoke.factor) == (256, 8)


def test_the_side_of_a_model_is_known_before_it_is_loaded_where_its_config_is_here(
    smoke, smoke_folder, folder, monkeypatch
):
    monkeypatch.setattr(checkpoints.places, "download", lambda *_: pytest.fail("it asked the network"))
    assert checkpoints.side(smoke_folder) == smoke.side and checkpoints.side("clay") == 256
    assert checkpoints.side("sd15") == checkpoints.side("some/file.safetensors") == 512
    rewrite(folder / "vae" / "config.json", block_out_channels=None, decoder_block_out_channels=None)
    assert checkpoints.side(folder) is checkpoints.side("owner/name") is checkpoints.side("") is None


def test_the_hash_follows_the_weights_and_not_the_path(smoke, folder):
    assert sd.load(str(folder), device="cpu").hash == smoke.hash
    other = clay_model.save_folder(clay_model.build("smoke", seed=1), folder)
    assert sd.load(str(other), device="cpu").hash != smoke.hash


def test_parts_in_memory_are_hashed_by_their_weights():
    def hashed(seed):
        parts = clay_model.build("smoke", seed)
        return sd.assemble(parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler).hash

    assert hashed(0) == hashed(0) != hashed(1)


def test_eps_is_what_the_plain_diffusers_pipeline_predicts(smoke, smoke_folder):
    pipe = StableDiffusionPipeline.from_pretrained(smoke_folder)
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    told, _ = pipe.encode_prompt("a red fox", "cpu", 1, False)

    with torch.no_grad():
        expected = pipe.unet(z, 681, told).sample

    assert torch.equal(sd.embed(smoke, "a red fox"), told)
    torch.testing.assert_close(sd.eps(smoke, z, 681, told), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["smoke", "clay"])
def test_a_hook_on_any_layer_of_the_unet_fires_in_one_pass(smoke, name):
    model = sd.private(smoke if name == "smoke" else sd.load("clay", device="cpu"))
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    layers = {n: m for n, m in model.unet.named_modules() if isinstance(m, kinds)}
    fired = set()
    for layer in layers:
        layers[layer].register_forward_hook(lambda module, args, output, layer=layer: fired.add(layer))

    with torch.no_grad():
        sd.predict(model, torch.zeros(1, 4, 16, 16), 301, sd.embed(model, "a cat"))

    assert {type(m) for m in layers.values()} == set(kinds), "it holds each kind"
    assert set(layers) == fired, f"never called: {sorted(set(layers) - fired)}"


@pytest.mark.parametrize("name", ["smoke", "clay"])
def test_every_module_of_the_unet_is_of_diffusers_or_torchs_own_class(smoke, name):
    model = smoke if name == "smoke" else sd.load("clay", device="cpu")
    homes = {type(m).__module__.split(".")[0] for m in model.unet.modules()}

    assert homes == {"diffusers", "torch"}
    assert {type(p) for p in model.unet.attn_processors.values()} == {AttnProcessor2_0}


def test_different_prompts_in_one_batch_stay_apart(smoke):
    z, rows = torch.randn(2, 4, 16, 16), torch.cat([sd.embed(smoke, "a red cat"), sd.embed(smoke, "")])

    both = sd.predict(smoke, z, 301, rows)

    alone = torch.cat([sd.predict(smoke, z[i : i + 1], 301, rows[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, alone, atol=2e-5, rtol=1e-4)
    assert (both[0] - sd.predict(smoke, z, 301, rows.flip(0))[0]).abs().max() > 0


def test_guidance_one_asks_once_and_others_blend(smoke):
    z, cond, free = torch.randn(1, 4, 32, 32), sd.embed(smoke, "a dog"), sd.embed(smoke, "")
    a, b = sd.eps_fn(smoke, cond)(z, 21), sd.eps_fn(smoke, free)(z, 21)
    torch.testing.assert_close(sd.eps_fn(smoke, cond, 7.5)(z, 21), b + 7.5 * (a - b), atol=1e-4, rtol=1e-4)


def test_v_prediction_is_honoured(smoke_folder, folder):
    rewrite(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    model = sd.load(str(folder), device="cpu")
    z, cond = torch.randn(1, 4, 32, 32), sd.embed(model, "")
    v, signal = sd.predict(model, z, 681, cond), model.abar[681]
    torch.testing.assert_close(sd.eps(model, z, 681, cond), signal.sqrt() * v + (1 - signal).sqrt() * z)
    assert model.hash != sd.load(str(smoke_folder), device="cpu").hash


def test_the_scaling_factor_of_the_config_is_used_both_ways(smoke, folder):
    rewrite(folder / "vae" / "config.json", scaling_factor=0.5)
    halved, x = sd.load(str(folder), device="cpu"), torch.rand(1, 3, 64, 64) * 2 - 1
    ratio = 0.5 / smoke.scaling_factor
    torch.testing.assert_close(sd.encode(halved, x), sd.encode(smoke, x) * ratio)
    torch.testing.assert_close(sd.decode(halved, sd.encode(halved, x)), sd.decode(smoke, sd.encode(smoke, x)))


def test_an_autoencoder_kl_gives_its_mean_or_a_seeded_sample(smoke):
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4,
    )  # fmt: skip
    parts = clay_model.build("smoke")
    model = sd.assemble(parts.unet, vae, parts.text_encoder, parts.tokenizer, parts.scheduler)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    mean, std = sd.encode_dist(model, x)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(7))
    assert mean.shape == (1, 4, 8, 8) and (std > 0).all() and model.factor == 8
    assert torch.equal(sd.encode(model, x), mean)
    assert torch.equal(sd.encode(model, x, True, torch.Generator().manual_seed(7)), mean + std * noise)
    assert sd.decode(model, mean).abs().max() <= 1


def test_a_page_that_counts_a_prompt_does_not_reach_into_a_run_that_embeds_one(smoke):
    """Padding is a state of a fast tokenizer: two threads in it at once gave one of them the other's length."""
    inside, most = [], []

    class Watched:
        def __call__(self, text, **how):
            inside.append(text)
            most.append(len(inside))
            time.sleep(0.005)
            out = smoke.tokenizer(text, **how)
            inside.pop()
            return out

    model = dataclasses.replace(smoke, tokenizer=Watched())
    with ThreadPoolExecutor(4) as pool:
        counted = [pool.submit(doubts.on_prompt, "a cat", model.tokenizer) for _ in range(8)]
        embedded = [pool.submit(sd.embed, model, "a dog") for _ in range(8)]
    assert all(one.result() == [] for one in counted)
    assert {tuple(one.result().shape[:2]) for one in embedded} == {(1, 77)}
    assert max(most) == 1


def test_a_prompt_of_500_words_is_cut_at_77_tokens(smoke):
    assert sd.embed(smoke, "cat " * 500).shape == (1, 77, 32)


def test_nan_is_named_where_it_shows(smoke):
    with pytest.raises(InputError, match="latent to decode holds NaN"):
        sd.decode(smoke, torch.full((1, 4, 8, 8), float("nan")))
    with pytest.raises(InputError, match="encoded picture holds NaN"):
        sd.encode(smoke, torch.full((1, 3, 64, 64), float("nan")))


def test_a_private_model_shares_weights_and_nothing_else(smoke):
    own = sd.private(smoke)
    assert own.unet.up_blocks[0] is not smoke.unet.up_blocks[0]
    assert all(a is b for a, b in zip(own.unet.parameters(), smoke.unet.parameters(), strict=True))
    own.unet.set_attn_processor(lambda attn, x, *args, **kwargs: x)
    assert all(isinstance(p, AttnProcessor2_0) for p in smoke.unet.attn_processors.values())


@pytest.mark.parametrize("name", ["model.ckpt", "weights/diffusion.bin", "a.pt"])
def test_pickles_are_refused_with_the_reason_and_the_way_out(name):
    with pytest.raises(InputError, match="run any code.*save_pretrained"):
        sd.load(name)


def test_a_folder_with_only_pickled_weights_is_refused(folder):
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="unet/ only has pickled weights"):
        sd.load(str(folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"transformer": ["diffusers", "SD3Transformer2DModel"], "unet": None},
            "only Stable Diffusion 1, 2 and XL",
        ),
        ({"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "text_encoder_2/ is missing"),
        (
            {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]},
            "only Stable Diffusion 1, 2 and XL",
        ),
    ],
)
def test_other_families_are_refused_by_their_index(folder, changes, said):
    rewrite(folder / "model_index.json", **changes)
    with pytest.raises(InputError, match=said):
        sd.load(str(folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_channels": 9}, "inpainting"),
        ({"addition_embed_type": "text_time"}, "SDXL"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "four up blocks"),
    ],
)
def test_other_unets_are_refused_by_their_config(folder, changes, said):
    rewrite(folder / "unet" / "config.json", **changes)
    with pytest.raises(InputError, match=said):
        sd.load(str(folder))


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path, folder):
    with pytest.raises(InputError, match=r"no model_index.json"):
        sd.load(str(tmp_path / "cache" if (tmp_path / "cache").exists() else tmp_path))
    shutil.rmtree(folder / "vae")
    with pytest.raises(InputError, match=r"part vae/ is missing"):
        sd.load(str(folder))


def test_torn_weights_are_named_and_to_be_downloaded_again(folder):
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="safetensors is damaged: get the model again: download it"):
        sd.load(str(folder), device="cpu")


def test_an_unknown_name_offers_the_nearest(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="'clya' is unknown; did you mean 'clay'"):
        sd.load("clya")
    monkeypatch.setenv("DRAGNB_MODELS", str(tmp_path))
    monkeypatch.setattr(checkpoints.places, "PACKAGE", tmp_path / "site" / "dragnb")
    with pytest.raises(InputError, match="set DRAGNB_MODELS"):
        sd.load("clay")


def test_dragnb_models_says_where_clay_lies(folder, monkeypatch):
    folder.rename(folder.parent / "clay")
    monkeypatch.setenv("DRAGNB_MODELS", str(folder.parent))
    assert checkpoints.clay_folder() == folder.parent / "clay"
    # the other one, which is not there, comes with dragnb
    assert checkpoints.clay_folder("clay2").name == "clay2"


def test_no_network_is_a_clear_error(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(InputError, match="cannot be downloaded.*model='clay'"):
        sd.load("sd15")


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "mps", "toaster"])
def test_a_device_that_is_not_there_is_named(device):
    if (
        device == "cuda"
        and torch.cuda.is_available()
        or device == "mps"
        and torch.backends.mps.is_available()
    ):
        pytest.skip(f"{device} is there, so it cannot be missed")
    with pytest.raises(InputError, match=f"device = '{device}'"):
        sd.pick_device(device)


def test_an_unknown_dtype_is_named():
    with pytest.raises(InputError, match="dtype = 'fp8'"):
        sd.pick_dtype("fp8", torch.device("cpu"))


def test_half_precision_weights_leave_latents_in_float32(smoke_folder):
    model = sd.load(str(smoke_folder), device="cpu", dtype="bf16")
    z = torch.randn(1, 4, 32, 32)
    assert {p.dtype for p in model.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.vae.parameters()} == {torch.float32}
    assert sd.eps(model, z, 21, sd.embed(model, "")).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_sees_nearly_the_same_noise(smoke, smoke_folder, dtype):
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = sd.eps(smoke, z, 301, sd.embed(smoke, "a cat"))
    model = sd.load(str(smoke_folder), device="cpu", dtype=dtype)

    found = sd.eps(model, z, 301, sd.embed(model, "a cat"))

    assert found.dtype == torch.float32 and (found - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("kind", [UNet2DConditionModel, AutoencoderTiny])
def test_diffusers_is_told_the_dtype_in_the_one_word_that_all_its_versions_know(folder, monkeypatch, kind):
    """Version 0.39, which Colab has, hands an unknown `dtype` on to the model's constructor, which refuses it."""
    read, asked = kind.from_pretrained, []
    monkeypatch.setattr(
        kind, "from_pretrained", lambda *a, **options: asked.append(options) or read(*a, **options)
    )

    model = sd.load(str(folder), device="cpu", dtype="bf16")

    wanted = {UNet2DConditionModel: torch.bfloat16, AutoencoderTiny: torch.float32}
    assert [options["torch_dtype"] for options in asked] == [wanted[kind]] and "dtype" not in asked[0]
    assert (model.unet.dtype, model.vae.dtype) == (torch.bfloat16, torch.float32)


def test_out_of_memory_says_what_lowers_it():
    with pytest.raises(InputError, match="lower lora_batch"), sd.memory_errors("lora_batch"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), sd.memory_errors("lora_batch"):
        raise RuntimeError("something else")


def single_file(path, **shapes):
    from safetensors.numpy import save_file

    save_file({k: np.zeros(v, np.float16) for k, v in shapes.items()}, path)
    return str(path)


FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"lora_unet_x.lora_down.weight": (1, 1)}, "a LoRA"),
        ({FIRST: (1, 9, 1, 1)}, "inpainting"),
        ({FIRST: (1, 4, 1, 1), "conditioner.embedders.0.x": (1,)}, "SDXL"),
        ({FIRST: (1, 4, 1, 1)}, "no text encoder"),
    ],
)
def test_single_files_of_other_families_are_refused_by_their_header(tmp_path, shapes, said):
    with pytest.raises(InputError, match=said):
        sd.load(single_file(tmp_path / "m.safetensors", **shapes), config=str(tmp_path))


def test_a_single_file_that_is_missing_or_torn_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        sd.load(str(tmp_path / "none.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match="no readable .safetensors"):
        sd.load(str(tmp_path / "torn.safetensors"))
