"""ClayBench is the same hundred tasks for everyone: balanced, named, drawn when asked for, with their truth."""

import collections
import pickle

import numpy as np
import pytest

from dragnb import clay
from dragnb.clay import claybench, tasks
from dragnb.clay.kinds import FAMILIES
from dragnb.clay.oracle import locate
from dragnb.clay.scene import KINDS, RESERVED_SEED
from dragnb.clay.tasks import EDITS, MAX_DRAG, MIN_APART, MIN_DRAG
from dragnb.metrics.tables import HIGHEST_PSNR, METRICS

DRAWN = {  # entry -> handles, targets, mean colour before and after, as version 1 draws them
    0: ([[144.92, 120.05]], [[175.24, 120.05]], [215.36, 180.93, 175.02], [215.37, 180.94, 174.98]),
    5: (
        [[100.33, 151.19], [45.0, 179.0]],
        [[121.74, 152.42], [60.86, 163.76]],
        [203.57, 193.47, 180.02],
        [203.15, 192.98, 179.63],
    ),
    14: (
        [[88.96, 107.67], [83.0, 210.0], [107.0, 160.0]],
        [[88.96, 124.01], [83.0, 226.34], [107.0, 176.34]],
        [151.94, 184.83, 187.17],
        [151.73, 184.96, 187.78],
    ),
}


@pytest.fixture(scope="module")
def entries():
    return clay.bench()


def check_pairs(entry):
    """Every pair is one surface point before and after, seen in both, far enough, apart from the others."""
    made, handles, targets = entry.clay, entry.task().handles, entry.task().targets
    assert entry.task().name == entry.name and len(handles) == entry.pairs
    way = np.hypot(*(targets - handles).T)
    assert (way >= MIN_DRAG).all() and (way <= MAX_DRAG).all(), entry.name
    x, y = np.rint(handles).astype(int).T
    assert np.abs(made.flow.xy[y, x] - targets).max() < 2.5, entry.name
    assert made.flow.visible[y, x].all() and made.flow.solid[y, x].all() and made.task.mask[y, x].all()
    apart = [np.hypot(*(a - b)) for k, a in enumerate(handles) for b in handles[:k]]
    assert min(apart, default=MIN_APART) >= MIN_APART - 0.01, entry.name


def test_the_list_is_that_of_its_version():
    assert (claybench.VERSION, claybench.digest()[:16]) == (1, "a1e9c7b43c450b54"), (
        "the list has changed: raise VERSION, then pin the new digest here"
    )


def test_there_are_a_hundred_tasks_of_different_names_on_reserved_seeds(entries):
    assert len(entries) == len({entry.name for entry in entries}) == 100
    assert [entry.seed for entry in entries] == list(range(RESERVED_SEED, RESERVED_SEED + 100))


def test_the_list_is_balanced_over_families_and_holds_every_kind_and_edit(entries):
    count = collections.Counter(entry.category for entry in entries)
    assert count == dict.fromkeys(FAMILIES, 25)
    assert collections.Counter(entry.category for entry in entries[:8]) == dict.fromkeys(FAMILIES, 2)
    assert {(e.kind, e.edit) for e in entries} == {(kind, edit) for kind in KINDS for edit in EDITS[kind]}
    assert {"turn", "nod", "stretch", "open", "bend", "raise", "move"} <= {e.edit for e in entries}
    for family in FAMILIES:
        pairs = collections.Counter(e.pairs for e in entries if e.category == family)
        assert pairs == {1: 15, 2: 5, 3: 5}, family


def test_making_the_list_draws_nothing(monkeypatch):
    monkeypatch.setattr(claybench, "task", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr(tasks, "sample", lambda *_: pytest.fail("drawn"))

    assert len(clay.bench()) == 100


def test_the_room_does_not_hide_the_function():
    import dragnb.clay.claybench  # noqa: F401

    assert callable(clay.bench) and clay.bench() == clay.bench()


def test_the_same_entry_gives_the_same_bits_in_any_order_and_in_another_process(entries):
    once, again = clay.bench()[5], pickle.loads(pickle.dumps(entries[5]))
    entries[4].task()

    for field in ("image", "handles", "targets", "mask"):
        assert np.array_equal(getattr(once.task(), field), getattr(again.task(), field)), field
    assert np.array_equal(once.clay.picture_after, again.clay.picture_after)
    assert once.clay is once.clay, "drawn once"


@pytest.mark.parametrize("k", DRAWN)
def test_what_the_seeds_draw_is_that_of_the_version(entries, k):
    handles, targets, before, after = DRAWN[k]
    check_pairs(entries[k])
    task = entries[k].task()
    assert np.abs(task.handles - handles).max() < 0.02 and np.abs(task.targets - targets).max() < 0.02
    assert np.abs(task.image.mean((0, 1)) - before).max() < 0.1
    assert np.abs(entries[k].clay.picture_after.mean((0, 1)) - after).max() < 0.1


def test_the_first_pair_is_the_one_the_oracle_follows(entries):
    clay_task = entries[5].clay
    assert len(clay_task.task.handles) == 2
    assert locate(clay_task, clay_task.picture_after).distance < 1.5
    assert locate(clay_task, clay_task.task.image).moved == pytest.approx(0, abs=0.05)


def test_an_entry_brings_the_truth_that_a_judge_asks_for(entries):
    entry = pickle.loads(pickle.dumps(entries[1]))

    true, still = entry.truth(entry.truth_image), entry.truth(entry.task().image)

    assert true.keys() == still.keys() <= METRICS.keys()
    assert true["moved"] == pytest.approx(1, abs=0.05) and true["truth_psnr"] == HIGHEST_PSNR
    assert still["moved"] == pytest.approx(0, abs=0.05) and still["truth_psnr"] < 40
    assert still["oracle_distance"] == locate(entry.clay, entry.task().image).distance


def test_a_moving_surface_too_small_for_more_pairs_is_passed_over(monkeypatch):
    monkeypatch.setattr(tasks, "MIN_APART", 500.0)
    monkeypatch.setattr(tasks, "_TRIES", 3)
    assert len(tasks.task(700_001, "cat", "move").task.handles) == 1
    with pytest.raises(tasks.InputError, match="seed 700001 gives no visible move of a cat"):
        tasks.task(700_001, "cat", "move", pairs=2)


@pytest.mark.slow
def test_all_hundred_can_be_drawn_and_are_sound(entries):
    for entry in entries:
        check_pairs(entry)
        assert entry.task().warnings() == [], entry.name
        assert not np.array_equal(entry.task().image, entry.clay.picture_after)
