"""GoodDrag (Zhang et al., ICLR 2025): drag and denoise in turn, and pull towards the content that the handle had first.

Two changes to DragDiffusion. What a patch is compared with is the patch of the *unedited* picture at the same timestep,
not the patch as the last step left it, so that nothing drifts. And the drag is spread over the first denoising steps,
each of which mends what the pulls before it broke. Where the public code tracks on the features before the last pull,
this tracks on those after it; a mask that holds nothing holds nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dragnb import config, ddim
from dragnb.drag import DragState, Problem, mask_term, track_points, window


@dataclass(frozen=True)
class Settings(config.Settings):
    """The method's own numbers, and those common ones that it takes otherwise."""

    drag_steps: int = config.number(210, 0, 10_000, "drag", "most pulls, over all levels")
    drag_lr: float = config.number(
        0.02, 0.0, 10.0, "drag", "Adam moves each latent value by about this a pull"
    )
    r1: int = config.number(4, 0, 64, "drag", "motion supervision pulls a patch of (2 r1 + 1)² cells")
    r2: int = config.number(12, 1, 64, "drag", "the tracker looks into a window of (2 r2 + 1)² cells")
    stop: float = config.number(2.0, 0, 64, "drag", "'reached': this near, in cells of that map")
    levels: int = config.number(7, 1, 500, "drag", "denoising steps that the drag is spread over")
    tracks: int = config.number(10, 1, 1000, "drag", "times a level that the handles are looked for")
    pulls: int = config.number(3, 1, 100, "drag", "gradient steps from one look to the next")
    stride: float = config.number(4.0, 0.0, 64.0, "drag", "cells of that map that a patch is pulled ahead")
    patience: int = config.number(5, 1, 1000, "drag", "looks in a row without a move that end the drag")


def _motion(feat, wanted, handles, targets, active, settings):
    """How unlike the patches `stride` cells ahead, or at the targets where these are nearer, are to the wanted ones."""
    way = targets - handles
    part = (settings.stride / way.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    ahead = feat.inside((handles + way * part)[:, None] + window(settings.r1).to(handles))
    unlike = ((feat.read(ahead) - wanted).abs() * active[:, None, None]).sum()
    return unlike / feat.cells.shape[1] if settings.motion_norm == "mean" else unlike


def drag(problem: Problem) -> Iterator[DragState]:
    """Yield the latent after each pull, at the level at which it is: the timestep falls on the way.

    At most settings.drag_steps pulls over settings.levels levels; ends when all handles have arrived, or when the
    tracker has seen none of them move `patience` times.
    """
    s, mask, step, still = problem.settings, problem.held, 0, 0
    on_prev = mask is not None and s.mask_on == "prev"
    scale = problem.grad_scale if s.motion_norm == "mean" else 1.0
    handles, z, original, levels = problem.handles, problem.z, problem.z, problem.ts[: s.levels]
    anchors = problem.handles[:, None] + window(s.r1).to(problem.handles)
    for level, t in enumerate(levels):
        with torch.no_grad():
            first, noise = problem.look(original, t)
            first, below = first.detach(copy=True), problem.one_step_down(original, noise, t)
        wanted, before = first.read(first.inside(anchors)), below if on_prev else original
        z = z.detach().float().clone().requires_grad_(True)
        adam = torch.optim.Adam([z], lr=s.drag_lr)
        for pull in range(s.tracks * s.pulls + 1):
            with torch.enable_grad():
                feat, noise = problem.look(z, t, eps=on_prev)
                if step and pull % s.pulls == 0:
                    found = track_points(first, feat.detach(), problem.handles, handles, s.r2)
                    still = still + 1 if torch.equal(found, handles) else 0
                    handles = found
                distance = (problem.targets - handles).norm(dim=1)
                active = (distance >= s.stop) & (distance > 0)
                motion = _motion(feat, wanted, handles, problem.targets, active, s)
                now = problem.one_step_down(z, noise, t) if on_prev else z
                held = s.lam * mask_term(now, before, mask) if mask is not None else torch.zeros_like(motion)
                reached, spent = not bool(active.any()), pull == s.tracks * s.pulls
                over = reached or still >= s.patience or step >= s.drag_steps
                if not over and not spent:
                    (z.grad,) = torch.autograd.grad((motion + held) * scale, z)
            over = over or (spent and level == len(levels) - 1)
            if over or not spent:
                a, b = torch.stack([motion.detach(), held.detach()]).tolist()
                yield DragState(step, z.detach().clone(), t, handles, distance, a + b, reached, a, b)
            if over:
                return
            if spent:
                break
            z.grad /= scale
            ddim.require_finite(z.grad, f"the gradient of pull {step}")
            adam.step()
            step += 1
        with torch.no_grad():
            z, original = problem.one_step_down(z, problem.look(z, t)[1], t), below
