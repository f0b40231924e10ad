"""What a drag will take is known from drags that were made here, and only from those."""

import dataclasses
from types import SimpleNamespace

import pytest

from dragnb import config, prepare
from dragnb.geometry import Frame
from dragnb.prepare import Event
from dragnb.store import Store
from dragnb.ui import pace
from dragnb.ui.session import Session

PATIENCE = 120  # seconds; a trial takes about one


@pytest.fixture(scope="module")
def measured(smoke, quick, tmp_path_factory, drag_task):
    """A session that has made a trial and nothing else, told at the size of another picture and model side."""
    session = Session(smoke, quick, Store(tmp_path_factory.mktemp("measured")))
    session.measure(drag_task.image)
    assert session.wait(PATIENCE) and not session.problem, session.problem
    yield session
    session.close()


def test_the_steps_of_each_stage_are_those_that_a_run_reports(smoke, quick, cache, drag_task):
    prepare.forget()
    session = Session(smoke, quick.replace(stop=0.0), cache)
    session.run(drag_task)
    assert session.wait(PATIENCE)
    reported = {stage: event.n for stage, event in session.progress.items() if stage != "done"}
    assert pace.steps(quick) == reported
    session.close()


def test_nothing_is_said_before_anything_was_measured(quick, cache):
    assert pace.Pace(cache).notes("clay", quick, (100, 100)) == [pace.UNKNOWN]
    assert pace.Pace(cache).notes("clay", quick, (100, 100), side=128) == [pace.UNKNOWN]


def test_a_trial_measures_every_stage_in_two_steps_and_keeps_no_drag(measured, quick, drag_task):
    assert measured.said == "measured" and not measured.snapshots
    assert {p.name for p in measured.store.root.iterdir()} == {"pace"}, "the trial's own pieces are gone"
    assert measured.progress["finetune"].n == measured.progress["drag"].n == 2
    (said,) = measured.notes(drag_task.image, "")
    assert said.startswith("expected: at most ") and "not measured" not in said and "GiB of memory" in said


def test_seconds_grow_with_the_steps_and_other_settings_that_cost_are_unknown(measured, smoke, quick):
    frame = Frame.fit(150, 90, smoke.side)
    few, many = (measured.pace.expect(smoke, quick.replace(lora_steps=n), frame) for n in (2, 200))
    assert many.seconds["finetune"] > 10 * few.seconds["finetune"] > 0
    assert few.seconds["drag"] == many.seconds["drag"] and few.memory > 2**20

    other = measured.pace.expect(smoke, quick.replace(block=1, lora_steps=0), frame)
    assert other.unknown == ("drag",) and "finetune" not in other.seconds
    assert pace.says(other).endswith("not measured yet: drag")
    larger = measured.pace.expect(smoke, quick, Frame.fit(150, 90, 2 * smoke.side))
    assert set(larger.seconds) == {"load"}, "another canvas was never measured"


def test_what_was_measured_is_known_to_another_session_and_not_to_another_model(measured, smoke, quick):
    again, frame = pace.Pace(measured.store), Frame.fit(150, 90, smoke.side)
    assert again.expect(smoke, quick, frame) == measured.pace.expect(smoke, quick, frame)
    other = dataclasses.replace(smoke, name="other")
    assert not again.expect(other, quick, frame).seconds


def test_a_drag_that_will_be_reused_is_not_counted_again(smoke, quick, cache, drag_task):
    session = Session(smoke, quick, cache)
    session.run(drag_task)
    assert session.wait(PATIENCE)
    image, prompt = drag_task.image.copy(), drag_task.prompt
    assert session._done(image, prompt, quick) == {"load", "encode", "finetune", "invert"}
    assert session._done(image, prompt, quick.replace(reference=False)) == {"load", "encode", "finetune"}
    assert session._done(image, "a dog", quick) == session._done(255 - image, prompt, quick) == {"load"}
    session.close()


def test_the_sentence_names_the_longest_stages():
    expected = pace.Expected({"finetune": 22.6, "drag": 2.4, "decode": 0.1}, (), 3 * 2**29)
    text = "expected: at most 25 s (fine-tune 23, drag 2), 1.5 GiB of memory, as the last drags took on this device"
    assert pace.says(expected) == text


def test_a_trial_stays_within_the_bounds_of_the_settings():
    assert pace.trial(config.profile("fast", steps=1, strength=1.0, lora_steps=0)).lora_steps == 0


def test_a_stage_that_was_read_from_the_cache_measures_nothing(measured, smoke, quick):
    frame = Frame.fit(64, 64, 64)
    result = SimpleNamespace(prepared=SimpleNamespace(frame=frame, model=smoke), settings=quick)
    one = Event("finetune", 1, 1, 0.001, cached=True)
    measured.pace.keep(smoke, result, {"finetune": one}, {"finetune": one}, 0)
    assert "finetune" in measured.pace.expect(smoke, quick, frame).unknown
