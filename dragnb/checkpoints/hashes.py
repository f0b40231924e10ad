"""What computes, as one hash: of weight files, and of modules in memory by what is in them now."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

CHUNK = 2**20  # numbers of a tensor that are summed at once
ODD = 0x9E3779B97F4A7C15 - 2**64  # an odd number as int64: times a position it spreads over all bits
NEXT = 6364136223846793005  # odd: the sums of a tensor's chunks are told apart by its powers


def of_files(files: Iterable[Path]) -> Iterator[str]:
    """The sha256 of each file, computed once per process."""
    for file in files:
        stat = file.stat()
        yield _of_file(str(file.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _of_file(path: str, size: int, mtime_ns: int) -> str:
    """sha256 of a file. A hub download is named by its sha256 already."""
    if re.fullmatch(r"[0-9a-f]{64}", Path(path).name):
        return Path(path).name
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*modules: torch.nn.Module, **said) -> str:
    """64 hex digits that change with any weight, buffer or config of the modules, adapters on them, or values `said`.

    Each tensor is summed as whole numbers, weighted by position, where it lies: the same on every device, and at the
    speed of memory, so that it can be asked before every edit. It finds changes; it is no defence against forgery.
    """
    total = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for module in modules:
        config = getattr(module, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        total.update(json.dumps(without_origin(config), sort_keys=True, default=str).encode())
        for name, tensor in sorted(module.state_dict().items()):
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_sum(tensor)}".encode())
        for name, layer in module.named_modules():
            if scaling := getattr(layer, "scaling", None) if hasattr(layer, "active_adapters") else None:
                adapters = (scaling, layer.active_adapters, layer.disable_adapters, layer.merged_adapters)
                total.update(f"{name} {adapters}".encode())
    return total.hexdigest()


@torch.no_grad()
def _sum(tensor: torch.Tensor) -> int:
    """The tensor's bits as whole numbers, each times an odd number of its position's own, summed modulo 2^64.

    Positions are counted in a chunk, whose numbers are made once; the chunks' sums are the digits of a polynomial.
    """
    flat = tensor.detach().reshape(-1)
    flat = flat.cpu() if flat.device.type == "mps" else flat  # whole numbers of 64 bits are not served there
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    weights, total = _weights(flat.device), 0
    for chunk in flat.split(CHUNK):
        bits = chunk.view(kind).to(torch.int64, copy=True).add_(1)
        total = (total * NEXT + bits.mul_(weights[: len(bits)]).sum().item()) % 2**64
    return total


@functools.lru_cache(maxsize=4)
def _weights(device: torch.device) -> torch.Tensor:
    """A number for each place in a chunk, spread over all bits."""
    place = (torch.arange(CHUNK, device=device) * 2 + 1) * ODD
    return place ^ (place >> 29)


def without_origin(config: dict) -> dict:
    """A config without the keys that only say where it came from or who wrote it."""
    ignored = ("_name_or_path", "_diffusers_version", "transformers_version", "dtype", "torch_dtype")
    return {k: v for k, v in config.items() if k not in ignored}
