"""A quick look at a latent on its way: what the model takes it for in one leap, and the features it sees there.

A leap is cheap and blurred; the picture itself is denoised step by step (`pipeline.denoise`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dragnb import ddim, features, sd
from dragnb.drag import DragState
from dragnb.prepare import Event, Prepared


class Glimpse(NamedTuple):
    """image: uint8 (height, width, 3), blurred; feat: the map that points are followed in, (1, c, h, w)."""

    image: np.ndarray
    feat: Tensor


def leap(prepared: Prepared, z: Tensor, eps: Tensor, t: int) -> Tensor:
    """The clean latent that `z` at timestep t comes from if all the noise in it is `eps`."""
    abar = ddim.abar_at(prepared.model.abar, t)
    return ddim.ddim_move(z, eps, abar, abar.new_ones(()))


def picture(prepared: Prepared, z: Tensor) -> np.ndarray:
    """A clean latent as the picture, uint8 in the task's size."""
    return prepared.frame.from_canvas(sd.decode(prepared.model, z))


@torch.no_grad()
def glimpse(prepared: Prepared, z: Tensor) -> Glimpse:
    """Look at a latent that is dragged, at timestep ts[0]: one pass through the U-Net, one through the decoder."""
    t, block = prepared.ts[0], prepared.settings.block
    feats, eps = features.capture(prepared.model, z, t, prepared.cond, (block,), stop_early=False)
    return Glimpse(picture(prepared, leap(prepared, z, eps, t)), feats[block])


def preview(event: Event) -> np.ndarray | None:
    """The picture as an event of the drag or of the denoising has it; None at the other stages."""
    if event.stage == "drag":
        return glimpse(event.prepared, event.data.z).image
    if event.stage == "denoise":
        state = event.data
        return picture(event.prepared, leap(event.prepared, state.z, state.eps, state.t))
    return None


def film(prepared: Prepared, states: Sequence[DragState], most: int = 48) -> Iterator[tuple[int, np.ndarray]]:
    """Pictures of a drag from first to last, at most so many, evenly spread: yields (step, image)."""
    for step in np.linspace(0, len(states) - 1, min(most, len(states))).round().astype(int).tolist():
        yield step, glimpse(prepared, states[step].z).image
