"""The picker's widgets, by the messages a browser would send; runs under ipywidgets 7 and 8, without a browser."""

import base64
import datetime
import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dragnb.errors import InputError
from dragnb.task import DragTask
from dragnb.ui.canvas import DENSITY
from dragnb.ui.picker import Picker
from dragnb.ui.picks import Picks

ipycanvas = pytest.importorskip("ipycanvas", reason="ipycanvas is missing: pip install 'dragnb[widgets]'")
ipywidgets = pytest.importorskip("ipywidgets")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8)


@pytest.fixture
def picker(picture):
    """On a canvas of twice the picture's size."""
    return Picker(picture, side=300)


@pytest.fixture
def sent(monkeypatch):
    """What goes to the browser to be drawn: (commands, bytes with pixels) for each message."""
    from ipycanvas.canvas import _CANVAS_MANAGER

    messages = []
    record = lambda commands, buffers=(): messages.append((commands, sum(map(len, buffers))))  # noqa: E731
    monkeypatch.setattr(_CANVAS_MANAGER, "_send_custom", record)
    return messages


def event(picker, kind, **content):
    """A message from the browser."""
    picker.canvas.widget[2]._handle_frontend_event(None, {"event": kind} | content, [])


def on_screen(*place):
    """A place of the canvas in the pixels of the browser's canvas, which is denser."""
    return [DENSITY * n for n in place]


def mouse(picker, *places, release=True):
    """Press at the first place of the picture, move over the others, release."""
    for k, place in enumerate(places):
        x, y = on_screen(*picker.pointer.viewport.to_canvas(*place))
        event(picker, "mouse_move" if k else "mouse_down", x=x, y=y)
    if release:
        event(picker, "mouse_up", x=x, y=y)


def key(picker, name, shift=False, ctrl=False):
    event(picker, "key_down", key=name, shift_key=shift, ctrl_key=ctrl, meta_key=False)


def test_widgets_are_imported_when_they_are_named_and_one_that_is_missing_is_named_with_its_remedy():
    light = (
        "import sys, dragnb.ui; assert not {'numpy', 'torch', 'ipywidgets', 'ipycanvas'} & set(sys.modules)"
    )
    missing = "import sys; sys.modules['ipycanvas'] = None; from dragnb.ui import Picker"
    subprocess.run([sys.executable, "-c", light], check=True)
    answer = subprocess.run([sys.executable, "-c", missing], capture_output=True, text=True)

    assert "InputError: Picker needs ipycanvas: pip install 'dragnb[widgets]'" in answer.stderr
    with pytest.raises(ImportError, match="cannot import name 'Piker'"):
        from dragnb.ui import Piker  # noqa: F401


def test_the_canvas_has_the_pictures_shape_and_turns_its_own_pixels_into_the_pictures(picker):
    assert (picker.canvas.widget.width, picker.canvas.widget.height) == (600, 360)
    assert picker.canvas.widget.layout.width == "300px", "else it stretches over the page"

    event(
        picker, "mouse_down", x=42.0, y=82.0
    )  # the middle of picture pixel (10, 20), four of the browser's wide
    event(picker, "mouse_down", x=599.8, y=0.0)

    assert picker.picks.points == [(10, 20), (149, 0)]


def test_the_length_in_pixels_of_the_picture_is_written_while_the_arrow_is_drawn(picker, monkeypatch):
    written = []
    monkeypatch.setattr(ipycanvas.Canvas, "fill_text", lambda self, text, *_: written.append(text))
    mouse(picker, (20, 20), (50, 60), release=False)
    assert written[-2:] == ["1", "50 px"]
    event(picker, "mouse_move", x=4 * 60 + 2, y=4 * 20 + 2)
    assert written[-1] == "40 px"


def test_mouse_touch_and_a_pointer_that_leaves_all_end_a_gesture(picker):
    mouse(picker, (20, 20), (60, 20))
    event(picker, "touch_start", touches=[{"x": 82, "y": 162}])
    event(picker, "touch_move", touches=[{"x": 282, "y": 162}])
    event(picker, "touch_end", touches=[])
    mouse(picker, (20, 60), (60, 60), release=False)
    event(picker, "mouse_out", x=610, y=242)
    mouse(picker, (100, 80), release=False)
    event(picker, "touch_cancel", touches=[])
    event(picker, "mouse_move", x=0, y=0)

    pairs = [(20, 20), (60, 20), (20, 40), (70, 40), (20, 60), (149, 60), (100, 80)]
    assert picker.picks.points == pairs


def test_every_action_has_a_button_and_a_key_that_do_the_same(picture):
    def picked():
        picker = Picker(picture, side=300)
        picker.picks.set_points([(20, 20), (60, 20)])
        picker.picks.rectangle((10, 10), (30, 30))
        picker.picks.rectangle((15, 15), (25, 25), erase=True)
        mouse(picker, (60, 20))
        picker.pointer.viewport.zoom_by(1.2, 0, 0)
        return picker

    def state(picker):
        picks, window = picker.picks, picker.pointer.viewport
        return picks.points, picks.mask.tobytes(), (window.zoom, window.left), picker.pointer.selected

    names = list(picked().panel.buttons)
    names.remove("after")  # the end of `before`, which is held and needs a result
    names.remove("before")
    assert len(names) == 15
    for name in names:
        clicked, pressed, before = picked(), picked(), state(picked())
        if name == "redo":
            clicked.picks.undo(), pressed.picks.undo()
            before = state(clicked)

        clicked.panel.buttons[name].click()
        key(pressed, clicked._actions[name].key)

        assert state(clicked) == state(pressed) != before, name


def test_keys_choose_tools_sizes_and_shift_points_but_leave_the_browsers_own_alone(picker):
    for name, tool in zip("brlhp", ("brush", "rectangle", "lasso", "pan", "points"), strict=True):
        key(picker, name)
        assert picker.pointer.tool == picker.mode.value == tool
    key(picker, "e")
    key(picker, "]")
    assert picker.pointer.erase and picker.pointer.radius == picker.brush.value == 16
    key(picker, "[")
    assert picker.pointer.radius == 12

    mouse(picker, (20, 20), (60, 20))
    key(picker, "ArrowLeft", shift=True)
    key(picker, "ArrowDown")
    assert picker.picks.points == [(20, 20), (50, 21)]
    key(picker, "c", ctrl=True)
    assert picker.picks.points, "Ctrl and c is to copy"
    key(picker, "z", ctrl=True)
    key(picker, "z", ctrl=True)
    key(picker, "Z", shift=True, ctrl=True)
    assert picker.picks.points == [(20, 20), (50, 20)]


def test_undo_in_the_middle_of_a_stroke_takes_the_stroke_and_ends_it(picker):
    key(picker, "b")
    mouse(picker, (20, 20), (60, 20), release=False)

    key(picker, "z")
    event(picker, "mouse_move", x=250, y=100)

    assert not picker.picks.mask.any() and not picker.pointer.pressed


def test_the_page_says_how_wide_the_canvas_is_and_nothing_else_is_taken_for_that(picker):
    picker.panel.width.value = "150"
    assert picker.pointer.unit == 2
    for nonsense in ("", "wide"):
        picker.panel.width.value = nonsense
        assert picker.pointer.unit == 2
    picker.load(np.zeros((180, 60, 3), np.uint8))
    assert picker.pointer.unit == 100 / 150, "of the picture that is shown now, until the page says more"


def test_the_wheel_zooms_where_the_pointer_is(picker):
    event(picker, "mouse_move", x=400, y=200)
    place = picker.pointer.viewport.to_picture(200, 100)
    event(picker, "mouse_wheel", x=0, y=-300)

    assert picker.scale > 3 and np.allclose(picker.pointer.viewport.to_picture(200, 100), place)


def test_a_pinch_zooms_and_leaves_no_point(picker):
    event(picker, "touch_start", touches=[{"x": 200, "y": 180}])
    event(picker, "touch_start", touches=[{"x": 200, "y": 180}, {"x": 400, "y": 180}])
    event(picker, "touch_move", touches=[{"x": 100, "y": 180}, {"x": 500, "y": 180}])
    event(picker, "touch_end", touches=[{"x": 100, "y": 180}])
    event(picker, "touch_move", touches=[{"x": 180, "y": 180}])
    event(picker, "touch_end", touches=[])
    assert picker.pointer.viewport.zoom == 2 and picker.picks.points == [] and not picker.picks.can_undo

    event(picker, "touch_start", touches=[{"x": 200, "y": 180}])
    event(picker, "touch_end", touches=[])
    assert len(picker.picks.points) == 1


def test_tab_lets_the_canvas_go_and_changes_nothing(picker, monkeypatch):
    let_go = []
    monkeypatch.setattr(
        type(picker.canvas.widget), "blur", lambda canvas: let_go.append(canvas), raising=False
    )
    mouse(picker, (20, 20), (60, 20))
    key(picker, "Tab")
    key(picker, "Tab", shift=True)
    assert let_go == [picker.canvas.widget] * 2 and picker.picks.points == [(20, 20), (60, 20)]


def test_two_pickers_on_one_page_share_nothing(picture):
    one, other = Picker(picture, side=300), Picker(picture[:, ::-1], side=150)
    mouse(one, (20, 20), (60, 20))
    key(other, "b")
    mouse(other, (100, 60), (120, 60))
    assert one.picks.points == [(20, 20), (60, 20)] and not one.picks.mask.any()
    assert other.picks.points == [] and other.picks.mask.any() and one.pointer.tool == "points"


def test_what_is_picked_and_what_is_doubtful_is_said_as_one_goes(picker):
    assert "0 pairs; click a handle" in picker.panel.text.value and "no mask" in picker.panel.text.value
    picker.notes = lambda picks: ["about 3 <s>"]
    picker.refresh()
    assert "about 3 &lt;s&gt;" in picker.panel.text.value and "no mask" not in picker.panel.text.value


def test_what_is_refused_is_said_in_one_line_until_the_next_step_and_nothing_is_lost(picker):
    mouse(picker, (20, 20), (60, 20))

    picker.on("mouse_down", -5, 20)
    picker.panel.buttons["fill"].click()
    assert "<b>fill: the paint encloses nothing" in picker.panel.text.value
    picker.on("mouse_down", 700, 20)
    assert "outside the picture" in picker.panel.text.value

    assert picker.picks.points == [(20, 20), (60, 20)]
    key(picker, "i")
    assert "<b>" not in picker.panel.text.value


def test_the_table_is_the_same_state_and_keeps_what_was_mistyped(picker):
    mouse(picker, (20, 20), (60, 20))
    assert picker.panel.table.value == "20 20 → 60 20"

    picker.panel.table.value = "20 20 -> 70 30\n1 2"
    assert picker.picks.points == [(20, 20), (70, 30), (1, 2)]
    assert picker.panel.table.value == "20 20 → 70 30\n1 2"

    for wrong, said in (("20 20 → 70", "line 1"), ("20 20 → 500 30", "lies outside the 150×90")):
        picker.panel.table.value = wrong
        assert said in picker.panel.text.value and picker.panel.table.value == wrong
        assert picker.picks.points == [(20, 20), (70, 30), (1, 2)]

    picker.picks.undo()
    assert picker.panel.table.value == "20 20 → 60 20"
    assert "points = [[20, 20], [60, 20]]" in picker.panel.parameters.value


def test_the_prompt_is_part_of_the_picks(picker):
    picker.panel.prompt.value = "a cat"
    assert picker.picks.prompt == "a cat" and 'prompt = "a cat"' in picker.panel.parameters.value
    key(picker, "z")
    assert picker.panel.prompt.value == ""


def uploaded(name, content):
    """As the FileUpload of this ipywidgets has it."""
    if ipywidgets.__version__.startswith("7."):
        return {name: {"metadata": {"name": name}, "content": content}}
    file = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
    return (file | {"last_modified": datetime.datetime.now()},)


def test_a_picture_is_uploaded_again_and_again_and_undo_brings_the_old_one_back(picker, picture):
    mouse(picker, (20, 20), (60, 20))

    for _ in range(2):
        picker.panel.upload.set_trait("value", uploaded("red.png", png((40, 80))))
        assert picker.picks.size == (40, 80) and picker.picks.points == []
        assert (picker.canvas.widget.width, picker.canvas.widget.height) == (300, 600)
        assert "red.png is loaded" in picker.panel.text.value
        picker.picks.undo()
        assert picker.picks.image is picture and picker.picks.points == [(20, 20), (60, 20)]
    assert (picker.canvas.widget.width, picker.canvas.widget.height) == (600, 360)


def png(size, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def drag_zip(**files):
    """A drag file that says its picture is 60×40, with other pictures in it."""
    buffer = io.BytesIO()
    task = {"schema": 1, "size": [60, 40], "pairs": [{"handle": [5, 5], "target": [9, 9]}]}
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in ({"task.json": json.dumps(task).encode()} | files).items():
            out.writestr(name, content)
    return buffer.getvalue()


HUGE = png((10_000, 10_000), "1")  # a hundred megapixels in a few kilobytes
WRONG = {
    "a text file": ("a.txt", b"hello", "a.txt cannot be read as a picture"),
    "an empty file": ("a.png", b"", "a.png is empty"),
    "100 megapixels": ("a.png", HUGE, "image is 10000×10000 pixels; scale it down to 64 Mpx or fewer"),
    "a broken drag file": ("a.zip", b"PK\x03\x04broken", "a.zip is neither a folder nor a whole zip file"),
    "half a drag file": ("a.zip", drag_zip()[:90], "a.zip is neither a folder nor a whole zip file"),
    "a drag file without its picture": ("a.zip", drag_zip(), "image.png"),
    "a drag file for another size": ("a.zip", drag_zip(**{"image.png": png((90, 40))}), "60×40"),
}


@pytest.mark.parametrize("name, content, said", WRONG.values(), ids=WRONG)
def test_a_wrong_upload_is_answered_in_one_line_and_nothing_is_lost(picker, picture, name, content, said):
    mouse(picker, (20, 20), (60, 20))
    picker.picks.invert()

    picker.panel.upload.set_trait("value", uploaded(name, content))

    answer = picker.panel.text.value.split("<b>")[1].split("</b>")[0]
    assert said in answer and "\n" not in answer and len(answer) < 200
    assert picker.picks.points == [(20, 20), (60, 20)] and picker.picks.mask.all()
    assert picker.picks.image is picture


def test_a_huge_picture_is_refused_before_its_pixels_are_read(picker, monkeypatch):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    picker.panel.upload.set_trait("value", uploaded("a.png", HUGE))
    assert "10000×10000" in picker.panel.text.value and len(HUGE) < 20_000


def test_a_full_disk_is_answered_when_saving_and_when_loading(picker, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    mouse(picker, (20, 20), (60, 20))
    picker.panel.path.value = str(tmp_path / "drag.zip")
    monkeypatch.setattr(os, "fsync", full)
    picker.panel.save.click()
    assert "No space left on device" in picker.panel.text.value and not (tmp_path / "drag.zip").exists()
    monkeypatch.setattr(Path, "write_bytes", full)
    picker.panel.upload.set_trait("value", uploaded("a.png", png((40, 40))))
    assert "No space left on device" in picker.panel.text.value
    assert picker.picks.points == [(20, 20), (60, 20)]


def test_a_drag_file_is_saved_and_loaded_by_its_path(picker, tmp_path):
    mouse(picker, (20, 20), (60, 20))
    picker.picks.invert()
    picker.panel.prompt.value = "a cat"
    picker.panel.path.value = str(tmp_path / "drag")
    picker.panel.save.click()
    assert f"saved to {tmp_path}" in picker.panel.text.value
    assert 'download="drag.zip"' in picker.panel.saved.value, "and where the button is, as the file itself"
    coded = picker.panel.saved.value.split("base64,")[1].split('"')[0]
    (tmp_path / "link.zip").write_bytes(base64.b64decode(coded))
    assert DragTask.load(tmp_path / "link.zip").targets.tolist() == [[60, 20]]

    mouse(picker, (30, 60))
    assert not picker.panel.saved.value, "the picks are others"
    picker.panel.path.value += "2"
    picker.panel.save.click()
    assert "odd number; every handle needs its target" in picker.panel.text.value
    picker.panel.load.click()
    assert "does not exist" in picker.panel.text.value and len(picker.picks.points) == 3

    picker.panel.path.value = str(tmp_path / "drag")
    picker.panel.load.click()
    assert picker.picks.points == [(20, 20), (60, 20)] and picker.picks.mask.all()
    picker.load(picker.picks.image)
    picker.panel.load.click()
    assert picker.panel.prompt.value == "a cat"
    assert "drag is loaded" in picker.panel.text.value, (
        "writing the other texts does not wipe the message out"
    )


def test_listeners_hear_once_of_every_change_however_it_came_and_without_the_lock(picker, picture):
    told = []

    def listen():
        other = threading.Thread(target=picker.refresh)  # would wait for ever if the lock were held
        other.start()
        other.join(5)
        told.append((len(picker.picks.points), other.is_alive()))

    picker.on_change(listen)
    mouse(picker, (20, 20), (40, 20), (60, 20))
    picker.picks.add(100, 80)
    key(picker, "z")
    picker.load(DragTask(picture, [[1, 2]], [[3, 4]]))
    picker.load(picture)
    picker.refresh()
    picker.mode.value = "brush"

    assert told == [(2, False), (3, False), (2, False), (2, False), (0, False)]


def test_picks_a_task_and_a_picture_can_be_started_from_and_the_picks_stay_the_same_object(picture):
    task = DragTask(picture, [[1, 2]], [[3, 4]], prompt="a cat")
    picks = Picks.of(task)

    assert Picker(picks).picks is picks
    picker = Picker(task)
    before = picker.picks
    picker.load(picture)
    assert picker.picks is before and picker.picks.points == []
    with pytest.raises(InputError, match="there are none"):
        picker.task()
    picker.load(task)
    assert picker.task("a dog").prompt == "a dog"


def commands(messages, name):
    """How often a command is in the messages."""
    from ipycanvas.canvas import COMMANDS

    flat = [c for m, _ in messages for c in (m if isinstance(m[0], list) else [m])]
    return sum(c[0] == COMMANDS[name] for c in flat)


def test_a_stroke_of_a_hundred_moves_sends_a_few_words_each_and_no_pixels(sent):
    picker = Picker(np.zeros((1365, 2048, 3), np.uint8))
    picker.mode.value = "brush"
    mouse(picker, (100, 100), release=False)
    sent.clear()
    said = []
    picker.panel.text.observe(said.append, "value")

    mouse_moves = [(100 + 10 * k, 100 + 5 * k) for k in range(100)]
    times = [time.thread_time()]
    for place in mouse_moves:
        x, y = on_screen(*picker.pointer.viewport.to_canvas(*place))
        event(picker, "mouse_move", x=x, y=y)
        times.append(time.thread_time())

    assert len(sent) == 100 and not said
    assert sum(pixels for _, pixels in sent) == commands(sent, "putImageData") == 0
    assert max(len(json.dumps(message)) for message, _ in sent) < 2000
    sent.clear()
    event(picker, "mouse_up", x=x, y=y)
    assert commands(sent, "putImageData") == 0, "the browser has painted the same stroke already"
    sent.clear()
    event(picker, "mouse_move", x=5, y=5)
    assert len(sent) == 1 and not sent[0][1], (
        "the brush's ring follows a pointer that only passes, by words alone"
    )
    key(picker, "p")
    sent.clear()
    event(picker, "mouse_move", x=15, y=5)
    assert not sent, "with nothing to follow, it sends nothing"
    begin = time.thread_time()
    picker.canvas.redraw()
    whole = time.thread_time() - begin
    assert np.median(np.diff(times)) < whole / 40, "a stroke may not keep the kernel busy"


def test_a_page_loaded_again_is_drawn_anew_with_the_canvas_named_anew(picker, sent):
    from ipycanvas.canvas import COMMANDS

    picker.picks.stroke((20, 20), (60, 20), 5)
    mouse(picker, (20, 20), (60, 20))
    sent.clear()
    event(picker, "client_ready")

    (drawn,) = sent
    assert drawn[0][0][0] == COMMANDS["switchCanvas"]
    assert commands(sent, "putImageData") == 1, "the overlay"
    assert commands(sent, "drawImage") == 3, "the PNG, then picture and overlay as they are shown"
    assert commands(sent, "fillCircle") == 2, "a handle and its rim"


def test_the_browser_is_given_the_picture_without_loss_and_a_large_one_smaller(picker, picture):
    shown = Image.open(io.BytesIO(picker.canvas._png.value))
    assert shown.format == "PNG" and (np.array(shown) == picture).all()

    large = Picker(np.zeros((30, 4096, 3), np.uint8))
    assert Image.open(io.BytesIO(large.canvas._png.value)).size == (2048, 15)
    assert large.picks.size == (4096, 30)


def overlays(monkeypatch):
    """The overlays that are sent as pictures."""
    sent = []
    monkeypatch.setattr(ipycanvas.Canvas, "put_image_data", lambda self, data, *_: sent.append(data))
    return sent


def test_the_overlay_lies_over_what_the_mask_holds_and_nowhere_while_nothing_is_masked(picker, monkeypatch):
    sent = overlays(monkeypatch)
    picker.picks.rectangle((0, 0), (149, 30))
    (drawn,) = sent
    assert drawn.shape == (90, 150, 4), "three channels would be sent as a JPEG"
    assert ((drawn[..., 3] == 255) == ~picker.picks.mask).all() and set(drawn[..., 3].flat) == {0, 255}

    picker.picks.clear_mask()
    assert len(sent) == 1 and not picker.canvas._covered


def test_a_mask_that_the_eraser_has_emptied_removes_the_overlay(picker):
    picker.picks.rectangle((20, 20), (30, 30))
    picker.mode.value, picker.brush.value = "brush", 100
    picker.panel.eraser.value = True

    mouse(picker, (25, 25), release=False)
    assert picker.canvas._covered and not picker.picks.mask.any()
    event(picker, "mouse_up", x=0, y=0)

    assert not picker.canvas._covered


def test_dimming_sends_no_pixels(picker, sent):
    picker.picks.rectangle((0, 0), (149, 30))
    sent.clear()
    picker.panel.dimming.value = 0.3

    assert commands(sent, "putImageData") == 0 and picker.canvas.widget[1].global_alpha == 0.3


def like_left_half(picks, place, then):
    w, h = picks.size
    then(np.where(np.arange(w) < w / 2, 0.5, -0.5) + np.zeros((h, 1)))


@pytest.fixture
def selecting(picture):
    picker = Picker(picture, side=300, select=like_left_half)
    picker.mode.value = "select"
    return picker


def test_a_click_selects_what_is_like_it_as_one_step_and_the_slider_selects_anew(selecting):
    mask = lambda: selecting.picks.mask  # noqa: E731
    mouse(selecting, (20, 20))
    assert mask()[:, :75].all() and not mask()[:, 75:].any()
    selecting.panel.likeness.value = -0.9
    assert mask().all()
    selecting.panel.likeness.value = 0.2
    assert mask().sum() == 75 * 90
    selecting.mode.value = "brush"
    mouse(selecting, (120, 40))
    more = mask().sum()
    selecting.panel.likeness.value = -0.9
    assert mask().sum() == more > 75 * 90, "what was painted since is kept"
    selecting.act("undo")
    assert mask().sum() == 75 * 90
    selecting.panel.eraser.value, selecting.mode.value = True, "select"
    mouse(selecting, (20, 20))
    assert not mask().any(), "the eraser takes it off"


def test_a_selection_that_comes_after_another_picture_or_not_at_all_changes_nothing(picture):
    asked = []
    picker = Picker(picture, select=lambda picks, place, then: asked.append(then))
    picker.mode.value = "select"
    mouse(picker, (20, 20))
    assert "looking for what is like this place" in picker.panel.text.value
    asked[0](None)
    assert "looking" not in picker.panel.text.value and not picker.picks.mask.any()
    mouse(picker, (20, 20))
    picker.load(255 - picture)
    asked[1](np.ones((90, 150)))
    assert not picker.picks.mask.any()


def test_selecting_is_offered_where_there_is_a_model_only(picker, selecting):
    assert "select" not in picker.mode.options and "select" in selecting.mode.options
    key(picker, "w")
    assert picker.pointer.tool == "points"
    key(selecting, "b")
    assert selecting.panel.likeness.layout.display == "none"
    key(selecting, "w")
    assert selecting.panel.brush.layout.display == "none" and selecting.panel.likeness.layout.display == ""


def test_what_was_chosen_before_a_press_comes_with_the_keys_and_nothing_else_does(picker):
    for key in (
        "tool lasso",
        "eraser on",
        "brush 40",
        "tool wand",
        "tool select",
        "brush x",
        "brush ",
        "x y",
    ):
        picker.key(key)
    assert (picker.pointer.tool, picker.pointer.erase, picker.pointer.radius) == ("lasso", True, 40)
    for key in ("tool points", "eraser off", "brush 9999"):
        picker.key(key)
    assert (picker.pointer.tool, picker.pointer.erase) == ("points", False)
    assert picker.pointer.radius == picker.brush.max
