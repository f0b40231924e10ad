"""What the figures of a judgement mean, and what many of them say: means with intervals over samples."""

from __future__ import annotations

import csv
import math
import warnings
from typing import NamedTuple

import numpy as np
import scipy.stats

from dragnb.errors import InputError, did_you_mean

HIGHEST_PSNR = 99.0  # dB: where nothing differs, a figure that a mean and a JSON file can hold


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
    "success": Metric(
        "", 1, "clay only: 1 where the content is at the target and looks like the truth there"
    ),
    "gone": Metric("", -1, "clay only: 1 where the dragged part is not seen where its scene has it"),
    "oracle_distance": Metric(
        "px", -1, "clay only: from where the content truly went to the target, mean of pairs"
    ),
    "moved": Metric("", 1, "clay only: fraction of the way that the content truly went, in [0, 1]"),
    "oracle_residual": Metric(
        "grey levels",
        -1,
        "clay only: to the nearest pose's picture; where it is large the two above mean little",
    ),
    "residual_inside": Metric("grey levels", -1, "clay only: oracle_residual inside the mask"),
    "psnr_inside": Metric("dB", 1, "clay only: PSNR against the true picture inside the mask, at most 99"),
    "truth_psnr": Metric("dB", 1, "clay only: PSNR against the true picture, at most 99"),
    "truth_if": Metric("", 1, "clay only: 1 - LPIPS against the true picture"),
}
POOLED = ("md", "m_md")  # summed over all pairs of all pictures too, as DragDiffusion's table is


class Interval(NamedTuple):
    """A statistic of a sample, and the interval in which the population's is expected."""

    value: float
    low: float
    high: float


def bootstrap(values, statistic=np.mean, groups=None, level=0.95, draws=2000, seed=0) -> Interval:
    """A percentile bootstrap (Efron 1979): the statistic of the values, and of samples drawn with replacement.

    values     (n, ...), resampled along the first axis
    statistic  from such an array to a number; draws in which it is NaN are left out
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
    value = float(statistic(values)) if len(values) else math.nan
    _, which = np.unique(labels, return_inverse=True)
    if groups is None and statistic is np.mean and values.ndim == 1:
        return _interval(value, values, np.mean, level, draws, seed)
    members = [np.flatnonzero(which == k) for k in range(which.max(initial=-1) + 1)]

    def of(drawn):
        return statistic(values[np.concatenate([members[k] for k in drawn])])

    return _interval(value, np.arange(len(members)), of, level, draws, seed)


def _interval(value: float, sample: np.ndarray, statistic, level, draws, seed) -> Interval:
    """The percentile interval of a statistic of a sample; draws in which it is NaN are left out."""
    if math.isnan(value) or len(sample) == 1:
        return Interval(value, value, value)
    rng = np.random.default_rng(seed)
    with (
        warnings.catch_warnings()
    ):  # scipy warns of its own interval, which is not taken, where a draw is NaN
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        drawn = scipy.stats.bootstrap(
            (sample,), statistic, n_resamples=draws, method="percentile", random_state=rng
        ).bootstrap_distribution
    return Interval(value, *map(float, np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])))


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


def of_metric(rows: list[dict], metric: str, kind: str = "per-image") -> dict[str, dict]:
    """The rows of `summarise` that are of one metric, by setting."""
    return {row["setting"]: row for row in rows if (row["metric"], row["kind"]) == (metric, kind)}


def points(rows: list[dict], x: str, y: str) -> dict[str, tuple[Interval, Interval]]:
    """The settings in the plane of two metrics (DragDiffusion, Fig. 8), from the rows of `summarise`."""
    across, up = (
        {
            setting: Interval(row["value"], row["low"], row["high"])
            for setting, row in of_metric(rows, m).items()
        }
        for m in (x, y)
    )
    return {setting: (across[setting], up[setting]) for setting in across if setting in up}


def label(metric: str) -> str:
    """A metric as an axis names it: its key, its unit, and which way is better."""
    known = METRICS[metric]
    way = {1: ", more is better", -1: ", less is better", 0: ""}[known.better]
    return metric + (f" ({known.unit})" if known.unit else "") + way


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


def common(records, settings=None) -> list[dict]:
    """The records of those samples that have every one of `settings` (default: all that occur) without an error.

    What is left may be compared setting by setting: the same pictures stand behind every figure.
    """
    records = [r for r in records if not r.get("error")]
    settings = list(dict.fromkeys(r["setting"] for r in records) if settings is None else settings)
    have = {(r["sample"], r["setting"]) for r in records}
    whole = {r["sample"] for r in records if all((r["sample"], name) in have for name in settings)}
    return [r for r in records if r["sample"] in whole and r["setting"] in settings]


def difference(
    records, metric: str, setting: str, against: str, statistic=np.mean, level=0.95, draws=2000, seed=0
) -> Interval:
    """A setting's metric minus another's, picture by picture, and the interval of the mean: does the change matter?

    Pictures differ much more than settings do; in the difference of each picture with itself that is gone, so that two
    settings may differ for certain though their own intervals overlap. NaN where no picture has both.
    """
    gaps = _gaps(records, metric, setting, against)
    return bootstrap(gaps, statistic, None, level, draws, seed)


def q_values(records, metrics, settings, against: str, draws=9_999, seed=0) -> dict[tuple, float]:
    """{(metric, setting): q}: the false discovery rate at which a setting's difference from `against` would count.

    Among many intervals some lie beside zero by chance: of 125 of 95 % six or so. Calling different those with
    q <= 0.05 leaves one in twenty *of these* wrong (Benjamini and Hochberg 1995). The p values behind it are of the
    mean difference picture by picture, its signs flipped at random (a permutation test, exact for few pictures, where
    the bootstrap's interval is too narrow). Pairs without two pictures, or without any difference, have none.
    """
    found = {}
    for metric in metrics:
        for setting in dict.fromkeys(settings):
            gaps = _gaps(records, metric, setting, against)
            if len(gaps) > 1 and np.any(gaps):
                rng = np.random.default_rng(seed)
                found[metric, setting] = scipy.stats.permutation_test(
                    (gaps,), np.mean, permutation_type="samples", n_resamples=draws, vectorized=True, random_state=rng
                ).pvalue  # fmt: skip
    adjusted = scipy.stats.false_discovery_control(list(found.values())) if found else []
    return dict(zip(found, map(float, adjusted), strict=True))


def _gaps(records, metric, setting, against):
    """A setting's metric minus another's on each picture that has both, in the order of their names."""
    of = {(r["sample"], r["setting"]): r.get(metric) for r in common(records, [setting, against])}
    pairs = [(of[sample, setting], of[sample, against]) for sample in sorted({s for s, _ in of}, key=str)]
    return np.array([a - b for a, b in pairs if a is not None and b is not None], dtype=np.float64)


def agreement(
    records, metric: str, against: str = "oracle_distance", level=0.95, draws=2000, seed=0
) -> Interval:
    """Does a metric put settings in the order in which another puts them? Spearman's rank correlation of their means.

    1: the same order from best to worst; -1: the reverse. Both are turned so that more is better (`METRICS`). Only
    pictures on which every setting has both figures count; they are resampled for the interval. NaN where fewer than
    three settings are left, or one of the two metrics tells none of them apart.
    """
    for name in (metric, against):
        if name not in METRICS or not METRICS[name].better:
            known = [key for key, meaning in METRICS.items() if meaning.better]
            raise InputError(
                f"metric = {name!r} orders nothing{did_you_mean(name, known)}; use one of {known}"
            )
    of = {(r["sample"], r["setting"]): [r.get(metric), r.get(against)] for r in records if not r.get("error")}
    settings = list(dict.fromkeys(setting for _, setting in of))
    samples = sorted({sample for sample, _ in of}, key=str)
    table = np.array([[of.get((s, k), [None, None]) for k in settings] for s in samples], dtype=np.float64)
    table = table[np.isfinite(table).all(axis=(1, 2))] if table.size else table
    if len(settings) < 3 or not len(table):
        return Interval(math.nan, math.nan, math.nan)
    table *= METRICS[metric].better, METRICS[against].better

    def spearman(drawn, axis=-1):
        ranks = scipy.stats.rankdata(table[drawn].mean(-3).round(9), axis=-2)
        ranks -= ranks.mean(-2, keepdims=True)
        spread = np.sqrt(np.square(ranks).sum(-2).prod(-1))
        return ranks.prod(-1).sum(-1) / np.where(spread > 0, spread, np.nan)

    pictures = np.arange(len(table))
    return _interval(float(spearman(pictures)), pictures, spearman, level, draws, seed)


def load(path) -> list[dict]:
    """The records of a committed table, a csv of sample, category, setting and figures; InputError where it is none.

    Empty cells are None; lists, as `md_pairs`, are numbers with spaces between. Columns that are no metric stay text.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"sample", "setting"} <= set(rows[0]):
            raise InputError(f"{path}: the table needs the columns sample and setting, and a row")
        return [{key: _cell(key, value) for key, value in row.items()} for row in rows]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table of figures ({error})") from error


def _cell(key, text):
    if key not in METRICS:
        return text
    if key == "md_pairs":
        return [float(number) for number in (text or "").split()]
    return float(text) if text else None
