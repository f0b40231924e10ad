"""Families and files beside Stable Diffusion's own: each is edited with, or refused in one clear sentence."""

import json
import shutil
import types

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from narrow import PNDM, WIDTH, folder, parts
from original_format import one_file
from safetensors.torch import save_file

from dragnb import sd
from dragnb.errors import InputError


@pytest.fixture(scope="module")
def narrow():
    return parts()


@pytest.fixture(scope="module")
def whole(narrow, tmp_path_factory):
    return folder(tmp_path_factory.mktemp("wild") / "model", narrow)


@pytest.fixture
def other(whole, tmp_path):
    """A copy of the folder that a test may change."""
    return shutil.copytree(whole, tmp_path / "other")


@pytest.fixture(scope="module")
def state(narrow):
    """The narrow model in the original names."""
    made = one_file(types.SimpleNamespace(unet=narrow[0], vae=narrow[1], text_encoder=narrow[2]))
    return {k: x.clone() for k, x in made.items()}


def load(model, **loading):
    return sd.load(str(model), device="cpu", **loading)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


INDEXES = {
    "SD3": ("StableDiffusion3Pipeline", {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL"}),
    "Flux": ("FluxPipeline", {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL"}),
    "PixArt": ("PixArtSigmaPipeline", {"transformer": "PixArtTransformer2DModel"}),
    "Kandinsky": ("KandinskyV22Pipeline", {"unet": "UNet2DConditionModel", "movq": "VQModel"}),
    "Cascade": ("StableCascadeDecoderPipeline", {"decoder": "StableCascadeUNet"}),
    "unCLIP": (
        "StableUnCLIPImg2ImgPipeline",
        {"unet": "UNet2DConditionModel", "image_encoder": "CLIPVision"},
    ),
    "LDM": (
        "LDMTextToImagePipeline",
        {"unet": "UNet2DConditionModel", "vqvae": "AutoencoderKL", "bert": "B"},
    ),
    "DeepFloyd": ("IFPipeline", {"unet": "UNet2DConditionModel", "text_encoder": "T5EncoderModel"}),
    "AnimateDiff": (
        "AnimateDiffPipeline",
        {"unet": "UNet2DConditionModel", "motion_adapter": "MotionAdapter"},
    ),
}


@pytest.mark.parametrize("family", INDEXES)
def test_other_families_are_refused_by_their_index_alone(tmp_path, family):
    kind, components = INDEXES[family]
    index = {"_class_name": kind} | {name: ["diffusers", of] for name, of in components.items()}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="^model") as said:
        load(tmp_path)
    assert "Stable Diffusion" in str(said.value)


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionControlNetPipeline"])
def test_pipelines_of_the_same_parts_are_served(other, whole, kind):
    change(other / "model_index.json", _class_name=kind)
    assert torch.equal(load(other).unet.conv_in.weight, load(whole).unet.conv_in.weight)


@pytest.mark.parametrize("second", [False, True], ids=["layers of 1.5", "layers of 2.1"])
def test_a_folder_computes_what_diffusers_own_pipeline_computes(tmp_path, second):
    place = folder(tmp_path / "m", parts(second=second), scheduler=PNDM | {"prediction_type": "epsilon"})
    pipe = StableDiffusionPipeline.from_pretrained(place, safety_checker=None, feature_extractor=None)
    model, z = load(place), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    told, _ = pipe.encode_prompt("a cat on a chair", "cpu", 1, False)
    with torch.no_grad():
        want = pipe.unet(z, 681, told).sample

    torch.testing.assert_close(sd.embed(model, "a cat on a chair"), told)
    torch.testing.assert_close(sd.predict(model, z, 681, told), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.abar, pipe.scheduler.alphas_cumprod)


def test_a_unet_with_fewer_layers_runs_and_one_with_fewer_blocks_is_refused(narrow, tmp_path):
    kind = dict(sample_size=64, layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4)
    small = UNet2DConditionModel(block_out_channels=(8, 16, 16, 16), norm_num_groups=4, **kind).eval()
    model = load(folder(tmp_path / "small", (small, *narrow[1:])))
    assert sd.eps(model, torch.randn(1, 4, 16, 16), 681, sd.embed(model, "a cat")).isfinite().all()

    three = {"down_block_types": ("CrossAttnDownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3}
    tiny = UNet2DConditionModel(
        block_out_channels=(8, 16, 16), norm_num_groups=4, mid_block_type=None, **three, **kind
    )
    with pytest.raises(InputError, match="four up blocks"):
        load(folder(tmp_path / "tiny", (tiny.eval(), *narrow[1:])))


def test_a_tiny_autoencoder_in_place_of_the_usual_one_is_read_with_its_own_scale(other):
    shutil.rmtree(other / "vae")
    AutoencoderTiny().save_pretrained(other / "vae")
    change(other / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    model = load(other)
    assert model.scaling_factor == 1.0 and model.factor == 8
    assert sd.encode(model, torch.zeros(1, 3, 64, 64)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    "change_of_vae", [{"_class_name": "AsymmetricAutoencoderKL"}, {"latent_channels": 16}], ids=str
)
def test_autoencoders_of_other_kinds_are_one_clear_error(other, change_of_vae):
    change(other / "vae" / "config.json", **change_of_vae)
    with pytest.raises(InputError, match="^model"):
        load(other)


def test_another_text_encoder_is_one_clear_error(other):
    of = ["alt_diffusion", "RobertaSeriesModelWithTransformation"]
    change(other / "model_index.json", _class_name="AltDiffusionPipeline", text_encoder=of)
    change(other / "text_encoder" / "config.json", model_type="xlm-roberta", architectures=of[1:])
    with pytest.raises(InputError, match="^model"):
        load(other)


FILES = {  # single files that are no checkpoint, or of another kind
    "a textual inversion": lambda state, unet: {"emb_params": torch.zeros(2, WIDTH)},
    "a controlnet": lambda state, unet: {"control_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)},
    "a VAE alone": lambda state, unet: {
        k.removeprefix("first_stage_model."): x
        for k, x in state.items()
        if k.startswith("first_stage_model.")
    },
    "an unprefixed U-Net": lambda state, unet: {
        k.removeprefix("model.diffusion_model."): x for k, x in state.items() if k.startswith("model.")
    },
    "diffusers' names": lambda state, unet: {f"unet.{k}": x.clone() for k, x in unet.state_dict().items()},
    "instruct-pix2pix": lambda state, unet: (
        state | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 8, 3, 3)}
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_single_files_of_other_kinds_are_one_clear_error(narrow, state, whole, tmp_path, kind):
    weights = {k: x.contiguous() for k, x in FILES[kind](state, narrow[0]).items()}
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="a.safetensors"):
        load(tmp_path / "a.safetensors", config=str(whole))


def test_a_number_that_is_none_among_the_weights_is_named_where_it_shows(
    state, whole, tmp_path, drag_task, cache
):
    from dragnb import config, pipeline

    spoiled = dict(state)
    key = next(k for k in spoiled if "output_blocks.5" in k)
    spoiled[key] = torch.full_like(spoiled[key], float("nan"))
    save_file({k: x.contiguous() for k, x in spoiled.items()}, tmp_path / "a.safetensors")
    settings = config.profile("reference", steps=5, lora_steps=1, lora_batch=1, drag_steps=1)
    with pytest.raises(InputError, match="nan|NaN"):
        pipeline.edit(
            drag_task,
            str(tmp_path / "a.safetensors"),
            settings,
            cache,
            side=64,
            device="cpu",
            config=str(whole),
        )
