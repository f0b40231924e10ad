"""Model files: where a model comes from, whether it is served, what it hashes to, how its parts are read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dragnb.errors import InputError, did_you_mean

PARTS = ("unet", "vae", "text_encoder")
HUB_NAMES = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
SD15_SIDE = 512  # pixels
CONFIG_FILES = ["model_index.json", "*/*config.json", "tokenizer/*"]
WEIGHT_FILES = [f"{part}/*.safetensors" for part in PARTS] + [f"{part}/*.index.json" for part in PARTS]
SKIPPED_FILES = ["*.fp16.*", "*non_ema*", "safety_checker/*", "feature_extractor/*"]
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
CONVERT = (
    "a pickle can run any code when it is opened; convert it in a throw-away environment with "
    "`StableDiffusionPipeline.from_single_file(path).save_pretrained(folder, safe_serialization=True)` "
    "and give the folder"
)


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


def resolve(model: str | os.PathLike, config: str | os.PathLike | None = None) -> Source:
    """Find what `model` names and make sure that it is a Stable Diffusion 1; raises InputError otherwise."""
    text = os.fspath(model)
    path = Path(text).expanduser()
    if text == "clay":
        return _folder(clay_folder(), "clay")
    if text.lower().endswith(PICKLES):
        raise _refusal(text, f"is a pickle and is refused: {CONVERT}")
    if path.is_dir():
        return _folder(path, text)
    if path.is_file() or text.endswith(".safetensors"):
        return _single_file(path, config)
    if path.is_absolute() or text.startswith("."):
        raise _refusal(text, "is gone: there is no such folder; has it been moved?")
    hub_id = HUB_NAMES.get(text, text)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        nearest = did_you_mean(text, ["clay", *HUB_NAMES])
        others = "or a hub id 'owner/name', a diffusers folder, a .safetensors file"
        raise _refusal(text, f"is unknown{nearest}; {others}")
    return _folder(download(hub_id, CONFIG_FILES + WEIGHT_FILES), text)


def _refusal(model, why: str) -> InputError:
    return InputError(f"model = {str(model)!r} {why}")


def side(model: str | os.PathLike) -> int | None:
    """The picture side that a model was trained at, from its config; None where only loading would tell."""
    text = os.fspath(model)
    if text in HUB_NAMES or text.lower().endswith(".safetensors"):
        return SD15_SIDE
    try:
        folder = clay_folder() if text == "clay" else Path(text).expanduser()
        unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
        return int(unet["sample_size"]) * pixels_per_cell(vae)
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None


def pixels_per_cell(config: Mapping) -> int:
    """How many picture pixels, a side, one latent cell of the autoencoder with this config stands for."""
    channels = config.get("block_out_channels") or config["decoder_block_out_channels"]
    return 2 ** (len(channels) - 1)


def clay_folder() -> Path:
    """Where the bundled model lies: $DRAGNB_MODELS/clay, or data/models/clay beside the package."""
    roots = [Path(__file__).resolve().parents[1] / "data" / "models"]
    if os.environ.get("DRAGNB_MODELS"):
        roots.insert(0, Path(os.environ["DRAGNB_MODELS"]).expanduser())
    for root in roots:
        if (root / "clay" / "model_index.json").exists():
            return root / "clay"
    places = " or ".join(str(root / "clay") for root in roots)
    remedy = "work from a clone of the repository, or set DRAGNB_MODELS to the folder that holds clay/"
    raise _refusal("clay", f"is missing: no model_index.json under {places}; {remedy}")


def download(hub_id: str, patterns: list[str]) -> Path:
    """The hub's files of one model, from its local cache or the network; raises InputError naming the cause."""
    import huggingface_hub
    from huggingface_hub import errors

    options = {"allow_patterns": patterns, "ignore_patterns": SKIPPED_FILES}
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, **options))
    except errors.GatedRepoError as error:
        raise _refusal(hub_id, "asks for a licence: accept it on its page, then `hf auth login`") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise _refusal(hub_id, "is not on the hub; check the spelling of owner/name") from error
    except Exception as error:
        # Every network stack has its own: no connection, time-out, proxy, offline mode.
        why = f"is not in the local cache and cannot be downloaded ({type(error).__name__})"
        remedy = "connect to the network, or use model='clay' or a local folder"
        raise _refusal(hub_id, f"{why}; {remedy}") from error


def _folder(path: Path, name: str) -> Source:
    """Check a diffusers folder by its index and the U-Net's config, and that its weights are safetensors."""
    if not (path / "model_index.json").exists():
        parts = "unet/, vae/, text_encoder/, tokenizer/ and scheduler/"
        raise _refusal(name, f"holds no model_index.json; give a diffusers folder with {parts}")
    index = read_json(path / "model_index.json")
    listed = {key for key, value in index.items() if isinstance(value, list) and value and value[0]}
    if "unet" not in listed or listed & {"transformer", "text_encoder_2", "image_encoder"}:
        kind = index.get("_class_name", "?")
        raise _refusal(name, f"is a {kind}; only the Stable Diffusion 1 family (U-Net, one CLIP) is served")
    for part in (*PARTS, "tokenizer", "scheduler"):
        if not (path / part).is_dir():
            raise _refusal(name, f"is not whole: the part {part}/ is missing; download the model again")
    check_unet(read_json(path / "unet" / "config.json"), name)
    for part in PARTS:
        if not weight_files(path / part):
            pickled = any(f.suffix in PICKLES for f in (path / part).iterdir())
            remedy = f"only has pickled weights: {CONVERT}" if pickled else "has none; download it again"
            raise _refusal(name, f"has no .safetensors weights: {part}/ {remedy}")
    return Source(path.resolve())


def check_unet(config: dict, name: str) -> None:
    """Refuse U-Nets that the method does not serve, by their config: inpainting, SDXL, other classes."""
    channels, kind = config.get("in_channels", 4), config.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel" or config.get("addition_embed_type") or config.get("class_embed_type"):
        raise _refusal(
            name, f"is no Stable Diffusion 1: its U-Net is a {kind}; SDXL and others are not served"
        )
    if channels != 4 or config.get("out_channels", 4) != 4:
        kind = f"has a U-Net of {channels} channels, so it is an inpainting or editing model"
        raise _refusal(name, f"{kind}; use a plain text-to-image Stable Diffusion 1")
    if len(config.get("up_block_types", ())) != 4:
        raise _refusal(name, "has a U-Net without four up blocks; use a Stable Diffusion 1")


def _single_file(path: Path, config) -> Source:
    """Check a single-file checkpoint by the names and shapes in its header, then find configs for it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise _refusal(path, "is missing: there is no such file")
    try:
        with safe_open(path, "pt") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _refusal(path, f"is no readable .safetensors file ({error}); download it again") from error
    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is None or any(k.startswith("conditioner.") for k in shapes):
        family = "SDXL" if first else "a LoRA, a part of a model, or a transformer (SD 3, Flux, DiT)"
        raise _refusal(path, f"looks like {family}; give a whole Stable Diffusion 1 checkpoint")
    if first[1] != 4:
        raise _refusal(path, f"reads {first[1]} channels: an inpainting model; use a plain one")
    if any(k.startswith("cond_stage_model.model.") for k in shapes):
        raise _refusal(path, "is a Stable Diffusion 2 file; convert it to a diffusers folder")
    folder = Path(config) if config else download(HUB_NAMES["sd15"], CONFIG_FILES)
    return Source(path.resolve(), folder.resolve())


def _identity(config: Path) -> dict:
    """A config without the keys that only say where it came from or who wrote it."""
    ignored = ("_name_or_path", "_diffusers_version", "transformers_version", "dtype", "torch_dtype")
    return {k: v for k, v in read_json(config).items() if k not in ignored}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that `from_pretrained` reads in a part's folder: no fp16 or non-EMA twins."""
    return sorted(f for f in folder.glob("*.safetensors") if not re.search(r"\.fp16\.|non_ema", f.name))


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
        raise InputError(f"model: {path} is no readable JSON ({error}); download the model again") from error


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
    from safetensors import SafetensorError

    try:
        return _read_file(source, dtype) if source.config else _read_folder(source.path, dtype)
    except (torch.OutOfMemoryError, InputError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"model: {source.path} cannot be loaded ({error}); download it again") from error


def _read_file(source: Source, dtype: torch.dtype):
    from diffusers import StableDiffusionPipeline

    options = {"config": str(source.config), "local_files_only": True, "safety_checker": None}
    pipe = StableDiffusionPipeline.from_single_file(str(source.path), **options, **_as(dtype))
    return pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, _scheduler(pipe.scheduler.config)


def _read_folder(root: Path, dtype: torch.dtype):
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    kind = read_json(root / "vae" / "config.json").get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise InputError(f"model: its autoencoder is a {kind}; use AutoencoderKL or AutoencoderTiny")

    def read(part_class, part, **options):
        return part_class.from_pretrained(root, subfolder=part, local_files_only=True, **options)

    safe = {"use_safetensors": True}
    unet = read(diffusers.UNet2DConditionModel, "unet", **safe, **_as(dtype))
    vae = read(getattr(diffusers, kind), "vae", **safe, **_as(torch.float32))
    text_encoder = read(CLIPTextModel, "text_encoder", **safe, dtype=torch.float32)
    betas = read_json(root / "scheduler" / "scheduler_config.json")
    return unet, vae, text_encoder, read(CLIPTokenizer, "tokenizer"), _scheduler(betas)


def _as(dtype: torch.dtype) -> dict:
    """The dtype of weights as every diffusers knows it: its 0.39, which Colab has, takes `dtype` for a mistake."""
    return {"torch_dtype": dtype}


def _scheduler(config: Mapping):
    """A scheduler with the model's own betas and prediction type; only these are read from it."""
    from diffusers import DDIMScheduler

    betas = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps")
    names = (*betas, "prediction_type")
    return DDIMScheduler(**{k: config[k] for k in names if config.get(k) is not None})
