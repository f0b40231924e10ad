"""Where a model comes from: names, hub ids, folders and files; what is refused, and why. Serves `sd` only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from dragnb.errors import InputError, did_you_mean
from dragnb.weights import PARTS, Source, read_json, weight_files

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


def resolve(model: str | os.PathLike, config: str | os.PathLike | None = None) -> Source:
    """Find what `model` names and make sure that it is a Stable Diffusion 1; raises InputError otherwise."""
    text = os.fspath(model)
    path = Path(text).expanduser()
    if text == "clay":
        return _folder(clay_folder(), "clay")
    if text.lower().endswith(PICKLES):
        raise InputError(f"model = {text!r} is a pickle and is refused: {CONVERT}")
    if path.is_dir():
        return _folder(path, text)
    if path.is_file() or text.endswith(".safetensors"):
        return _single_file(path, config)
    if path.is_absolute() or text.startswith("."):
        raise InputError(f"model = {text!r}: there is no such folder; has it been moved?")
    hub_id = HUB_NAMES.get(text, text)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        raise InputError(
            f"model = {text!r} is unknown{did_you_mean(text, ['clay', *HUB_NAMES])}; or a hub id 'owner/name', a "
            "diffusers folder, a .safetensors file"
        )
    return _folder(download(hub_id, CONFIG_FILES + WEIGHT_FILES), text)


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
    raise InputError(
        f"model = 'clay': no model_index.json under {' or '.join(str(r / 'clay') for r in roots)}; work from a "
        "clone of the repository, or set DRAGNB_MODELS to the folder that holds clay/"
    )


def download(hub_id: str, patterns: list[str]) -> Path:
    """The hub's files of one model, from its local cache or the network; raises InputError naming the cause."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=SKIPPED_FILES)
        )  # fmt: skip
    except errors.GatedRepoError as error:
        raise InputError(
            f"model = {hub_id!r} asks for a licence: accept it on its page, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(f"model = {hub_id!r} is not on the hub; check the spelling of owner/name") from error
    except (
        Exception
    ) as error:  # every network stack has its own: no connection, time-out, proxy, offline mode
        raise InputError(
            f"model = {hub_id!r} is not in the local cache and cannot be downloaded ({type(error).__name__}); connect "
            "to the network, or use model='clay' or a local folder"
        ) from error


def _folder(path: Path, name: str) -> Source:
    """Check a diffusers folder by its index and the U-Net's config, and that its weights are safetensors."""
    if not (path / "model_index.json").exists():
        raise InputError(
            f"model = {name!r}: the folder holds no model_index.json; give a diffusers folder with unet/, vae/, "
            "text_encoder/, tokenizer/ and scheduler/"
        )
    index = read_json(path / "model_index.json")
    kind = index.get("_class_name", "?")
    listed = {key for key, value in index.items() if isinstance(value, list) and value and value[0]}
    if "unet" not in listed or listed & {"transformer", "text_encoder_2", "image_encoder"}:
        raise InputError(
            f"model = {name!r} is a {kind}; only the Stable Diffusion 1 family (U-Net, one CLIP) is served"
        )
    for part in (*PARTS, "tokenizer", "scheduler"):
        if not (path / part).is_dir():
            raise InputError(f"model = {name!r}: the part {part}/ is missing; download the model again")
    check_unet(read_json(path / "unet" / "config.json"), name)
    for part in PARTS:
        if not weight_files(path / part):
            pickled = any(f.suffix in PICKLES for f in (path / part).iterdir())
            why = (
                f"only has pickled weights: {CONVERT}"
                if pickled
                else "has no .safetensors weights; download it again"
            )
            raise InputError(f"model = {name!r}: {part}/ {why}")
    return Source(path.resolve())


def check_unet(config: dict, name: str) -> None:
    """Refuse U-Nets that the method does not serve, by their config: inpainting, SDXL, other classes."""
    channels, kind = config.get("in_channels", 4), config.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel" or config.get("addition_embed_type") or config.get("class_embed_type"):
        raise InputError(
            f"model = {name!r}: its U-Net is not Stable Diffusion 1's ({kind}); SDXL and others are not served"
        )
    if channels != 4 or config.get("out_channels", 4) != 4:
        raise InputError(
            f"model = {name!r}: its U-Net reads {channels} channels, so it is an inpainting or editing model; "
            "use a plain text-to-image Stable Diffusion 1"
        )
    if len(config.get("up_block_types", ())) != 4:
        raise InputError(f"model = {name!r}: its U-Net has not four up blocks; use a Stable Diffusion 1")


def _single_file(path: Path, config) -> Source:
    """Check a single-file checkpoint by the names and shapes in its header, then find configs for it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"model = {str(path)!r}: there is no such file")
    try:
        with safe_open(path, "pt") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"model = {str(path)!r} is no readable .safetensors file ({error}); download it again"
        ) from error
    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is None or any(k.startswith("conditioner.") for k in shapes):
        family = "SDXL" if first else "a LoRA, a part of a model, or a transformer (SD 3, Flux, DiT)"
        raise InputError(
            f"model = {str(path)!r} looks like {family}; give a whole Stable Diffusion 1 checkpoint"
        )
    if first[1] != 4:
        raise InputError(
            f"model = {str(path)!r} reads {first[1]} channels: an inpainting model; use a plain one"
        )
    if any(k.startswith("cond_stage_model.model.") for k in shapes):
        raise InputError(
            f"model = {str(path)!r} is a Stable Diffusion 2 file; convert it to a diffusers folder"
        )
    folder = Path(config) if config else download(HUB_NAMES["sd15"], CONFIG_FILES)
    return Source(path.resolve(), folder.resolve())
