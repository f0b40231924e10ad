"""Settings are bounded, profiles differ in nothing but settings, and each stage knows its own."""

import dataclasses

import numpy as np
import pytest

from dragnb.config import PROFILES, STAGES, Settings, meaning, nearest_profile, profile
from dragnb.errors import InputError


def differences(one, other):
    return {name for name, value in one.as_dict().items() if other.as_dict()[name] != value}


def test_the_defaults_are_the_papers_numbers():
    s = Settings()

    assert (s.lora_rank, s.lora_lr, s.lora_batch, s.lora_steps) == (16, 5e-4, 4, 80)
    assert (s.steps, s.strength, s.guidance) == (50, 0.7, 1.0)
    assert (s.drag_steps, s.drag_lr, s.lam, s.r1, s.r2, s.block) == (80, 0.01, 0.1, 1, 3, 3)


def test_the_paper_and_its_public_code_differ_where_the_facts_say():
    assert differences(profile("paper"), profile("reference")) == {
        "lora_targets",
        "motion_norm",
        "stop",
        "ref_blocks",
        "fit",
        "between",
        "points",
        "mask_cells",
    }
    assert "to_out.0" in profile("reference").lora_targets


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_can_be_made_and_changed(name):
    assert profile(name, lam=0.5).lam == 0.5
    assert differences(profile(name), profile(name, lam=0.5)) == {"lam"}
    assert isinstance(hash(profile(name)), int)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lam": -1}, r"settings: lam = -1 is not a number from 0 to 1000000\.0; the default is 0\.1"),
        ({"lam": "much"}, r"settings: lam = 'much' is not a number"),
        ({"lam": float("nan")}, r"settings: lam = nan is not a number"),
        ({"drag_lr": 0}, r"settings: drag_lr = 0 is not a number above 0 and at most 10"),
        ({"lora_rank": 0}, r"settings: lora_rank = 0 is not a whole number from 1 to 256; the default is 16"),
        ({"lora_rank": 2.5}, r"settings: lora_rank = 2\.5 is not a whole number"),
        ({"lora_steps": True}, r"settings: lora_steps = True is not a whole number"),
        ({"strength": 0}, r"settings: strength = 0 is not a number above 0 and at most 1"),
        ({"strength": 1.5}, r"settings: strength = 1\.5"),
        ({"strength": 0.001}, r"strength = 0\.001 of 50 steps rounds to no step at all; use 0\.02 or more"),
        ({"steps": 30}, r"steps = 30 does not divide 1000; the nearest that does is 25"),
        ({"block": 5}, r"settings: block = 5 is not a whole number from 1 to 4"),
        ({"seed": -1}, r"settings: seed = -1"),
        ({"motion_norm": "l2"}, r"settings: motion_norm = 'l2' is not one of 'sum', 'mean'"),
        ({"mask_on": None}, r"settings: mask_on = None is not one of 'prev', 'now'"),
        ({"reference": 1}, r"settings: reference = 1 is not one of True, False"),
        (
            {"ref_blocks": (4,)},
            r"settings: ref_blocks = \(4,\) is not a list of different ones of \[0, 1, 2, 3\]",
        ),
        ({"ref_blocks": (2, 2)}, r"settings: ref_blocks = \(2, 2\) is not a list of different ones"),
        ({"lora_targets": "to_q"}, r"settings: lora_targets = 'to_q' is not a list"),
        ({"lora_targets": ()}, r"settings: lora_targets = \(\) is not a list"),
        ({"lora_targets": ("to_out",)}, r"settings: lora_targets = \('to_out',\) is not .*to_out\.0"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value_and_range(changes, message):
    with pytest.raises(InputError, match=message):
        profile("fast", **changes)
    with pytest.raises(InputError, match=message):
        Settings().replace(**changes)


def test_an_unknown_setting_or_profile_is_named_with_the_nearest_known_one():
    with pytest.raises(InputError, match=r"unknown setting 'drag_step'; did you mean 'drag_steps'\?"):
        profile("fast", drag_step=3)
    with pytest.raises(InputError, match=r"unknown setting 'zzz'; known: lora_rank, "):
        Settings().replace(zzz=3)
    with pytest.raises(InputError, match=r"profile = 'papper' is unknown; did you mean 'paper'\?"):
        profile("papper")


def test_a_number_is_kept_in_its_fields_own_type():
    s = profile("fast", guidance=7, seed=np.int64(3), ref_blocks=[3, 1])

    assert type(s.guidance) is float and type(s.seed) is int
    assert s.ref_blocks == (1, 3)
    assert s == profile("fast", guidance=7.0, seed=3, ref_blocks=(1, 3))


def test_a_stage_depends_on_its_own_settings_and_on_those_of_the_stages_it_needs():
    keys = {stage: set(Settings().deciding(stage)) for stage in STAGES}

    for stage, about in STAGES.items():
        assert all(keys[need] <= keys[stage] for need in about.needs), stage
    assert not keys["load"] and keys["encode"] == {"fit"}
    assert keys["done"] == {f.name for f in dataclasses.fields(Settings)}, "every setting decides something"
    assert not keys["reference"] & {"lam", "method"} and not keys["drag"] & {"reference", "ref_blocks"}


def test_a_fine_tune_up_to_the_drags_timestep_depends_on_it():
    used = profile("clay", lora_t="used")
    assert used.deciding("finetune")["t"] == used.t == 681
    assert used.deciding("finetune") != used.replace(strength=0.5).deciding("finetune"), (
        "it learns what is visited"
    )


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"lora_rank": 8}, set()),
        ({"strength": 0.5}, {"finetune"}),
        ({"lam": 1.0}, {"finetune", "invert", "reference"}),
        ({"ref_blocks": (3,)}, {"finetune", "invert", "drag"}),
    ],
)
def test_changing_a_setting_repeats_only_the_stages_that_need_it(change, kept):
    before, after = Settings(), Settings().replace(**change)

    same = {stage for stage in STAGES if before.deciding(stage) == after.deciding(stage)}
    assert same == kept | {"load", "encode"}
    with pytest.raises(InputError, match=r"stage = 'inverse' is unknown"):
        before.deciding("inverse")


@pytest.mark.parametrize("name", PROFILES)
def test_settings_are_told_as_the_nearest_profile_and_its_changes(name):
    assert nearest_profile(profile(name)) == (name, {})
    assert nearest_profile(profile(name, lam=0.5)) == (name, {"lam": 0.5})


def test_every_setting_says_what_it_is_for():
    said = [meaning(f.name) for f in dataclasses.fields(Settings)]

    assert all(said) and len(set(said)) == len(said)
    with pytest.raises(InputError, match="unknown setting 'lamb'; did you mean 'lam'"):
        meaning("lamb")
