"""Count the memory of an edit at full size, without weights and without a card: `python -m tools.speed.memory --help`.

Every stage's own operations run on tensors that have a shape and no memory (torch's device "meta"). Counted is what is
alive at once, weights included. A card needs some more: its libraries' workspace, and what its allocator cannot fill.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import weakref
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from dragnb import attention, checkpoints, features, lora, sd
from dragnb.checkpoints import files, scheduler, sdxl
from dragnb.config import Settings, profile

GIB = 2**30
WORDS = 77
META = torch.device("meta")


class Live(TorchDispatchMode):
    """Follows the tensors made in its block: bytes alive `now`, and the `peak`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.follow(tensor)
        return out

    def follow(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory once, for as long as it lives."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = True
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._let_go, storage.nbytes())

    def _let_go(self, size: int) -> None:
        self.now -= size

    @contextlib.contextmanager
    def measured(self, into: dict[str, float], name: str):
        """Note the peak of the block, in GiB, under a name."""
        self.peak = self.now
        yield
        into[name] = self.peak / GIB


class _Attention(torch.autograd.Function):
    """What an attention kernel of a card keeps: its inputs, its result, a number a row. The matrix is never whole."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


@contextlib.contextmanager
def as_on_a_card():
    """In this block attention takes the memory that it takes on a card; torch has no kernel of its kind for "meta"."""
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, **options: _Attention.apply(q, k, v)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def shape_of(kind: str, dtype: torch.dtype, low_memory: bool = False) -> sd.Model:
    """A model of the published shape on "meta", by the configs that come with dragnb."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = lambda part: checkpoints.read_json(files.CONFIGS / kind / part / "config.json")  # noqa: E731
    with torch.device(META):
        unet = UNet2DConditionModel.from_config(config("unet")).to(dtype)
        vae = AutoencoderKL.from_config(config("vae"))
        text = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
        if sdxl.is_sdxl(unet.config):
            second = CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2")))
            text = sdxl.Encoders(text, second, None)
    for part in (unet, vae, text):
        part.eval().requires_grad_(False)
    if low_memory:
        unet.enable_gradient_checkpointing()
    plan = checkpoints.read_json(files.CONFIGS / kind / "scheduler/scheduler_config.json")
    return sd.Model(
        unet, vae, text, None, scheduler.abar(scheduler.build(plan, kind)), plan["prediction_type"],
        vae.config.scaling_factor, META, dtype, kind, "", "", checkpoints.side_of(unet.config, vae.config), low_memory,
    )  # fmt: skip


def size(tensors) -> float:
    """GiB of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors) / GIB


def count(
    kind: str, settings: Settings, dtype=torch.float16, side: int | None = None, low_memory=False
) -> dict:
    """{what: GiB} of a model's weights and of the peaks of an edit's stages at full size, nothing of which is made.

    A stage's peak has in it all that lies on the card then: the weights, and with low_memory not the reference.
    """
    with as_on_a_card(), Live() as live:
        model = shape_of(kind, dtype, low_memory)
        found = {f"weights: {part}": size(getattr(model, part).parameters()) for part in checkpoints.PARTS}
        live.now = live.peak = int(sum(found.values()) * GIB)
        side = side or model.side
        cells = side // model.factor
        z, x = _made(1, 4, cells, cells), _made(1, 3, side, side)
        rows = WORDS + sdxl.is_sdxl(model.unet.config)
        cond = _made(1, rows, model.unet.config.cross_attention_dim)
        with live.measured(found, "encode"), torch.no_grad():
            model.vae.encode(x)
        if settings.lora_steps:
            with live.measured(found, "fine-tune"):
                _fine_tune(model, settings, z, cond)
        own = _copies(model, settings)
        found["weights: adapted copies"] = size(own)
        with (
            attention.recording(replace(model, low_memory=False), settings.ref_blocks) as kv,
            torch.no_grad(),
        ):
            kv.at(1)
            sd.predict(model, z, 1, cond)
        rows = [_made(kv.bytes(), dtype=torch.uint8) for _ in range(settings.stage_steps()["reference"])]
        found["reference, on the " + ("host" if low_memory else "card")] = size(rows)
        kv.layers.clear()
        if low_memory:
            rows.clear()
        with live.measured(found, "drag"):
            _look(model, settings, z, cond)
        with live.measured(found, "denoise"), torch.no_grad():
            sd.predict(model, z, 1, cond)
        with live.measured(found, "decode"), torch.no_grad():
            model.vae.decode(z)
    return found


def _made(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def _copies(model, settings) -> list[torch.Tensor]:
    """The adapted weights that the private model of an edit has of its own (`lora.merged`)."""
    ends = tuple(f".{target}.weight" for target in settings.lora_targets) if settings.lora_steps else ()
    return [torch.empty_like(p) for n, p in model.unet.named_parameters() if ends and n.endswith(ends)]


def _fine_tune(model, settings, z, cond) -> None:
    """One step of `lora.finetune`, with what the adapter and its optimiser keep."""
    own = sd.private(model)
    with lora.attached(own, settings) as params:
        moments = [torch.zeros_like(p) for p in params for _ in range(2)]  # noqa: F841
        t = _made(settings.lora_batch, dtype=torch.long)
        with torch.enable_grad():
            loss = sd.predict(own, z.expand(settings.lora_batch, -1, -1, -1), t, cond).square().mean()
            torch.autograd.grad(loss, params)


def _look(model, settings, z, cond) -> None:
    """One iteration of the drag: features, and the noise where the mask term needs it, with the latent's gradient."""
    whole = settings.mask_on == "prev"
    with torch.enable_grad():
        at = z.clone().requires_grad_(True)
        feats, eps = features.capture(model, at, 1, cond, (settings.block,), stop_early=not whole)
        loss = feats[settings.block].abs().sum() + (eps.abs().sum() if whole else 0)
        torch.autograd.grad(loss, at)


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m tools.speed.memory", description=__doc__.split("\n")[0])
    p.add_argument(
        "--model", default="sdxl", choices=sorted(f.name for f in files.CONFIGS.iterdir() if f.is_dir())
    )
    p.add_argument("--profile", default="reference")
    p.add_argument("--dtype", default="fp16")
    p.add_argument("--side", type=int, help="of the picture; default: the model's own")
    p.add_argument("--batch", type=int, help="lora_batch; default: the profile's")
    p.add_argument("--low-memory", action="store_true")
    args = p.parse_args(argv)
    settings = profile(args.profile, **({"lora_batch": args.batch} if args.batch else {}))
    dtype = sd.pick_dtype(args.dtype, torch.device("cpu"))
    for name, gib in count(args.model, settings, dtype, args.side, args.low_memory).items():
        sys.stdout.write(f"{name:34}{gib:8.2f} GiB\n")


if __name__ == "__main__":
    main()
