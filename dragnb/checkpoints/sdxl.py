"""Stable Diffusion XL, base 1.0's layout: two text encoders as one, and what its U-Net is told besides.

The condition of a prompt stays one tensor, as with every other model, so that whoever keeps it, stacks it or changes it
need not know the family: rows of both encoders' words, and one row more for the pooled embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from dragnb.checkpoints import scheduler
from dragnb.checkpoints.places import refusal
from dragnb.errors import InputError

KIND = "text_time"  # diffusers' word for a U-Net that is told a pooled embedding and sizes
SIZES = 6  # numbers it is told: the picture's height and width, twice, and the crop's corner between them
UP_BLOCKS, REFINER_BLOCKS = 3, 4
TURBO_CELLS = 64  # SDXL turbo was trained at 512 pixels


def is_sdxl(unet: Mapping) -> bool:
    """Is this the config of an SDXL's U-Net?"""
    return unet.get("addition_embed_type") == KIND


def pooled_width(unet: Mapping) -> int:
    """The width of the pooled embedding that an SDXL's U-Net reads."""
    return unet["projection_class_embeddings_input_dim"] - SIZES * unet["addition_time_embed_dim"]


def check_unet(unet: Mapping, name: str) -> None:
    """Refuse by name what has an SDXL's U-Net and is no base model: the refiner, other sizes and blocks."""
    blocks, sizes = len(unet.get("up_block_types", ())), unet.get("addition_time_embed_dim") or 0
    told = unet.get("projection_class_embeddings_input_dim") or 0
    if blocks == REFINER_BLOCKS:
        raise refuse_refiner(name)
    if blocks != UP_BLOCKS or not 0 < told - SIZES * sizes <= unet.get("cross_attention_dim", 0):
        raise refusal(
            name, f"has a U-Net of {blocks} up blocks and {told} added numbers: no SDXL base; {_BASE}"
        )


_BASE = "use an SDXL base model, as stabilityai/stable-diffusion-xl-base-1.0"


def refuse_refiner(name: str) -> InputError:
    """The error for SDXL's second model."""
    return refusal(name, f"is the SDXL refiner, which only ends what another model began; {_BASE}")


def check_distilled(plan: Mapping, unet: Mapping, *names: str) -> None:
    """Refuse a turbo, Lightning or LCM model where its config or its own name says so; warn where it is doubtful."""
    own = " ".join(re.split(r"[/\\]", name.rstrip("/\\"))[-1] for name in names if name)
    word = scheduler.distilled(plan, unet, own)
    if word == "turbo" and "turbo" not in own.lower() and unet.get("sample_size") != TURBO_CELLS:
        return scheduler.warn_of_distilled(plan, unet, own)
    if word:
        raise refusal(
            names[0],
            f"is an SDXL distilled to few steps ({word}), which inverts no picture; {_BASE}, or, "
            "if only its name says so, rename it",
        )
    return None


class Encoders(torch.nn.Module):
    """Both text encoders of an SDXL: ids of both tokenizers, each (b, n) -> its U-Net's condition, in a tuple.

    The condition is (b, n + 1, c): the last layer but one of the first and of the second encoder, side by side, n rows;
    then the second one's pooled embedding, filled up with zeros.

    tokenizers  the second encoder's, after the model's own: its padding differs, and with it how "!" is read
    zeros       no prompt is a condition of zeros under guidance, as the model was trained, not that of an empty text
    """

    def __init__(self, first, second, tokenizer, zeros: bool = True):
        super().__init__()
        self.first, self.second, self.tokenizers = first, second, (tokenizer,)
        own = {"first": first.config.to_dict(), "second": second.config.to_dict()}
        self.config = _Config(own, zeros=zeros, skip=0)  # a fingerprint reads it

    def skip_layers(self, layers: int) -> None:
        """Leave out so many more of the last layers, as diffusers' `clip_skip`; the pooled embedding has them all."""
        fewest = min(self.config[part]["num_hidden_layers"] for part in ("first", "second"))
        if layers >= fewest:
            raise InputError(f"clip_skip = {layers}: the text encoder has {fewest} layers; leave out fewer")
        self.config["skip"] = layers

    def forward(self, ids: torch.Tensor, second_ids: torch.Tensor) -> tuple[torch.Tensor]:
        layer = -2 - self.config["skip"]
        first = self.first(ids, output_hidden_states=True)
        second = self.second(second_ids, output_hidden_states=True)
        words = torch.cat([first.hidden_states[layer], second.hidden_states[layer]], dim=-1)
        pooled = second.text_embeds[:, None]
        return (torch.cat([words, F.pad(pooled, (0, words.shape[-1] - pooled.shape[-1]))], dim=1),)


class _Config(dict):
    """A dict that says how long a prompt may be by the word of CLIP's own config."""

    @property
    def max_position_embeddings(self) -> int:
        return self["first"]["max_position_embeddings"]


def inputs(unet: Mapping, cond: torch.Tensor, height: int, width: int) -> dict:
    """What an SDXL's U-Net takes beside latent and timestep, by its own names: words, pooled embedding, sizes.

    cond           (b, n + 1, c) as `Encoders` gives it
    height, width  of the whole picture in pixels: it is said to be the original one, and not cropped
    """
    sizes = cond.new_tensor([height, width, 0, 0, height, width]).expand(len(cond), -1)
    pooled = cond[:, -1, : pooled_width(unet)]
    return {
        "encoder_hidden_states": cond[:, :-1],
        "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
    }
