"""A studio without a page: drags in the background, stopped, kept, looked into, branched. No browser, no widget."""

import dataclasses
import gc
import json
import re
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from dragnb import clay, config, pipeline
from dragnb.errors import InputError
from dragnb.pipeline import Event
from dragnb.store import Store
from dragnb.ui import advice
from dragnb.ui.picks import Picks
from dragnb.ui.session import SECONDS, Session, rest_line, summary
from dragnb.ui.worker import Worker

PATIENCE = 120  # seconds; a run takes about one


@pytest.fixture
def session(smoke, quick, kept):
    session = Session(smoke, quick, kept)
    yield session
    session.close()


@pytest.fixture(scope="module")
def done(smoke, quick, kept, drag_task):
    """A session with one finished drag, for those who only look."""
    session = Session(smoke, quick, kept)
    session.run(drag_task)
    assert session.wait(PATIENCE) and not session.problem, session.problem
    yield session
    session.close()


def ticks(n=10_000, pause=0.01):
    for i in range(n):
        time.sleep(pause)
        yield Event("tick", i, n, i * pause)


def held(began, go_on):
    """Three ticks, as soon as `go_on` is set; `began` is set when it is waited for."""
    began.set()
    go_on.wait(PATIENCE)
    yield from ticks(3, 0)


def when(session, condition, action):
    """Do something once, as soon as the session is told to be so."""
    left = [action]

    def listener():
        if left and condition():
            left.pop()()

    session.on_change(listener)


def seen(session, step):
    session.look(step)
    assert session.wait(PATIENCE) and not session.problem, session.problem
    return session.looks[step]


# one job in the background


def test_stop_ends_a_job_after_the_step_that_is_made_just_then():
    worker, began, go_on = Worker(), threading.Event(), threading.Event()
    worker.do("tick", held(began, go_on))
    assert began.wait(PATIENCE)
    worker.stop()

    assert worker.message == "stopping" and worker.busy, "it is said at once"
    go_on.set()
    assert worker.wait(PATIENCE) and worker.progress["tick"].i == 0, "the first of three"
    assert worker.busy == "" and worker.message == "stopped; there was nothing to keep yet"
    assert worker.problem is None


def test_a_second_job_is_refused_and_the_first_goes_on():
    worker, made, go_on = Worker(), [], threading.Event()
    worker.do("tick", held(threading.Event(), go_on), lambda data: made.append("first"))
    with pytest.raises(InputError, match="a tick is being made; press Stop first, or wait for it"):
        worker.do("tick", ticks(1), lambda data: made.append("second"))

    go_on.set()
    assert worker.wait(PATIENCE) and made == ["first"]


def test_stop_when_nothing_runs_does_not_stop_the_next_job():
    worker, made = Worker(), []
    worker.stop()
    worker.do("tick", ticks(3), lambda data: made.append(1))
    assert worker.wait(PATIENCE) and made and worker.message == ""


def test_an_error_is_one_line_with_its_details_until_the_next_job():
    def broken():
        yield Event("load", 1, 1, 0.0)
        raise ZeroDivisionError("division\nby zero")

    worker = Worker()
    worker.do("tick", broken())
    assert worker.wait(PATIENCE)
    assert worker.problem.line == "ZeroDivisionError: division by zero"
    assert "Traceback" in worker.problem.details and worker.busy == ""

    worker.do("tick", ticks(1))
    assert worker.problem is None and worker.wait(PATIENCE)


def test_listeners_are_told_ten_times_a_second_and_a_broken_one_ends_nothing(caplog):
    worker, told, made = Worker(), [], []
    worker.on_change(lambda: 1 / 0)
    worker.on_change(lambda: told.append(time.monotonic()))
    worker.do("tick", ticks(100, 0.005), lambda data: made.append(1))

    assert worker.wait(PATIENCE) and made
    assert 4 <= len(told) <= 4 + (told[-1] - told[0]) / 0.1
    assert "a listener failed" in caplog.text


def test_the_live_preview_is_looked_at_ten_times_a_second_at_most(monkeypatch):
    worker, looked = Worker(), []

    def preview(event):
        looked.append(time.monotonic())
        return np.full((1, 1, 3), event.i, np.uint8)

    monkeypatch.setattr(pipeline, "preview", preview)
    worker.do("tick", ticks(100, 0.005))
    assert worker.wait(PATIENCE) and worker.preview is not None
    assert 3 <= len(looked) <= 2 + (looked[-1] - looked[0]) / 0.1


def test_a_preview_that_is_dear_is_made_less_often(monkeypatch):
    worker, looked = Worker(), []
    monkeypatch.setattr(
        pipeline, "preview", lambda event: looked.append(1) or time.sleep(0.1) or np.zeros((1, 1, 3))
    )
    begin = time.monotonic()
    worker.do("tick", ticks(100, 0.01))
    assert worker.wait(PATIENCE)
    assert 2 <= len(looked) <= 2 + (time.monotonic() - begin) / 0.5, "a sixth of the time at most"


def test_closing_does_not_wait_for_a_step_that_takes_minutes(monkeypatch):
    worker, gone = Worker(), threading.Event()

    def download():
        gone.wait(PATIENCE)
        yield Event("load", 1, 1, 0.0)

    monkeypatch.setattr("dragnb.ui.worker.CLOSING", 0.05)
    worker.do("drag", download(), lambda data: pytest.fail("it went on"))
    worker.close()
    gone.set()
    assert worker.wait(PATIENCE) and not worker.busy and worker.problem is None


def test_a_listener_may_wait_for_the_page_while_the_page_waits_for_the_lock():
    worker, page, until = Worker(), threading.Lock(), time.monotonic() + PATIENCE

    def draw():
        with page:
            time.sleep(0.002)

    worker.on_change(draw)
    worker.do("tick", ticks(100, 0.001))
    while worker.busy and time.monotonic() < until:
        with page, worker.lock:
            time.sleep(0.002)
    assert worker.wait(PATIENCE), "page and worker wait for each other"


# drags


def test_a_run_gives_what_a_cell_would_and_keeps_it_without_the_model(done, smoke, quick, kept, drag_task):
    (snapshot,) = done.snapshots
    same = pipeline.edit(drag_task, smoke, quick, kept)

    np.testing.assert_array_equal(snapshot.result.image, same.image)
    assert snapshot is done.shown and snapshot.result.prepared is None and done.busy == ""
    assert tuple(done.progress) == tuple(config.STAGES)
    assert all(event.data is None and event.prepared is None for event in done.progress.values())
    assert done.preview.shape == drag_task.image.shape
    assert done.message.startswith("drag 1: 3 steps in ")


def test_stop_during_the_drag_keeps_the_best_so_far(session, quick, drag_task):
    session.settings = quick.replace(drag_steps=5000, stop=0.0)
    when(session, lambda: session.progress.get("drag", Event("", 0, 0, 0)).i > 0, session.stop)
    session.run(drag_task)

    assert session.wait(PATIENCE)
    result = session.shown.result
    assert result.interrupted and 1 < len(result.states) < 5000
    assert "stopped early" in session.message and result.image.shape == drag_task.image.shape


def test_stop_once_more_leaves_the_way_down_in_one_leap(session, quick, drag_task):
    def at(stage):
        return lambda: session.progress.get(stage, Event("", 0, 0, 0)).i > 0

    session.settings = quick.replace(drag_steps=5000, stop=0.0)
    for stage in ("drag", "denoise"):
        when(session, at(stage), session.stop)
    session.run(drag_task)

    assert session.wait(PATIENCE) and not session.problem, session.problem
    denoised, result = session.progress["denoise"], session.shown.result
    assert 0 < denoised.i < denoised.n and result.interrupted and "stopped early" in session.message


def test_stop_before_the_first_step_keeps_what_was_there(session, drag_task):
    session.run(drag_task)
    session.stop()
    assert session.wait(PATIENCE)
    assert not session.snapshots and session.message == "stopped; there was nothing to keep yet"

    session.run(drag_task)
    assert session.wait(PATIENCE) and len(session.snapshots) == 1


def test_a_model_folder_that_is_gone_is_one_line_and_loses_nothing(
    session, smoke_folder, tmp_path, drag_task
):
    folder, good = shutil.copytree(smoke_folder, tmp_path / "model"), session.model
    session.run(drag_task)
    assert session.wait(PATIENCE)
    shutil.rmtree(folder)
    session.model = str(folder)
    session.run(drag_task)

    assert session.wait(PATIENCE)
    assert "there is no such folder" in session.problem.line and "\n" not in session.problem.line
    assert len(session.snapshots) == 1
    session.model = good
    session.run(drag_task)
    assert session.wait(PATIENCE) and session.problem is None and len(session.snapshots) == 2


def test_a_branch_begins_at_a_steps_latent_with_other_points_and_settings(session, quick, drag_task):
    session.run(drag_task)
    assert session.wait(PATIENCE)
    first, image = session.shown, seen(session, 2).image
    other = dataclasses.replace(
        drag_task, image=image, handles=first.result.tracks_xy[2], targets=np.array([[40.0, 70.0]])
    )
    session.settings = quick.replace(lam=1.0)
    session.run(other, (first, 2))

    assert session.wait(PATIENCE) and not session.problem, session.problem
    second = session.shown
    assert torch.equal(second.result.states[0].z, first.result.states[2].z)
    assert second.result.task.image is not other.image and second.start == (first, 2)
    np.testing.assert_array_equal(second.result.task.image, drag_task.image)
    assert second.result.from_cache == {"encode", "finetune", "invert", "reference"}, (
        "the picture is the same one"
    )


def test_a_branch_to_another_noise_level_is_refused_in_a_line(session, done, quick, drag_task):
    session.settings = quick.replace(strength=0.4)
    session.run(drag_task, (done.shown, 1))
    assert session.wait(PATIENCE)
    assert "keep picture, side, steps and strength" in session.problem.line


# what a drag will take


@pytest.fixture
def timed(session, tmp_path, smoke, drag_task):
    """A session whose cache says that a step of any stage takes a second."""
    session.store = Store(tmp_path)
    name = f"{smoke.name} on cpu at its own px"
    seconds = dict.fromkeys(STAGE_STEPS, 1.0)
    (tmp_path / SECONDS).write_text(json.dumps({name: seconds}))
    return session


STAGE_STEPS = {
    "load": 1,
    "encode": 1,
    "finetune": 3,
    "invert": 4,
    "reference": 4,
    "drag": 3,
    "denoise": 4,
    "decode": 1,
}


def test_the_steps_of_each_stage_are_those_that_a_run_reports(smoke, quick, cache, drag_task):
    session = Session(smoke, quick.replace(stop=0.0), cache)
    session.run(drag_task)
    assert session.wait(PATIENCE)
    reported = {stage: event.n for stage, event in session.progress.items() if stage != "done"}
    assert reported == STAGE_STEPS

    known = json.loads((cache.root / SECONDS).read_text())
    assert set(known[f"{smoke.name} on cpu at its own px"]) == set(STAGE_STEPS)
    again = Session(smoke, quick, cache)
    assert again.estimate(drag_task.image, drag_task.prompt) == pytest.approx(
        sum(e.seconds for stage, e in session.progress.items() if stage != "done"), rel=0.01
    )
    session.close(), again.close()


def test_the_estimate_counts_the_steps_of_those_stages_that_are_still_to_be_done(
    timed, quick, smoke, kept, drag_task
):
    image, prompt = drag_task.image.copy(), drag_task.prompt
    assert timed.estimate(image, prompt) == sum(STAGE_STEPS.values()) == 21
    timed.settings = quick.replace(lora_steps=0, drag_steps=40)
    assert timed.estimate(image, prompt) == 21 - 3 + 37
    timed.settings = quick

    timed.run(drag_task)
    assert timed.wait(PATIENCE)
    (timed.store.root / SECONDS).write_text(json.dumps({timed._timed_as(): dict.fromkeys(STAGE_STEPS, 1.0)}))
    assert timed.estimate(image, prompt) == 3 + 4 + 1, "the rest is kept"
    assert timed.estimate(image, "a dog") == timed.estimate(255 - image, prompt) == 20
    timed.settings = quick.replace(reference=False)
    assert timed.estimate(image, prompt) == 3 + 4 + 1, "without a reference nothing is recorded"
    timed.side = 128
    assert timed.estimate(image, prompt) is None, "another canvas was never timed"


@pytest.mark.parametrize(
    "text",
    ["", "[1", "[]", '{"MODEL": 1}', '{"MODEL": {}}', '{"MODEL": {"load": "1"}}', '{"MODEL": {"load": NaN}}'],
)
def test_where_the_file_of_seconds_is_damaged_nothing_is_said_and_a_drag_mends_it(timed, text, drag_task):
    file = timed.store.root / SECONDS
    rest = ", ".join(f'"{stage}": 1' for stage in STAGE_STEPS if stage != "load")
    file.write_text(
        text.replace("MODEL", timed._timed_as())
        .replace("1}}", f"1, {rest}}}}}")
        .replace("N}}", f"N, {rest}}}}}")
    )
    assert timed.estimate(drag_task.image, drag_task.prompt) is None
    timed.run(drag_task)
    assert timed.wait(PATIENCE) and not timed.problem
    assert timed.estimate(drag_task.image, drag_task.prompt) > 0


def test_a_stage_that_was_read_from_the_cache_or_cannot_be_written_down_tells_nothing(
    session, smoke, quick, drag_task, monkeypatch
):
    session.run(drag_task)  # which an earlier test may have left in the cache
    assert session.wait(PATIENCE)
    file = session.store.root / SECONDS
    file.unlink()
    again = Session(smoke, quick, session.store)
    again.run(drag_task)
    assert again.wait(PATIENCE)
    (known,) = json.loads(file.read_text()).values()
    assert not {"encode", "finetune", "invert"} & set(known) and known["drag"] > 0
    file.unlink()
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    again.run(drag_task)
    assert again.wait(PATIENCE) and not again.problem and len(again.snapshots) == 2 and not file.exists()
    again.close()


def test_the_canvas_side_is_known_before_a_drag_where_the_model_says_it(session, smoke, quick, kept):
    assert session.canvas_side() == smoke.side
    session.side = 128
    assert session.canvas_side() == 128
    session.side, session.model = None, "clay"
    assert session.canvas_side() == 256
    session.model = "some/model"
    assert session.canvas_side() is None


# looking


def test_a_step_looks_the_same_whenever_it_is_looked_at(done, drag_task):
    first = seen(done, 1)
    assert first.image.shape == drag_task.image.shape and first.image.dtype == np.uint8
    assert first.features.shape[2] == 3 and 0 <= first.features.min() <= first.features.max() <= 1

    done.show(done.shown)
    assert not done.looks
    other, again = seen(done, 3), seen(done, 1)
    np.testing.assert_array_equal(again.features, first.features, err_msg="one basis for all steps")
    np.testing.assert_array_equal(again.image, first.image)
    assert not np.array_equal(other.features, first.features)


def test_an_earlier_drag_is_looked_at_with_its_own_model_from_the_cache(session, drag_task):
    session.run(drag_task)
    before = None
    for prompt in ("a cat", "a dog"):
        assert session.wait(PATIENCE)
        before = before or seen(session, 2)
        session.run(dataclasses.replace(drag_task, prompt=prompt))
    assert session.wait(PATIENCE)
    session.show(session.snapshots[0])

    np.testing.assert_array_equal(seen(session, 2).image, before.image)


def test_a_model_that_changed_since_is_said_and_not_looked_through(session, done, smoke):
    changed = dataclasses.replace(done.shown, model=dataclasses.replace(smoke, given="another"))
    session.show(changed)
    session.look(0)
    assert session.wait(PATIENCE)
    assert "has changed since this drag; run it again" in session.problem.line and not session.looks


def test_a_film_goes_from_the_first_step_to_the_result_and_can_be_stopped(done, drag_task):
    films = []
    done.film(done.shown, lambda pictures: films.append(pictures) or "here.gif")
    assert done.wait(PATIENCE) and done.message == "saved: here.gif"
    steps = [step for step, _ in films[0]]
    assert steps == [0, 1, 2, 3, 3]
    np.testing.assert_array_equal(films[0][-1][1], done.shown.result.image)

    done.film(done.shown, films.append)
    done.stop()
    assert done.wait(PATIENCE) and len(films) == 1 and done.message.startswith("stopped")


# several, and the end


def test_two_sessions_at_once_do_not_disturb_each_other(smoke, quick, tmp_path, done, drag_task):
    sessions = [Session(smoke, quick, Store(tmp_path / name)) for name in "ab"]
    for session in sessions:
        session.run(drag_task)
    for session in sessions:
        assert session.wait(PATIENCE) and not session.problem, session.problem
        np.testing.assert_array_equal(session.shown.result.image, done.snapshots[0].result.image)
        session.close()


def test_closing_ends_the_thread_and_frees_the_memory_but_not_another_session(smoke, quick, kept, drag_task):
    one, other = Session(smoke, quick, kept), Session(smoke, quick, kept)
    one.run(drag_task)
    assert one.wait(PATIENCE)
    kept = [weakref.ref(x) for x in (one.shown.result, one._prepared[1])]
    one.settings = quick.replace(drag_steps=5000, stop=0.0)
    one.run(drag_task)
    other.run(drag_task)
    one.close()
    gc.collect()

    assert not any(ref() for ref in kept) and not any(thread.is_alive() for thread in one._threads)
    with pytest.raises(InputError, match="closed; make a new one"):
        one.run(drag_task)
    assert other.wait(PATIENCE) and len(other.snapshots) == 1
    other.close()


def test_what_is_like_a_place_is_found_by_the_models_own_features(session, drag_task):
    answers = []
    session.select(drag_task.image, "", (20, 30), answers.append)
    assert session.wait(PATIENCE) and session.problem is None
    session.select(drag_task.image, "", (70, 40), answers.append)
    assert session.wait(PATIENCE)
    one, other = answers
    assert one.shape == drag_task.image.shape[:2] and one[30, 20] > 0.5 and other[40, 70] > 0.5
    assert one.min() < 0 and not np.array_equal(one, other)


def test_a_selection_is_refused_while_a_drag_is_made_and_its_errors_are_told(session, drag_task, tmp_path):
    answers = []
    session.do("drag", ticks())
    with pytest.raises(InputError, match="a drag is being made; wait for it"):
        session.select(drag_task.image, "", (0, 0), answers.append)
    session.stop()
    assert session.wait(PATIENCE)
    session.model = str(tmp_path / "none")
    session.select(drag_task.image, "", (0, 0), answers.append)
    assert session.wait(PATIENCE)
    assert "none" in session.problem.line and answers == [None]


def test_previews_and_steps_show_the_original_where_the_result_will_have_it(smoke, quick, kept, drag_task):
    session, previews = Session(smoke, quick.replace(keep_outside=True), kept), []
    held = ~drag_task.mask
    session.on_change(lambda: previews.append(session.preview))
    session.run(drag_task)
    assert session.wait(PATIENCE) and not session.problem, session.problem
    seen_while_running = [image for image in previews if image is not None]
    for image in [*seen_while_running, seen(session, 1).image, session.shown.result.image]:
        assert (image[held] == drag_task.image[held]).all() and (image != drag_task.image).any()
    assert seen_while_running and held.any()
    session.close()


def test_a_drag_that_moves_pixels_speaks_of_no_tracker_and_is_asked_for_no_steps(cache):
    clay_task = clay.task(846_016, "flower", "move")
    settings = config.profile("warp_inpaint", steps=10, drag_steps=1, keep_outside=True)
    result = pipeline.edit(clay_task.task, "clay", settings, cache)
    assert re.fullmatch(r"moved and painted in \d+ s", summary(result))
    assert rest_line(result) == "outside the mask the method changes nothing"
    assert not [
        note for note in advice.notes(Picks.of(clay_task.task), settings, side=256) if "steps" in note
    ]
