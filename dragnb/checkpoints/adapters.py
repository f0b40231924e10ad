"""LoRA files, read from every spelling in use, and what they add to a U-Net's weights.

Weights travel as a dict in the diffusers file's own names: `unet.<module>.lora.down.weight` and `.lora.up.weight`.
"""

from __future__ import annotations

import collections
import json
import os
import re
import warnings

import torch

from dragnb.checkpoints import remedies
from dragnb.errors import InputError, bounded, reason_of, short

DOWN, UP = ".lora.down.weight", ".lora.up.weight"
PREFIX = "unet."
HALF = re.compile(r"(down|up|lora_A|lora_B)\.weight$")
ALPHA = re.compile(r"(\.lora\b|\.lora_A)?(\.weight)?\.alpha$")
# before a U-Net's names: what DataParallel, torch.compile and the public DragDiffusion put there, or nothing at all
WRAPPED = re.compile(r"^((unet|module|_orig_mod)\.)*(?=(down_blocks|mid_block|up_blocks|conv_|time_emb))")


def named(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by peft's names, renamed as in a diffusers file; diffusers' own function knows attention's alone."""
    return {k.replace(".lora_A.weight", DOWN).replace(".lora_B.weight", UP): w for k, w in weights.items()}


def deltas(unet: torch.nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """up @ down in float32 by the name of the U-Net parameter it is added to; checks names and shapes."""
    shapes, found = {name: p.shape for name, p in unet.named_parameters()}, {}
    for layer in (name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)):
        # a convolution's down has the kernel, its up is 1 x 1
        up, down = (weights[layer + half].float().flatten(1) for half in (UP, DOWN))
        name = layer.removeprefix(PREFIX) + ".weight"
        shape = shapes.get(name)
        if shape is None or (*up.shape, *down.shape) != (shape[0], len(down), len(down), shape[1:].numel()):
            raise InputError(
                f"LoRA: {layer} does not fit this model ({name}: {shape}); it was made for another one"
            )
        found[name] = (up @ down).view(shape)
    return found


def add(unet: torch.nn.Module, deltas: dict[str, torch.Tensor]) -> None:
    """Add in float32 and round once to the weights' dtype; diffusers' fusing rounds the product as well."""
    for name, delta in deltas.items():
        param = unet.get_parameter(name).data
        param.copy_(param.float() + delta.to(param.device))


AGAIN = "get the file again: download it, or make it with `lora.save`"


@bounded("LoRA", lambda path, error: remedies.of_file(error, AGAIN))
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
    return named(weights)


def check(path: str | os.PathLike) -> None:
    """Refuse a file that is no LoRA of a U-Net by the names in it, without reading its weights; raises InputError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            _require_unet((WRAPPED.sub(PREFIX, name) for name in file.keys()), path)  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_unreadable(path, error)) from error


def _unreadable(path, error) -> str:
    return f"LoRA: {path} cannot be read ({reason_of(error)}); {remedies.of_file(error, AGAIN)}"


def _require_unet(names, path) -> None:
    if not any(name.startswith((PREFIX, "lora_unet_")) for name in names):
        known = f"{PREFIX}….lora.down.weight"
        raise InputError(f"LoRA: {path} holds no U-Net weights named {known}; it is another kind of file")


def _read(path) -> tuple[dict[str, torch.Tensor], dict]:
    """A LoRA file's weights and alphas, and the configuration in its header; refuses what is not plain LoRA."""
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = {WRAPPED.sub(PREFIX, name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY) or "{}")
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(_unreadable(path, error)) from error
    _require_unet(state, path)
    if not isinstance(header, dict):
        raise InputError(f"LoRA: {path}: its header holds no settings by name, but {short(header)}; {AGAIN}")
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
