"""The studio by its buttons, without a browser: what is clicked is done, what goes wrong is told, nothing is lost."""

import dataclasses
import errno
import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as W
import numpy as np
import pytest

pytest.importorskip("ipycanvas", reason="ipycanvas is missing: pip install 'dragnb[widgets]'")

from dragnb import clay, config
from dragnb.errors import InputError
from dragnb.pipeline import Event
from dragnb.store import Store
from dragnb.task import DragTask, read_record
from dragnb.ui import Studio, panels
from dragnb.ui import studio as studio_file
from dragnb.ui.panels import SettingsPanel
from dragnb.ui.picks import Picks
from dragnb.ui.session import SECONDS, summary
from dragnb.ui.worker import Problem

PATIENCE = 120  # seconds; a run takes about one


@pytest.fixture(scope="module")
def drag_task(drag_task):
    """With a name that no file can bear as it is."""
    return dataclasses.replace(drag_task, name="cat & co")


@pytest.fixture
def studio(drag_task, smoke, quick, kept, tmp_path):
    studio = Studio(drag_task, smoke, quick, store=kept, out=tmp_path / "out")
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def done(drag_task, smoke, quick, kept, tmp_path_factory):
    """A studio whose first drag is done."""
    studio = Studio(drag_task, smoke, quick, store=kept, out=tmp_path_factory.mktemp("out"))
    press(studio, studio.run_button)
    assert not studio.session.problem, studio.session.problem
    yield studio
    studio.close()


def press(studio, button):
    button.click()
    assert studio.session.wait(PATIENCE)


def line(studio):
    """The one line of an error on the page."""
    text = studio.message.value
    assert text.count("<summary>") == 1, text
    return text.split("<b>&#9888; ")[1].split("</b>")[0]


def travel(studio, step):
    studio.travel.step.value = step
    assert studio.session.wait(PATIENCE)


# a drag


def test_run_shows_progress_result_and_a_snapshot(done):
    assert ">drag 1: 3 steps" in done.message.value
    assert done.progress.value.count("✓") == 8 and "drag" in done.progress.value
    assert (
        done.result.image.value[:2] == b"\xff\xd8" and len(done.gallery.widget.children) == 2
    )  # and how long it lasts
    assert not done.run_button.disabled and done.stop_button.disabled
    assert done.picker.canvas.after is done.session.shown.result.image, "the result is on the canvas"


def test_the_second_drag_on_a_picture_says_what_it_reused(done, studio):
    press(studio, studio.run_button)
    assert studio.progress.value.count(panels.REUSED) == 4


def test_run_pressed_twice_is_one_line_and_the_first_goes_on(studio):
    studio.run_button.click()
    studio.run_button.click()
    assert "is being made; press Stop first" in line(studio)
    assert studio.session.wait(PATIENCE) and len(studio.session.snapshots) == 1


def test_stop_before_the_first_step_is_one_line_and_the_picks_stay(studio, drag_task):
    studio.run_button.click()
    studio.stop_button.click()
    assert studio.session.wait(PATIENCE)
    assert ">stopped; there was nothing to keep yet<" in studio.message.value
    assert studio.picker.picks.task().targets.tolist() == drag_task.targets.tolist()


def test_an_odd_point_left_is_one_line_and_the_points_stay(drag_task):
    studio = Studio(Picks(drag_task.image, points=[(1, 1), (5, 5), (9, 9)]))
    studio.run_button.click()
    assert "3 points are an odd number; every handle needs its target" in line(studio)
    assert len(studio.picker.picks.points) == 3 and not studio.session.busy
    studio.close()


def test_a_wrong_file_and_a_click_outside_are_answered_and_nothing_made_is_lost(studio):
    press(studio, studio.run_button)
    picker, points = studio.picker, list(studio.picker.picks.points)
    picker.panel.path.value = "no such file"
    picker.panel.load.click()
    assert "no such file" in picker.panel.text.value
    picker.on("mouse_down", -5, 20)
    assert "outside the picture" in picker.panel.text.value
    assert picker.picks.points == points and len(studio.session.snapshots) == 1 and studio.result.image.value


def test_a_model_folder_gone_between_loading_and_run_loses_nothing(studio, smoke_folder, tmp_path):
    folder = shutil.copytree(smoke_folder, tmp_path / "model")
    press(studio, studio.run_button)
    studio.settings.models.value, studio.settings.folder.value = "", str(folder)
    shutil.rmtree(folder)
    press(studio, studio.run_button)
    assert "there is no such folder" in line(studio)
    assert len(studio.session.snapshots) == 1 and studio.picker.picks.points and studio.result.image.value


def test_the_prompt_on_the_page_and_in_the_picks_is_one(studio):
    assert studio.picker.panel.prompt.value == "a cat"
    studio.picker.panel.prompt.value = "a dog"
    assert studio.picker.picks.task().prompt == "a dog"


# settings


@pytest.mark.parametrize("profile", config.PROFILES)
def test_the_panel_gives_back_the_settings_that_it_shows(profile):
    settings = config.profile(profile, steps=20, lam=0.7, lora_steps=0, seed=7)
    panel = SettingsPanel("clay", settings, 320)
    assert panel.settings == settings and panel.side.value == 320 and panel.profile.value == profile
    shown = config.profile(profile).lora_steps  # what the switch would bring back
    assert not panel.switches["lora_steps"].value and panel.numbers["lora_steps"].value == shown


def test_a_switch_turns_its_stage_off_and_on_again():
    panel = SettingsPanel("clay", config.profile("clay"), None)
    usual = panel.settings
    for name, switch in panel.switches.items():
        switch.value = False
        assert panel.settings == usual.replace(**{name: type(getattr(usual, name))(0)})
        switch.value = True
        usual = usual.replace(keep_outside=panel.settings.keep_outside)
    assert panel.settings.keep_outside and panel.settings == config.profile("clay", keep_outside=True)


def test_a_fine_tune_that_the_profile_leaves_out_can_be_switched_on():
    panel = SettingsPanel("clay", None, None)
    assert panel.settings == config.suited_settings("clay") and not panel.switches["lora_steps"].value
    panel.switches["lora_steps"].value = True
    assert panel.settings.lora_steps == config.Settings.lora_steps > 0


def test_a_profile_fills_in_its_numbers_and_a_model_its_profile():
    panel = SettingsPanel("clay", None, None)
    panel.numbers["lam"].value = 9.0
    panel.profile.value = "paper"
    assert panel.settings == config.profile("paper")
    panel.models.value = "sd15"
    assert panel.model == "sd15" and panel.settings == config.profile("fast")


def test_quality_is_more_or_less_of_what_the_method_works_by_and_what_it_does_not_read_is_grey():
    panel, usual = SettingsPanel("clay", None, None), config.profile("paper")
    assert panel.settings.method == "warp_inpaint" and panel.quality.value == "normal"
    assert panel.quality.disabled and panel.switches["lam"].disabled and panel.numbers["r1"].disabled
    assert not panel.switches["reference"].disabled and not panel.numbers["strength"].disabled
    panel.profile.value = "paper"
    assert not any(w.disabled for w in [panel.quality, *panel.numbers.values(), *panel.switches.values()])
    for quality, share in {"fast": 0.5, "best": 2, "normal": 1}.items():
        panel.quality.value = quality
        assert panel.settings == usual.replace(
            lora_steps=int(share * usual.lora_steps), drag_steps=int(share * usual.drag_steps)
        )


def test_a_model_that_is_not_named_and_a_setting_out_of_range_are_named():
    panel = SettingsPanel("some/model", None, None)
    assert panel.model == "some/model" and panel.folder.layout.display == ""
    panel.folder.value = " "
    with pytest.raises(InputError, match="model: say which"):
        _ = panel.model
    panel.numbers["strength"].value = 2.0
    with pytest.raises(InputError, match="strength = 2.0 is not a number above 0 and at most 1"):
        _ = panel.settings


def test_every_setting_tells_its_meaning_on_hover():
    panel = SettingsPanel("clay", None, None)
    for name, widget in panel.numbers.items():
        trait = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"
        assert getattr(widget, trait) == config.meaning(name)


def test_every_field_is_on_the_page_whichever_model_is_chosen():
    panel = SettingsPanel("clay", None, None)
    fields = [panel.models, panel.profile, panel.side, *panel.numbers.values(), *panel.switches.values()]
    assert all(widget.layout.display != "none" for widget in fields), "hiding `which` must hide nothing else"
    assert panel.folder.layout.display == "none"


def test_a_change_of_the_settings_is_told_once_also_when_a_profile_fills_in_many():
    panel, told = SettingsPanel("clay", None, None), []
    panel.on_change(lambda: told.append(panel.settings))
    panel.numbers["lam"].value = 9.0
    assert [settings.lam for settings in told] == [9.0]
    panel.profile.value = "paper"
    assert told[1:] == [config.profile("paper")]


def test_what_the_settings_mean_for_the_picks_is_said_beside_the_canvas_as_one_types(studio):
    def said():
        return studio.picker.panel.text.value

    studio.settings.numbers["drag_steps"].value = 1
    assert "1 steps of one" in said() and "reach" in said()
    studio.settings.side.value = 100
    assert "side = 100 is not a positive multiple of 64" in said()
    studio.settings.side.value, studio.settings.numbers["strength"].value = 0, 2.0
    assert "strength = 2.0 is not a number" in said() and "pair" in said()


def test_what_run_takes_is_said_beside_the_canvas_once_a_drag_was_made(drag_task, smoke, quick, tmp_path):
    studio = Studio(drag_task, smoke, quick, store=Store(tmp_path))
    text = studio.picker.panel.text
    assert "about" not in text.value
    press(studio, studio.run_button)
    few = seconds_of(text.value)
    studio.settings.numbers["drag_steps"].value = 9000
    assert seconds_of(text.value) > few + 10
    travel(studio, 1)
    studio.branch(1)
    assert seconds_of(text.value) > few + 10, "a branch repeats only the drag and what follows"
    studio.picker.picks.set_prompt("another")
    assert seconds_of(text.value) >= few
    studio.close()


def test_what_run_takes_on_a_branch_has_no_stage_in_it_that_the_first_drag_has_done(
    drag_task, smoke, quick, tmp_path
):
    studio = Studio(drag_task, smoke, quick, store=Store(tmp_path))
    text = studio.picker.panel.text
    press(studio, studio.run_button)
    slow = {name: stages | {"finetune": 1000.0} for name, stages in studio.session._seconds().items()}
    (tmp_path / SECONDS).write_text(json.dumps(slow))
    travel(studio, 1)
    studio.branch(1)
    assert seconds_of(text.value) < 1000, "the picture at that step is another, the drag's own is not"
    studio.picker.load(255 - drag_task.image)
    assert seconds_of(text.value) >= 1000
    studio.close()


def seconds_of(text):
    return int(text.split("Run will take about ")[1].split(" s")[0])


def test_progress_tells_the_time_left_and_what_was_reused():
    shown = panels.progress([Event("finetune", 1, 1, 0.1, cached=True), Event("drag", 20, 80, 5.0)])
    assert panels.REUSED in shown and "20 of 80, 15 s left of this stage" in shown
    ended = panels.progress([Event("drag", 20, 80, 5.0), Event("denoise", 0, 35, 0.0)])
    assert "✓&nbsp;drag 5.0 s" in ended, "a drag that arrives ends early"
    assert "left" not in panels.progress([Event("drag", 20, 80, 5.0)], running=False), "it was stopped there"
    assert "off" in panels.progress([Event("finetune", 0, 0, 0.0), Event("invert", 1, 8, 1.0)])
    assert "</b> off<" in panels.progress([Event("finetune", 0, 0, 0.0)]), "and not 0 of 0"


def test_what_an_error_says_is_text_and_its_details_are_folded():
    shown = panels.message("", Problem("<b>no</b>", "Traceback <x>"))
    assert "&lt;b&gt;no" in shown and "<details><summary>" in shown and ">Traceback &lt;x&gt;" in shown


# looking


def test_an_empty_place_for_a_picture_is_not_shown(studio):
    places = [studio.result.image, studio.travel.features]
    assert {place.layout.display for place in places} == {"none"}


def test_before_the_first_drag_result_and_time_travel_say_so_and_offer_nothing(studio):
    result, travel = studio.result, studio.travel
    offered = [result.view, result.part, travel.play, travel.step, travel.branch]
    assert result.nothing.value == travel.text.value == panels.NOTHING
    assert {widget.layout.display for widget in offered} == {"none"}
    press(studio, studio.run_button)
    assert {widget.layout.display for widget in offered} == {""} and result.nothing.layout.display == "none"


def test_every_view_of_the_result_is_another_picture_and_follows_its_slider(done):
    seen = set()
    for view in panels.ResultPanel.VIEWS:
        done.result.view.value = view
        seen.add(done.result.image.value)
    done.result.view.value = panels.ResultPanel.VIEWS[0]
    done.result.part.value = 0.1
    assert len(seen | {done.result.image.value}) == 4


def test_of_several_pairs_the_time_travel_says_which_distance_its_curve_shows_and_all_of_them():
    tracks = np.array([[[7.0, 0], [0, 3]], [[6.26, 0], [0, 7.449]]])
    task = SimpleNamespace(targets=np.zeros((2, 2)))
    states = [SimpleNamespace(kept=None)] * 2
    travel = panels.TravelPanel(print, print, print)
    result = SimpleNamespace(states=states, losses=[1.0, 2.0], tracks_xy=tracks, task=task)
    travel.show(result)
    assert "largest distance, px: 7.45, from 7 to 7.45" in travel.text.value
    assert "px to each target: 6.3, 7.4" in travel.text.value
    assert "sees 6.9 px left to go on average" in summary(
        SimpleNamespace(**vars(result), timings={}, interrupted=False)
    )
    states[-1] = SimpleNamespace(kept="pixels")
    travel.show(result)
    assert "px: 7.45" in travel.text.value and "loss" not in travel.text.value, "nothing was optimised"


def test_the_time_travel_shows_distance_then_loss_and_features_and_the_step_on_the_canvas(done):
    canvas, result = done.picker.canvas, done.session.shown.result
    travel(done, 1)
    text, image = done.travel.text.value, canvas.after
    assert f"loss: {result.losses[1]:.3g}" in text and "each target" not in text, (
        "of one pair the curve says it all"
    )
    away = np.linalg.norm(result.tracks_xy - result.task.targets, axis=2).max(axis=1)
    distance = f"distance, px: {away[1]:.3g}"
    assert f"sees {away[-1]:.1f} px left to go" in done.session.message, "one number on the whole page"
    assert text.index(distance) < text.index("loss:") < text.index("The loss may rise while all goes well")
    assert canvas.caption == "step 1 of 3, in one leap" and canvas.swiped
    assert done.travel.features.value and not done.travel.branch.disabled
    travel(done, 2)
    assert canvas.after is not image and canvas.caption == "step 2 of 3, in one leap"
    travel(done, 1)
    assert canvas.caption == "step 1 of 3, in one leap", "also one that was looked at before"
    travel(done, 3)
    assert canvas.after is result.image and canvas.caption == "after"
    assert done.travel.play.max == 3


def test_a_step_is_not_shown_over_what_is_being_drawn_nor_over_another_picture(studio, drag_task):
    press(studio, studio.run_button)
    picker = studio.picker
    picker.on("mouse_down", 30, 30)
    travel(studio, 1)
    assert picker.canvas.after is None
    picker.act("cancel")
    picker.load(np.zeros((64, 64, 3), np.uint8))
    travel(studio, 2)
    assert picker.canvas.after is None


def test_a_branch_is_picked_on_the_picture_at_that_step_and_begins_there(studio, drag_task):
    press(studio, studio.run_button)
    with pytest.raises(InputError, match="step 1 was not looked at yet"):
        studio.branch(1)
    travel(studio, 1)
    first = studio.session.shown
    playing = "playing" if studio.travel.play.has_trait("playing") else "_playing"
    setattr(studio.travel.play, playing, True)
    studio.travel.branch.click()
    assert not getattr(studio.travel.play, playing), "its next step would come over what is picked now"
    assert (studio.picker.picks.image == studio.session.looks[1].image).all()
    assert studio.picker.picks.task().handles.tolist() == first.result.tracks_xy[1].round().tolist()
    assert "Run begins at step 1" in studio.begins.value
    press(studio, studio.run_button)

    second = studio.session.shown
    assert second.start == (first, 1) and second.result.record["began"]["step"] == 1
    assert (second.result.task.image == drag_task.image).all()
    studio.go_back(first)
    assert studio.begins.value == ""
    studio.go_back(second)
    assert "Run begins at step 1" in studio.begins.value


def test_handles_that_have_arrived_are_not_dragged_again(done, monkeypatch):
    result = done.session.shown.result
    travel(done, 3)
    monkeypatch.setitem(vars(result), "tracks_xy", np.repeat(result.task.targets[None], 4, axis=0))
    done.branch(3)
    assert done.picker.picks.points == [] and done.begins.value
    done.go_back(done.session.shown)


def test_another_picture_ends_the_branch(done, drag_task):
    travel(done, 1)
    done.branch(1)
    done.picker.load(drag_task)
    assert done.begins.value == "" and done._branch is None


# rounds


def test_the_result_becomes_the_next_picture_and_every_drag_can_be_gone_back_to(studio, drag_task, quick):
    with pytest.raises(InputError, match="there is no result yet; press Run first"):
        studio.next_round()
    press(studio, studio.run_button)
    first = studio.session.shown
    studio.next_button.click()
    assert (
        studio.picker.picks.image == first.result.image
    ).all() and studio.picker.panel.prompt.value == "a cat"
    studio.picker.load(DragTask(first.result.image, [[90.0, 45.0]], [[60.0, 45.0]], None, "a cat"))
    studio.settings.numbers["lam"].value = 3.0
    press(studio, studio.run_button)
    assert len(studio.gallery.widget.children) == 3

    go_button(studio.gallery.widget.children[0]).click()
    assert studio.session.shown is first and studio.settings.settings == quick
    assert studio.picker.picks.task().handles.tolist() == drag_task.handles.tolist()
    assert (studio.picker.picks.image == drag_task.image).all()


# export


def test_every_export_lies_in_the_folder_under_one_name(done):
    for kind in ("png", "zip", "gif", "ipynb"):
        press(done, done.exports[kind])
        assert ">saved: " in done.message.value, done.message.value
    assert sorted(os.listdir(done.out.value)) == [
        f"cat_co-1.{kind}" for kind in ("gif", "ipynb", "png", "zip")
    ]


def test_another_studio_takes_another_name(done, studio, drag_task):
    studio.out.value = done.out.value
    press(done, done.exports["png"])
    press(studio, studio.run_button)
    press(studio, studio.exports["png"])
    assert "cat_co-2.png" in studio.message.value


@pytest.mark.parametrize("kind", ["png", "zip", "gif", "mp4", "ipynb"])
def test_a_full_disk_on_export_is_one_line_and_the_result_stays(done, kind, monkeypatch):
    if kind == "mp4":
        pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is missing: pip install 'dragnb[video]'")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    press(done, done.exports[kind])
    assert "No space left on device" in line(done) and done.session.shown is not None


def test_nothing_to_export_is_one_line(studio):
    studio.exports["gif"].click()
    assert "there is nothing to export yet" in line(studio)


# several, and the end


def test_two_studios_share_nothing_on_the_page(done, studio):
    assert "><" in studio.message.value and not studio.gallery.widget.children
    studio.settings.numbers["lam"].value = 5.0
    assert done.settings.settings.lam != 5.0


def test_closing_takes_the_widgets_off_the_page_and_a_click_that_comes_late_does_no_harm(smoke, drag_task):
    studio = Studio(drag_task, smoke)
    button = studio.run_button
    studio.close()
    assert button.comm is None and studio.picker.canvas.widget.comm is None
    button.click()
    assert "closed" in studio.session.problem.line


# a cell that is run again


class Page:
    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def run(monkeypatch):
    """run(cell, *shown, **names): once more a cell runs, and these pages are shown by it."""
    monkeypatch.setattr(studio_file, "_shown", {})
    names, runs = {}, iter(range(100))

    def run(cell, *shown, **named):
        names.update(named)
        parent = {"header": {"msg_id": str(next(runs))}, "metadata": {"cellId": cell} if cell else {}}
        shell = SimpleNamespace(get_parent=lambda: parent, user_ns=names)
        for page in shown:
            studio_file.close_replaced(page, shell)

    return run


def test_what_a_cell_had_shown_is_closed_when_it_shows_another_and_no_name_is_left(run):
    old, new, elsewhere = Page(), Page(), Page()
    run("a", old, studio=old, _=old, _1=old)
    run("b", elsewhere)
    run("a", new, studio=new, _=new, _2=new)

    assert old.closed and not new.closed and not elsewhere.closed


def test_what_is_shown_again_or_has_a_name_or_shares_its_cell_stays(run):
    one, two, three = Page(), Page(), Page()
    run("a", one, two, first=one)
    run("a", two)
    assert not one.closed and not two.closed
    run("a", three)
    assert not one.closed and two.closed


def test_where_no_cell_is_known_nothing_is_closed(run):
    old, new = Page(), Page()
    run(None, old)
    run(None, new)
    studio_file.close_replaced(new, None)

    assert not old.closed and not new.closed


def test_a_picture_that_carries_its_drag_offers_it(done, drag_task):
    press(done, done.exports["png"])
    path = os.path.join(
        done.out.value, next(n for n in sorted(os.listdir(done.out.value)) if n.endswith(".png"))
    )
    done.picker.panel.path.value = path
    done.picker.panel.load.click()
    chip = done.picker.panel.chips["open the drag that this picture carries"]
    assert done.picker.picks.points == [] and chip.layout.display == ""
    for xy in ((10, 10), (30, 30)):
        done.picker.picks.add(*xy)
    assert done.picker.panel.chips["mask: around the path"].layout.display == ""
    chip.click()  # pressed before the page had the other one
    assert done.picker.picks.task().targets.tolist() == drag_task.targets.tolist()
    assert {chip.layout.display for chip in done.picker.panel.chips.values()} == {"none"}


def test_an_export_is_told_where_its_button_is_with_the_file_as_a_link(done):
    press(done, done.exports["zip"])
    assert (
        "saved: " in done.saved.value
        and 'download="cat_co-1.zip" href="data:application/zip' in done.saved.value
    )


def test_closing_asks_once_and_no_longer_once_something_else_was_done_or_time_has_passed(
    smoke, drag_task, monkeypatch
):
    studio = Studio(drag_task, smoke)
    others = [lambda: studio.picker.act("clear points"), studio.next_button.click]
    for other in others:
        studio.close_button.click()
        assert not studio.session._closed and "press again" in studio.close_button.description
        other()
        assert studio.close_button.description == "close studio"
    monkeypatch.setattr(studio_file, "ASKED", 0.01)
    studio.close_button.click()
    studio._asking.join(PATIENCE)
    assert studio.close_button.description == "close studio"
    monkeypatch.undo()
    studio.close_button.click()
    studio.close_button.click()
    assert not studio.session._closed, "nobody has read the question so soon"
    studio._asked_at -= studio_file.READ
    studio.close_button.click()
    assert studio.session._closed


def test_a_new_picture_takes_what_was_said_of_the_old_one_off_the_page(studio, drag_task):
    press(studio, studio.run_button)
    assert studio.picker.canvas.after is studio.session.shown.result.image
    studio.picker.load(255 - drag_task.image)
    assert (
        studio.picker.canvas.after is None and studio.message.value.count("><") and not studio.progress.value
    )


def test_a_result_is_never_shown_as_that_of_another_picture(studio, drag_task, monkeypatch):
    seen, show_live = [], studio.picker.show_live
    monkeypatch.setattr(studio.picker, "show_live", lambda *args: (seen.append(args), show_live(*args)))
    studio.run_button.click()
    studio.picker.load(255 - drag_task.image)
    begun = len(seen)
    assert studio.session.wait(PATIENCE) and len(studio.session.snapshots) == 1
    assert studio.picker.canvas.after is None, "it came while another picture was picked on"
    assert [picture for picture, _ in seen[begun:] if picture is not None] == []
    studio.picker.act("undo")
    studio.session.show(None)
    studio.session.show(studio.session.snapshots[0])
    assert studio.picker.canvas.after is studio.session.shown.result.image
    studio.picker.load(255 - drag_task.image)
    studio.session.delete(studio.session.snapshots[-1])
    assert studio.picker.canvas.after is None


def test_a_drag_can_be_deleted_and_its_branch_still_names_it(studio):
    press(studio, studio.run_button)
    first = studio.session.shown
    travel(studio, 1)
    studio.branch(1)
    press(studio, studio.run_button)
    item = studio.gallery.widget.children[1]
    assert go_button(item).description == "2 · from 1, step 1"
    studio.session.delete(first)
    assert studio.gallery.widget.children[:-1] == (item,) and studio.session.shown is not first


def test_a_photograph_in_the_bundled_model_is_warned_of_and_clay_is_not(drag_task):
    from dragnb.ui import advice

    photo, figure = Picks(drag_task.image), Picks(clay.sample(3).picture())
    assert "knows rendered clay figures only" in advice.notes(photo, model="clay")[0]
    assert not any(
        "clay" in note for note in advice.notes(photo, model="sd15") + advice.notes(figure, model="clay")
    )


def test_the_picture_is_pulled_while_an_arrow_is_drawn_and_is_itself_again_when_it_is_let_go(
    studio, drag_task
):
    picker = studio.picker
    picker.load(drag_task.image)
    scale = picker.scale
    picker.on("mouse_down", 40 * scale, 45 * scale)
    picker.on("mouse_move", 60 * scale, 45 * scale)
    picker.on("mouse_move", 70 * scale, 45 * scale)
    assert picker.canvas.after is not None and "preview" in picker.canvas.caption
    picker.on("mouse_up", 70 * scale, 45 * scale)
    assert picker.canvas.after is None and len(picker.picks.points) == 2


def test_the_picture_is_pulled_between_two_clicks_as_well(studio, drag_task):
    picker = studio.picker
    picker.load(drag_task.image)
    scale = picker.scale
    for kind in ("mouse_down", "mouse_up"):
        picker.on(kind, 40 * scale, 45 * scale)
    picker.on("mouse_move", 70 * scale, 45 * scale)
    assert "preview" in picker.canvas.caption and len(picker.picks.points) == 1
    picker.on("mouse_out", 0, 0)
    assert picker.canvas.after is None
    picker._preview._next = 0  # the next one is not made at once
    picker.on("mouse_move", 70 * scale, 45 * scale)
    assert picker.canvas.after is not None
    picker.key("b")
    assert picker.canvas.after is None, "another tool pulls nothing"
    picker.key("p")
    picker._preview._next = 0
    picker.on("mouse_move", 70 * scale, 45 * scale)
    studio.picker.show_result(255 - drag_task.image)
    picker.on("mouse_out", 0, 0)
    assert picker.canvas.after is not None, "a result that came meanwhile stays"


def test_closing_is_asked_anew_where_something_else_was_done_meanwhile(studio):
    for other in (studio.exports["zip"].click, lambda: studio.picker.picks.set_prompt("a dog")):
        studio.close_button.click()
        other()
        studio.picker.refresh()
        assert studio.close_button.description == "close studio", "the first press is forgotten"
    assert not studio.session._closed


def test_a_click_with_the_select_tool_masks_what_the_model_finds_alike(studio, drag_task):
    studio.picker.picks.clear_mask()
    studio.picker.mode.value = "select"
    x, y = drag_task.handles[0] * studio.picker.scale
    studio.picker.on("mouse_down", x, y)
    studio.picker.on("mouse_up", x, y)
    assert studio.session.wait(PATIENCE) and studio.session.problem is None
    mask, (x, y) = studio.picker.picks.mask, drag_task.handles[0].astype(int)
    assert mask[y, x] and not mask.all()


def test_the_small_scenes_are_drawn_while_the_page_is_there_already(smoke, drag_task, monkeypatch):
    go_on = threading.Event()

    def slowly(*key):
        go_on.wait(PATIENCE)
        return clay.task(*key)

    monkeypatch.setattr(studio_file, "_example", slowly)
    studio = Studio(drag_task, "clay")
    examples = [w for w in widgets_in(studio.widget) if getattr(w, "description", "") == "rabbit"]
    assert len(examples) == 1, "the page is there, and no scene was drawn yet"
    threads = [t for t in threading.enumerate() if t.name == "dragnb examples"]
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    pictures = [w.value for w in widgets_in(studio.widget) if getattr(w, "format", "") == "jpeg" and w.value]
    assert len(set(pictures)) >= len(studio_file.EXAMPLES)
    examples[0].click()
    assert (studio.picker.picks.image == clay.task(*studio_file.EXAMPLES[0]).task.image).all()
    studio.close()


def go_button(item):
    """Of a drag in the gallery."""
    return item.children[1].children[0]


def widgets_in(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


def test_a_text_reaches_the_kernel_once_it_is_whole_and_so_before_the_button_that_reads_it(studio):
    """While the kernel is busy, ipywidgets holds a text back that is sent letter by letter, but no button's press."""
    texts = [w for w in widgets_in(studio.widget) if isinstance(w, W.Text | W.Textarea)]
    typed = [w for w in texts if not w.disabled and w.layout.display != "none"]
    assert {studio.out, studio.picker.panel.path, studio.picker.panel.prompt} < set(typed)
    assert [w.description or w.placeholder for w in typed if w.continuous_update] == []


def test_a_star_stays_with_its_drag_and_is_in_the_record_of_its_picture(studio):
    press(studio, studio.run_button)
    star = next(w for w in widgets_in(studio.gallery.widget) if getattr(w, "description", "") == "star")
    star.value = True
    first = studio.session.shown
    press(studio, studio.run_button)
    assert studio.session.starred == {first} and star.value and star.icon == "star"
    studio.export("png")
    studio.go_back(first)
    studio.export("png")
    records = [read_record(path) for path in sorted(Path(studio.out.value).glob("*.png"))]
    assert [record.get("starred") for record in records] == [None, True]
    studio.session.delete(first)
    assert not studio.session.starred


def test_a_mask_is_offered_where_its_note_stands_once_there_is_an_arrow(studio, drag_task):
    picks = studio.picker.picks
    picks.clear_mask()
    chip = studio.picker.panel.chips["mask: around the path"]
    assert chip.layout.display == "" and chip.description == "mask: around the path"
    chip.click()
    assert picks.mask.any() and chip.layout.display == "none"
    studio.picker.load(drag_task.image)
    assert chip.layout.display == "none", "without an arrow there is no path"


def test_the_settings_that_differ_are_said_under_each_drag(studio):
    press(studio, studio.run_button)
    studio.settings.numbers["lam"].value = 3.0
    press(studio, studio.run_button)
    assert "lam 3.0" in studio.gallery.widget.children[1].children[1].children[2].value


# two threads draw: the page's and the session's


def test_what_is_drawn_last_is_what_is_the_case_whichever_thread_draws(done):
    """One that waited for its turn must not draw what was shown before."""
    shown = done.session.shown
    done.session.show(None)
    with done.picker.lock:
        late = threading.Thread(target=done.refresh)
        late.start()
        late.join(0.3)  # it waits: this thread draws
        done.session.show(shown)
    late.join()
    assert done.travel.step.max == 3 and done.result.nothing.layout.display == "none"


def test_a_thread_that_draws_around_the_canvas_and_one_that_draws_on_it_do_not_wait_for_each_other(
    studio, monkeypatch
):
    around, on_it = threading.Event(), threading.Event()

    def both(looks):
        around.set()
        on_it.wait(0.5)  # nobody else gets in meanwhile
        studio.picker.show_result(None)

    def draw():
        on_it.set()
        studio.refresh()

    monkeypatch.setattr(studio.travel, "refresh", both)
    first = threading.Thread(target=studio.refresh, daemon=True)
    second = threading.Thread(target=studio.picker.do, args=(draw,), daemon=True)
    first.start()
    assert around.wait(PATIENCE)
    second.start()
    for thread in (first, second):
        thread.join(30)
        assert not thread.is_alive()
