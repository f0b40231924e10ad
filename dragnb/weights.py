"""Weights on disk: which files they are, what they hash to, and how they become parts in memory. Serves `sd` only."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from dragnb.errors import InputError

PARTS = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class Source:
    """A model on disk: a diffusers folder, or a single file with the folder that holds its configs."""

    path: Path
    config: Path | None = None

    def files(self) -> list[Path]:
        """The weight files, sorted by name."""
        if self.path.is_file():
            return [self.path]
        return [f for part in PARTS for f in weight_files(self.path / part)]

    def stamp(self) -> tuple:
        """Changes when a weight file is replaced: sizes and times of change."""
        return tuple((f.stat().st_size, f.stat().st_mtime_ns) for f in self.files())

    def hash(self) -> str:
        """sha256 over the weight files and the configs beside them; the path plays no part."""
        total = hashlib.sha256()
        for file in self.files():
            stat = file.stat()
            total.update(_hash_file(str(file.resolve()), stat.st_size, stat.st_mtime_ns).encode())
        for part in (*PARTS, "scheduler"):
            for file in sorted((self.config or self.path).glob(f"{part}/*config.json")):
                total.update(json.dumps(_identity(file), sort_keys=True).encode())
        return total.hexdigest()


def _identity(config: Path) -> dict:
    """A config without the keys that only say where it came from or who wrote it."""
    ignored = ("_name_or_path", "_diffusers_version", "transformers_version", "dtype", "torch_dtype")
    return {k: v for k, v in read_json(config).items() if k not in ignored}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that `from_pretrained` reads in a part's folder: no fp16 or non-EMA twins."""
    return sorted(
        f for f in folder.glob("*.safetensors") if ".fp16." not in f.name and "non_ema" not in f.name
    )


@functools.lru_cache(maxsize=64)
def _hash_file(path: str, size: int, mtime_ns: int) -> str:
    """sha256 of a file, once per process. A hub download is named by its sha256 already."""
    if re.fullmatch(r"[0-9a-f]{64}", Path(path).name):
        return Path(path).name
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_modules(*modules: torch.nn.Module) -> str:
    """sha256 over the weights of modules in memory."""
    total = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def read_json(path: Path) -> dict:
    """A JSON file as a dict; InputError when it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"model: {path} cannot be read as JSON ({error}); download the model again"
        ) from error


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


def read_parts(source: Source, dtype: torch.dtype):
    """(unet, vae, text_encoder, tokenizer, scheduler) of a checked source, on the CPU."""
    import diffusers
    import transformers
    from safetensors import SafetensorError

    if source.config:
        pipe = diffusers.StableDiffusionPipeline.from_single_file(
            str(source.path),
            config=str(source.config),
            local_files_only=True,
            safety_checker=None,
            **_as(dtype),
        )
        return pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, _ddim(diffusers, pipe.scheduler.config)
    root = source.path
    kind = read_json(root / "vae" / "config.json").get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise InputError(f"model: its autoencoder is a {kind}; use AutoencoderKL or AutoencoderTiny")
    options = {"local_files_only": True, "use_safetensors": True}
    try:
        unet = diffusers.UNet2DConditionModel.from_pretrained(root, subfolder="unet", **_as(dtype), **options)
        vae = getattr(diffusers, kind).from_pretrained(root, subfolder="vae", **_as(torch.float32), **options)
        text = transformers.CLIPTextModel.from_pretrained(
            root, subfolder="text_encoder", dtype=torch.float32, **options
        )  # fmt: skip
        tokenizer = transformers.CLIPTokenizer.from_pretrained(
            root, subfolder="tokenizer", local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(f"model: {root} cannot be loaded ({error}); download it again") from error
    return (
        unet,
        vae,
        text,
        tokenizer,
        _ddim(diffusers, read_json(root / "scheduler" / "scheduler_config.json")),
    )


def _as(dtype: torch.dtype) -> dict:
    """The dtype of weights as every diffusers knows it: its 0.39, which Colab has, takes `dtype` for a mistake."""
    return {"torch_dtype": dtype}


def _ddim(diffusers, config):
    """A scheduler with the model's own betas and prediction type; only these are read from it."""
    names = (
        "beta_start",
        "beta_end",
        "beta_schedule",
        "num_train_timesteps",
        "prediction_type",
        "trained_betas",
    )
    return diffusers.DDIMScheduler(**{k: config[k] for k in names if config.get(k) is not None})
