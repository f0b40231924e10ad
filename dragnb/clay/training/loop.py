"""The training loop: what it trains on, one seed a step, checkpoints from which it goes on exactly.

Resume is exact because nothing random outlives a step: the draws of step k come from a generator seeded with
(seed, part, k), and weights, averages and optimiser state are saved together, beside and then renamed.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dragnb import metrics, sd
from dragnb.clay.scene import sample
from dragnb.clay.training.data import draw_set
from dragnb.clay.training.recipe import HELDOUT_SEED, Recipe
from dragnb.geometry import Frame

SHOW_EVERY = 50  # steps between points of the loss curve


def to_unit(pictures, device="cpu"):
    """uint8 pictures (b, h, w, 3) to tensors (b, 3, h, w) in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float()
    return (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class Pictures(torch.utils.data.Dataset):
    """Training pictures by index: read from the drawn set, or drawn on the fly where the recipe keeps none."""

    def __init__(self, recipe: Recipe, out: Path):
        self.recipe, self.path = recipe, out / f"pictures-{recipe.pictures}.npy"
        self.drawn = None

    def prepare(self, progress=lambda done, total: None):
        """Draw the set, if the recipe keeps one."""
        if self.recipe.pictures:
            self.drawn = draw_set(
                self.path, self.recipe.pictures, workers=self.recipe.workers, progress=progress
            )
        return self

    def __getitem__(self, index):
        return self.drawn[index] if self.recipe.pictures else sample(int(index)).picture()

    def seeds(self, step, batch, generator):
        """Which seeds make up a step's batch: shuffled from the drawn set, or ever new ones."""
        if self.recipe.pictures:
            return torch.randint(0, self.recipe.pictures, (batch,), generator=generator).tolist()
        return [(step * batch + i) % HELDOUT_SEED for i in range(batch)]


def step_generator(recipe, part, step):
    """The one source of randomness of a step."""
    return torch.Generator().manual_seed(((recipe.seed * 2 + (part == "unet")) << 32) + step)


def draw_timesteps(count, focus, generator):
    """Half of the timesteps uniform over the schedule, half within `focus`, (count,) whole numbers in 0..999."""
    anywhere = torch.randint(0, 1000, (count,), generator=generator)
    within = torch.randint(*focus, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, anywhere, within)


def learning_rate(peak, step, total, recipe):
    """Warm-up, plateau, cosine down to nearly nothing."""
    done = step / total
    fall = (
        1.0
        if done < recipe.decay_from
        else 0.5 * (1 + math.cos(math.pi * (done - recipe.decay_from) / (1 - recipe.decay_from)))
    )
    return peak * min(1.0, (step + 1) / recipe.warmup) * (fall + 0.01)


@torch.no_grad()
def update_average(average, current, decay, step):
    """Exponential moving average of weights; young averages follow faster."""
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - d)


def checkpoint(path, step, curve, seconds, modules, averages, optimizer):
    """Write all that training goes on from, whole or not at all."""
    state = dict(
        step=step,
        curve=curve,
        seconds=seconds,
        weights={k: m.state_dict() for k, m in modules.items()},
        averages={k: m.state_dict() for k, m in averages.items()},
        optimizer=optimizer,
    )
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def fit(name, modules, loss_fn, steps, peak_lr, recipe, out, weight_decay, ema):
    """Train `modules` (name -> module) by `loss_fn(step) -> loss`: a generator of (step, loss, lr), step by step.

    Every `save_every` steps, and at the end, `out/name.pt` holds weights, averages, optimiser and the loss curve.
    """
    path = out / f"{name}.pt"
    averages = {k: copy.deepcopy(m).requires_grad_(False) for k, m in modules.items()}
    weights = [p for m in modules.values() for p in m.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=peak_lr, betas=(0.9, 0.99), weight_decay=weight_decay)
    first, curve, spent = 0, [], 0.0
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for k, m in modules.items():
            m.load_state_dict(saved["weights"][k]), averages[k].load_state_dict(saved["averages"][k])
        if saved["optimizer"]:  # an adopted model brings none
            optimizer.load_state_dict(saved["optimizer"])
        first, curve, spent = saved["step"], saved["curve"], saved["seconds"]
    started, mean = time.monotonic(), curve[-1][1] if curve else None
    for step in range(first, steps):
        lr = learning_rate(peak_lr, step, steps, recipe)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss, shown = loss_fn(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for k, m in modules.items():
            update_average(averages[k], m, ema, step)
        mean = float(shown) if mean is None else 0.98 * mean + 0.02 * float(shown)
        last = step + 1 == steps
        if (step + 1) % SHOW_EVERY == 0 or last:
            curve.append((step + 1, mean))
        if (step + 1) % recipe.save_every == 0 or last:
            seconds = spent + time.monotonic() - started
            checkpoint(path, step + 1, curve, seconds, modules, averages, optimizer.state_dict())
        yield step + 1, mean, lr


def batches(data, recipe, part, batch, first, steps):
    """The pictures of every step in order, (step, uint8 batch); fresh ones are drawn ahead by worker processes."""
    plan = [data.seeds(k, batch, step_generator(recipe, part, k)) for k in range(first, steps)]
    workers = 0 if recipe.pictures else recipe.workers
    loader = torch.utils.data.DataLoader(data, batch_sampler=plan, num_workers=workers, collate_fn=np.stack)
    return zip(range(first, steps), plan, loader, strict=True)


def saved_step(out, name):
    """How many steps of a part a checkpoint holds (0 without one)."""
    path = out / f"{name}.pt"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"] if path.exists() else 0


def trained(out, name, module, key):
    """A module with a checkpoint's averaged weights, frozen."""
    saved = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
    module.load_state_dict(saved["averages"][key])
    return module.eval().requires_grad_(False)


def reconstruct(model: sd.Model, picture: np.ndarray) -> np.ndarray:
    """A 256 px picture through a model's autoencoder, uint8 as it was."""
    frame = Frame.fit(256, 256, 256)
    return frame.from_canvas(sd.decode(model, sd.encode(model, frame.to_canvas(picture))))


def autoencoder_psnr(model: sd.Model, count: int = 200) -> Iterator[dict[str, float]]:
    """PSNR in dB of encoding and decoding `count` held-out pictures, one by one: of the whole, figure and backdrop.

    The backdrop is most of a picture and nearly flat, so the figure's own pixels are told apart from it.
    """
    for seed in range(HELDOUT_SEED, HELDOUT_SEED + count):
        scene = sample(seed)
        picture, figure = scene.picture(), scene.trace()[1] >= 0
        back = reconstruct(model, picture)
        parts = {"whole": None, "figure": figure, "backdrop": ~figure}
        yield {name: metrics.psnr(back, picture, mask) for name, mask in parts.items()}
