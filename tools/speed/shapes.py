"""Models of a published shape with random weights: speed and memory do not depend on the values."""

from __future__ import annotations

import torch

from dragnb.clay.training import parts as clay_model

CROSS, TOKENS = 768, 49408  # of SD 1.5's text encoder


def sd15(width: float = 1.0) -> clay_model.Parts:
    """Stable Diffusion 1.5's parts from its published configs, channels times `width`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer, channels = clay_model.build_tokenizer(), [int(c * width) for c in (320, 640, 1280, 1280)]
    vae_channels, cross = [int(c * width) for c in (128, 256, 512, 512)], int(CROSS * width)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=channels,
        cross_attention_dim=cross, attention_head_dim=8, norm_num_groups=min(32, channels[0]),
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=vae_channels, layers_per_block=2, latent_channels=4, sample_size=512,
        norm_num_groups=min(32, vae_channels[0]), scaling_factor=0.18215,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=TOKENS, hidden_size=cross, intermediate_size=4 * cross, num_attention_heads=12,
            num_hidden_layers=12, max_position_embeddings=77, hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    return clay_model.Parts(unet, vae, text, tokenizer, clay_model.build_scheduler())
