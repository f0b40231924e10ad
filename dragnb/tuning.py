"""What the fine-tune works with: its batches, and the score that may end it.

Serves `lora`, whose `finetune` is the loop.
"""

from __future__ import annotations

import torch

from dragnb import sd

LOOK_EVERY, SCORED = 10, 4  # steps between two looks at the score; samples that make it


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
