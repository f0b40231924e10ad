"""The model: the one room that holds a Stable Diffusion and knows how to encode, decode, embed and predict.

One `Model` serves the bundled clay model (AutoencoderTiny, 256 px), SD 1.5 (AutoencoderKL, 512 px), SD 2 and SDXL (1024
px) alike. A prompt is one tensor, its condition: SDXL's pooled embedding is one more row of it. Latents
are float32 whatever the weights are, in the autoencoder's scaled units; pictures are (1, 3, h, w) in [-1, 1].
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
import torch

from dragnb import checkpoints, ddim, doubts
from dragnb.errors import InputError, bounded, did_you_mean

FP16_GRAD_SCALE = 1024.0  # a power of two: exact, and lifts gradients of a mean above fp16's smallest numbers
UP_BLOCKS = 4  # of Stable Diffusion 1 and 2, by which the paper counts
KEPT_MODELS = 2  # how many loaded models a process keeps
THREADS_CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class Model:
    """A frozen Stable Diffusion: parts in eval mode, no parameter asks for a gradient.

    abar             (1000,) float32 on the CPU, the cumulative signal fraction per training timestep
    prediction_type  "epsilon" or "v_prediction"
    scaling_factor   latent = autoencoder output times this; read from the autoencoder's config
    dtype            of the U-Net's weights; the autoencoder and the text encoder are float32
    name             what was asked for
    given, mark      sha256 of the weight files (not of the path), and `fingerprint` of what was read from them
    side             the picture side the model was trained at, in pixels
    low_memory       gradients recompute what the pass before them could have kept, and the reference of §3.4 stays
                     in the computer's memory: slower. The autoencoder is neither tiled nor sliced, and every product
                     is the same one: on a CPU the edit is the same to the bit. A GPU whose libraries round anew from
                     one run to the next differs by that, as two runs without it do
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    abar: torch.Tensor
    prediction_type: str
    scaling_factor: float
    device: torch.device
    dtype: torch.dtype
    name: str
    given: str
    mark: str
    side: int
    low_memory: bool = False

    @property
    def hash(self) -> str:
        """64 hex digits of what computes now: weights, adapters on them, configs, schedule, tokenizer.

        That of the files as long as all is as it was read; another one as soon as anything differs.
        """
        now = _mark(self.unet, self.vae, self.text_encoder, self.tokenizer, self.abar, self.prediction_type)
        return self.given if now == self.mark else hashlib.sha256(f"{self.given} {now}".encode()).hexdigest()

    @property
    def factor(self) -> int:
        """Picture pixels per latent cell, a side."""
        return pixels_per_cell(self.vae)


def _words(tokenizer) -> dict[str, str]:
    """What a tokenizer makes of a text, as far as it differs from another's."""
    words = sorted(tokenizer.get_vocab().items())
    if hasattr(backend := getattr(tokenizer, "backend_tokenizer", None), "to_str"):
        words = backend.to_str().partition('"added_tokens"')[2]  # before it: padding as the last call left it
    return {"words": str(words), "pad": str(tokenizer.pad_token)}


def _mark(unet, vae, text_encoder, tokenizer, abar, prediction_type) -> str:
    """The fingerprint of a model's parts, dtype and device apart from it, as they are now."""
    said = _words(tokenizer) | {"abar": abar.tolist(), "predicts": prediction_type}
    more = [_words(other) for other in getattr(text_encoder, "tokenizers", ())]
    said |= {"second words": more} if more else {}
    return checkpoints.fingerprint(unet, vae, text_encoder, **said)


@dataclass(frozen=True)
class Wanted:
    """A model and how to load it, wherever a model may be given: `load` says what each means."""

    model: str = "clay"
    device: str = "auto"
    dtype: str = "auto"
    config: str | None = None
    low_memory: bool = False
    lora: str | None = None
    vae: str | None = None
    clip_skip: int = 0

    @property
    def name(self) -> str:
        """What the model goes by."""
        return self.model

    def source(self) -> checkpoints.Source:
        """Where it lies, found and checked but not read; raises InputError as `load` does."""
        half = pick_dtype(self.dtype, pick_device(self.device)) != torch.float32
        laid_over = dict(vae=self.vae, lora=self.lora, clip_skip=self.clip_skip)
        return checkpoints.resolve(self.model, self.config, half, **laid_over)


def wanted(model: str | os.PathLike | Wanted = "clay", **loading) -> Wanted:
    """A model by name, or already wanted in some way, with how to load it; InputError names an unknown word."""
    known = [f.name for f in dataclasses.fields(Wanted)][1:]
    for word in loading:
        if word not in known:
            raise InputError(f"loading: {word!r} is unknown{did_you_mean(word, known)}")
    if isinstance(model, Wanted):
        return dataclasses.replace(model, **loading)
    if not isinstance(model, (str, os.PathLike)):
        raise InputError(
            f"model is a {type(model).__name__}; give a name, a folder, a file, or a loaded model"
        )
    return Wanted(os.fspath(model), **loading)


def hash_of(model: str | Model | Wanted) -> str:
    """The hash of a model; of one that is not loaded, that of its files, which is the same until it is changed."""
    return model.hash if isinstance(model, Model) else wanted(model).source().hash()


def pixels_per_cell(vae) -> int:
    """How many picture pixels, a side, one latent cell of this autoencoder stands for."""
    return checkpoints.pixels_per_cell(vae.config)


_loaded: OrderedDict[tuple, Model] = OrderedDict()
_loading = threading.Lock()


@bounded("model", checkpoints.remedy)
def load(model: str | Model | Wanted = "clay", **loading) -> Model:
    """Load a Stable Diffusion 1, 2 or XL once per process; the same request gives the same object again.

    model   "clay" (bundled), "clay2" (bundled, for the clay world's second version as well), "sd15", "sdxl", a hub id
            (`owner/name`, `owner/name@revision`), its address as the browser shows it, a diffusers folder, a folder of
            the hub's cache, or a single .safetensors file
    loading, all by name:
    device      "auto" (CUDA, else Apple's MPS, else CPU) or one by name
    dtype       of the U-Net: "auto" (fp32; bf16 or, on older cards, fp16 on CUDA), "fp32", "fp16", "bf16"; half
                precision reads files in half precision where there are such
    config      for a single file only: a diffusers folder, a hub id or a yaml whose settings to use
    low_memory  trade time for memory, see Model
    lora        a LoRA file (diffusers, peft, kohya) to merge into the U-Net; its text encoder's part is left out
    vae         another autoencoder: its folder, .safetensors file or hub id
    clip_skip   how many last layers of the text encoder to leave out, as diffusers counts (Civitai's "clip skip 2"
                is 1)

    Raises InputError for what is no model, is of another family, is a pickle, or cannot be had here.
    """
    if isinstance(model, Model):
        if loading:
            raise InputError(
                f"loading = {loading}: model {model.name!r} is loaded already; give its name instead"
            )
        return model
    asked = wanted(model, **loading)
    where = pick_device(asked.device)
    weights_dtype = pick_dtype(asked.dtype, where)
    if where.type == "cpu":
        _fit_threads()
    source = asked.source()
    key = (dataclasses.replace(source, name=""), str(where), weights_dtype, asked.low_memory, source.stamp())
    with _loading:  # of two threads that ask for one model, one reads it
        if key not in _loaded:
            with memory_errors("the size of the model, or dtype='fp16'"), checkpoints.quiet():
                parts = checkpoints.read_parts(source, weights_dtype)
                said = dict(name=source.name, hash=source.hash(), low_memory=asked.low_memory)
                _loaded[key] = assemble(*parts, device=where, dtype=weights_dtype, **said)
        _loaded.move_to_end(key)
        while len(_loaded) > KEPT_MODELS:
            _loaded.popitem(last=False)
        found = _loaded[key]
        return found if found.name == source.name else dataclasses.replace(found, name=source.name)


def _fit_threads() -> None:
    """Lower torch's threads to the cores that this process may use, unless the environment chose their number.

    torch counts the machine's cores. In a container with a share of them its threads wait for each other: more of
    them than the share pays for make every product slower.
    """
    usable = joblib.cpu_count()
    if usable < torch.get_num_threads() and not any(map(os.environ.get, THREADS_CHOSEN_BY)):
        torch.set_num_threads(usable)


def assemble(
    unet,
    vae,
    text_encoder,
    tokenizer,
    scheduler,
    *,
    device="cpu",
    dtype=torch.float32,
    name="memory",
    hash=None,
    low_memory=False,
) -> Model:
    """A Model of parts already in memory (moved to `device`, frozen); `scheduler` gives betas and prediction type.

    hash  of the files that the parts were read from; without it their `Model.mark` stands for it
    """
    device = torch.device(device)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise InputError(
            f"model {name}: prediction_type = {prediction!r} is not served; use an epsilon or v_prediction model"
        )
    for part, kind in ((unet, dtype), (vae, torch.float32), (text_encoder, torch.float32)):
        if any(p.dtype != kind for p in part.parameters()):
            part.to(kind)
        part.to(device).eval().requires_grad_(False)
    if device.type != "mps":
        unet.to(memory_format=torch.channels_last)  # the same numbers, convolutions some per cent faster
    if low_memory:
        unet.enable_gradient_checkpointing()
    abar = checkpoints.abar(scheduler)
    mark = _mark(unet, vae, text_encoder, tokenizer, abar, prediction)
    return Model(
        unet, vae, text_encoder, tokenizer, abar, prediction, float(vae.config.scaling_factor), device, dtype, name,
        hash or mark, mark, checkpoints.side_of(unet.config, vae.config), low_memory,
    )  # fmt: skip


def private(model: Model, own: Callable[[str], bool] = lambda name: False) -> Model:
    """A second Model over the same weights: hooks, adapters and processors put on it leave the first untouched.

    Only the U-Net's module tree is copied; its parameters are shared, but for those whose name `own` accepts.
    """
    shared = {id(p): p for n, p in model.unet.named_parameters() if not own(n)}
    shared |= {id(b): b for b in model.unet.buffers()}
    return dataclasses.replace(model, unet=copy.deepcopy(model.unet, shared))


def pick_device(device: str) -> torch.device:
    """The device by name; "auto" takes CUDA, then MPS, then the CPU. Raises InputError if it is not there."""
    mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device = {device!r} is no device; use 'auto', 'cpu', 'cuda' or 'mps'") from error
    if found.type == "cuda" and (
        not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"device = {device!r}: torch sees no such CUDA device here; use device='auto' or 'cpu'"
        )
    if found.type == "mps" and not mps:
        raise InputError("device = 'mps': torch sees no Apple GPU here; use device='auto' or 'cpu'")
    return found


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The U-Net's dtype by name; "auto" is half precision on CUDA and float32 elsewhere."""
    names = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    names |= {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype in names.values():
        return dtype
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if dtype not in names:
        raise InputError(f"dtype = {dtype!r} is unknown; use 'auto', 'fp32', 'fp16' or 'bf16'")
    return names[dtype]


@torch.no_grad()
def encode_dist(model: Model, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latent of `x`, (b, 3, h, w) in [-1, 1] -> two (b, 4, h/8, w/8), scaled.

    AutoencoderTiny has no distribution: its std is zero.
    """
    out = model.vae.encode(x.to(model.device, torch.float32))
    if hasattr(out, "latent_dist"):
        mean, std = out.latent_dist.mean, out.latent_dist.std
    else:
        mean, std = out.latents, torch.zeros_like(out.latents)
    return ddim.require_finite(mean * model.scaling_factor, "the encoded picture"), std * model.scaling_factor


def encode(model: Model, x: torch.Tensor, sample: bool = False, generator: torch.Generator | None = None):
    """The scaled latent of `x`: the posterior's mean, or, with `sample`, one draw of it by a CPU `generator`."""
    mean, std = encode_dist(model, x)
    if not sample:
        return mean
    return mean + std * torch.randn(mean.shape, generator=generator).to(mean)


@torch.no_grad()
def decode(model: Model, z: torch.Tensor) -> torch.Tensor:
    """The picture of a scaled latent, (b, 3, 8h, 8w) float32 clamped to [-1, 1]. Raises NotFiniteError on NaN."""
    ddim.require_finite(z, "the latent to decode")
    x = model.vae.decode(z.to(model.device, torch.float32) / model.scaling_factor).sample
    return ddim.require_finite(x, "the decoded picture").clamp(-1, 1)


@torch.no_grad()
def embed(model: Model, prompt: str) -> torch.Tensor:
    """The prompt as the U-Net's condition, (1, 77, c) float32; SDXL's has a 78th row, its pooled embedding.

    Longer prompts are cut at 77 tokens, with a warning.
    """
    for doubt in doubts.on_prompt(prompt, model.tokenizer):
        warnings.warn(doubt, stacklevel=2)
    length = model.text_encoder.config.max_position_embeddings
    how = dict(padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    tokenizers = (model.tokenizer, *getattr(model.text_encoder, "tokenizers", ()))
    ids = [doubts.token_ids(tokenizer, prompt, **how).to(model.device) for tokenizer in tokenizers]
    return model.text_encoder(*ids)[0].float()


def unconditional(model: Model, negative: str = "") -> torch.Tensor:
    """What guidance leads away from, shaped as `embed`'s: the negative prompt; without one, what the model learned.

    That is the empty prompt, but zeros for an SDXL that was trained so, as in diffusers' own pipelines.
    """
    cond = embed(model, negative)
    zeros = checkpoints.is_sdxl(model.unet.config) and model.text_encoder.config["zeros"]
    return torch.zeros_like(cond) if zeros and not negative else cond


def tokenizer_of(model: str | Model | Wanted):
    """The tokenizer of a model that has been loaded, by its name too (of several, the last); None where it has not."""
    name, known = getattr(model, "name", model), model if isinstance(model, Model) else None
    known = known or next((m for m in reversed(_loaded.values()) if m.name == name), None)
    return known and known.tokenizer


def predict(model: Model, z: torch.Tensor, t, cond: torch.Tensor) -> torch.Tensor:
    """The U-Net's own output at (z, t) in float32: noise or v, as the model was trained. t: a number or (b,)."""
    steps = torch.as_tensor(t, device=model.device)
    cond = cond.to(model.device, model.dtype)
    if cond.shape[0] != z.shape[0]:
        cond = cond.expand(z.shape[0], -1, -1)
    told = {"encoder_hidden_states": cond}
    if checkpoints.is_sdxl(model.unet.config):
        told = checkpoints.sdxl_inputs(model.unet.config, cond, *(n * model.factor for n in z.shape[-2:]))
    return model.unet(z.to(model.device, model.dtype), steps, **told).sample.float()


def eps(model: Model, z: torch.Tensor, t: int, cond: torch.Tensor) -> torch.Tensor:
    """The noise the model sees in z at timestep t, float32, same shape as z; v-prediction is converted."""
    out = predict(model, z, t, cond)
    return ddim.to_eps(out, z, ddim.abar_at(model.abar, t), model.prediction_type)


def eps_fn(model: Model, cond: torch.Tensor, guidance: float = 1.0, uncond: torch.Tensor | None = None):
    """A callable (z, t) -> eps without gradients, for `ddim.invert` and `ddim.sample`.

    guidance 1 asks the model once with `cond`; any other value asks once with [uncond, cond] stacked and returns
    uncond + guidance * (cond - uncond) (classifier-free guidance). `uncond` defaults to `unconditional`'s.
    """
    if guidance != 1.0 and uncond is None:
        uncond = unconditional(model)

    @torch.no_grad()
    def fn(z: torch.Tensor, t: int) -> torch.Tensor:
        if guidance == 1.0:
            return eps(model, z, t, cond)
        rows = torch.cat([uncond.expand(len(z), -1, -1), cond.expand(len(z), -1, -1)])
        free, told = eps(model, torch.cat([z, z]), t, rows).chunk(2)
        return free + guidance * (told - free)

    return fn


def up_block(model: Model, k: int) -> int | None:
    """Where the up block that is the k-th of four (0..3) stands in a U-Net; None where it has fewer, as SDXL's three.

    They are counted from the last, so that each has cells of one size in every family: those of the last two's outputs
    are the latent's own, of those before twice and four times as large.
    """
    place = k - UP_BLOCKS + len(model.unet.up_blocks)
    return place if place >= 0 else None


def grad_scale(model: Model) -> float:
    """What to multiply a mean-reduced loss by before its backward pass, and divide the gradient by after it."""
    return FP16_GRAD_SCALE if model.dtype == torch.float16 else 1.0


@contextlib.contextmanager
def memory_errors(remedy: str):
    """Turn running out of memory inside the block into an InputError that says what lowers it."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InputError(f"out of memory ({error}); lower {remedy}") from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise InputError(f"out of memory ({error}); lower {remedy}") from error
