"""Warp, then inpaint: the picture's own pixels are moved, and the model paints only what that uncovers or tears.

After Lu and Han, "Inpaint4Drag" (ICCV 2025), which splits a drag into a warp of an object's pixels and an inpainting of
the rest. Here the warp is `carry.carry` (moving least squares, rigid: Schaefer et al. 2006), and what paints is no
inpainting model but the edit's own: the moved picture is noised with the noise of the picture's inversion and denoised
under reference control, and what is final is put in again at every level (as RePaint, Lugmayr et al., CVPR 2022).
No fine-tune is needed: what shall stay the same is not painted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from dragnb import config, ddim
from dragnb.carry import carry
from dragnb.drag import DragState, Problem
from dragnb.errors import InputError


@dataclass(frozen=True)
class Settings(config.Settings):
    """The method's own numbers, and those common ones that it takes otherwise."""

    effort: ClassVar[tuple[str, ...]] = ()  # with twice the steps the painting came out no better
    unread: ClassVar[tuple[str, ...]] = ("drag_lr", "lam", "r1", "r2")
    lora_steps: int = config.number(0, 0, 10_000, "finetune", "steps of the fine-tune; 0: none")
    strength: float = config.number(0.4, 0.0, 1.0, "invert", "part of the schedule that is inverted")
    drag_steps: int = config.number(4, 0, 10_000, "drag", "pictures on the way, the last one at the targets")
    near: float = config.number(
        0.25,
        0.0,
        10.0,
        "drag",
        "distances to a handle count this much; lower: more of the object goes with it",
    )
    hold: float = config.number(
        4.0, 0, 1e6, "drag", "weight of the object's part outside the mask, which stays"
    )


def drag(problem: Problem) -> Iterator[DragState]:
    """Yield the latent of the picture with its object a part of the way, up to the whole of it.

    InputError where the drag begins at a latent of another method: its picture is not known.
    """
    task, settings, t = problem.task, problem.settings, problem.ts[0]
    if task is None:
        raise InputError(
            f"method = {settings.method!r} moves a picture's pixels and cannot begin at another method's latent; save "
            "its picture and drag that"
        )
    way, signal = problem.targets - problem.handles, ddim.abar_at(problem.abar, t).sqrt()
    before = problem.keep(task.image, np.ones(task.size[::-1], np.float32))
    for step in range(settings.drag_steps + 1):
        kept, z, part = None, problem.z.clone(), step / max(1, settings.drag_steps)
        if step:
            there = replace(task, targets=task.handles + part * (task.targets - task.handles))
            carried = carry(there, settings.near, settings.hold)
            kept = problem.keep(carried.image, carried.kept)
            z = problem.z + signal * (kept.z0 - before.z0)
        handles = problem.handles + part * way
        distance = (problem.targets - handles).norm(dim=1)
        yield DragState(step, z, t, handles, distance, 0.0, part == 1, kept=kept)
