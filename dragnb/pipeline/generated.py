"""A picture that the model makes itself, with the latents that it went through (the pictures of the paper's Fig. 5).

A drag of it starts from its own latent: nothing is inverted, since the road from noise to picture is known, and nothing
is fine-tuned, since the model knows its own pictures. The reference of §3.4 is that very road.

    cat = dragnb.generate("sd15", "a photo of a cat")
    result = dragnb.edit(cat.task([[250, 200]], [[300, 200]]), generated=cat)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dragnb import ddim, sd
from dragnb.config import MAX_SEED
from dragnb.errors import InputError
from dragnb.geometry import MULTIPLE, Frame
from dragnb.task import DragTask


@dataclass(frozen=True, eq=False)
class Generated:
    """A picture that a model made; `generate` makes one.

    image         uint8 (height, width, 3)
    model         what made it, as `sd.load` takes it: a loaded model, or how it is loaded again
    cond, uncond  (1, 77, c) the prompt and the negative prompt; uncond None where guidance is off
    ts, zs        the timesteps, most noise first; (steps + 1, 4, h, w), the latent at each, and last the clean one
    """

    image: np.ndarray
    model: str | sd.Wanted | sd.Model = field(repr=False)
    prompt: str
    negative: str
    seed: int
    steps: int
    guidance: float
    cond: Tensor = field(repr=False)
    uncond: Tensor | None = field(repr=False)
    ts: tuple[int, ...] = field(repr=False)
    zs: Tensor = field(repr=False)

    def task(self, handles, targets, mask: np.ndarray | None = None) -> DragTask:
        """A drag of this picture; points (n, 2) and mask as `DragTask` has them."""
        return DragTask(self.image, handles, targets, mask, self.prompt)

    @property
    def recipe(self) -> dict:
        """What makes this picture again, with the same model."""
        return {name: getattr(self, name) for name in ("prompt", "negative", "seed", "steps", "guidance")}


def generate(
    model: str | sd.Model = "clay",
    prompt: str = "",
    negative: str = "",
    seed: int = 42,
    steps: int = 50,
    guidance: float = 7.5,
    size: tuple[int, int] | None = None,
) -> Generated:
    """Make a picture of a prompt by DDIM, and keep the latents on its way (paper Fig. 5).

    negative  what the picture shall not show: stands in the place of the empty prompt under guidance
    seed      of the noise that it begins with, drawn on the CPU: the same on every device
    steps     of DDIM, a divisor of 1000; guidance: classifier-free, 1 is off
    size      (width, height) in pixels, multiples of 64; default: the side that the model was trained at

    The picture is that of diffusers' own DDIM pipeline from the same noise, to rounding. InputError names what is
    out of range.
    """
    steps_of = generating(model, prompt, negative, seed, steps, guidance, size)
    while True:
        try:
            next(steps_of)
        except StopIteration as end:
            return end.value


def generating(
    model, prompt="", negative="", seed=42, steps=50, guidance=7.5, size=None
) -> Generator[ddim.SampleState, None, Generated]:
    """Make the picture of `generate` step by step: yields each step of DDIM, returns the Generated."""
    check(steps, seed, guidance)
    model = sd.load(model)
    _check_size(size := size or (model.side, model.side))
    ts = tuple(ddim.timesteps(steps))
    cond = sd.embed(model, prompt)
    uncond = None if guidance == 1 else sd.unconditional(model, negative)
    h, w = (n // model.factor for n in (size[1], size[0]))
    channels = model.unet.config.in_channels
    noise = torch.randn((1, channels, h, w), generator=torch.Generator().manual_seed(seed)).to(model.device)
    zs = [noise]
    with sd.memory_errors("size, or load the model with dtype='fp16'"):
        for state in ddim.sample(sd.eps_fn(model, cond, guidance, uncond), noise, model.abar, ts):
            zs.append(state.z_next)
            yield state
        image = Frame.fit(*size, fit="native").from_canvas(sd.decode(model, zs[-1]))
    return Generated(
        image, model, prompt, negative, seed, steps, float(guidance), cond, uncond, ts, torch.cat(zs)
    )


def check(steps: int = 50, seed: int = 42, guidance: float = 7.5) -> None:
    """Refuse what `generate` does not take, by name, before any model is loaded; raises InputError."""
    ddim.timesteps(steps)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed = {seed!r} is not a whole number from 0 to {MAX_SEED}")
    if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not 1 <= guidance <= 50:
        raise InputError(f"guidance = {guidance!r} is not a number from 1 (off) to 50; 7.5 is usual")


def _check_size(size) -> None:
    if len(size) != 2 or any(not isinstance(n, int) or n < MULTIPLE or n % MULTIPLE for n in size):
        raise InputError(f"size = {size!r} is not (width, height) in multiples of {MULTIPLE}; (512, 512) is")
