"""What the fine-tune works with: its batches, the adapter as the optimiser sees it, the score that may end it.

Serves `lora`, whose `finetune` is the loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from dragnb import lean, sd
from dragnb.errors import InputError

ADAPTER = "dragnb"
LOOK_EVERY, SCORED = 10, 4  # steps between two looks at the score; samples that make it
MERGED_WIDTH = 256  # channels of a layer: up to here one product with W + up @ down is cheaper than three


def draw(model: sd.Model, z_dist, batch: int, generator: torch.Generator, levels: int, t=None):
    """A training batch at the first `levels` timesteps: noised latents, timesteps, the right answers (noise or v)."""
    mean, std = (part.float().cpu() for part in z_dist)
    shape = (batch, *mean.shape[1:])
    clean = mean + std * torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    t = torch.randint(0, levels, (batch,), generator=generator) if t is None else t
    signal = model.abar[t].sqrt().view(-1, 1, 1, 1)
    rest = (1 - model.abar[t]).sqrt().view(-1, 1, 1, 1)
    target = noise if model.prediction_type == "epsilon" else signal * noise - rest * clean
    return (signal * clean + rest * noise).to(model.device), t.to(model.device), target.to(model.device)


class Trained:
    """The attached adapter as the optimiser sees it: `params`, few and large where that is exact.

    Small float32 layers of one shape are trained as one stack, and inside `merged` they are single matrices
    W + up @ down: a product of all rows with a matrix of few columns costs more than it computes, and there are two
    of them a projection. The layers' own parameters are views of the stack, so `weights_of` is right at any moment.
    Wide layers, whose full gradient would cost more than the two thin ones, and half precision, in which W would
    swallow the small sum, stay as peft has them.
    """

    def __init__(self, model: sd.Model):
        layers = [m for m in model.unet.modules() if ADAPTER in getattr(m, "lora_A", {})]
        if not layers:
            raise InputError(
                "model: no adapter is attached; wrap the call in `with lora.attached(model, settings):`"
            )
        self.params, self.stacks, shapes, heeded = [], [], {}, lean.projections(model.unet)
        for layer in layers:
            base, down, up = (
                layer.base_layer.weight,
                layer.lora_A[ADAPTER].weight,
                layer.lora_B[ADAPTER].weight,
            )
            small = max(base.shape) <= MERGED_WIDTH
            if layer in heeded and base.dtype == torch.float32 and small:
                shapes.setdefault(tuple(base.shape), []).append((layer, base, down, up))
            else:
                self.params += [down, up]
        for group in shapes.values():
            layers, *weights = zip(*group, strict=True)
            base, downs, ups = (torch.stack([w.detach() for w in kind]) for kind in weights)
            for own, stack in zip(weights[1:], (downs, ups), strict=True):
                for param, view in zip(own, stack, strict=True):
                    param.data = view
            self.params += [downs.requires_grad_(), ups.requires_grad_()]
            self.stacks.append((layers, base, downs, ups))

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Inside the block the stacked layers offer their one matrix, with gradient, as `merged_weight`."""
        offered = []
        try:
            for layers, base, downs, ups in self.stacks:
                for layer, weight in zip(layers, torch.baddbmm(base, ups, downs), strict=True):
                    layer.merged_weight = weight
                    offered.append(layer)
            yield
        finally:
            for layer in offered:
                del layer.merged_weight


class Score:
    """How well the model knows the picture by now: its error on fixed samples, each against its own at the start."""

    def __init__(self, model: sd.Model, z_dist, cond: torch.Tensor, settings, levels: int):
        self.model, self.cond, self.least = model, cond, settings.lora_stop
        self.earliest = settings.lora_steps / 2  # a score may rest before it falls
        t = (torch.arange(SCORED) * 2 + 1) * levels // (2 * SCORED)  # the middles of equal parts
        generator = torch.Generator().manual_seed(settings.seed)
        self.sample = draw(model, z_dist, SCORED, generator, levels, t)
        self.first, self.score = self._errors(), 1.0

    @torch.no_grad()
    def _errors(self) -> torch.Tensor:
        z, t, target = self.sample
        return (sd.predict(self.model, z, t, self.cond) - target).square().mean((1, 2, 3))

    def __call__(self, step: int) -> tuple[float | None, bool]:
        """The score, every LOOK_EVERY steps, and whether, in the second half, too little came of them."""
        if step % LOOK_EVERY:
            return None, False
        before, self.score = self.score, (self._errors() / self.first).mean().item()
        return self.score, step >= self.earliest and before - self.score < self.least
