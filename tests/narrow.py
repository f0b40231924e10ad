"""Stable Diffusion models of the layouts that exist, as narrow as can be, with random weights; nothing is anybody's."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

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
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8), layers_per_block=2, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_attention_heads=2,
            num_hidden_layers=3, hidden_act="gelu" if second else "quick_gelu", bos_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip
    return unet.eval(), vae.eval(), text.eval()


def folder(place, parts, variants=("",), scheduler=PNDM):
    """A diffusers folder with the hub's file names; a variant "fp16" holds halves."""
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    homes = dict.fromkeys(("unet", "vae", "scheduler"), "diffusers")
    kinds = classes | {"tokenizer": "CLIPTokenizer", "scheduler": scheduler["_class_name"]}
    index = {name: [homes.get(name, "transformers"), kind] for name, kind in kinds.items()}
    place.mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    (place / "scheduler").mkdir()
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    originals.bundled_tokenizer().save_pretrained(place / "tokenizer")
    for name, part in zip(classes, parts, strict=True):
        (place / name).mkdir()
        config = part.config.to_json_string() if name == "text_encoder" else part.to_json_string()
        (place / name / "config.json").write_text(config)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        for variant in variants:
            state = {k: x.half() if variant else x.clone() for k, x in part.state_dict().items()}
            save_file(
                state, place / name / ".".join(filter(None, (stem, variant, "safetensors"))), {"format": "pt"}
            )
    return place
