"""Identity-preserving fine-tune (paper §3.2, eq. 2): a low-rank adapter teaches the U-Net one picture.

W' = W + up @ down on the attention projections, rank = alpha, so the scale is one everywhere and no file can lose
it. Weights travel as a dict in the diffusers file's own names: `unet.<module>.lora.down.weight` and `.lora.up.weight`.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dragnb import sd
from dragnb.errors import InputError, NotFiniteError
from dragnb.store.files import SIGNATURE, replacing, signed

ADAPTER = "dragnb"
DOWN, UP = ".lora.down.weight", ".lora.up.weight"
PREFIX = "unet."
HALF = re.compile(r"(down|up|lora_A|lora_B)\.weight$")
ALPHA = re.compile(r"(\.lora\b|\.lora_A)?(\.weight)?\.alpha$")
# before a U-Net's names: what DataParallel, torch.compile and the public DragDiffusion put there, or nothing at all
WRAPPED = re.compile(r"^((unet|module|_orig_mod)\.)*(?=(down_blocks|mid_block|up_blocks|conv_|time_emb))")
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
    return {name: p.detach().float().cpu().clone() for name, p in _named(params).items()}


def _named(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by peft's names, renamed as in a diffusers file; diffusers' own function knows attention's alone."""
    return {k.replace(".lora_A.weight", DOWN).replace(".lora_B.weight", UP): w for k, w in weights.items()}


def _deltas(model: sd.Model, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """up @ down in float32 by the name of the U-Net parameter it is added to; checks names and shapes."""
    shapes, deltas = {name: p.shape for name, p in model.unet.named_parameters()}, {}
    for layer in (name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)):
        # a convolution's down has the kernel, its up is 1 x 1
        up, down = (weights[layer + half].float().flatten(1) for half in (UP, DOWN))
        name = layer.removeprefix(PREFIX) + ".weight"
        shape = shapes.get(name)
        if shape is None or (*up.shape, *down.shape) != (shape[0], len(down), len(down), shape[1:].numel()):
            raise InputError(
                f"LoRA: {layer} does not fit this model ({name}: {shape}); it was made for another one"
            )
        deltas[name] = (up @ down).view(shape)
    return deltas


def merged(model: sd.Model, weights: dict[str, torch.Tensor]) -> sd.Model:
    """A second Model whose U-Net has the adapter added to its weights; the first stays as it is, bit for bit.

    Only the adapted matrices are new memory. With no weights the answer is still a private copy (`sd.private`).
    """
    deltas = _deltas(model, weights)
    own = sd.private(model, own=deltas.__contains__)
    _add(own, deltas)
    return own


@contextlib.contextmanager
def applied(model: sd.Model, weights: dict[str, torch.Tensor]) -> Iterator[sd.Model]:
    """The adapter added to the model's own weights inside the block; the old bits are put back at its end."""
    deltas = _deltas(model, weights)
    kept = {name: model.unet.get_parameter(name).detach().clone() for name in deltas}
    try:
        _add(model, deltas)
        yield model
    finally:
        for name, old in kept.items():
            model.unet.get_parameter(name).data.copy_(old)


def _add(model: sd.Model, deltas: dict[str, torch.Tensor]) -> None:
    """Add in float32 and round once to the weights' dtype; diffusers' fusing rounds the product as well."""
    for name, delta in deltas.items():
        param = model.unet.get_parameter(name).data
        param.copy_(param.float() + delta.to(param.device))


def save(path: str | os.PathLike, weights: dict[str, torch.Tensor]) -> Path:
    """Write a diffusers LoRA file, whole or not at all; `StableDiffusionPipeline.load_lora_weights` reads it.

    Raises InputError for a file at `path` that `save` did not write, and where the disk is full.
    """
    from safetensors.torch import save as packed

    header = {"format": "pt", "made_by": SIGNATURE}
    with replacing(path, ours=signed) as temp:
        temp.write_bytes(packed({k: v.contiguous() for k, v in weights.items()}, header))
    return Path(path)


def load(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the U-Net's part of a LoRA file that `save`, diffusers, peft or kohya wrote.

    The scale, alpha / rank, is folded into `up`, whether the alpha stands beside the weights or in the file's header.
    A text encoder's part is left out with a warning. Raises InputError for a file that is broken or incomplete, or
    that holds more than up @ down, as DoRA does.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.utils import convert_unet_state_dict_to_peft
    from peft.utils.other import get_pattern_key

    state, header = _read(path)
    alphas = {name: state.pop(name) for name in list(state) if name.endswith(".alpha")}
    if all(name.startswith("lora_") for name in state):  # kohya's names
        state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(state | alphas)
    state, alphas = convert_unet_state_dict_to_peft(state), convert_unet_state_dict_to_peft(alphas)
    alphas = {ALPHA.sub("", name): float(alpha) for name, alpha in alphas.items()}
    weights = {name: weight for name, weight in state.items() if name.startswith(PREFIX)}
    if left_out := len(state) - len(weights):
        warnings.warn(f"LoRA: {path}: {left_out} weights of a text encoder are left out", stacklevel=2)
    patterns = header.get("alpha_pattern") or {}
    for name in [name for name in weights if ".lora_B." in name]:
        layer, rank = name.split(".lora_B.")[0], weights[name].shape[1]
        alpha = patterns.get(get_pattern_key(patterns, layer), header.get("lora_alpha", rank))
        scale = alphas.get(layer, alpha) / rank
        if scale != 1:
            weights[name] = weights[name].float() * scale
    return _named(weights)


def _read(path) -> tuple[dict[str, torch.Tensor], dict]:
    """A LoRA file's weights and alphas, and the configuration in its header; refuses what is not plain LoRA."""
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = {WRAPPED.sub(PREFIX, name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY) or "{}")
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"LoRA: {path} cannot be read ({error}); make it again with `lora.save`") from error
    if not any(name.startswith((PREFIX, "lora_unet_")) for name in state):
        names = f"{PREFIX}….lora.down.weight"
        raise InputError(f"LoRA: {path} holds no U-Net weights named {names}; it is another kind of file")
    header = {name.removeprefix(PREFIX): value for name, value in header.items()}
    if kinds := [name for name, value in header.items() if name.startswith("use_") and value]:
        raise InputError(f"LoRA: {path} was made with {kinds[0]}; only plain LoRA, up @ down, can be merged")
    halves = collections.Counter(HALF.sub("", name) for name in state if not name.endswith(".alpha"))
    if alone := [name for name in state if halves[HALF.sub("", name)] == 1]:
        raise InputError(
            f"LoRA: {path}: {len(alone)} of {len(state)} weights are no pair of down and up, as {alone[0]}; "
            "the file is incomplete, or of a kind that cannot be merged"
        )
    return state, header
