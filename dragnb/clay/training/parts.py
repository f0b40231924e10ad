"""The bundled model's parts, untrained: Stable Diffusion 1's architecture in diffusers' own classes, only small.

`build` makes them at random, `save_folder` writes the folder that `StableDiffusionPipeline.from_pretrained` and
`dragnb.sd.load` read. Sizes: "clay", which is shipped, "wide" for a card, and "smoke" for tests.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from dragnb.clay import patterns
from dragnb.clay.scene import COLORS, GROUNDS, KINDS, SKIES, VERSION
from dragnb.store.files import MARKER, SIGNATURE, own_folder, replace_folder

SIZES = {
    # attention_head_dim is, in this class of diffusers, the NUMBER of heads; wide heads are fastest on a CPU
    "clay": dict(
        unet=(32, 64, 128, 128), heads=(1, 2, 4, 4), groups=16, text=128, text_layers=2, text_heads=4, vae=32,
        vae_encoder=(0, 1, 2, 4), decoder=64, vae_decoder=(6, 4, 2, 0), latent=32,
    ),
    "wide": dict(  # for a card: 12.7 M parameters, an edit costs a third more
        unet=(32, 96, 192, 192), heads=(1, 2, 4, 4), groups=16, text=128, text_layers=2, text_heads=4, vae=64,
        vae_encoder=(0, 1, 2, 4), decoder=64, vae_decoder=(6, 4, 2, 0), latent=32,
    ),
    "smoke": dict(
        unet=(16, 16, 32, 32), heads=(1, 1, 2, 2), groups=8, text=32, text_layers=1, text_heads=2, vae=8,
        vae_encoder=(0, 1, 1, 1), decoder=8, vae_decoder=(1, 1, 1, 0), latent=32,
    ),
}  # fmt: skip
BETA_START, BETA_END = 0.00085, 0.012
MAX_TOKENS = 77
# of the clay world's captions; each is one token
WORDS = sorted(
    {*KINDS, *COLORS, *SKIES, *GROUNDS, *"a on ground under a sky photo of the clay figure picture".split()}
)
# what the captions of the second version have besides; held-out kinds and patterns are words like any other text
WORDS_2 = sorted({"an", "with", *patterns.INKS, *patterns.TRAINED, *patterns.GROUND_WORD.values()} - {*WORDS})
WORD_END = "</w>"  # as in CLIP


@dataclass(frozen=True)
class Parts:
    """What a Stable Diffusion 1 pipeline is made of, as diffusers and transformers objects."""

    unet: torch.nn.Module
    vae: torch.nn.Module
    text_encoder: torch.nn.Module
    tokenizer: object
    scheduler: object


def build_vae(size: str = "clay"):
    """An untrained AutoencoderTiny: 4 latent channels, 8 times smaller a side; no norm layers, so crops train it."""
    from diffusers import AutoencoderTiny

    s = SIZES[size]
    return AutoencoderTiny(
        encoder_block_out_channels=(s["vae"],) * 4,
        decoder_block_out_channels=(s["decoder"],) * 4,
        num_encoder_blocks=s["vae_encoder"],
        num_decoder_blocks=s["vae_decoder"],
        latent_channels=4,
    )


@torch.no_grad()
def grown(decoder, larger):
    """Make `larger`, a fresh DecoderTiny, compute what the narrower or shallower `decoder` computes, and return it.

    New channels begin at random and reach the old ones by zeros only, new blocks add zero (as Net2Net, Chen et al.
    2016), so that training goes on from the older weights instead of from nothing.
    """
    for few, many in zip(_stages(decoder), _stages(larger), strict=True):
        older, layers = few[1:], many[1:]
        added = len(layers) - len(older)
        for block in layers[len(older) :]:
            torch.nn.init.zeros_(block.conv[-1].weight), torch.nn.init.zeros_(block.conv[-1].bias)
        if added < 0 or (added and not older):
            raise ValueError("a stage may only gain blocks, and only where it has one")
        _enlarge(few[0], many[0])
        for old, new in zip(older, layers[: len(older)], strict=True):
            _enlarge(old, new)
    return larger


def _stages(decoder):
    """The convolution before each resolution's blocks, and those blocks; last the one that makes the picture."""
    stages = []
    for layer in decoder.layers:
        if isinstance(layer, torch.nn.Conv2d):
            stages.append([layer])
        elif list(layer.parameters()):
            stages[-1].append(layer)
    return stages


def _enlarge(old, new):
    """Copy convolutions into the first channels of larger ones; nothing but zeros leads from the rest to them."""
    pairs = zip(old.modules(), new.modules(), strict=True)
    for a, b in ((a, b) for a, b in pairs if isinstance(a, torch.nn.Conv2d)):
        out, into = a.weight.shape[:2]
        if out > b.weight.shape[0] or into > b.weight.shape[1]:
            raise ValueError("a decoder may only become wider")
        b.weight[:out] = 0
        b.weight[:out, :into] = a.weight
        if a.bias is not None:
            b.bias[:out] = a.bias


def build_unet(size: str = "clay"):
    """An untrained UNet2DConditionModel with Stable Diffusion 1's block types and one layer a block."""
    from diffusers import UNet2DConditionModel

    s = SIZES[size]
    return UNet2DConditionModel(
        sample_size=s["latent"],
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=s["unet"],
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=s["text"],
        attention_head_dim=s["heads"],
        norm_num_groups=s["groups"],
    )


def build_text_encoder(size: str, vocab: int, bos: int, eos: int):
    """An untrained CLIPTextModel: 77 positions, a few narrow layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    s = SIZES[size]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab, hidden_size=s["text"], intermediate_size=4 * s["text"], projection_dim=s["text"],
            num_hidden_layers=s["text_layers"], num_attention_heads=s["text_heads"],
            max_position_embeddings=MAX_TOKENS, bos_token_id=bos, eos_token_id=eos, pad_token_id=eos,
        )
    )  # fmt: skip


def build_tokenizer(world: int = VERSION):
    """A CLIPTokenizer whose byte-pair vocabulary has each word of the clay world as one token; any text can be encoded.

    The merges are found here and not by a library's trainer, since that one breaks ties differently in every process,
    and a model must meet the same token numbers whenever its training is resumed. A later version of the world has
    its words behind those of the first, so that a model of the first one can be trained on.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = pair_merges(WORDS)
    if world > 1:
        merges = pair_merges(WORDS_2, merges)
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(c + WORD_END for c in letters),
        *map("".join, merges),
    ]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )


def token_ids(tokenizer, captions):
    """Captions to token numbers, (b, 77), padded and cut."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def pair_merges(words, known=()):
    """Byte-pair merges until every word is one token: the most frequent pair first, the first by spelling on ties.

    The `known` ones come first, and first in the result.
    """
    split = [" ".join((*word[:-1], word[-1] + WORD_END)) for word in sorted(set(words))]
    merges = []

    def merge(best):
        merges.append(best)
        apart = re.compile(rf"(?<!\S){re.escape(' '.join(best))}(?!\S)")
        split[:] = [apart.sub("".join(best), word) for word in split]

    for pair in known:
        merge(pair)
    while pairs := Counter(pair for word in split for pair in pairwise(word.split())):
        merge(min(pairs, key=lambda pair: (-pairs[pair], pair)))
    return merges


def build_scheduler():
    """Stable Diffusion 1's noise schedule as a DDIM scheduler (the library's defaults are not SD's)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=BETA_START, beta_end=BETA_END, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


def build(size: str = "clay", seed: int = 0, world: int = VERSION) -> Parts:
    """All parts with random weights from `seed`; `size` is a key of SIZES."""
    tokenizer = build_tokenizer(world)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae = build_unet(size), build_vae(size)
        text = build_text_encoder(size, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    return Parts(unet.eval(), vae.eval(), text.eval(), tokenizer, build_scheduler())


def save_folder(parts: Parts, folder, dtype=torch.float16) -> Path:
    """Write a diffusers pipeline folder, whole or not at all; what lies beside an older one's weights stays.

    Raises InputError for a folder with things in it that neither this function nor a training wrote.
    """
    from diffusers import StableDiffusionPipeline

    folder = Path(folder)
    copies = {k: copy.deepcopy(getattr(parts, k)).to(dtype) for k in ("unet", "vae", "text_encoder")}
    pipe = StableDiffusionPipeline(
        **copies, tokenizer=parts.tokenizer, scheduler=parts.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    if folder.exists() and not (folder / "training.json").exists():
        own_folder(folder)

    def fill(fresh):
        (fresh / MARKER).write_text(f"{SIGNATURE}\n", encoding="utf-8")
        pipe.save_pretrained(fresh, safe_serialization=True)
        # transformers would load half precision, where diffusers loads full
        config = fresh / "text_encoder" / "config.json"
        config.write_text(config.read_text().replace('"float16"', '"float32"'))

    replace_folder(folder, fill, (*pipe.components, "model_index.json"))
    return folder
