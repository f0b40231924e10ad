"""Latent optimisation (paper §3.3): one latent is changed until the handles' content stands at the targets.

Points are (row, column) in cells of the feature map at the size `map_hw`, which is finer than the U-Net's own map
(half the picture's side by default); r1, r2 and the stopping distance count in its cells. The fine map is never made:
`features.read` reads the U-Net's map at the points only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dragnb import ddim, features, sd
from dragnb.errors import InputError


@dataclass(frozen=True)
class DragState:
    """The latent after `step` updates and all that was measured on that very latent; tensors are detached copies.

    loss, motion, mask_loss  eq. 3 whole and its two parts; the mask part includes lam
    handles_yx               (n, 2) where the handles' content is by now (eq. 5), cells of the map
    distance                 (n,) from there to the targets, in cells
    reached                  every handle is nearer than settings.stop
    z                        (1, 4, h, w)
    """

    step: int
    loss: float
    motion: float
    mask_loss: float
    handles_yx: Tensor
    distance: Tensor
    reached: bool
    z: Tensor


def window(radius: int) -> Tensor:
    """Offsets of a square patch, (2 radius + 1)² of them, row-major: (k, 2) float."""
    side = torch.arange(-radius, radius + 1, dtype=torch.float32)
    return torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).reshape(-1, 2)


def inside(yx: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """Points moved to the nearest place on the map."""
    return torch.minimum(yx.clamp_min(0), yx.new_tensor(map_hw) - 1)


def map_size(model: sd.Model, z: Tensor, settings) -> tuple[int, int]:
    """The map in whose cells points count: settings.supersample times the canvas, at least 1 x 1."""
    factor = model.factor * settings.supersample
    return tuple(max(1, round(n * factor)) for n in z.shape[-2:])


def _size(feat: Tensor, map_hw: tuple[int, int] | None) -> tuple[int, int]:
    return tuple(feat.shape[-2:]) if map_hw is None else map_hw


def supervise(
    feat: Tensor,
    handles: Tensor,
    targets: Tensor,
    radius: int = 1,
    norm: str = "sum",
    stop: float = 0.0,
    map_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Motion supervision, the first sum of eq. 3: pull the patch around each handle one cell towards its target.

    feat             features of the latent that is optimised, (1, c, h, w), with gradient
    handles, targets (n, 2) cells; a handle nearer than `stop` to its target, or on it, takes no part
    norm             "sum": |F(q + d) - sg F(q)| summed over patch and channels (eq. 3); "mean": summed over the
                     patch, averaged over channels (the public code), so smaller by the channel count
    Returns a scalar; exactly zero when every handle has arrived. Reads beyond the border are read at the border.
    """
    if norm not in ("sum", "mean"):
        raise InputError(f"motion_norm = {norm!r}: use 'sum' (eq. 3) or 'mean' (the public code)")
    map_hw = _size(feat, map_hw)
    way = targets - handles
    distance = way.norm(dim=1, keepdim=True)
    active = (distance >= stop) & (distance > 0)
    step = torch.where(active, way / distance.clamp_min(1e-12), 0.0)
    patch = inside(handles[:, None] + window(radius).to(handles), map_hw)
    here = features.read(feat.detach(), patch, map_hw)
    there = features.read(feat, patch + step[:, None], map_hw)
    difference = ((there - here).abs() * active[:, :, None]).sum()
    return difference if norm == "sum" else difference / feat.shape[1]


def track_points(
    before: Tensor,
    after: Tensor,
    anchors: Tensor,
    handles: Tensor,
    radius: int = 3,
    map_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Point tracking, eq. 5: in the window around each handle, find the content its anchor had at the start.

    before, after  feature maps (1, c, h, w) of the first latent and of this one
    anchors        (n, 2) cells where the handles were at first; they need not be whole numbers
    handles        (n, 2) cells where they were last seen; (2 radius + 1)² places around each are tried, moved to the
                   border where they would leave the map
    Returns (n, 2), the place with the smallest L1 distance over channels; the first in row-major order on ties.
    """
    map_hw = _size(after, map_hw)
    places = inside(handles[:, None] + window(radius).to(handles), map_hw)
    sought = features.read(before, anchors, map_hw)
    cost = (features.read(after, places, map_hw) - sought[:, None]).abs().sum(dim=-1)
    return places[torch.arange(len(places), device=places.device), cost.argmin(dim=1)]


def mask_term(now: Tensor, first: Tensor, mask: Tensor) -> Tensor:
    """The second sum of eq. 3 without lam: how far the latent moved where the mask is 0. Zero for equal latents."""
    return ((now - first) * (1 - mask)).abs().sum()


class _Problem:
    """What stays fixed while one latent is optimised, and the loss at a latent."""

    def __init__(self, model: sd.Model, z_t: Tensor, t: int, cond, handles, targets, mask, settings, map_hw):
        self.map_hw = map_hw or map_size(model, z_t, settings)
        self.model, self.t, self.cond, self.settings = model, t, cond, settings
        self.anchors, self.targets = handles, targets
        self.abar = ddim.abar_at(model.abar, t)
        self.abar_prev = ddim.abar_at(model.abar, t - ddim.TRAIN_STEPS // settings.steps)
        holds = mask is not None and settings.lam > 0 and bool((mask < 1).any())
        self.mask = mask.to(z_t) if holds else None
        self.on_prev = holds and settings.mask_on == "prev"
        self.first: tuple[Tensor, Tensor] | None = None

    def look(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features and the latent that the mask term holds still: z one step denoised, or z itself."""
        block = self.settings.block
        with sd.memory_errors("the picture's side, or load the model with dtype='fp16'"):
            feats, eps = features.capture(
                self.model, z, self.t, self.cond, (block,), stop_early=not self.on_prev
            )
        kept = ddim.ddim_move(z, eps, self.abar, self.abar_prev) if self.on_prev else z
        ddim.require_finite(feats[block], f"the features of block {block} at t = {self.t}")
        if self.first is None:
            self.first = feats[block].detach().clone(), kept.detach().clone()
        return feats[block], kept

    def follow(self, feat: Tensor, handles: Tensor) -> Tensor:
        return track_points(
            self.first[0], feat.detach(), self.anchors, handles, self.settings.r2, self.map_hw
        )

    def losses(self, feat: Tensor, kept: Tensor, handles: Tensor) -> tuple[Tensor, Tensor]:
        s = self.settings
        motion = supervise(feat, handles, self.targets, s.r1, s.motion_norm, s.stop, self.map_hw)
        if self.mask is None:
            return motion, torch.zeros_like(motion)
        return motion, s.lam * mask_term(kept, self.first[1], self.mask)


def optimise(
    model: sd.Model,
    z_t: Tensor,
    t: int,
    cond: Tensor,
    handles_yx: Tensor,
    targets_yx: Tensor,
    mask: Tensor | None,
    settings,
    map_hw: tuple[int, int] | None = None,
) -> Iterator[DragState]:
    """Change z_t until its handles reach their targets (eq. 3-5, Adam), at most settings.drag_steps updates.

    z_t         (1, 4, h, w) latent at timestep t; it is not changed
    handles_yx  (n, 2) cells of a map of size `map_hw` (default: settings.supersample times the picture's size)
    mask        (1, 1, h, w), 1 = may change; None or all ones drops the mask term. Without that term, or with
                mask_on "now", the forward pass ends at the feature block, which changes no gradient.

    Yields state 0, the latent as given, to the last one, whose z is the result; each state is measured on its own z,
    so closing the generator at any point loses nothing. The first features are those of state 0, so the mask term
    starts at exactly 0. Raises NotFiniteError on NaN, InputError on points that are no pairs.
    """
    handles, targets = (torch.as_tensor(p).to(z_t.device, torch.float32) for p in (handles_yx, targets_yx))
    if handles.ndim != 2 or handles.shape != targets.shape or handles.shape[1] != 2 or not len(handles):
        raise InputError(
            f"points: handles {tuple(handles.shape)} and targets {tuple(targets.shape)} are not n pairs (n, 2)"
        )
    ddim.require_finite(z_t, "the latent to drag")
    problem = _Problem(model, z_t.float(), t, cond, handles, targets, mask, settings, map_hw)
    z = z_t.detach().float().clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=settings.drag_lr)
    scale = sd.grad_scale(model) if settings.motion_norm == "mean" else 1.0
    for step in range(settings.drag_steps + 1):
        with torch.enable_grad():
            feat, kept = problem.look(z)
            handles = problem.follow(feat, handles) if step else handles
            motion, held = problem.losses(feat, kept, handles)
            distance = (targets - handles).norm(dim=1)
            done = bool((distance < settings.stop).all()) or bool((distance == 0).all())
            if not done and step < settings.drag_steps:
                (z.grad,) = torch.autograd.grad((motion + held) * scale, z)
        a, b = torch.stack([motion, held]).tolist()
        yield DragState(step, a + b, a, b, handles.clone(), distance.clone(), done, z.detach().clone())
        if done or step == settings.drag_steps:
            return
        z.grad /= scale
        ddim.require_finite(z.grad, f"the gradient of drag step {step}")
        adam.step()
