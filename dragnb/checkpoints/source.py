"""A model as it was asked for, checked before its weights are read: what it hashes to, and its parts."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from dragnb.checkpoints import adapters, files, folders, hashes, originals, remedies, sdxl
from dragnb.checkpoints.places import ALL_PARTS, download, find, from_hub, hub_id, read_json, refusal
from dragnb.errors import InputError, boundary


@dataclass(frozen=True)
class Source:
    """A model on disk: a diffusers folder, or a single file; with what the user lays over it.

    half       of twins, the weights in half precision are read
    original   of a single file: where its configs are, and its noise schedule
    vae, lora  another autoencoder; an adapter merged into the U-Net
    clip_skip  so many last layers of the text encoder are left out
    """

    path: Path
    name: str
    half: bool = False
    original: files.Original | None = None
    vae: Path | None = None
    lora: Path | None = None
    clip_skip: int = 0

    def files(self) -> list[Path]:
        """The weight files, sorted by name, and those laid over them."""
        own = [self.path]
        if self.path.is_dir():
            parts = folders.parts_of(self.path)
            own = [f for part in parts for f in folders.weight_files(self.path / part, self.half, self.name)]
        return [*own, *self._laid_over()]

    def _laid_over(self) -> list[Path]:
        vae = [self.vae] if self.vae else []
        if self.vae and self.vae.is_dir():
            folder = self.vae / "vae" if (self.vae / "vae").is_dir() else self.vae
            vae = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json"))
        return [*vae, *([self.lora] if self.lora else [])]

    def stamp(self) -> tuple:
        """Changes when a weight file is replaced: sizes and times of change."""
        return tuple((f.stat().st_size, f.stat().st_mtime_ns) for f in self.files())

    def hash(self) -> str:
        """sha256 over the weight files, the configs beside them, and what is laid over; the path plays no part."""
        total = hashlib.sha256()
        for digest in hashes.of_files(self.files()):
            total.update(digest.encode())
        configs = self.original.config if self.original else self.path
        for part in (*ALL_PARTS, "scheduler"):
            for file in sorted(configs.glob(f"{part}/*config.json")):
                total.update(json.dumps(hashes.without_origin(read_json(file)), sort_keys=True).encode())
        if not folders.zeros(configs):
            total.update(b"no prompt is an empty one")
        laid_over = (bool(self.vae), bool(self.lora), self.clip_skip)
        if self.original or any(laid_over):
            plan = self.original.plan if self.original else ()
            total.update(json.dumps([plan, laid_over], default=str).encode())
        return total.hexdigest()


def resolve(
    model: str | os.PathLike, config=None, half: bool = False, vae=None, lora=None, clip_skip: int = 0
) -> Source:
    """Find what `model` names and make sure that it is a Stable Diffusion 1 or 2; raises InputError otherwise."""
    path, name = find(model, half)
    laid = {"vae": _vae(vae), "lora": _lora(lora), "clip_skip": _checked_skip(clip_skip)}
    if path.is_dir():
        if config:
            raise InputError(
                f"config = {os.fspath(config)!r}: model = {name!r} is a folder with configs of its own"
            )
        folders.check(path, name, half)
        return Source(path.resolve(), name, half, **laid)
    if path.suffix.lower() != ".safetensors":
        raise refusal(name, "is no .safetensors file; give such a file or a diffusers folder")
    return Source(path.resolve(), name, half, files.check(path, config, name), **laid)


def check_laid_over(vae=None, lora=None, clip_skip: int = 0) -> None:
    """Refuse what cannot be laid over a model, read by the names in the files alone; raises InputError.

    What is on the hub is not fetched for it, and how many layers a text encoder has only the model tells.
    """
    _checked_skip(clip_skip)
    if (path := _lora(lora)) is not None:
        adapters.check(path)
    if vae and (Path(os.fspath(vae)).expanduser().exists() or not hub_id(os.fspath(vae))):
        originals.check_vae(_vae(vae), os.fspath(vae))


def _checked_skip(clip_skip: int) -> int:
    if isinstance(clip_skip, bool) or not isinstance(clip_skip, int) or clip_skip < 0:
        raise InputError(
            f"clip_skip = {clip_skip!r} is no whole number from 0; 0 is all layers, 1 leaves out the last"
        )
    return clip_skip


def _lora(lora) -> Path | None:
    if not lora:
        return None
    path = Path(os.fspath(lora)).expanduser()
    if not path.is_file():
        raise InputError(
            f"lora = {os.fspath(lora)!r}: there is no such file; give a LoRA's .safetensors file"
        )
    return path.resolve()


def _vae(vae) -> Path | None:
    if not vae:
        return None
    text = os.fspath(vae)
    path = Path(text).expanduser()
    if not path.exists() and (hub := hub_id(text)):
        path = (
            from_hub(hub, text) if hub.file else download(hub, ["*.safetensors", "*.json"], text, ["*.fp16*"])
        )
    if not path.exists():
        raise InputError(
            f"vae = {text!r} is not there; give an autoencoder's folder, .safetensors file or hub id"
        )
    return path.resolve()


def read_parts(source: Source, dtype: torch.dtype):
    """(unet, vae, text_encoder, tokenizer, scheduler) of a checked source, on the CPU, with what is laid over."""
    problem, passing = f"model: {source.path} cannot be loaded", (torch.OutOfMemoryError, MemoryError)
    with boundary(problem, functools.partial(remedies.remedy, source), passing):
        parts = _read(source, dtype)
        if source.lora:
            adapters.add(parts[0], adapters.deltas(parts[0], adapters.load(source.lora)))
        if source.clip_skip:
            _skip(parts[2], source.clip_skip)
        return parts


def _read(source: Source, dtype: torch.dtype):
    if source.original:
        found = originals.read(source.path, source.original, dtype, source.name, source.vae is None)
    else:
        found = folders.read(source.path, dtype, source.name, source.half, source.vae is None)
    unet, vae, *rest = found
    if source.vae is not None:
        own = source.original.config if source.original else source.path
        vae = originals.read_vae(source.vae, own, str(source.vae))
    return unet, vae, *rest


def _skip(text_encoder, layers: int) -> None:
    """Leave out the text encoder's last layers; its final norm still comes last, as in diffusers' `clip_skip`."""
    if isinstance(text_encoder, sdxl.Encoders):
        return text_encoder.skip_layers(layers)
    encoder = getattr(text_encoder, "text_model", text_encoder).encoder
    if layers >= len(encoder.layers):
        raise InputError(
            f"clip_skip = {layers}: the text encoder has {len(encoder.layers)} layers; leave out fewer"
        )
    encoder.layers = encoder.layers[:-layers]
    text_encoder.config.num_hidden_layers = len(encoder.layers)


@contextlib.contextmanager
def quiet():
    """Silence the libraries' progress bars and remarks inside the block: importing, loading."""
    import transformers.utils.logging as transformers_log

    with contextlib.ExitStack() as stack:
        bars = transformers_log.is_progress_bar_enabled()
        stack.callback(transformers_log.set_verbosity, transformers_log.get_verbosity())
        transformers_log.set_verbosity_error()
        if bars:
            transformers_log.disable_progress_bar()
            stack.callback(transformers_log.enable_progress_bar)
        import diffusers.utils.logging as diffusers_log

        stack.callback(diffusers_log.set_verbosity, diffusers_log.get_verbosity())
        diffusers_log.set_verbosity_error()
        yield
