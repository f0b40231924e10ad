"""Single files in the original names, as Civitai has them: checked by header, completed by configs.

Such a file says neither its layers' settings nor its words. Its shapes tell Stable Diffusion 1 from 2; whether it
predicts noise or v is read from a yaml beside it, from marks among its keys, or from its metadata.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dragnb.checkpoints import remedies, scheduler, sdxl
from dragnb.checkpoints.folders import check_unet
from dragnb.checkpoints.places import CONFIG_FILES, download, hub_id, read_json, refusal
from dragnb.errors import InputError

CONFIGS = Path(__file__).parent / "configs"
UNET, VAES, TEXT, OPEN_CLIP = (
    "model.diffusion_model.",
    ("first_stage_model.", "vae."),
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
)
XL_TEXT, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
XL_REFINER = "conditioner.embedders.0.model."  # its only text encoder
WHERE_WIDTHS_TELL = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
SD2_WIDTH = 1024  # of the prompt's embedding; Stable Diffusion 1 has 768


@dataclass(frozen=True)
class Original:
    """A checked single file: the folder of its configs, its scheduler's config, and whether the model must be asked.

    asks  nothing says whether it predicts noise or v, so that only its answer tells
    """

    config: Path
    plan: tuple[tuple[str, object], ...]
    asks: bool = False


def header(path: Path, name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes and the metadata of a safetensors file; InputError when it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        why = f"is no readable .safetensors file ({error})"
        raise refusal(name, f"{why}; {remedies.of_file(error)}") from error


def _is_sdxl(shapes: dict[str, tuple[int, ...]], name: str) -> bool:
    """Is a file an SDXL, and no Stable Diffusion 1 or 2? InputError where it is neither, or not whole."""
    first = shapes.get(UNET + "input_blocks.0.0.weight")
    if first is None:
        kinds = "a LoRA, a part of a model, or a transformer (SD 3, Flux, DiT)"
        raise refusal(name, f"looks like {kinds}; give a whole Stable Diffusion checkpoint")
    if first[1] != 4:
        raise refusal(name, f"reads {first[1]} channels: an inpainting model; use a plain one")
    if any(k.startswith(XL_REFINER) for k in shapes):
        raise sdxl.refuse_refiner(name)
    xl = any(k.startswith(("conditioner.", UNET + "label_emb.")) for k in shapes)
    for texts in ((XL_TEXT,), (XL_OPEN_CLIP,)) if xl else ((TEXT, OPEN_CLIP),):
        if not any(k.startswith(texts) for k in shapes):
            which = "not both text encoders of an SDXL" if xl else "no text encoder"
            raise refusal(name, f"holds {which} (no {texts[0]}…); give a whole checkpoint")
    return xl


def check(path: Path, config, name: str) -> Original:
    """Check a single file by the names and shapes in its header, and find the configs for it.

    config  a diffusers folder, a hub id or a yaml of the original code; None takes those that come with dragnb
    """
    shapes, metadata = header(path, name)
    xl = _is_sdxl(shapes, name)
    marks = _marks(shapes, metadata, path)
    width = shapes.get(UNET + WHERE_WIDTHS_TELL, (0, 0))[1]
    second = width == SD2_WIDTH or any(k.startswith(OPEN_CLIP) for k in shapes)
    folder, said = _configs(config, name, second)
    marks = marks | said
    if folder is None:
        v = marks.get("prediction_type") == "v_prediction"
        folder = CONFIGS / ("sdxl" if xl else ("sd21-v" if v else "sd21-base") if second else "sd15")
    own = read_json(folder / "scheduler" / "scheduler_config.json")
    shipped = CONFIGS in folder.parents
    plan = own | marks if shipped or "prediction_type" not in own else marks | own
    plan |= {"rescale_betas_zero_snr": True} if marks.get("rescale_betas_zero_snr") else {}
    check_unet(unet := read_json(folder / "unet" / "config.json"), name)
    if xl != sdxl.is_sdxl(unet):
        raise refusal(name, f"does not fit its config: only one of both is an SDXL; config = {config!r}")
    if xl:
        sdxl.check_distilled(plan, {}, name, metadata.get("modelspec.title", ""))
    else:
        scheduler.warn_of_distilled(plan, {}, name)
    return Original(
        folder, tuple(sorted(plan.items())), shipped and second and "prediction_type" not in marks
    )


def _configs(config, name: str, second: bool) -> tuple[Path | None, dict]:
    """The folder that `config` means, None for those that come with dragnb, and what a yaml says."""
    if not config:
        return None, {}
    path = Path(os.fspath(config)).expanduser()
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        return None, {"prediction_type": "epsilon"} | _yaml(path)
    if not path.is_dir() and (hub := hub_id(os.fspath(config))) and not os.fspath(config).startswith("~"):
        path = download(hub, CONFIG_FILES, os.fspath(config))
    for part in ("unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer", "scheduler"):
        if not (path / part).exists():
            ways = "give a diffusers folder, its hub id, a .yaml of the original code, or none"
            raise InputError(f"config = {os.fspath(config)!r} holds no {part}; {ways}")
    return path.resolve(), {}


def _marks(names: Iterable[str], metadata: dict, path: Path) -> dict:
    """What a file says of its noise schedule: in a yaml of its name, in empty keys, in metadata, in that order."""
    found = {}
    told = str(metadata.get("modelspec.prediction_type", "")).lower()
    if told in ("v", "v_prediction", "v-prediction", "epsilon", "eps"):
        found["prediction_type"] = "v_prediction" if told.startswith("v") else "epsilon"
    if "v_pred" in names:
        found["prediction_type"] = "v_prediction"
    if "ztsnr" in names or str(metadata.get("ss_zero_terminal_snr", "")).lower() == "true":
        found["rescale_betas_zero_snr"] = True
    for beside in (path.with_suffix(end) for end in (".yaml", ".yml", ".YAML")):
        if beside.is_file():
            return found | {"prediction_type": "epsilon"} | _yaml(beside)
    return found


def _yaml(path: Path) -> dict:
    """A yaml of the original code: `parameterization: v`, zero terminal SNR."""
    import yaml

    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        v = str(params.get("parameterization", "eps")).lower().startswith("v")
        zero = any(params.get(k) for k in ("ztsnr", "zsnr", "zero_terminal_snr", "rescale_betas_zero_snr"))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no yaml of a model ({error}); correct it or take it away") from error
    return ({"prediction_type": "v_prediction"} if v else {}) | (
        {"rescale_betas_zero_snr": True} if zero else {}
    )
