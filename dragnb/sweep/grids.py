"""What a sweep compares: samples, the methods of the paper's Fig. 8, its ablations (Fig. 6, 7), rivals, baselines.

A baseline is a callable (sample, model, store) -> the picture that stands beside the edits; it goes where Settings go.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dragnb import clay, geometry, sd
from dragnb import methods as drag_methods
from dragnb.clay import claybench
from dragnb.config import Settings
from dragnb.errors import InputError, did_you_mean
from dragnb.geometry import Frame
from dragnb.sweep import datasets

FULL = "full"
CLAY = {"clay": 1, "clay-v2": 2}  # ClayBench, of each version of the clay world
AXES = {  # what an ablation changes, one at a time; the first three are the paper's own
    "strength": (0.2, 0.4, 0.6, 0.7, 0.8, 1.0),  # t = 10, 20, 30, 35, 40, 50 of 50
    "lora_steps": (0, 20, 40, 60, 80, 100),
    "block": (1, 2, 3, 4),
    "lam": (0.0, 0.1, 0.5, 1.0),
    "drag_lr": (0.005, 0.01, 0.02, 0.04),
    "r1": (1, 2, 4, 6),
    "r2": (1, 3, 6, 12),
}


def samples(data: str, limit: int | None = None) -> tuple[tuple, tuple, str]:
    """(samples, problems, what they are in words) of a ClayBench (a key of CLAY) or of a benchmark's folder or zip."""
    if version := CLAY.get(data):
        return clay.bench(version)[:limit], (), f"ClayBench {version} {claybench.digest(version)[:16]}"
    benchmark = datasets.read(data)
    return benchmark.samples[:limit], benchmark.problems, Path(data).resolve().name


def fitted(settings: dict, samples, fit: str | None = None) -> dict:
    """The grid with all its Settings at one `fit`; without one DragBench is dragged at "width", else nothing changes.

    That is the size at which the public code drags DragBench: no figure stands beside a published one at another.
    """
    if fit is None and samples and all(getattr(sample, "of_dragbench", False) for sample in samples):
        fit = "width"
    if fit is None:
        return settings
    return {k: s.replace(fit=fit) if isinstance(s, Settings) else s for k, s in settings.items()}


def methods(base: Settings, truth: bool = True) -> dict:
    """The methods of Fig. 8 with a floor and two ceilings, by name.

    base   the settings of the whole method; its fine-tune does not end by itself here, so that all are of one length
    truth  the samples are of the clay world, so that the true picture is known
    """
    base = base.replace(lora_stop=0)
    grid = {
        FULL: base,
        "no fine-tune": base.replace(lora_steps=0),
        "no reference control": base.replace(reference=False),
        "there and back": base.replace(drag_steps=0),
        "no edit": no_edit,
        "pixel warp": pixel_warp,
    }
    return grid | ({"truth, encoded": truth_encoded} if truth else {})


def rivals(base: Settings) -> dict:
    """The base method, every method of `dragnb.methods` by its name, the floor and the pixel warp.

    base  a rival has its own settings, and these where it has no opinion
    """
    beside = {"no edit": no_edit, "pixel warp": pixel_warp, FULL: base}
    return beside | {name: drag_methods.settings(name, base) for name in drag_methods.names()}


def ablation(base: Settings, *axes: str) -> dict[str, Settings]:
    """The grid of some of AXES (all, where none is named), one setting changed at a time: names like "block=2".

    A value that is the base's own goes by the name "full", once. A fine-tune does not end by itself here: it has the
    length that is asked for. InputError for an unknown axis.
    """
    base = base.replace(lora_stop=0)
    grid = {FULL: base}
    for axis in axes or AXES:
        if axis not in AXES:
            raise InputError(f"axis = {axis!r} is unknown{did_you_mean(axis, AXES)}")
        for value in AXES[axis]:
            if value != getattr(base, axis):
                grid[f"{axis}={value:g}"] = base.replace(**{axis: value})
    return grid


def along(base: Settings, axis: str) -> dict[str, float]:
    """The names of an axis' settings in order, with their values: {"block=1": 1, "full": 2, ...}."""
    values = AXES[axis]
    return {FULL if value == getattr(base, axis) else f"{axis}={value:g}": value for value in values}


def no_edit(sample, model, store) -> np.ndarray:
    """The floor, the picture as it was: IF 1, and the mean length of the pairs as MD."""
    return np.array(sample.task().image)


def pixel_warp(sample, model, store) -> np.ndarray:
    """The picture's own pixels pulled along, without a model."""
    return geometry.warp(sample.task())


def truth_encoded(sample, model, store) -> np.ndarray:
    """The ceiling, the true picture through the model's autoencoder; InputError where the truth is not known."""
    truth = getattr(sample, "truth_image", None)
    if truth is None:
        raise InputError(f"truth_encoded: {sample.name} does not know its true picture; samples of clay do")
    return encoded(truth, model)


BASELINES = {"no_edit": no_edit, "warp": pixel_warp, "truth_encoded": truth_encoded}


def encoded(image: np.ndarray, model: str | sd.Model = "clay") -> np.ndarray:
    """A picture through the model's autoencoder: the best that any edit by it can give of that picture."""
    model = sd.load(model)
    frame = Frame.fit(image.shape[1], image.shape[0], model.side)
    return frame.from_canvas(sd.decode(model, sd.encode(model, frame.to_canvas(image))))
