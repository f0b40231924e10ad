"""The parts of a single file, converted from the original names by diffusers' own functions, each weight checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from dragnb.checkpoints import scheduler, sdxl
from dragnb.checkpoints.files import (
    CONFIGS,
    OPEN_CLIP,
    TEXT,
    UNET,
    VAES,
    XL_OPEN_CLIP,
    XL_TEXT,
    Original,
    header,
)
from dragnb.checkpoints.folders import UNREAD, complain, read_autoencoder, read_tokenizer, zeros
from dragnb.checkpoints.places import HUB_NAMES, SECOND_ENCODER, HubId, download, read_json, refusal
from dragnb.checkpoints.remedies import AGAIN
from dragnb.errors import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
ASKED_AT = 999  # the noisiest timestep: there noise is nearly all of z, and v nearly none
MIDDLE = 0.5  # between a noise model's share of z in its answer, 1, and a v model's, 0


def read(path: Path, original: Original, dtype: torch.dtype, name: str, needs_vae: bool):
    """(unet, vae or None, text_encoder, tokenizer, scheduler) of a checked single file, on the CPU.

    Every part is rounded once, from the file's own numbers: the U-Net to `dtype`, the others to float32.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint as convert

    settings = read_json(original.config / "unet" / "config.json")
    state = _converted(convert, _tensors(path, (UNET,)), _whole(UNet2DConditionModel, settings), "unet", name)
    unet = _filled(lambda: UNet2DConditionModel.from_config(settings), state, dtype, "unet", name)
    text_encoder, tokenizer = _text(path, original.config, name, sdxl.is_sdxl(settings))
    plan = dict(original.plan)
    if original.asks:
        plan["prediction_type"] = kind = _asked(unet, text_encoder, tokenizer)
        warnings.warn(
            f"model = {name!r} does not say whether it predicts noise or v; its answer looks like {kind}. "
            "A yaml of its name beside it, or config=, says it for certain",
            stacklevel=2,
        )
    vae = _vae_of(path, original.config, name) if needs_vae else None
    return unet, vae, text_encoder, tokenizer, scheduler.build(plan, name)


def _empty():
    """Modules made in this block have no memory for their weights."""
    from accelerate import init_empty_weights

    return init_empty_weights()


def _tensors(path: Path, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The file's tensors whose names begin so; others, as the EMA twins, are not read."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys() if k.startswith(prefixes)}  # noqa: SIM118


def _whole(kind, settings: dict) -> dict:
    """A config with the class's own defaults, as the conversion wants it."""
    with _empty():
        return dict(kind.from_config(settings).config)


def _converted(convert: Callable, state: dict, settings: dict, part: str, name: str) -> dict:
    try:
        return convert(state, settings)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise refusal(name, f"lacks weights of its {part} ({error!r}); {AGAIN}") from error


def _filled(make: Callable, state: dict, dtype: torch.dtype, part: str, name: str) -> torch.nn.Module:
    """A module, made without drawing weights, that holds these; InputError where some are missing or do not fit."""
    with _empty():
        module = make()
    own = module.state_dict()
    unfit = [k for k, x in state.items() if k in own and x.shape != own[k].shape]
    complain(own.keys() - state.keys(), unfit, state.keys() - own.keys(), part, name)
    whole = {k: x.to(dtype) for k, x in state.items() if k in own}
    module.load_state_dict(whole, assign=True)
    return module.eval()


def _text(path: Path, config: Path, name: str, xl: bool):
    """The text encoder, of an SDXL both as one, and the tokenizer."""
    text_encoder = _text_encoder(
        path, config / "text_encoder", (XL_TEXT, "") if xl else (TEXT, OPEN_CLIP), name
    )
    tokenizer = _tokenizer(config / "tokenizer", text_encoder, name)
    if not xl:
        return text_encoder, tokenizer
    second = _text_encoder(path, config / SECOND_ENCODER, ("", XL_OPEN_CLIP), name)
    words = _tokenizer(config / "tokenizer_2", second, name)
    return sdxl.Encoders(text_encoder, second, words, zeros(config)), tokenizer


def _tokenizer(folder: Path, text_encoder, name: str):
    """That of a config folder; those that come with dragnb say their padding alone, since the words are CLIP's."""
    if CONFIGS in folder.parents:
        return bundled_tokenizer(pad=read_json(folder / "tokenizer_config.json")["pad_token"])
    return read_tokenizer(folder, text_encoder, name)


def _text_encoder(path: Path, config: Path, prefixes: tuple[str, str], name: str):
    """A CLIP text encoder; old NovelAI files spell it without `text_model.`, SD 2 and SDXL as OpenCLIP does.

    prefixes  of its names where they are CLIP's own, and where they are OpenCLIP's; "": it has no such names
    """
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings, part = CLIPTextConfig(**read_json(config / "config.json")), config.name
    kind = CLIPTextModelWithProjection if part == SECOND_ENCODER else CLIPTextModel
    clip, open_clip = prefixes
    state = _tensors(path, (clip,)) if clip else {}
    if state:
        state = {k.removeprefix(clip).removeprefix("text_model."): x for k, x in state.items()}
    else:
        shape = type("Shape", (), {"config": settings})
        convert = lambda state, _: convert_open_clip_checkpoint(shape, state, prefix=open_clip)  # noqa: E731
        state = _converted(convert, _tensors(path, (open_clip,)), {}, part, name)
        state = {k.removeprefix("text_model."): x for k, x in state.items()}
        # the files of Stable Diffusion 2 have one more, unused
        kept = tuple(f"encoder.layers.{k}." for k in range(settings.num_hidden_layers))
        state = {k: x for k, x in state.items() if not k.startswith("encoder.layers.") or k.startswith(kept)}
    with _empty():
        own = {k.removeprefix("text_model."): k for k in kind(settings).state_dict()}
    state = {own.get(k, k): x for k, x in state.items() if k in own or not UNREAD.search(k)}
    return _filled(lambda: kind(settings), state, torch.float32, part, name)


def _vae_of(path: Path, config: Path, name: str):
    """The file's autoencoder; without one, its family's own, with a warning: SDXL's, or SD 1.5's, as SD 2 can read."""
    state = _tensors(path, VAES)
    if state:
        return autoencoder(state, read_json(config / "vae" / "config.json"), name)
    xl = sdxl.is_sdxl(read_json(config / "unet" / "config.json"))
    base, whose = ("sdxl", "SDXL") if xl else ("sd15", "Stable Diffusion 1.5")
    warnings.warn(f"model = {name!r} holds no autoencoder; {whose}'s is used", stacklevel=2)
    if any((config / "vae").glob("*.safetensors")):
        return read_autoencoder(config, "vae", name)
    try:
        folder = download(HubId(HUB_NAMES[base]), ["vae/*.safetensors", "vae/config.json"], name, ["*.fp16*"])
        return read_autoencoder(folder, "vae", name)
    except InputError as error:
        raise refusal(
            name, f"holds no autoencoder, and {whose}'s is not at hand; give vae= ({error})"
        ) from error


def autoencoder(state: dict, settings: dict, name: str):
    """An AutoencoderKL, float32, of weights in the original names, with or without a prefix, or in diffusers'."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint as convert

    for prefix in VAES:
        state = {k.removeprefix(prefix): x for k, x in state.items() if not k.startswith("model_ema.")}
    state = {
        k: x
        for k, x in state.items()
        if k.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
    }
    if not any("_blocks." in k for k in state):
        state = _converted(convert, state, _whole(AutoencoderKL, settings), "vae", name)
    return _filled(lambda: AutoencoderKL.from_config(settings), state, torch.float32, "vae", name)


def check_vae(path: Path, name: str) -> None:
    """Refuse what is no autoencoder, by its config or the names in it, before any weight is read; raises InputError."""
    if path.is_dir():
        if not (path / _vae_part(path) / "config.json").is_file():
            raise InputError(
                f"vae = {name!r} holds no config.json; give an autoencoder's folder or .safetensors file"
            )
        return
    shapes, _ = header(path, name)
    if not any(k.endswith("decoder.conv_in.weight") for k in shapes):
        raise InputError(
            f"vae = {name!r} holds no autoencoder (no decoder.conv_in.weight); give another file"
        )


def _vae_part(path: Path) -> str:
    return "vae" if (path / "vae").is_dir() else "."


def read_vae(path: Path, model: Path, name: str):
    """The autoencoder that a user names: a diffusers folder of it or of a whole model, or a single file. Float32.

    model  the folder that holds the model's own configs; a single file is taken to have the same settings
    """
    check_vae(path, name)
    if path.is_dir():
        return read_autoencoder(path, _vae_part(path), name)
    settings = read_json(model / "vae" / "config.json")
    if settings.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        settings = read_json(CONFIGS / "sd15" / "vae" / "config.json")
    return autoencoder(_tensors(path, ("",)), settings, name)


@torch.no_grad()
def _asked(unet, text_encoder, tokenizer) -> str:
    """Does the model predict noise or v? By the share of pure noise in its answer at the last timestep."""
    ids = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    out = unet(z.to(unet.dtype), ASKED_AT, text_encoder(ids)[0].to(unet.dtype)).sample.float()
    return "epsilon" if (out * z).sum() / z.square().sum() > MIDDLE else "v_prediction"


def bundled_tokenizer(pad: str = END):
    """CLIP's tokenizer, of the merges that come with dragnb; the vocabulary is the bytes' letters, then the merges."""
    from transformers import CLIPTokenizer

    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in plain] + [chr(256 + k) for k in range(256 - len(plain))]
    lines = (CONFIGS / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges), START, END]
    vocabulary = {word: k for k, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)
