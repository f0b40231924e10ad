"""The judge: every figure of one edited picture, under the published protocol, its variants, and the truth if known.

A figure depends on picture, task and name alone, never on what was judged before it or beside it: the same bits with
the same number of torch's threads, and IF to 1e-7 with another. `summary` makes of many records what a table shows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dragnb import metrics
from dragnb.config import suited
from dragnb.errors import InputError, did_you_mean
from dragnb.metrics import dift, lpips
from dragnb.metrics.tables import (
    HIGHEST_PSNR,
    METRICS,
    Interval,
    Metric,
    agreement,
    bootstrap,
    common,
    difference,
    label,
    load,
    of_metric,
    points,
    q_values,
    summarise,
)
from dragnb.store import versions
from dragnb.task import DragTask, check_image

__all__ = [
    "METRICS",
    "Interval",
    "Judge",
    "Metric",
    "agreement",
    "bootstrap",
    "common",
    "default_matcher",
    "difference",
    "label",
    "load",
    "of_metric",
    "points",
    "q_values",
    "summarise",
]

VERSION = 1  # of what the figures mean; raise it with any change to them
DAI_RADII = (1, 10, 20)
KEPT_MAPS = 4  # feature maps a process keeps: one picture is judged in many edits
_maps: OrderedDict[tuple, object] = OrderedDict()


def default_matcher(model: str) -> str:
    """Whose features suit the edits of a model: "clay" for the bundled one, "sd21", as published, for any other."""
    return suited(model).matcher


@dataclass(frozen=True)
class Judge:
    """Marks edits. Small and picklable: weights are loaded when first needed, once per process.

    matcher   whose features are matched: "clay", "sd21" (the published one, by its mirror), or what `sd.load` takes
    t, block  where in it; None takes what suits it: 261 and 2, as published, or 81 and 3 of the bundled model
    ensemble  draws of noise
    fidelity  measure IF? None: where LPIPS's weights are in the cache; True: InputError with the remedy otherwise
    variants  what other papers report under these names, too
    """

    matcher: str = "clay"
    t: int | None = None
    block: int | None = None
    ensemble: int = dift.ENSEMBLE
    fidelity: bool | None = None
    variants: bool = True

    def describe(self) -> dict:
        """What the figures are made with, as plain values for a record; loads the matcher."""
        model, place = self._model()
        weights = self._weights()
        return {
            "score": VERSION,
            "matcher": {
                "name": self.matcher,
                "hash": model.hash,
                "dtype": str(model.dtype).removeprefix("torch."),
            },
            "t": place.t,
            "block": place.block,
            "ensemble": self.ensemble,
            "lpips": None if weights is None else lpips.MEMBER_SHA256,
            "variants": self.variants,
            "versions": versions(),
        }

    def __call__(
        self,
        image: np.ndarray,
        task: DragTask,
        name: str,
        truth: Callable[[np.ndarray], dict] | None = None,
        truth_image: np.ndarray | None = None,
    ) -> dict:
        """The figures of METRICS, all of them: None where there is none, and numbers or a list of numbers else.

        image        the edited picture, uint8, of the task's size
        name         the sample's own; the noise of the matching is drawn from its hash
        truth        what a sample knows of its outcome, where it knows any: from the edit to figures of METRICS
        truth_image  the true picture after the drag, uint8, of the task's size

        Raises InputError for a picture of another size or kind, a name that is empty, or a truth of unknown figures.
        """
        check_image(image)
        if image.shape != task.image.shape:
            have, want = (f"{a.shape[1]}×{a.shape[0]}" for a in (image, task.image))
            raise InputError(f"image is {have}, the task's picture {want}; scale it back first")
        if not isinstance(name, str) or not name:
            raise InputError(f"name = {name!r}: the noise is drawn from it; give the sample's own")
        known = {} if truth is None else _checked(truth, image)
        figures = dict.fromkeys(METRICS)
        figures |= self._distances(image, task, name) | self._likeness(image, task) | known
        weights = None if truth_image is None else self._weights()
        if weights is not None:
            figures["truth_if"] = metrics.image_fidelity(truth_image, image, weights)
        return figures

    def _distances(self, image, task, name):
        model, place = self._model()
        whole = self._maps(model, place, image, task, name)
        found = dift.match(*whole, task.handles, task.size)
        misses = metrics.distances(found, task.targets).numpy()
        figures = {"md": float(misses.mean()), "pairs": len(misses), "md_pairs": misses.tolist()}
        if not self.variants:
            return figures
        inside = found if task.free else dift.match(*whole, task.handles, task.size, task.mask)
        square = self._maps(model, place, image, task, name, side=model.side)
        where = metrics.discs(task.handles, task.targets, task.size)
        near = dift.match(*square, task.handles, task.size, where, nearest=True)
        return figures | {
            "m_md": metrics.mean_distance(inside, task.targets),
            "md_disc": 100 * metrics.mean_distance(near / task.size, task.targets / task.size),
            "md_norm": 100 * metrics.mean_distance(found / task.size, task.targets / task.size),
        }

    def _likeness(self, image, task):
        figures = {
            "rest_psnr": None if task.free or task.mask.all() else _psnr(image, task.image, ~task.mask)
        }
        weights = self._weights()
        if weights is not None:
            figures["if"] = metrics.image_fidelity(task.image, image, weights)
        if self.variants:
            for radius in DAI_RADII:
                figures[f"dai_{radius}"] = metrics.dai(task.image, image, task.handles, task.targets, radius)
        if self.variants and weights is not None:
            free = np.ones(image.shape[:2], bool) if task.free else task.mask
            for key, part in (("if_inside", free), ("if_outside", ~free)):
                if part.any():
                    pasted = np.where(part[..., None], image, task.image)
                    figures[key] = metrics.image_fidelity(task.image, pasted, weights)
        return figures

    def _model(self):
        model = dift.load(self.matcher)
        suited = dift.suited(model)
        t, block = (
            mine if mine is not None else its for mine, its in zip((self.t, self.block), suited, strict=True)
        )
        return model, dift.Place(t, block)

    def _weights(self):
        """LPIPS's, or None where IF is not measured."""
        if self.fidelity is False:
            return None
        try:
            return lpips.load()
        except InputError:
            if self.fidelity:
                raise
            return None

    def _maps(self, model, place, image, task, name, side=None):
        """Features of the picture before and of the edit; of a square of `side`, as RegionDrag makes them."""
        sample = side is None
        if task.size == (side, side) and not dift.spreads(model):
            side, sample = None, True  # the same picture and the same latent: the same map
        maps, weights = [], model.hash
        for which, picture in (("before", task.image), ("after", image)):
            content = hashlib.sha256(np.ascontiguousarray(picture)).digest()
            key = (
                weights,
                model.device,
                place,
                self.ensemble,
                name,
                which,
                task.prompt,
                content,
                picture.shape,
                side,
            )
            if key not in _maps:
                seed = dift.seed_of(name, which)
                _maps[key] = dift.describe(
                    model, picture, task.prompt, place, self.ensemble, seed, side, sample
                )
            _maps.move_to_end(key)
            maps.append(_maps[key])
        while len(_maps) > KEPT_MAPS:
            _maps.popitem(last=False)
        return maps


def _checked(truth, image) -> dict:
    """What a sample's own truth says of an edit; InputError where that is no dict of figures of METRICS."""
    if not callable(truth):
        raise InputError(f"truth is a {type(truth).__name__}; give a callable, from the edit to its figures")
    figures = truth(image)
    if not isinstance(figures, dict):
        raise InputError(f"truth gave a {type(figures).__name__}; wanted is a dict of figures of METRICS")
    for key in figures:
        if key not in METRICS:
            raise InputError(f"truth gave {key!r}, which METRICS has not{did_you_mean(str(key), METRICS)}")
    return figures


def _psnr(a, b, mask=None) -> float:
    return min(metrics.psnr(a, b, mask), HIGHEST_PSNR)
