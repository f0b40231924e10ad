"""How the bundled model is trained: every number in one frozen dataclass, one instance a situation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Steps are optimiser steps; learning rates fall by a cosine after `decay_from`."""

    size: str = "clay"  # a key of clay.model.SIZES
    seed: int = 0
    pictures: int = 9_000  # drawn once and kept; 0: drawn anew for every step (many cores and a GPU)
    vae_steps: int = 7_000
    vae_batch: int = 8
    vae_crop: int = 96  # the autoencoder has no norm layers, so crops train it as well as whole pictures
    vae_lr: float = 2e-3
    vae_ema: float = 0.995
    latent_spread: float = 5e-3  # weight that keeps each latent channel's variance at one
    latent_noise: float = 0.05  # added to latents before decoding, so that small denoising errors do not show
    unet_steps: int = 5_300
    unet_batch: int = 16
    unet_lr: float = 1e-3
    focus: tuple = (250, 800)  # half of the samples have a timestep in here, where shape and pose are decided
    min_snr: float = 5.0  # weight of a noise level is min(SNR, this) / SNR (Hang et al. 2023)
    caption_dropout: float = 0.1  # trains the empty prompt, which classifier-free guidance needs
    ema: float = 0.999
    decay_from: float = 0.4  # fraction of the steps at full learning rate
    warmup: int = 150
    save_every: int = 250
    workers: int = 2


HELDOUT_SEED = 800_000  # seeds from here on are never trained on
RECIPES = {
    "cpu": Recipe(),
    "gpu": Recipe(pictures=0, vae_steps=40_000, vae_batch=32, vae_crop=128, unet_steps=60_000, unet_batch=128,
                  ema=0.9998, save_every=1000, workers=14),
    "smoke": Recipe(size="smoke", pictures=24, vae_steps=6, vae_batch=2, vae_crop=64, unet_steps=6,
                    unet_batch=2, warmup=2, save_every=2, workers=1),
}  # fmt: skip
