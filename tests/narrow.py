"""Stable Diffusion models of the layouts that exist, as narrow as can be, with random weights; nothing is anybody's."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dragnb.checkpoints import originals

PNDM = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
}  # fmt: skip
WIDTH = 16


def parts(seed=0, second=False, **unet):
    """(unet, vae, text_encoder) with all the layers of SD 1.5, or of SD 2's kind, and few channels."""
    torch.manual_seed(seed)
    kind = (
        dict(attention_head_dim=[2, 4, 4, 4], use_linear_projection=True)
        if second
        else {"attention_head_dim": 4}
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(8, 16, 16, 16),
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
        **(kind | unet),
    )
    return unet.eval(), autoencoder(), CLIPTextModel(clip("gelu" if second else "quick_gelu")).eval()


def autoencoder(**changes):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8), layers_per_block=2, latent_channels=4, norm_num_groups=4, **changes,
    ).eval()  # fmt: skip


def clip(act, width=WIDTH, layers=3, **changes):
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_attention_heads=2,
        num_hidden_layers=layers, hidden_act=act, bos_token_id=0, eos_token_id=2, **changes,
    )  # fmt: skip


SECOND_WIDTH, SIZES_WIDTH = 24, 8
EULER = {**{k: v for k, v in PNDM.items() if k != "skip_prk_steps"}, "_class_name": "EulerDiscreteScheduler"}


def xl_parts(seed=0, **unet):
    """(unet, vae, text_encoder, text_encoder_2) of SDXL base 1.0's layout: fewer transformers, few channels."""
    torch.manual_seed(seed)
    kind = dict(
        sample_size=128, block_out_channels=(8, 16, 32), norm_num_groups=4, use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 3], attention_head_dim=[2, 4, 8],
        cross_attention_dim=WIDTH + SECOND_WIDTH, addition_embed_type="text_time",
        addition_time_embed_dim=SIZES_WIDTH, projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * SIZES_WIDTH,
    )  # fmt: skip
    second = clip("gelu", SECOND_WIDTH, layers=4, projection_dim=SECOND_WIDTH)
    return (
        UNet2DConditionModel(**(kind | unet)).eval(), autoencoder(scaling_factor=0.13025, force_upcast=True),
        CLIPTextModel(clip("quick_gelu")).eval(), CLIPTextModelWithProjection(second).eval(),
    )  # fmt: skip


NAMES = ("unet", "vae", "text_encoder", "text_encoder_2")


def folder(place, parts, variants=("",), scheduler=PNDM, **index):
    """A diffusers folder with the hub's file names; a variant "fp16" holds halves. Four parts are an SDXL's."""
    kinds = {name: type(part).__name__ for name, part in zip(NAMES, parts, strict=False)}
    pads = (
        {"tokenizer": originals.END, "tokenizer_2": "!"} if len(parts) == 4 else {"tokenizer": originals.END}
    )
    kinds |= dict.fromkeys(pads, "CLIPTokenizer") | {"scheduler": scheduler["_class_name"]}
    homes = dict.fromkeys(("unet", "vae", "scheduler"), "diffusers")
    own = {name: [homes.get(name, "transformers"), kind] for name, kind in kinds.items()}
    pipeline = "StableDiffusionXLPipeline" if len(parts) == 4 else "StableDiffusionPipeline"
    place.mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **own, **index}))
    (place / "scheduler").mkdir()
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    for name, pad in pads.items():
        originals.bundled_tokenizer(pad).save_pretrained(place / name)
    for name, part in zip(NAMES, parts, strict=False):
        (place / name).mkdir()
        text = name.startswith("text")
        config = part.config.to_json_string() if text else part.to_json_string()
        (place / name / "config.json").write_text(config)
        stem = "model" if text else "diffusion_pytorch_model"
        for variant in variants:
            state = {k: x.half() if variant else x.clone() for k, x in part.state_dict().items()}
            save_file(
                state, place / name / ".".join(filter(None, (stem, variant, "safetensors"))), {"format": "pt"}
            )
    return place
