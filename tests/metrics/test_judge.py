"""The judge's figures obey their laws, and belong to picture, task and name alone; intervals cover what they should."""

import json
import math
import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dragnb import geometry, metrics
from dragnb.clay import task as clay_task
from dragnb.clay.claybench import Entry
from dragnb.errors import InputError
from dragnb.metrics import dift, lpips
from dragnb.metrics import judge as score
from dragnb.task import DragTask


@pytest.fixture
def judge(smoke_folder):
    """A judge by a random model, quick to ask."""
    return score.Judge(str(smoke_folder), t=81, block=3, ensemble=2, fidelity=False)


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A cache without LPIPS's weights."""
    monkeypatch.setenv("DRAGNB_CACHE", str(tmp_path))


@pytest.fixture
def random_weights(monkeypatch):
    """LPIPS with weights drawn at random: its laws hold for any."""
    rng = np.random.default_rng(0)
    weights = {
        name: torch.tensor(rng.normal(0, 0.03, shape), dtype=torch.float32)
        for name, shape in lpips.SHAPES.items()
    }
    weights = {name: w.abs() if name.startswith("lin") else w for name, w in weights.items()}
    monkeypatch.setattr(lpips, "load", lambda: weights)


@pytest.fixture
def two(drag_task):
    """Two pairs, so that means are means of something, and an edit of the picture inside the mask."""
    task = DragTask(drag_task.image, [[40, 45], [60, 30]], [[90, 45], [63, 34]], drag_task.mask, "a cat")
    return task, geometry.warp(task)


# what a figure is


def test_every_key_is_there_with_a_number_a_list_or_nothing_and_json_takes_it(judge, two, no_weights):
    task, image = two
    figures = judge(image, task, "cat")

    assert list(figures) == list(score.METRICS)
    assert {key for key, value in figures.items() if value is None} == {
        *("if", "if_inside", "if_outside"),
        *("success", "gone", "oracle_distance", "moved", "oracle_residual", "residual_inside"),
        *("psnr_inside", "truth_psnr", "truth_if"),
    }
    assert {type(value) for value in figures.values()} == {float, int, list, type(None)}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["md"] == pytest.approx(np.mean(figures["md_pairs"])) and figures["pairs"] == 2


def test_where_matching_is_perfect_no_edit_scores_the_pairs_mean_length(judge, two, monkeypatch):
    task, _ = two
    monkeypatch.setattr(dift, "match", lambda before, after, xy, *args, **options: np.array(xy))
    ways = task.targets - task.handles

    figures = judge(np.array(task.image), task, "cat")

    assert figures["md"] == figures["m_md"] == pytest.approx((50 + 5) / 2)
    share = 100 * np.hypot(ways[:, 0] / 150, ways[:, 1] / 90).mean()
    assert figures["md_norm"] == figures["md_disc"] == pytest.approx(share)
    assert figures["rest_psnr"] == score.HIGHEST_PSNR
    monkeypatch.setattr(dift, "match", lambda *args, **options: np.array(task.targets))
    assert judge(np.array(task.image), task, "cat")["md"] == 0


def test_on_the_bundled_model_no_edit_scores_about_the_pairs_length():
    clay = clay_task(830_005, "cat", "turn")
    length = np.linalg.norm(clay.task.targets - clay.task.handles)

    figures = score.Judge(ensemble=4, fidelity=False, variants=False)(clay.task.image, clay.task, "still")

    assert figures["md"] == pytest.approx(length, abs=4), "each picture has noise of its own"


def test_the_masked_search_finds_nothing_outside_and_without_a_mask_is_the_search(judge, two):
    task, image = two
    mask = np.zeros((90, 150), bool)
    mask[44:47, 88:93] = mask[43:48, 38:43] = True
    figures = judge(image, DragTask(task.image, [[40, 45]], [[90, 45]], mask), "cat")
    free = judge(image, DragTask(task.image, [[40, 45]], [[90, 45]]), "cat")

    assert figures["m_md"] <= 2.3 or figures["m_md"] >= 47
    assert free["m_md"] == free["md"] and free["rest_psnr"] is None


def test_the_discs_are_searched_as_regiondrag_does_with_its_big_maps(smoke_folder, smoke, two):
    """Squares by nearest pixels, maps scaled up by nearest cells, the first of the largest cosines in the discs."""
    task, image = two
    place, maps = dift.Place(261, 2), []
    for which, picture in (("before", task.image), ("after", image)):
        seed = dift.seed_of("cat", which)
        feat = dift.describe(smoke, picture, task.prompt, place, 2, seed, side=smoke.side, sample=False)
        maps.append(F.normalize(F.interpolate(feat.double(), (90, 150))[0], dim=0))
    misses = []
    for where, (hx, hy), target in zip(
        metrics.discs(task.handles, task.targets, task.size),
        task.handles.astype(int),
        task.targets,
        strict=True,
    ):
        alike = torch.einsum("c,chw->hw", maps[0][:, hy, hx], maps[1]).numpy()
        best = np.where(where, alike.round(12), -np.inf).argmax()
        misses.append(np.hypot((best % 150 - target[0]) / 150, (best // 150 - target[1]) / 90))

    figures = score.Judge(str(smoke_folder), 261, 2, 2, fidelity=False)(image, task, "cat")

    assert figures["md_disc"] == pytest.approx(100 * np.mean(misses), abs=1e-9)


def test_fidelity_inside_and_outside_sees_its_own_part_only(judge, two, random_weights):
    task, inside = two
    both = np.where(task.mask[..., None], inside, 255 - task.image)
    judge = score.Judge(judge.matcher, 81, 3, 1)

    one, other = judge(inside, task, "cat"), judge(both, task, "cat")

    assert one["if_outside"] == 1 and one["if_inside"] == one["if"] < 1
    assert other["if_inside"] == one["if"] and other["if_outside"] < 1
    assert other["if"] < min(other["if_inside"], other["if_outside"])
    same = judge(task.image, task, "cat")
    assert same["if"] == same["if_inside"] == same["if_outside"] == 1
    free = judge(inside, DragTask(task.image, task.handles, task.targets), "cat")
    assert free["if_outside"] is None and free["if_inside"] == free["if"]


def test_fidelity_is_that_of_the_metric(judge, two):
    try:
        weights = lpips.load()
    except InputError as error:
        pytest.skip(str(error))
    task, image = two

    figures = score.Judge(judge.matcher, 81, 3, 1, fidelity=True)(image, task, "cat")

    assert figures["if"] == metrics.image_fidelity(task.image, image, weights)


def test_weights_that_are_absent_are_said_and_only_an_order_for_them_fails(judge, two, no_weights):
    task, image = two
    asked, wanted = score.Judge(judge.matcher, 81, 3, 1), score.Judge(judge.matcher, 81, 3, 1, fidelity=True)

    assert asked(image, task, "cat")["if"] is None and asked.describe()["lpips"] is None
    with pytest.raises(InputError, match="there are no weights at .* fetch"):
        wanted(image, task, "cat")


def test_without_the_variants_the_published_figures_are_the_same(judge, two):
    task, image = two
    few = score.Judge(judge.matcher, 81, 3, 2, fidelity=False, variants=False)(image, task, "cat")
    all_of_them = judge(image, task, "cat")

    assert {key for key, value in few.items() if value is not None} == {
        "md",
        "pairs",
        "md_pairs",
        "rest_psnr",
    }
    assert few["md_pairs"] == all_of_them["md_pairs"]


def test_the_truth_marks_itself_best_and_no_edit_as_unmoved(judge):
    entry = Entry(830_003, "mushroom", "bend", pairs=2)
    task, truth = entry.task(), entry.truth
    length = np.linalg.norm(task.targets - task.handles, axis=1).mean()

    true = judge(entry.truth_image, task, "true", truth)
    still = judge(task.image, task, "still", truth)

    assert true["oracle_distance"] < 1.5 and true["moved"] == pytest.approx(1, abs=0.05)
    assert still["oracle_distance"] == pytest.approx(length, abs=1.5) and still["moved"] == pytest.approx(
        0, abs=0.05
    )
    assert true["truth_psnr"] == still["rest_psnr"] == score.HIGHEST_PSNR
    assert still["truth_psnr"] < 40 and still["oracle_residual"] < 3
    assert still["truth_psnr"] == pytest.approx(metrics.psnr(task.image, entry.truth_image))
    assert true["truth_if"] is None, "no picture was given to compare with"
    ruined = judge(255 - task.image, task, "ruined", truth)
    assert ruined["oracle_residual"] > 30, "like no pose of this scene"


def test_likeness_to_the_true_picture_is_that_of_the_metric(judge, two, random_weights):
    task, image = two
    judge = score.Judge(judge.matcher, 81, 3, 1, variants=False)

    figures = judge(image, task, "cat", truth_image=task.image)

    assert figures["truth_if"] == figures["if"] == metrics.image_fidelity(task.image, image, lpips.load())
    assert judge(image, task, "cat")["truth_if"] is None and figures["moved"] is None
    with pytest.raises(InputError, match="both must have one size"):
        judge(image, task, "cat", truth_image=task.image[:-1])


def test_any_sample_may_bring_figures_of_its_own(judge, two):
    task, image = two
    figures = judge(image, task, "cat", lambda edit: {"moved": float((edit == image).all())})

    assert figures == judge(image, task, "cat") | {"moved": 1.0}


def test_what_it_is_made_with_can_be_written_down(judge, smoke):
    said = json.loads(json.dumps(judge.describe()))

    assert said["matcher"]["hash"] == smoke.hash and (said["t"], said["block"], said["ensemble"]) == (
        81,
        3,
        2,
    )
    assert said["versions"]["torch"] == torch.__version__ and said["lpips"] is None
    assert score.Judge().describe()["t"] == 81, "what suits the bundled model"


def test_the_bundled_model_is_its_own_matcher_and_all_others_have_the_published_one():
    assert score.default_matcher("clay") == "clay"
    assert score.default_matcher("sd15") == score.default_matcher("a/folder") == "sd21"


# it depends on nothing else


def _judged(judge, threads, jobs):
    torch.set_num_threads(threads)
    return {name: judge(image, task, name) for name, task, image in jobs}


def test_order_and_parallelism_change_no_bit(judge, two):
    task, image = two
    jobs = [
        (name, task, picture)
        for name, picture in (("a", image), ("b", image), ("c", task.image), ("d", image))
    ]
    threads = torch.get_num_threads()

    once = _judged(judge, threads, jobs)
    score._maps.clear()
    again = _judged(judge, threads, jobs[::-1])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = pool.submit(_judged, pickle.loads(pickle.dumps(judge)), threads, jobs[2:]).result()

    assert once == again
    assert {name: once[name] for name in elsewhere} == elsewhere
    assert once["a"]["md_pairs"] != once["b"]["md_pairs"] or once["a"]["md_pairs"] != once["d"]["md_pairs"], (
        "the noise is each name's own"
    )


def test_the_picture_before_is_looked_at_once_for_all_its_edits(judge, two, monkeypatch):
    task, image = two
    score._maps.clear()
    looked, describe = [], dift.describe
    monkeypatch.setattr(dift, "describe", lambda *args: looked.append(args[1]) or describe(*args))

    for shift in range(5):
        judge(np.roll(image, shift, 0), task, "cat")

    assert sum(np.array_equal(picture, task.image) for picture in looked) == 2, "as it is, and as a square"
    assert len(score._maps) <= score.KEPT_MAPS


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: {"image": a["image"][:-1]}, "image is 150×89, the task's picture 150×90"),
        (lambda a: {"image": a["image"] / 255}, "image is float64"),
        (lambda a: {"image": None}, "image is NoneType"),
        (lambda a: {"name": ""}, "name = ''"),
        (
            lambda a: {"truth": clay_task(830_004, "car", "move")},
            "truth is a ClayTask; give a callable, from the edit to its figures",
        ),
        (
            lambda a: {"truth": lambda image: {"movd": 1.0}},
            "truth gave 'movd', which METRICS has not; did you mean 'moved'",
        ),
        (lambda a: {"truth": lambda image: 0.9}, "truth gave a float; wanted is a dict of figures"),
    ],
)
def test_what_cannot_be_judged_is_named(judge, two, change, reason):
    arguments = {"image": two[1], "task": two[0], "name": "cat", "truth": None}
    with pytest.raises(InputError, match=reason):
        judge(**arguments | change(arguments))


@pytest.mark.parametrize(("field", "value", "reason"), [("block", 7, "block = 7"), ("t", 1000, "t = 1000"),
                                                        ("ensemble", 0, "ensemble = 0")])  # fmt: skip
def test_a_judge_that_cannot_be_is_named(judge, two, field, value, reason):
    settings = {"matcher": judge.matcher, "t": 81, "block": 3, "ensemble": 1, "fidelity": False} | {
        field: value
    }
    with pytest.raises(InputError, match=reason):
        score.Judge(**settings)(two[1], two[0], "cat")


# intervals


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for k in range(400):
        found = score.bootstrap(rng.exponential(3, 60), draws=400, seed=k)
        assert found.low <= found.value <= found.high
        covered += found.low <= 3 <= found.high
    assert 0.89 <= covered / 400 <= 0.97


def test_values_of_one_picture_are_drawn_together():
    rng = np.random.default_rng(1)
    of_picture = rng.normal(size=30)
    values, pictures = np.repeat(of_picture, 5), np.repeat(np.arange(30), 5)

    together = score.bootstrap(values, groups=pictures)
    apart = score.bootstrap(values)
    pictures_alone = score.bootstrap(of_picture)

    assert together == pytest.approx(pictures_alone, abs=1e-12)
    assert together.high - together.low > 1.8 * (apart.high - apart.low), "five copies are no new evidence"


def test_other_statistics_other_levels_and_the_smallest_samples():
    values = np.arange(50.0)
    wide, narrow = (
        score.bootstrap(values, np.median, level=0.99),
        score.bootstrap(values, np.median, level=0.5),
    )

    assert wide.low < narrow.low < 24.5 == wide.value < narrow.high < wide.high
    assert score.bootstrap(values) == score.bootstrap(values), "the same every time"
    assert score.bootstrap([3.0]) == (3, 3, 3)
    assert all(map(math.isnan, score.bootstrap([])))
    with pytest.raises(InputError, match="groups: 2 labels for values"):
        score.bootstrap(values, groups=[1, 2])
    with pytest.raises(InputError, match="level = 95"):
        score.bootstrap(values, level=95)


def record(sample, md_pairs, setting="full", **more):
    figures = {"md": float(np.mean(md_pairs)), "pairs": len(md_pairs), "md_pairs": list(map(float, md_pairs))}
    return {"sample": sample, "setting": setting} | dict.fromkeys(score.METRICS) | figures | more


def test_pooled_per_image_and_median_as_one_computes_them_by_hand():
    rows = score.summarise([record("a", [10]), record("b", [20, 30, 40], m_md=7.0)])
    found = {(row["metric"], row["kind"]): row for row in rows}

    assert found["md", "per-image"]["value"] == 20, "(10 + 30) / 2"
    assert found["md", "pooled"]["value"] == 25, "(10 + 20 + 30 + 40) / 4"
    assert found["md", "median"]["value"] == 25
    assert found["md", "pooled"]["n"] == found["md", "median"]["n"] == 2, "pictures"
    assert (found["md", "pooled"]["low"], found["md", "pooled"]["high"]) == (10, 30), "of pictures, not pairs"
    assert found["m_md", "per-image"]["value"] == 7 and found["m_md", "per-image"]["n"] == 1
    assert ("if", "per-image") not in found, "what was not measured has no row"


def test_order_changes_no_row_failures_are_left_out_and_settings_stay_apart():
    rng = np.random.default_rng(0)
    records = [
        record(f"s{k}", rng.uniform(0, 50, 1 + k % 3), setting, **{"if": rng.uniform()})
        for k in range(12)
        for setting in ("full", "none")
    ]
    bad = [record("s99", [1e9], error="it failed"), record("s98", [5], **{"if": math.nan})]
    shuffled = [*records, *bad]
    random.Random(1).shuffle(shuffled)

    rows = {(r["setting"], r["metric"], r["kind"]): r for r in score.summarise([*records, *bad])}
    again = {(r["setting"], r["metric"], r["kind"]): r for r in score.summarise(shuffled)}

    assert rows == again and {key[0] for key in rows} == {"full", "none"}
    assert rows["full", "md", "pooled"]["n"] == 13 and rows["full", "if", "per-image"]["n"] == 12
    assert rows["full", "md", "pooled"]["high"] < 100


# whether a metric orders settings as another does


def ordered(n=20, flip=1.0):
    """Records of four settings, truly 40, 30, 20 and 10 px off; md says the same, or (flip = -1) the reverse."""
    rng = np.random.default_rng(0)
    return [
        record(f"s{k}", [25 + flip * (true - 25) + rng.normal()], name, oracle_distance=true + rng.normal())
        for k in range(n)
        for name, true in (("none", 40.0), ("few", 30.0), ("some", 20.0), ("full", 10.0))
    ]


def test_a_metric_that_orders_as_the_truth_agrees_and_its_reverse_does_not():
    assert score.agreement(ordered(), "md") == (1, 1, 1)
    assert score.agreement(ordered(flip=-1), "md").value == -1
    turned = [r | {"truth_psnr": 60 - r["oracle_distance"]} for r in ordered()]
    assert score.agreement(turned, "truth_psnr").value == 1, "more is better there"


def test_agreement_counts_pictures_that_every_setting_has_and_says_when_there_is_none():
    records = ordered(6)
    spoilt = [*records, record("s99", [1e6], "none", oracle_distance=0.0)]
    failed = [r | ({"error": "no"} if r["sample"] == "s0" and r["setting"] == "few" else {}) for r in records]

    assert score.agreement(spoilt, "md") == score.agreement(failed, "md") == (1, 1, 1)
    assert math.isnan(score.agreement(records[:2], "md").value), "two settings"
    assert math.isnan(score.agreement([r | {"md": 5.0} for r in records], "md").value), "tells none apart"
    assert math.isnan(score.agreement(records, "if").value), "never measured"
    with pytest.raises(InputError, match="metric = 'mdd' orders nothing; did you mean 'md'"):
        score.agreement(records, "mdd")


def test_a_small_change_on_every_picture_is_certain_though_the_means_intervals_overlap():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 50, 40)  # pictures differ much more than the two settings
    records = [
        {"sample": f"s{k}", "setting": name, "truth_psnr": easy + gain, "error": None}
        for k, easy in enumerate(hard)
        for name, gain in (("a", 0.0), ("b", 2 + rng.normal(0, 0.5)))
    ]
    rows = {r["setting"]: r for r in score.summarise(records) if r["kind"] == "per-image"}
    assert rows["b"]["low"] < rows["a"]["high"], "their own intervals overlap"

    found = score.difference(records, "truth_psnr", "b", "a")
    assert 1.5 < found.low < found.value < found.high < 2.5
    assert found == score.difference(records[::-1], "truth_psnr", "b", "a")
    assert found.value == -score.difference(records, "truth_psnr", "a", "b").value


def test_only_pictures_that_have_all_settings_are_compared():
    records = [
        {"sample": "s1", "setting": "a", "md": 1.0, "error": None},
        {"sample": "s1", "setting": "b", "md": 3.0, "error": None},
        {"sample": "s2", "setting": "a", "md": 100.0, "error": None},
        {"sample": "s3", "setting": "a", "md": 50.0},
        {"sample": "s3", "setting": "b", "error": "RuntimeError: no"},
    ]
    assert score.common(records) == records[:2]
    assert score.common(records, ["a"]) == [records[0], records[2], records[3]]
    assert score.difference(records, "md", "b", "a").value == 2
    assert math.isnan(score.difference(records, "md", "b", "no such setting").value)
    assert math.isnan(score.difference(records, "if", "b", "a").value), "no picture has the figure"


def test_a_committed_table_comes_back_as_the_records_it_was_made_from(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "sample,category,setting,md,pairs,md_pairs,if,seconds\n"
        "a,things,full,15.0,2,10.0 20.0,,3.5\nb,things,full,5.0,1,5.0,0.9,3.5\n"
    )
    records = score.load(path)

    assert records[0]["if"] is None and records[0]["md_pairs"] == [10, 20] and records[1]["if"] == 0.9
    rows = {(r["metric"], r["kind"]): r["value"] for r in score.summarise(records)}
    assert rows["md", "pooled"] == pytest.approx(35 / 3) and rows["if", "per-image"] == 0.9


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "sample,setting,md\na,full,much\n", "sample,setting\n"])
def test_what_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"table\.csv"):
        score.load(path)
    with pytest.raises(InputError, match=r"none\.csv cannot be read"):
        score.load(tmp_path / "none.csv")


def test_a_summary_is_read_by_metric_and_as_points_in_a_plane():
    records = [
        {"sample": f"s{k}", "setting": name, "md": shift + k, "pairs": 1, "md_pairs": [shift + k]} | extra
        for k in range(3)
        for name, shift, extra in (("a", 1.0, {"if": 0.9}), ("b", 5.0, {}))
    ]
    rows = score.summarise(records)

    assert {name: row["value"] for name, row in score.of_metric(rows, "md").items()} == {"a": 2.0, "b": 6.0}
    assert score.of_metric(rows, "md", "median")["b"]["kind"] == "median"
    (across, up) = score.points(rows, "md", "if")["a"]
    assert (across.value, up.value) == (2.0, pytest.approx(0.9)) and across.low < 2 < across.high
    assert list(score.points(rows, "md", "if")) == ["a"], "b has no IF"
    assert score.label("md") == "md (px), less is better" and score.label("if") == "if, more is better"
    assert score.label("pairs") == "pairs"
