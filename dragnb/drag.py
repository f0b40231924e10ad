"""Latent optimisation (paper §3.3): one latent is changed until the handles' content stands at the targets.

A drag method is a generator of states: it is given one `Problem` and yields a `DragState` after each update, so that
the caller plots, stops and saves. `optimise` is DragDiffusion's own; `supervise`, `track_points` and `mask_term` are
the pieces that other methods (`dragnb.methods`) use again.

Points are (row, column) in cells of the feature map at the size in which it is read (`features.FeatureMap`), half the
picture's side by default; r1, r2 and the stopping distance count in its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dragnb import ddim
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.features import FeatureMap, as_map
from dragnb.task import DragTask

FINAL = 0.98  # share of a pixel from which it counts as final


@dataclass(frozen=True, eq=False)
class Problem:
    """What every drag method is given; `pipeline.Prepared.problem` makes one.

    look        look(z, t, eps=True, cond=None) -> (FeatureMap, eps or None) of the tuned model, with gradient; with
                eps=False the pass may end at the feature block; cond takes the place of the prompt's embedding
    z           (1, 4, h, w), the latent at ts[0]
    ts          the timesteps of the way down, most noise first
    handles     (n, 2) cells of the feature map; targets: likewise
    mask        (1, 1, h, w), 1 = may change; None: everything may
    abar        (1000,) cumulative signal fraction per training timestep
    grad_scale  what a mean loss is multiplied by before its backward pass, for half precision
    task        the points and the mask in picture pixels, and the picture; None where the drag begins at a latent
                whose picture is not known
    keep        keep(image, share) -> Kept, for a method that moves the picture's own pixels
    """

    look: Callable[..., tuple[FeatureMap, Tensor | None]]
    z: Tensor
    ts: tuple[int, ...]
    handles: Tensor
    targets: Tensor
    mask: Tensor | None
    settings: Settings
    abar: Tensor
    grad_scale: float = 1.0
    task: DragTask | None = None
    keep: Callable[[np.ndarray, np.ndarray], Kept] | None = None

    def __post_init__(self):
        for name in ("handles", "targets"):
            points = torch.as_tensor(getattr(self, name)).to(self.z.device, torch.float32)
            object.__setattr__(self, name, points)
        shapes = tuple(self.handles.shape), tuple(self.targets.shape)
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or shapes[0][1] != 2 or not shapes[0][0]:
            raise InputError(f"points: handles {shapes[0]} and targets {shapes[1]} are not n pairs (n, 2)")
        ddim.require_finite(self.z, "the latent to drag")

    @property
    def held(self) -> Tensor | None:
        """The mask where it holds anything still at the weight lam, else None."""
        holds = self.mask is not None and self.settings.lam > 0 and bool((self.mask < 1).any())
        return self.mask.to(self.z) if holds else None

    def one_step_down(self, z: Tensor, eps: Tensor, t: int) -> Tensor:
        """The latent at the next lower timestep of the schedule, by one DDIM step."""
        below = ddim.abar_at(self.abar, t - ddim.TRAIN_STEPS // self.settings.steps)
        return ddim.ddim_move(z, eps, ddim.abar_at(self.abar, t), below)


@dataclass(frozen=True, eq=False)
class Kept:
    """Pixels of its own that an edit's picture ends with; a model paints the rest.

    image  uint8 (height, width, 3); share: float32 (height, width), how much of each pixel is final, 0 to 1
    z0     (1, 4, h, w) the image's latent; cells: likewise, 1 where all of a cell is final: pinned while denoising
    """

    image: np.ndarray
    share: np.ndarray
    z0: Tensor
    cells: Tensor

    def over(self, painted: np.ndarray) -> np.ndarray:
        """The image where it is final, and there a model's picture (uint8, the same size) where it is not."""
        mixed = painted + self.share[..., None] * (self.image.astype(np.float32) - painted)
        return mixed.round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class DragState:
    """The latent after `step` updates and what was measured on that very latent; tensors are detached copies.

    z         (1, 4, h, w) at timestep t, from which denoising goes on; t is below ts[0] where a method drags while it
              denoises
    handles   (n, 2) where the handles' content is by now (eq. 5), cells of the map
    distance  (n,) from there to the targets, in cells; reached: every handle is nearer than settings.stop
    loss      eq. 3, and its two parts: motion, and mask_loss, which includes lam
    cond      the prompt's embedding for the denoising, of a method that changes it
    during    a context manager that is held on the U-Net while denoising
    kept      the picture's own pixels, of a method that moves them; such a method may have no loss, which is 0 then
    """

    step: int
    z: Tensor
    t: int
    handles: Tensor
    distance: Tensor
    loss: float
    reached: bool
    motion: float = 0.0
    mask_loss: float = 0.0
    cond: Tensor | None = None
    during: AbstractContextManager | None = None
    kept: Kept | None = None


def window(radius: int) -> Tensor:
    """Offsets of a square patch, (2 radius + 1)² of them, row-major: (k, 2) float."""
    side = torch.arange(-radius, radius + 1, dtype=torch.float32)
    return torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).reshape(-1, 2)


def supervise(
    feat: FeatureMap | Tensor,
    handles: Tensor,
    targets: Tensor,
    radius: int = 1,
    norm: str = "sum",
    stop: float = 0.0,
) -> Tensor:
    """Motion supervision, the first sum of eq. 3: pull the patch around each handle one cell towards its target.

    feat             features of the latent that is optimised, with gradient
    handles, targets (n, 2) cells; a handle nearer than `stop` to its target, or on it, takes no part
    norm             "sum": |F(q + d) - sg F(q)| summed over patch and channels (eq. 3); "mean": summed over the
                     patch, averaged over channels (the public code), so smaller by the channel count
    Returns a scalar; exactly zero when every handle has arrived. Reads beyond the border are read at the border.
    """
    if norm not in ("sum", "mean"):
        raise InputError(f"motion_norm = {norm!r}: use 'sum' (eq. 3) or 'mean' (the public code)")
    feat = as_map(feat)
    way = targets - handles
    distance = way.norm(dim=1, keepdim=True)
    active = (distance >= stop) & (distance > 0)
    step = torch.where(active, way / distance.clamp_min(1e-12), 0.0)
    patch = feat.inside(handles[:, None] + window(radius).to(handles))
    here = feat.detach().read(patch)
    there = feat.read(patch + step[:, None])
    difference = ((there - here).abs() * active[:, :, None]).sum()
    return difference if norm == "sum" else difference / feat.cells.shape[1]


def track_points(
    before: FeatureMap | Tensor,
    after: FeatureMap | Tensor,
    anchors: Tensor,
    handles: Tensor,
    radius: int = 3,
) -> Tensor:
    """Point tracking, eq. 5: in the window around each handle, find the content its anchor had at the start.

    before, after  features of the first latent and of this one
    anchors        (n, 2) cells where the handles were at first; they need not be whole numbers
    handles        (n, 2) cells where they were last seen; (2 radius + 1)² places around each are tried, moved to the
                   border where they would leave the map
    Returns (n, 2), the place with the smallest L1 distance over channels; the first in row-major order on ties.
    """
    before, after = as_map(before), as_map(after)
    places = after.inside(handles[:, None] + window(radius).to(handles))
    cost = (after.read(places) - before.read(anchors)[:, None]).abs().sum(dim=-1)
    return places[torch.arange(len(places), device=places.device), cost.argmin(dim=1)]


def mask_term(now: Tensor, first: Tensor, mask: Tensor) -> Tensor:
    """The second sum of eq. 3 without lam: how far the latent moved where the mask is 0. Zero for equal latents."""
    return ((now - first) * (1 - mask)).abs().sum()


def optimise(problem: Problem) -> Iterator[DragState]:
    """DragDiffusion's drag: change z until its handles reach their targets (eq. 3-5, Adam).

    At most settings.drag_steps updates. Yields state 0, the latent as given, to the last one, whose z is the result;
    each state is measured on its own z, so closing the generator at any point loses nothing. The first features are
    those of state 0, so the mask term starts at exactly 0. Without that term, or with mask_on "now", the forward pass
    ends at the feature block, which changes no gradient. Raises NotFiniteError on NaN.
    """
    settings, t, mask = problem.settings, problem.ts[0], problem.held
    on_prev = mask is not None and settings.mask_on == "prev"
    z = problem.z.detach().float().clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=settings.drag_lr)
    scale = problem.grad_scale if settings.motion_norm == "mean" else 1.0
    handles, first, first_kept = problem.handles, None, None
    for step in range(settings.drag_steps + 1):
        with torch.enable_grad():
            feat, eps = problem.look(z, t, eps=on_prev)
            kept = problem.one_step_down(z, eps, t) if on_prev else z
            if step:
                handles = track_points(first, feat.detach(), problem.handles, handles, settings.r2)
            else:
                first, first_kept = feat.detach(copy=True), kept.detach().clone()
            motion = supervise(
                feat, handles, problem.targets, settings.r1, settings.motion_norm, settings.stop
            )
            held = (
                settings.lam * mask_term(kept, first_kept, mask)
                if mask is not None
                else torch.zeros_like(motion)
            )
            distance = (problem.targets - handles).norm(dim=1)
            done = bool((distance < settings.stop).all()) or bool((distance == 0).all())
            if not done and step < settings.drag_steps:
                (z.grad,) = torch.autograd.grad((motion + held) * scale, z)
        a, b = torch.stack([motion.detach(), held.detach()]).tolist()
        yield DragState(
            step, z.detach().clone(), t, handles.clone(), distance.clone(), a + b, done, a, b
        )  # fmt: skip
        if done or step == settings.drag_steps:
            return
        z.grad /= scale
        ddim.require_finite(z.grad, f"the gradient of drag step {step}")
        adam.step()
