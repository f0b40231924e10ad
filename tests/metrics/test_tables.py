"""Which of many differences count: false discoveries are held down, true ones are found."""

import math

import numpy as np
import pytest

from dragnb.metrics import judge


def records(shift, n=24, places=40, seed=0):
    """Pictures under "full" and `places` settings, the first of which differ from it by `shift`."""
    rng = np.random.default_rng(seed)
    for sample in range(n):
        level = rng.normal(30, 10)
        yield {"sample": f"s{sample}", "setting": "full", "md": level + rng.normal()}
        for k in range(places):
            yield {
                "sample": f"s{sample}",
                "setting": f"k={k}",
                "md": level + rng.normal() + shift * (k < 5),
            }


def test_of_settings_that_do_not_differ_hardly_any_counts_though_intervals_lie_beside_zero():
    beside, counted = 0, 0
    for seed in range(5):
        table = list(records(0.0, seed=seed))
        names = [f"k={k}" for k in range(40)]
        q = judge.q_values(table, ["md"], names, "full", draws=2000)
        assert len(q) == 40
        counted += sum(value <= 0.05 for value in q.values())
        intervals = [judge.difference(table, "md", name, "full") for name in names]
        beside += sum(not d.low <= 0 <= d.high for d in intervals)
    assert beside >= 8 and counted <= 2


def test_settings_that_differ_are_found_among_many_that_do_not():
    q = judge.q_values(list(records(3.0)), ["md"], [f"k={k}" for k in range(40)], "full", draws=2000)
    found = {name for (_, name), value in q.items() if value <= 0.05}
    assert {f"k={k}" for k in range(5)} <= found and len(found) <= 7


def test_a_q_value_is_never_below_the_share_of_signs_that_do_as_well():
    table = [
        {"sample": f"s{k}", "setting": name, "md": float(value)}
        for k in range(6)
        for name, value in (("full", 0), ("all", 1 + k), ("none", 0), ("missing", math.nan if k else 1))
    ]
    q = judge.q_values(table, ["md", "if"], ["all", "none"], "full")
    assert q == {("md", "all"): pytest.approx(2 / 2**6)}, (
        "all six signs alike, either way; exact for six pictures"
    )
