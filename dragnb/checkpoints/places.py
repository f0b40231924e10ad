"""Where a model is found: a bundled one, a folder, a file, the hub, its cache, or a pasted address."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from dragnb.checkpoints import remedies
from dragnb.errors import InputError, boundary, did_you_mean
from dragnb.store import recover

PARTS = ("unet", "vae", "text_encoder")
SECOND_ENCODER = "text_encoder_2"  # of an SDXL
ALL_PARTS = (*PARTS, SECOND_ENCODER)
BUNDLED = ("clay", "clay2")  # clay2 knows the clay world's second version as well
HUB_NAMES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
SD15_SIDE, SDXL_SIDE = 512, 1024  # pixels
CONFIG_FILES = ("model_index.json", "*/*config.json", "tokenizer/*", "tokenizer_2/*")
WEIGHT_FILES = tuple(f"{part}/*.{end}" for part in ALL_PARTS for end in ("safetensors", "index*.json"))
HALF_FILES = tuple(f"{part}/*.fp16*" for part in ALL_PARTS)
OTHER_FILES = ("*non_ema*", "safety_checker/*", "feature_extractor/*")
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
CONVERT = (
    "a pickle can run any code when it is opened; convert it in a throw-away environment with "
    "`StableDiffusionPipeline.from_single_file(path).save_pretrained(folder, safe_serialization=True)` "
    "and give the folder"
)
PACKAGE = Path(__file__).resolve().parents[1]


class HubId(NamedTuple):
    """A model of the hub: `owner/name`, its branch, tag or commit, one `file` of it or (None) all."""

    repo: str
    revision: str | None = None
    file: str | None = None


def refusal(model, why: str) -> InputError:
    """The error that a model cannot be used, in the words that all of them begin with."""
    return InputError(f"model = {str(model)!r} {why}")


def data_file(name: str) -> Path:
    """A file or folder that comes with dragnb, below data/: of a clone, or of the installed package."""
    for root in (PACKAGE.parent / "data", PACKAGE / "data"):
        if (root / name).exists():
            return root / name
    raise InputError(f"data/{name} did not come with this dragnb at {PACKAGE}; install it again, or clone it")


def clay_folder(name: str = "clay") -> Path:
    """Where a bundled model lies: $DRAGNB_MODELS/NAME, or the data that comes with dragnb."""
    roots = [PACKAGE.parent / "data" / "models", PACKAGE / "data" / "models"]
    if os.environ.get("DRAGNB_MODELS"):
        roots.insert(0, Path(os.environ["DRAGNB_MODELS"]).expanduser())
    for root in roots:
        if (root / name / "model_index.json").exists():
            return root / name
    places = " or ".join(str(root / name) for root in roots)
    remedy = f"install dragnb again, or set DRAGNB_MODELS to the folder that holds {name}/"
    raise refusal(name, f"is missing: no model_index.json under {places}; {remedy}")


def find(model: str | os.PathLike, half: bool = False) -> tuple[Path, str]:
    """The folder or the file that `model` names, fetched if need be, and its name; InputError where there is none.

    half  of the hub's files, those in half precision are wanted where there are such
    """
    text = os.fspath(model).strip()
    path = Path(text).expanduser()
    if text in BUNDLED:
        return clay_folder(text), text
    if text.lower().endswith(PICKLES):
        raise refusal(text, f"is a pickle and is refused: {CONVERT}")
    recover(path)
    if path.is_dir():
        path = snapshot(path) or path
        ours = _bundled(path) if (path / "unet").is_dir() else None
        return path.resolve(), ours or text
    if path.is_file():
        return path.resolve(), text
    if (hub := hub_id(text)) is None:
        raise _unknown(text, path)
    return from_hub(hub, text, half), text


def _bundled(path: Path) -> str | None:
    """The name of the bundled model that lies there."""
    for name in BUNDLED:
        with contextlib.suppress(InputError):
            if path.resolve() == clay_folder(name).resolve():
                return name
    return None


def _unknown(text: str, path: Path) -> InputError:
    if text.lower().endswith(".safetensors"):
        return refusal(text, "is missing: there is no such file")
    if path.is_absolute() or text.startswith((".", "~")):
        return refusal(text, "is gone: there is no such folder; has it been moved?")
    if "://" in text:
        return refusal(text, "is no address of the hub; download the file and give its path")
    others = "or a hub id 'owner/name', a diffusers folder, a .safetensors file"
    return refusal(text, f"is unknown{did_you_mean(text, [*BUNDLED, *HUB_NAMES])}; {others}")


def hub_id(text: str) -> HubId | None:
    """What a name means on the hub: `owner/name`, `owner/name@revision`, an address of it; None otherwise."""
    text = HUB_NAMES.get(text, text)
    word = r"[\w.-]+"
    page = re.fullmatch(
        rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/({word}/{word})"
        rf"(?:/(?:tree|blob|resolve)/({word})(/[^?#]+?)?)?/?(?:[?#].*)?",
        text,
    )
    if page:
        file = (page[3] or "").strip("/")
        return HubId(page[1], page[2], file if file.lower().endswith(".safetensors") else None)
    plain = re.fullmatch(rf"({word}/{word})(?:@([\w./-]+))?", text)
    if plain and not text.lower().endswith((".safetensors", *PICKLES)) and not text.startswith("."):
        return HubId(plain[1], plain[2])
    return None


def snapshot(folder: Path) -> Path | None:
    """Of a folder of the hub's cache, `models--owner--name`, the snapshot that is meant: main's, else the newest."""
    kept = [f for f in folder.glob("snapshots/*") if f.is_dir()]
    if not kept:
        return None
    main = folder / "refs" / "main"
    named = folder / "snapshots" / main.read_text().strip() if main.is_file() else None
    return named if named in kept else max(kept, key=lambda f: (f.stat().st_mtime, f.name))


def from_hub(hub: HubId, name: str, half: bool = False) -> Path:
    """A model's files from the hub, those of the wanted precision, or of the other where there are none of it."""
    if hub.file:
        return download(hub, [hub.file], name) / hub.file
    wanted, left_out = [*CONFIG_FILES, *WEIGHT_FILES], list(OTHER_FILES)
    if half:
        wanted = [*CONFIG_FILES, *HALF_FILES]
    else:
        left_out += ["*.fp16*"]
    folder = download(hub, wanted, name, left_out)
    if any((folder / part).is_dir() and not any((folder / part).glob("*.safetensors")) for part in ALL_PARTS):
        folder = download(hub, [*CONFIG_FILES, *WEIGHT_FILES], name, OTHER_FILES)
    return folder


def download(hub: HubId, patterns: Iterable[str], name: str, ignored: Iterable[str] = OTHER_FILES) -> Path:
    """The hub's files of one model, from its local cache or the network; raises InputError naming the cause."""
    import huggingface_hub
    from huggingface_hub import errors

    options = {"allow_patterns": list(patterns), "ignore_patterns": list(ignored), "revision": hub.revision}
    try:
        return Path(huggingface_hub.snapshot_download(hub.repo, **options))
    except errors.GatedRepoError as error:
        raise refusal(name, "asks for a licence: accept it on its page, then `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise refusal(
            name, f"has no revision {hub.revision!r} on the hub; see its page's branches"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise refusal(name, "is not on the hub; check the spelling of owner/name") from error
    except Exception as error:
        # Every network stack has its own: no connection, time-out, proxy, offline mode. A cache that was copied, or
        # filled by commit, has no refs/main, and is used all the same.
        if (found := _cached(hub)) is not None and not _in_part(found, options["allow_patterns"]):
            return found
        why = f"is not, or not whole, in the local cache and cannot be downloaded ({type(error).__name__})"
        raise refusal(name, f"{why}; {remedies.of_download(error)}") from error


def _in_part(found: Path, patterns: list[str]) -> bool:
    """Did a download break off before the weights that it was for?"""
    if not any("safetensors" in pattern for pattern in patterns):
        return False
    parts = [found / part for part in PARTS if (found / part).is_dir()]
    ends = (".safetensors", *PICKLES)
    return any(not any(f.suffix in ends and f.exists() for f in part.iterdir()) for part in parts)


def _cached(hub: HubId) -> Path | None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub.repo.replace('/', '--')}"
    if hub.revision:
        ref = folder / "refs" / hub.revision
        commit = ref.read_text().strip() if ref.is_file() else hub.revision
        kept = [f for f in folder.glob("snapshots/*") if f.name.startswith(commit)]
        return kept[0] if len(kept) == 1 else None
    return snapshot(folder)


def side(model: str | os.PathLike) -> int | None:
    """The picture side that a model was trained at, from its config; None where only loading would tell."""
    text = os.fspath(model)
    if text in HUB_NAMES or text.lower().endswith(".safetensors"):
        return SDXL_SIDE if text == "sdxl" else SD15_SIDE
    try:
        folder = clay_folder(text) if text in BUNDLED else Path(text).expanduser()
        unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
        return side_of(unet, vae)
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None


def side_of(unet: Mapping, vae: Mapping) -> int:
    """The picture side of a U-Net's and an autoencoder's configs; SD 1.5's where they leave it open (null).

    A `sample_size` of two numbers, rows and columns, counts by the longer one.
    """
    cells = unet.get("sample_size")
    cells = max(cells) if isinstance(cells, (list, tuple)) and cells else cells
    return int(cells) * pixels_per_cell(vae) if cells else SD15_SIDE


def pixels_per_cell(config: Mapping) -> int:
    """How many picture pixels, a side, one latent cell of the autoencoder with this config stands for."""
    channels = config.get("block_out_channels") or config["decoder_block_out_channels"]
    return 2 ** (len(channels) - 1)


def read_json(path: Path) -> dict:
    """A JSON file as a dict; InputError when it is no JSON."""
    with boundary(f"model: {path} cannot be read", remedies.of_file):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise InputError(f"model: {path} holds no settings by name; {remedies.AGAIN}")
    return found
