"""Diffusers folders: checked by their configs before a weight is read, and by all that loading says afterwards."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch

from dragnb.checkpoints import remedies, scheduler, sdxl
from dragnb.checkpoints.places import CONVERT, PARTS, PICKLES, SECOND_ENCODER, read_json, refusal
from dragnb.checkpoints.remedies import AGAIN
from dragnb.errors import InputError, short

SHARD = r"-\d{5}-of-\d{5}"
WEIGHTS = re.compile(
    rf"(?:diffusion_pytorch_model|model)(?:{SHARD})?(?:\.(?P<variant>\w+))?(?:{SHARD})?\.safetensors"
)
OTHERS = {"transformer", "image_encoder", "motion_adapter"}  # parts of other families
LARGEST = 100_000  # in a config: the words of CLIP are 49,408
NEVER = ("non_ema",)  # weights for training on
AUTOENCODERS = {"AutoencoderKL": 0.18215, "AutoencoderTiny": 1.0}  # and their scaling factors by default
# Buffers and heads that older libraries wrote and that nothing here reads.
UNREAD = re.compile(r"position_ids$|text_projection|logit_scale|^vision_model\.|^visual_projection")


def check(path: Path, name: str, half: bool) -> None:
    """Check a diffusers folder by its index and the U-Net's config, and that its weights are safetensors."""
    if not (path / "model_index.json").exists():
        parts = "unet/, vae/, text_encoder/, tokenizer/ and scheduler/"
        raise refusal(name, f"holds no model_index.json; give a diffusers folder with {parts}")
    index = read_json(path / "model_index.json")
    listed = {key for key, value in index.items() if isinstance(value, list) and value and value[0]}
    if index.get("requires_aesthetics_score") or (SECOND_ENCODER in listed and "text_encoder" not in listed):
        raise sdxl.refuse_refiner(name)
    needed = (*PARTS, "tokenizer", "scheduler")
    # a part that is neither there nor in the index is not lost: this family has none
    unknown = any(part not in listed and not (path / part).is_dir() for part in needed)
    if "unet" not in listed or unknown or listed & OTHERS:
        kind = index.get("_class_name", "?")
        raise refusal(name, f"is a {kind}; only Stable Diffusion 1, 2 and XL (U-Net, CLIP) are served")
    for part in (*needed, SECOND_ENCODER, "tokenizer_2") if SECOND_ENCODER in listed else needed:
        if not (path / part).is_dir():
            raise refusal(name, f"is not whole: the part {part}/ is missing; {AGAIN}")
    unet = read_json(path / "unet" / "config.json")
    check_unet(unet, name)
    if sdxl.is_sdxl(unet) != (SECOND_ENCODER in listed):
        raise refusal(name, f"is not whole: its U-Net and model_index.json disagree on {SECOND_ENCODER}/")
    for part in parts_of(path):
        weight_files(path / part, half, name)
    plan = read_json(path / "scheduler" / "scheduler_config.json")
    names = name, index.get("_name_or_path", "")
    if sdxl.is_sdxl(unet):
        sdxl.check_distilled(plan, unet, *names)
    else:
        scheduler.warn_of_distilled(plan, unet, " ".join(names).strip())


def parts_of(path: Path) -> tuple[str, ...]:
    """The parts of a folder that hold weights."""
    return (*PARTS, SECOND_ENCODER) if sdxl.is_sdxl(read_json(path / "unet" / "config.json")) else PARTS


def check_unet(config: dict, name: str) -> None:
    """Refuse U-Nets that the method does not serve, by their config: inpainting, refiner, other classes."""
    channels, kind = config.get("in_channels", 4), config.get("_class_name", "UNet2DConditionModel")
    if kind != "UNet2DConditionModel" or config.get("class_embed_type") or config.get("encoder_hid_dim_type"):
        raise refusal(name, f"is no Stable Diffusion 1, 2 or XL: its U-Net is a {kind} of another kind")
    if channels != 4 or config.get("out_channels", 4) != 4:
        kind = f"has a U-Net of {channels} channels, so it is an inpainting or editing model"
        raise refusal(name, f"{kind}; use a plain text-to-image Stable Diffusion")
    if sdxl.is_sdxl(config):
        return sdxl.check_unet(config, name)
    if added := config.get("addition_embed_type"):
        raise refusal(name, f"is no Stable Diffusion 1, 2 or XL: its U-Net is told {added!r}")
    if len(config.get("up_block_types", ())) != 4:
        raise refusal(name, "has a U-Net without four up blocks; use a Stable Diffusion 1")


def variant(folder: Path, half: bool) -> str | None:
    """Which of a part's weights are read: "" the plain ones, or "fp16" and the like; None where there are none.

    The plain ones, unless `half` precision is wanted or they are not there.
    """
    found = {m["variant"] or "" for f in folder.iterdir() if (m := WEIGHTS.fullmatch(f.name))} - {*NEVER}
    order = ("fp16", "bf16", "") if half else ("", "fp16", "bf16")
    return next((v for v in (*order, *sorted(found)) if v in found), None)


def weight_files(folder: Path, half: bool, name: str) -> list[Path]:
    """The safetensors of a part that are read, sorted by name; InputError where there are none, or a shard is gone."""
    chosen = variant(folder, half)
    if chosen is None:
        pickled = any(f.suffix in PICKLES for f in folder.iterdir())
        remedy = f"only has pickled weights: {CONVERT}" if pickled else f"has none; {AGAIN}"
        raise refusal(name, f"has no .safetensors weights: {folder.name}/ {remedy}")
    matches = ((f, WEIGHTS.fullmatch(f.name)) for f in sorted(folder.iterdir()))
    files = [f for f, m in matches if m and (m["variant"] or "") == chosen]
    whole = [f for f in files if not re.search(SHARD, f.name)]
    if whole:
        return whole
    many = int(re.search(r"-of-(\d{5})", files[0].name)[1])
    if len(files) != many:
        raise refusal(name, f"is not whole: {folder.name}/ has {len(files)} of {many} shards; {AGAIN}")
    return files


def read(root: Path, dtype: torch.dtype, name: str, half: bool, needs_vae: bool = True):
    """(unet, vae or None, text_encoder, tokenizer, scheduler) of a checked folder, on the CPU."""
    import diffusers

    unet = read_part(diffusers.UNet2DConditionModel, root, "unet", dtype, name, half)
    vae = read_autoencoder(root, "vae", name, half) if needs_vae else None
    text_encoder = read_text_encoder(root, "text_encoder", name, half)
    tokenizer = read_tokenizer(root / "tokenizer", text_encoder, name)
    if sdxl.is_sdxl(unet.config):
        second = read_text_encoder(root, SECOND_ENCODER, name, half)
        words = read_tokenizer(root / "tokenizer_2", second, name)
        text_encoder = sdxl.Encoders(text_encoder, second, words, zeros(root))
    config = read_json(root / "scheduler" / "scheduler_config.json")
    return unet, vae, text_encoder, tokenizer, scheduler.build(config, name)


def zeros(root: Path) -> bool:
    """Is an SDXL's condition without a prompt one of zeros? By its index; so it is with base 1.0."""
    index = root / "model_index.json"
    return not index.exists() or bool(read_json(index).get("force_zeros_for_empty_prompt", True))


def read_autoencoder(root: Path, part: str, name: str, half: bool = False):
    """The autoencoder of a folder, float32; InputError for other classes than AUTOENCODERS."""
    import diffusers

    config = read_json(root / part / "config.json")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind not in AUTOENCODERS:
        raise InputError(f"model: its autoencoder is a {kind}; use AutoencoderKL or AutoencoderTiny")
    if config.get("latent_channels", 4) != 4:
        raise refusal(
            name, f"has an autoencoder of {config['latent_channels']} latent channels; 4 are served"
        )
    if config.get("latents_mean") or config.get("latents_std") or config.get("shift_factor"):
        raise refusal(
            name, "has an autoencoder that shifts its latents; one with a scaling factor alone is served"
        )
    vae = read_part(getattr(diffusers, kind), root, part, torch.float32, name, half)
    if vae.config.scaling_factor is None:
        vae.register_to_config(scaling_factor=AUTOENCODERS[kind])
    return vae


def read_text_encoder(root: Path, part: str, name: str, half: bool):
    """The CLIP text encoder in `part` of a folder, float32; SDXL's second one has a projection."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = read_json(root / part / "config.json").get("model_type", "clip_text_model")
    if not kind.startswith("clip"):
        raise refusal(name, f"has a text encoder of the kind {kind!r}; only CLIP is served")
    made = CLIPTextModelWithProjection if part == SECOND_ENCODER else CLIPTextModel
    return read_part(made, root, part, torch.float32, name, half)


def require_modest(value, name: str, where: str) -> None:
    """Refuse a config with a number that no Stable Diffusion has: a library would make room for it before it looks."""
    if isinstance(value, dict):
        for key, item in value.items():
            require_modest(item, name, f"{where}: {key}")
    elif isinstance(value, list):
        for item in value:
            require_modest(item, name, where)
    elif isinstance(value, (int, float)) and abs(value) > LARGEST:
        raise refusal(name, f"has {short(value)} in {where}, and {LARGEST} is the most; {AGAIN}")


def read_part(kind, root: Path, part: str, dtype: torch.dtype, name: str, half: bool):
    """One part by its library, in `dtype`; what loading found missing or of another shape is an InputError.

    Every diffusers knows the dtype as `torch_dtype`: its 0.39, which Colab has, takes `dtype` for a mistake.
    """
    spelled = "dtype" if kind.__module__.startswith("transformers") else "torch_dtype"
    chosen = variant(root / part, half)
    require_modest(read_json(root / part / "config.json"), name, f"{part}/config.json")
    loaded = kind.from_pretrained(
        root, subfolder=part, local_files_only=True, use_safetensors=True, output_loading_info=True,
        variant=chosen or None, **{spelled: dtype},
    )  # fmt: skip
    module, info = loaded
    complain(info.get("missing_keys"), info.get("mismatched_keys"), info.get("unexpected_keys"), part, name)
    if errors := info.get("error_msgs"):
        raise refusal(
            name, f"cannot be read: {part}: {next(iter(errors))}; {remedies.remedy(root, RuntimeError())}"
        )
    return module


def complain(missing, mismatched, unexpected, part: str, name: str) -> None:
    """Raise for weights that are missing or do not fit, and warn of those that nothing reads."""
    mismatched = sorted(str(m[0] if isinstance(m, (list, tuple)) else m) for m in mismatched or ())
    if mismatched:
        some = f"has {len(mismatched)} weights of its {part} that do not fit its config, as {mismatched[0]}"
        raise refusal(name, f"{some}; give the config that it was trained with")
    missing = sorted(map(str, missing or ()))
    if missing:
        some = f"lacks {len(missing)} weights of its {part}, as {missing[0]}"
        raise refusal(name, f"{some}; they would be filled with noise: {AGAIN}, or give another one")
    if unread := sorted(str(u) for u in unexpected or () if not UNREAD.search(str(u))):
        some = f"{len(unread)} weights of its {part} are read by nothing here, as {unread[0]}"
        warnings.warn(f"model = {name!r}: {some}", stacklevel=2)


def read_tokenizer(folder: Path, text_encoder, name: str):
    """The CLIP tokenizer in a folder; InputError where it has no words, or more than the text encoder."""
    from transformers import CLIPTokenizer

    if not ((folder / "vocab.json").is_file() or (folder / "tokenizer.json").is_file()):
        fault = f"has no words: {folder.name}/ holds neither vocab.json nor tokenizer.json"
        raise refusal(name, f"{fault}; {AGAIN}")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    words = [tuple(tokenizer(word).input_ids) for word in ("a", "b", "c")]
    if len(set(words)) < len(words):
        raise refusal(
            name,
            "has a tokenizer that tells no words apart: vocab.json, merges.txt are empty or damaged; "
            + AGAIN,
        )
    known = text_encoder.config.vocab_size
    if len(tokenizer) > known:
        fault = f"has a tokenizer of {len(tokenizer)} words for a text encoder of {known}"
        raise refusal(name, f"{fault}: they belong to two models; {AGAIN}")
    return tokenizer
