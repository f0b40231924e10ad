"""The grids: what the paper compares, each setting once, one thing changed at a time."""

import json
import pickle

import pytest

from dragnb import checkpoints, config, methods
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.metrics import judge
from dragnb.sweep import grids


@pytest.fixture
def base():
    return config.profile("clay")


def test_an_ablation_changes_one_setting_at_a_time_and_runs_the_base_once(base):
    grid = grids.ablation(base)

    assert list(grid.values()).count(base) == 1 and grid["full"] == base
    for name, settings in grid.items():
        different = {key for key, value in settings.as_dict().items() if value != base.as_dict()[key]}
        assert different == ({name.split("=")[0]} if name != "full" else set()), name
    assert len(set(map(str, grid.values()))) == len(grid)


@pytest.mark.parametrize("axis", grids.AXES)
def test_an_axis_runs_through_its_values_in_order_with_the_base_among_them(base, axis):
    names, grid = grids.along(base, axis), grids.ablation(base, axis)

    assert tuple(names.values()) == grids.AXES[axis] == tuple(sorted(grids.AXES[axis]))
    assert "full" in names and set(names) == set(grid)
    for name, value in names.items():
        assert getattr(grid[name], axis) == value


def test_an_axis_without_the_bases_value_still_runs_the_base(base):
    odd = base.replace(block=2, lam=0.3)
    assert "full" in grids.ablation(odd, "lam") and "full" not in grids.along(odd, "lam")


def test_the_committed_ablations_stand_around_the_settings_of_their_own_full():
    table = checkpoints.data_file("results/ablations.csv")
    told = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))["settings"]
    made = {row["setting"] for row in judge.load(table)}

    assert made == set(told) == {*grids.ablation(Settings(**told["full"])), "no edit"}


def test_an_unknown_axis_is_refused_with_the_nearest(base):
    with pytest.raises(InputError, match="lora_steps"):
        grids.ablation(base, "lora_step")


def test_the_methods_travel_to_other_processes_and_differ_in_what_their_name_says(base):
    grid = grids.methods(base)
    assert list(pickle.loads(pickle.dumps(grid))) == list(grid)
    parts = {name: s for name, s in grid.items() if isinstance(s, Settings)}
    assert parts["no fine-tune"].lora_steps == 0 and not parts["no reference control"].reference
    assert parts["there and back"].drag_steps == 0
    assert "truth, encoded" not in grids.methods(base, truth=False)


def test_rivals_stand_beside_the_base_the_floor_and_the_warp_each_by_its_name(base, monkeypatch):
    known = {"gooddrag": {"drag_lr": 0.02}, "freedrag": {}}
    monkeypatch.setattr(methods, "names", lambda: tuple(known))
    monkeypatch.setattr(methods, "settings", lambda name, base: base.replace(**known[name]))

    found = grids.rivals(base)

    assert list(found) == ["no edit", "pixel warp", "full", "gooddrag", "freedrag"]
    assert found["full"] == base and found["gooddrag"] == base.replace(drag_lr=0.02)
    assert found["no edit"] is grids.no_edit and found["pixel warp"] is grids.pixel_warp


class FromDragBench:
    of_dragbench = True


def test_dragbench_is_dragged_at_the_public_codes_width_unless_another_fit_is_asked_for(base):
    grid = {"full": base, "none": grids.no_edit}
    samples = [FromDragBench(), FromDragBench()]

    assert grids.fitted(grid, samples) == {"full": base.replace(fit="width"), "none": grids.no_edit}
    assert grids.fitted(grid, [*samples, object()]) == grid, "a mixture is no DragBench"
    assert grids.fitted(grid, samples, "longer") == grid
    assert grids.fitted(grid, [object()], "native")["full"].fit == "native"


def test_claybench_is_known_by_name_in_each_version_of_the_world():
    for name, version in grids.CLAY.items():
        samples, problems, told = grids.samples(name, 3)
        assert len(samples) == 3 and not problems and told.startswith(f"ClayBench {version} ")
        assert all(sample.version == version and sample.seed >= 900_000 for sample in samples)
