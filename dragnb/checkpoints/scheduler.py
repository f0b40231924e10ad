"""The noise schedule, built by diffusers from the model's own scheduler config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping

import torch

from dragnb.errors import InputError, did_you_mean

LEVELS = 1000  # training timesteps of every Stable Diffusion; the method's steps divide them
DISTILLED = ("LCMScheduler", "TCDScheduler")
# A schedule that ends in pure noise has abar 0 there, by which DDIM's move divides; diffusers' Euler takes this, too.
LEAST_ABAR = 2.0**-24


def build(config: Mapping, name: str):
    """The scheduler that a config names; its `alphas_cumprod` are the model's. Raises InputError by the config's word.

    Refused: schedules without abar (flow matching, EDM), other counts of timesteps than LEVELS, unknown classes.
    """
    import diffusers

    kind = config.get("_class_name") or "DDIMScheduler"
    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    if kind not in known:
        raise InputError(f"model = {name!r}: its scheduler {kind!r} is unknown{did_you_mean(kind, known)}")
    if "Flow" in kind or config.get("use_flow_sigmas"):
        raise InputError(f"model = {name!r}: its scheduler {kind} matches flows; {_SERVED}")
    levels = config.get("num_train_timesteps", LEVELS)
    if levels != LEVELS:
        raise InputError(f"model = {name!r}: num_train_timesteps = {levels!r} of its scheduler; {_SERVED}")
    try:
        own = getattr(diffusers, kind).from_config(dict(config))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"model = {name!r}: its scheduler config is refused ({error}); {_SERVED}") from error
    if getattr(own, "alphas_cumprod", None) is None or len(own.alphas_cumprod) != LEVELS:
        raise InputError(f"model = {name!r}: its scheduler {kind} has no cumulative signal; {_SERVED}")
    if config.get("rescale_betas_zero_snr") and not _rescales(
        type(own)
    ):  # the config says so, the class cannot
        own = diffusers.DDIMScheduler(trained_betas=own.betas.tolist(), rescale_betas_zero_snr=True)
        own.register_to_config(prediction_type=config.get("prediction_type", "epsilon"))
    return own


_SERVED = (
    f"Stable Diffusion's noise schedules of {LEVELS} timesteps are served: DDIM, PNDM, Euler and the like"
)


def _rescales(kind: type) -> bool:
    return "rescale_betas_zero_snr" in inspect.signature(kind.__init__).parameters


def abar(scheduler) -> torch.Tensor:
    """The cumulative signal fraction of each training timestep, (1000,) float32 on the CPU, nowhere 0."""
    return scheduler.alphas_cumprod.float().cpu().clamp(min=LEAST_ABAR)


def distilled(config: Mapping, unet_config: Mapping, name: str) -> str | None:
    """The word for a model distilled to few steps (LCM, turbo), by its configs and its name; None for any other."""
    words = [word for word in ("lcm", "turbo", "lightning", "hyper-sd") if word in name.lower()]
    if config.get("_class_name") in DISTILLED or unet_config.get("time_cond_proj_dim"):
        words.append("LCM")
    # a schedule that ends in pure noise is trailing as well
    trailing = config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
    if trailing and config.get("_class_name") in (
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
    ):
        words.append("turbo")
    return words[0] if words else None


def warn_of_distilled(config: Mapping, unet_config: Mapping, name: str) -> None:
    """Say where a model was distilled to few steps: it runs, but its noise is not what DDIM expects."""
    if word := distilled(config, unet_config, name):
        warnings.warn(
            f"model = {name!r} looks like a model distilled to few steps ({word}): inversion is inexact with such; "
            "a plain Stable Diffusion 1 or 2 gives better edits",
            stacklevel=2,
        )
