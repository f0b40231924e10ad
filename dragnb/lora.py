"""Identity-preserving fine-tune (paper §3.2, eq. 2): a low-rank adapter teaches the U-Net one picture.

W' = W + up @ down on the attention projections, rank = alpha, so the scale is one everywhere and no file can lose
it. Weights travel as a dict in the diffusers file's own names: `unet.<module>.lora.down.weight` and `.lora.up.weight`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dragnb import sd
from dragnb.checkpoints.adapters import DOWN, PREFIX, UP, add, deltas, load, named  # noqa: F401, names of a LoRA file
from dragnb.errors import InputError, NotFiniteError
from dragnb.store.files import SIGNATURE, replacing, signed

ADAPTER = "dragnb"
WEIGHT_DECAY = 1e-2
LOOK_EVERY, SCORED = 10, 4  # steps between two looks at the score; samples that make it


@dataclass(frozen=True)
class LoraState:
    """One optimiser step of the fine-tune: `step` counts from 1, `loss` is eq. 2's mean squared error before it.

    score   at every LOOK_EVERY-th step where lora_stop asks for it: eq. 2 on fixed samples, 1 before the fine-tune
    last    nothing comes after it
    """

    step: int
    loss: float
    score: float | None = None
    last: bool = False


@contextlib.contextmanager
def attached(model: sd.Model, settings) -> Iterator[list[torch.nn.Parameter]]:
    """Hang a fresh, trainable adapter on the U-Net's attention; taken off again at the end, whatever happens.

    Yields its parameters (float32). Fresh it is the identity: down ~ N(0, 1/rank) from settings.seed, up = 0. Read
    the result with `weights_of` before the block ends. Raises InputError if the U-Net carries an adapter already.
    """
    from peft import LoraConfig

    if getattr(model.unet, "peft_config", None):
        raise InputError(
            "model: its U-Net carries an adapter already; leave the other `attached` block first"
        )
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_rank,
        init_lora_weights="gaussian",
        target_modules=list(settings.lora_targets),
    )
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws from the global stream; ours is drawn below
            model.unet.add_adapter(config, adapter_name=ADAPTER)
        params = _reset(model, settings)
        yield params
    finally:
        model.unet.unload_lora()
        model.unet.requires_grad_(False)


def _reset(model: sd.Model, settings) -> list[torch.nn.Parameter]:
    """Draw the adapter's weights anew, in float32, from an explicit generator, the same on every device."""
    generator = torch.Generator().manual_seed(settings.seed)
    params = _parameters(model)
    for name, param in params.items():
        fresh = torch.zeros(param.shape)
        if ".lora_A." in name:
            fresh = torch.randn(param.shape, generator=generator) / settings.lora_rank
        param.data = fresh.to(param.device)
    return list(params.values())


def draw(model: sd.Model, z_dist, batch: int, generator: torch.Generator, levels: int, t=None):
    """A training batch at the first `levels` timesteps: noised latents, timesteps, the right answers (noise or v)."""
    mean, std = (part.float().cpu() for part in z_dist)
    shape = (batch, *mean.shape[1:])
    clean = mean + std * torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    t = torch.randint(0, levels, (batch,), generator=generator) if t is None else t
    signal = model.abar[t].sqrt().view(-1, 1, 1, 1)
    rest = (1 - model.abar[t]).sqrt().view(-1, 1, 1, 1)
    target = noise if model.prediction_type == "epsilon" else signal * noise - rest * clean
    return (signal * clean + rest * noise).to(model.device), t.to(model.device), target.to(model.device)


class Score:
    """How well the model knows the picture by now: its error on fixed samples, each against its own at the start."""

    def __init__(self, model: sd.Model, z_dist, cond: torch.Tensor, settings, levels: int):
        self.model, self.cond, self.least = model, cond, settings.lora_stop
        self.earliest = settings.lora_steps / 2  # a score may rest before it falls
        t = (torch.arange(SCORED) * 2 + 1) * levels // (2 * SCORED)  # the middles of equal parts
        generator = torch.Generator().manual_seed(settings.seed)
        self.sample = draw(model, z_dist, SCORED, generator, levels, t)
        self.first, self.score = self._errors(), 1.0

    @torch.no_grad()
    def _errors(self) -> torch.Tensor:
        z, t, target = self.sample
        return (sd.predict(self.model, z, t, self.cond) - target).square().mean((1, 2, 3))

    def __call__(self, step: int) -> tuple[float | None, bool]:
        """The score, every LOOK_EVERY steps, and whether, in the second half, too little came of them."""
        if step % LOOK_EVERY:
            return None, False
        before, self.score = self.score, (self._errors() / self.first).mean().item()
        return self.score, step >= self.earliest and before - self.score < self.least


def _parameters(model: sd.Model) -> dict[str, torch.nn.Parameter]:
    """The attached adapter's parameters by peft's names; raises InputError when there is none."""
    params = {name: p for name, p in model.unet.named_parameters() if f".{ADAPTER}." in name}
    if not params:
        raise InputError(
            "model: no adapter is attached; wrap the call in `with lora.attached(model, settings):`"
        )
    return params


def finetune(model: sd.Model, z_dist, cond: torch.Tensor, settings) -> Iterator[LoraState]:
    """Train the attached adapter on one picture (eq. 2), `settings.lora_steps` AdamW steps; yields each one's loss.

    z_dist  (mean, std) of the picture's latent, (1, 4, h, w) each, encoded once; every sample of every step draws
            its own latent, noise and timestep (uniform over the schedule) from settings.seed
    cond    (1, 77, c), the prompt

    Stopping early, also by Ctrl-C, keeps the adapter as trained so far. With settings.lora_stop it ends by itself in
    its second half, as soon as LOOK_EVERY steps lower the score by less than that. Raises InputError when no adapter
    is attached or the loss is no number.
    """
    params = list(_parameters(model).values())
    fused = model.device.type in ("cpu", "cuda")
    optimiser = torch.optim.AdamW(params, settings.lora_lr, weight_decay=WEIGHT_DECAY, fused=fused)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    levels = settings.t + 1 if settings.lora_t == "used" else len(model.abar)
    scale = sd.grad_scale(model)
    score = Score(model, z_dist, cond, settings, levels) if settings.lora_stop else None
    for step in range(1, settings.lora_steps + 1):
        z, t, target = draw(model, z_dist, settings.lora_batch, generator, levels)
        with torch.enable_grad(), sd.memory_errors("lora_batch or the picture's side"):
            loss = (sd.predict(model, z, t, cond) - target).square().mean()
            grads = torch.autograd.grad(loss * scale, params)
        value = loss.item()
        if not math.isfinite(value):
            raise NotFiniteError(
                f"fine-tune: the loss is {value} at step {step}; lower lora_lr or load with dtype='fp32'"
            )
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad / scale if scale != 1 else grad
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        scored, enough = score(step) if score else (None, False)
        yield LoraState(step, value, scored, enough or step == settings.lora_steps)
        if enough:
            return


def weights_of(model: sd.Model) -> dict[str, torch.Tensor]:
    """The attached adapter's weights, copied to the CPU, by their names in a diffusers file."""
    params = {PREFIX + name.replace(f".{ADAPTER}.", "."): p for name, p in _parameters(model).items()}
    return {name: p.detach().float().cpu().clone() for name, p in named(params).items()}


def merged(model: sd.Model, weights: dict[str, torch.Tensor]) -> sd.Model:
    """A second Model whose U-Net has the adapter added to its weights; the first stays as it is, bit for bit.

    Only the adapted matrices are new memory. With no weights the answer is still a private copy (`sd.private`).
    """
    added = deltas(model.unet, weights)
    own = sd.private(model, own=added.__contains__)
    add(own.unet, added)
    return own


@contextlib.contextmanager
def applied(model: sd.Model, weights: dict[str, torch.Tensor]) -> Iterator[sd.Model]:
    """The adapter added to the model's own weights inside the block; the old bits are put back at its end."""
    added = deltas(model.unet, weights)
    kept = {name: model.unet.get_parameter(name).detach().clone() for name in added}
    try:
        add(model.unet, added)
        yield model
    finally:
        for name, old in kept.items():
            model.unet.get_parameter(name).data.copy_(old)


def save(path: str | os.PathLike, weights: dict[str, torch.Tensor]) -> Path:
    """Write a diffusers LoRA file, whole or not at all; `StableDiffusionPipeline.load_lora_weights` reads it.

    Raises InputError for a file at `path` that `save` did not write, and where the disk is full.
    """
    from safetensors.torch import save as packed

    header = {"format": "pt", "made_by": SIGNATURE}
    with replacing(path, ours=signed) as temp:
        temp.write_bytes(packed({k: v.contiguous() for k, v in weights.items()}, header))
    return Path(path)
