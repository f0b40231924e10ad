"""The judge: every figure of one edited picture, under the published protocol, its variants, and the truth if known.

A figure depends on picture, task and name alone, never on what was judged before it or beside it: the same bits with
the same number of torch's threads, and IF to 1e-7 with another. `bootstrap` and `summarise` make of many records what
a table shows: means with intervals over samples.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dragnb import dift, lpips, metrics
from dragnb.clay.oracle import locate
from dragnb.clay.tasks import ClayTask
from dragnb.errors import InputError
from dragnb.prepare import versions
from dragnb.task import DragTask, check_image

VERSION = 1  # of what the figures mean; raise it with any change to them
DAI_RADII = (1, 10, 20)
HIGHEST_PSNR = 99.0  # dB: where nothing differs, a figure that a mean and a JSON file can hold
KEPT_MAPS = 4  # feature maps a process keeps: one picture is judged in many edits


class Metric(NamedTuple):
    """What a key of a judgement means. better: 1 where more is better, -1 where less is, 0 where it is no mark."""

    unit: str
    better: int
    meaning: str


METRICS = {
    "md": Metric("px", -1, "mean distance of this picture's pairs, found by DIFT over the whole picture"),
    "pairs": Metric("", 0, "how many pairs that is the mean of"),
    "md_pairs": Metric("px", 0, "the distance of each pair, a list"),
    "m_md": Metric("px", -1, "md, searched inside the mask only (DragLoRA)"),
    "md_disc": Metric(
        "% of the sides", -1, "searched in two discs at 768 x 768, over width and height (RegionDrag)"
    ),
    "md_norm": Metric("% of the sides", -1, "md's misses over width and height"),
    "if": Metric("", 1, "1 - LPIPS against the picture before"),
    "if_inside": Metric("", 1, "if, of the edit pasted into the picture before inside the mask"),
    "if_outside": Metric(
        "", 1, "if, of the edit pasted in outside the mask; none where the whole picture is free"
    ),
    "dai_1": Metric("", -1, "GoodDrag's drag accuracy index, patches of 3 x 3"),
    "dai_10": Metric("", -1, "the same of 21 x 21"),
    "dai_20": Metric("", -1, "the same of 41 x 41"),
    "rest_psnr": Metric(
        "dB", 1, "damage outside the mask: PSNR there against the picture before, at most 99"
    ),
    "oracle_distance": Metric(
        "px", -1, "clay only: from where the content truly went to the target, mean of pairs"
    ),
    "moved": Metric("", 1, "clay only: fraction of the way that the content truly went"),
    "truth_psnr": Metric("dB", 1, "clay only: PSNR against the true picture, at most 99"),
    "truth_if": Metric("", 1, "clay only: 1 - LPIPS against the true picture"),
}
POOLED = ("md", "m_md")  # summed over all pairs of all pictures too, as DragDiffusion's table is
_maps: OrderedDict[tuple, object] = OrderedDict()


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

    def __call__(self, image: np.ndarray, task: DragTask, name: str, truth: ClayTask | None = None) -> dict:
        """The figures of METRICS, all of them: None where there is none, and numbers or a list of numbers else.

        image  the edited picture, uint8, of the task's size
        name   the sample's own; the noise of the matching is drawn from its hash
        truth  the clay task that `task` is of

        Raises InputError for a picture of another size or kind, or a name that is empty.
        """
        check_image(image)
        if image.shape != task.image.shape:
            have, want = (f"{a.shape[1]}×{a.shape[0]}" for a in (image, task.image))
            raise InputError(f"image is {have}, the task's picture {want}; scale it back first")
        if not isinstance(name, str) or not name:
            raise InputError(f"name = {name!r}: the noise is drawn from it; give the sample's own")
        if truth is not None and not np.array_equal(truth.task.handles, task.handles):
            raise InputError(
                f"truth: it is of the task {truth.task.name!r}, whose handles are not this task's"
            )
        figures = dict.fromkeys(METRICS)
        figures |= self._distances(image, task, name) | self._likeness(image, task)
        if truth is not None:
            figures |= self._truth(image, truth)
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

    def _truth(self, image, clay):
        verdict, weights = locate(clay, image), self._weights()
        return {
            "oracle_distance": verdict.distance,
            "moved": verdict.moved,
            "truth_psnr": _psnr(image, clay.picture_after),
            "truth_if": None
            if weights is None
            else metrics.image_fidelity(clay.picture_after, image, weights),
        }

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
        maps = []
        for which, picture in (("before", task.image), ("after", image)):
            content = hashlib.sha256(np.ascontiguousarray(picture)).digest()
            key = (
                model.hash,
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


def _psnr(a, b, mask=None) -> float:
    return min(metrics.psnr(a, b, mask), HIGHEST_PSNR)


class Interval(NamedTuple):
    """A statistic of a sample, and the interval in which the population's is expected."""

    value: float
    low: float
    high: float


def bootstrap(values, statistic=np.mean, groups=None, level=0.95, draws=2000, seed=0) -> Interval:
    """A percentile bootstrap (Efron 1979): the statistic of the values, and of samples drawn with replacement.

    values     (n, ...), resampled along the first axis
    statistic  from such an array to a number
    groups     (n,) labels: values of one label are drawn together. Pairs of one picture succeed and fail together, so
               figures over pairs are resampled by pictures
    """
    values = np.asarray(values, dtype=np.float64)
    labels = np.arange(len(values)) if groups is None else np.asarray(groups)
    if values.ndim == 0 or len(labels) != len(values):
        raise InputError(
            f"groups: {len(labels)} labels for values of shape {values.shape}; give one for each value"
        )
    if not 0 < level < 1 or draws < 1:
        raise InputError(f"level = {level}, draws = {draws}: use a level between 0 and 1 and 1 draw or more")
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan)
    _, which = np.unique(labels, return_inverse=True)
    members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
    chosen = np.random.default_rng(seed).integers(0, len(members), (draws, len(members)))
    if groups is None and statistic is np.mean and values.ndim == 1:
        drawn = values[chosen].mean(axis=1)
    else:
        drawn = [statistic(values[np.concatenate([members[k] for k in row])]) for row in chosen]
    tail = (1 - level) / 2
    return Interval(float(statistic(values)), *map(float, np.quantile(drawn, [tail, 1 - tail])))


def summarise(records, level=0.95, draws=2000, seed=0) -> list[dict]:
    """Rows of setting, metric, kind, value, low, high, n (pictures) from flat records, in any order.

    records  dicts of "sample", "setting" and the keys of METRICS; those with an "error" are left out, as are figures
             that are None or NaN
    kind     "per-image": the mean over pictures; "pooled": over all pairs of all pictures, as DragDiffusion's MD;
             "median": of all pairs. The intervals are over pictures in every case

    Settings are drawn alike, so that two of them may be compared row by row.
    """
    good = sorted((r for r in records if not r.get("error")), key=lambda r: str(r["sample"]))
    rows = []
    for setting in dict.fromkeys(r["setting"] for r in records):
        mine = [r for r in good if r["setting"] == setting]
        for metric, kind, values, statistic, groups in _statistics(mine):
            found = bootstrap(values, statistic, groups, level, draws, seed)._asdict()
            n = len(values if groups is None else set(groups))
            rows.append({"setting": setting, "metric": metric, "kind": kind, **found, "n": n})
    return rows


def _statistics(records):
    """What is told of one setting's records: (metric, kind, values, statistic, groups)."""
    for metric in METRICS:
        have = [r for r in records if isinstance(r.get(metric), (int, float)) and not math.isnan(r[metric])]
        if not have or metric == "pairs":
            continue
        values = np.array([r[metric] for r in have], dtype=np.float64)
        yield metric, "per-image", values, np.mean, None
        if metric in POOLED:
            pairs = np.array([r["pairs"] for r in have])
            yield metric, "pooled", np.stack([values * pairs, pairs], 1), _of_sums, None
        if metric == "md":
            picture = [k for k, r in enumerate(have) for _ in r["md_pairs"]]
            yield metric, "median", np.concatenate([r["md_pairs"] for r in have]), np.median, picture


def _of_sums(sums) -> float:
    """The mean over all pairs, from each picture's sum and count."""
    total, count = sums.sum(0)
    return total / count
