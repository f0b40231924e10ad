"""The noise schedule and the road along it, both ways (DDIM, Song et al. 2021; DragDiffusion §3.3).

Plain tensors and callables; nothing here knows a U-Net. `t` is a training timestep (0..999), `abar` the
signal fraction left at it (diffusers' `alphas_cumprod`), `i` a sampling step.
"""

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from dragnb.errors import InputError, NotFiniteError, did_you_mean

TRAIN_STEPS = 1000
OFFSET = 1  # Stable Diffusion's `steps_offset`: the schedule ends at t = 1, not 0
CLEAN = -1  # the "timestep" of a picture without noise

EpsFn = Callable[[Tensor, int], Tensor]


class InvertState(NamedTuple):
    """After the i-th move towards noise: `z` is the latent at timestep `t`."""

    i: int
    t: int
    z: Tensor


class SampleState(NamedTuple):
    """After the i-th move towards the picture: `z` at `t`, with noise `eps`, has become `z_next`."""

    i: int
    t: int
    z: Tensor
    z_next: Tensor
    eps: Tensor


def alphas_bar(beta_start: float = 0.00085, beta_end: float = 0.012, n: int = TRAIN_STEPS) -> Tensor:
    """Signal fraction at every training timestep: (n,) float32, falling, in (0, 1). SD's scaled-linear."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, n, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


def timesteps(steps: int) -> list[int]:
    """The timesteps of a whole schedule, most noise first: 50 gives 981, 961, ..., 21, 1 (leading, offset 1).

    Raises InputError unless `steps` divides 1000 and is at most 500, so that neighbours lie one stride apart.
    """
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= TRAIN_STEPS // 2:
        raise InputError(f"steps = {steps!r} is not a whole number from 1 to {TRAIN_STEPS // 2}")
    if TRAIN_STEPS % steps:
        near = min((n for n in range(1, 501) if TRAIN_STEPS % n == 0), key=lambda n: abs(n - steps))
        raise InputError(f"steps = {steps} does not divide {TRAIN_STEPS}; the nearest that does is {near}")
    stride = TRAIN_STEPS // steps
    return [k * stride + OFFSET for k in reversed(range(steps))]


def start_index(steps: int, strength: float) -> int:
    """Where in `timesteps(steps)` an edit of this strength begins: 50 steps at 0.7 run the last 35, so 15."""
    n = len(timesteps(steps))
    if not 0 < strength <= 1:  # NaN lands here too
        raise InputError(f"strength = {strength!r} lies outside (0, 1]; 0.7 is the paper's")
    run = round(strength * n)
    if run == 0:
        raise InputError(
            f"strength = {strength!r} of {n} steps rounds to no step at all; use {1 / n:g} or more"
        )
    return n - run


def start_timestep(steps: int, strength: float) -> int:
    """The timestep whose latent is edited: 681 for 50 steps at strength 0.7."""
    return timesteps(steps)[start_index(steps, strength)]


def abar_at(abar: Tensor, t: int) -> Tensor:
    """Signal fraction at t, a 0-dim tensor; below 0 it is `abar[0]` (SD's `set_alpha_to_one=False`)."""
    return abar[max(int(t), 0)]


def ddim_move(z: Tensor, eps: Tensor, abar_from: Tensor, abar_to: Tensor) -> Tensor:
    """Carry a latent along the DDIM path from one noise level to another, either way.

    z          latent at `abar_from`, (b, 4, h, w), in the VAE's scaled units
    eps        noise predicted at z, same shape
    abar_*     cumulative signal fraction, 0-dim tensor in (0, 1]; 1 is clean

    Sampling raises abar, inversion lowers it: there is no second formula.
    With one fixed eps the move is exactly undone by the move back (DDIM, eq. 12).
    """
    return abar_to.sqrt() * predicted_x0(z, eps, abar_from) + (1 - abar_to).sqrt() * eps


def predicted_x0(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """The clean latent that `z`, at signal fraction `abar`, comes from if all the noise in it is `eps`."""
    return (z - (1 - abar).sqrt() * eps) / abar.sqrt()


def to_eps(out: Tensor, z: Tensor, abar: Tensor, prediction_type: str) -> Tensor:
    """The noise that a model's output means at `z`, whichever of three things it was trained to predict."""
    if prediction_type == "epsilon":
        return out
    if prediction_type == "v_prediction":
        return abar.sqrt() * out + (1 - abar).sqrt() * z
    if prediction_type == "sample":
        return (z - abar.sqrt() * out) / (1 - abar).sqrt()
    known = ("epsilon", "v_prediction", "sample")
    raise InputError(
        f"prediction_type = {prediction_type!r} is unknown{did_you_mean(prediction_type, known)}"
    )


def require_finite(x: Tensor, what: str) -> Tensor:
    """`x` unchanged, or NotFiniteError naming `what` it is and the usual remedy."""
    if torch.isfinite(x).all():
        return x
    remedy = (
        "half precision overflowed: use dtype='float32'" if x.dtype != torch.float64 else "check the input"
    )
    raise NotFiniteError(f"{what} holds NaN or infinity; most often {remedy}, or a smaller learning rate")


def invert(eps_fn: EpsFn, z0: Tensor, abar: Tensor, ts: Sequence[int]) -> Iterator[InvertState]:
    """Walk a clean latent up into noise, through `ts` from its lowest to its highest; yield every stop.

    eps_fn(z, t) is asked at the latent of the level below with the timestep of the level above, the usual
    approximation of DDIM inversion. `ts` is in any order and reaches down to the picture; its real
    neighbours are used, never a constant stride. Nothing is mutated, what is yielded is detached.
    """
    z, t_from = z0.detach(), CLEAN
    for i, t in enumerate(sorted(ts)):
        with torch.no_grad():
            z = ddim_move(z, eps_fn(z, t), abar_at(abar, t_from), abar_at(abar, t))
            require_finite(z, f"the latent at inversion step {i} (t = {t})")
        yield InvertState(i, t, z)
        t_from = t


def sample(
    eps_fn: EpsFn,
    z: Tensor,
    abar: Tensor,
    ts: Sequence[int],
    pin: Callable[[Tensor, int], Tensor] | None = None,
) -> Iterator[SampleState]:
    """Walk a noisy latent, at level max(ts), down to the picture; yield every move. `invert` mirrored.

    pin  (z, t) -> z with what is known of it at that level put in, before every step and, with t = CLEAN, at the end
    """
    z, levels = z.detach(), sorted(ts, reverse=True)
    for i, (t, t_to) in enumerate(zip(levels, [*levels[1:], CLEAN], strict=True)):
        with torch.no_grad():
            z = pin(z, t) if pin and not i else z
            eps = eps_fn(z, t)
            z_next = ddim_move(z, eps, abar_at(abar, t), abar_at(abar, t_to))
            z_next = pin(z_next, t_to) if pin else z_next
            require_finite(z_next, f"the latent at denoising step {i} (t = {t})")
        yield SampleState(i, t, z, z_next, eps)
        z = z_next
