"""The picker: its state by itself, then the canvas by the events a browser would send. No browser is needed."""

import numpy as np
import pytest

from dragnb.errors import InputError
from dragnb.picker import Picker, Picks
from dragnb.task import DragTask


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8)


@pytest.fixture
def picks(picture):
    return Picks(picture, prompt="a cat")


@pytest.fixture
def picker(picture):
    """On a canvas of twice the picture's size."""
    pytest.importorskip("ipycanvas", reason="ipycanvas is missing: pip install 'dragnb[widgets]'")
    return Picker(picture, side=300)


def test_clicks_are_handle_and_target_in_turn_on_whole_pixels_of_the_picture(picks):
    for place in [(10.4, 20.6), (30.5, -3.0), (149.9, 45.0), (60, 1000)]:
        picks.click(*place)

    task = picks.task()

    assert task.handles.tolist() == [[10, 21], [149, 45]]
    assert task.targets.tolist() == [[30, 0], [60, 89]]
    assert task.prompt == "a cat" and task.mask is None


def test_a_target_on_its_own_handle_is_not_taken(picks):
    picks.click(10, 10)
    picks.click(10.2, 9.8)

    assert picks.points == [(10, 10)]


def test_a_task_needs_a_target_for_every_handle_and_at_least_one_pair(picks):
    with pytest.raises(InputError, match="pairs: there are none"):
        picks.task()
    picks.click(10, 10)
    with pytest.raises(InputError, match="odd number; every handle needs its target"):
        picks.task()


def test_a_stroke_paints_a_round_brush_along_its_line_and_the_eraser_takes_it_off(picks):
    picks.stroke((40, 30), (80, 30), radius=10)

    y, x = np.nonzero(picks.mask)
    assert (x.min(), x.max(), y.min(), y.max()) == (30, 90, 20, 40)
    assert not picks.mask[21, 31], "its ends are round"

    picks.stroke((0, 30), (149, 30), radius=15, erase=True)
    assert not picks.mask.any()


@pytest.mark.parametrize("place", [(-5, -5), (0, 0), (149, 89), (400, 300)])
def test_a_stroke_over_the_edge_paints_what_is_inside(picks, place):
    picks.stroke(place, place, radius=8)

    assert picks.mask.any() == (place != (400, 300))


def test_undo_takes_back_clicks_strokes_and_clearing_in_turn(picks):
    picks.click(1, 1)
    picks.remember()
    picks.stroke((40, 30), (80, 30), 5)
    picks.stroke((80, 30), (80, 60), 5)
    painted = picks.mask.copy()
    picks.clear()
    assert not picks.points and not picks.mask.any()

    picks.undo()
    assert picks.points == [(1, 1)] and (picks.mask == painted).all()
    picks.undo()
    assert picks.points == [(1, 1)] and not picks.mask.any(), "a stroke is taken back as a whole"
    picks.undo()
    picks.undo()
    assert picks.points == [], "nothing left to undo is no error"


def test_picks_go_on_from_a_task_and_give_it_back_unchanged(picture, tmp_path):
    mask = np.zeros((90, 150), bool)
    mask[10:40, 20:60] = True
    task = DragTask(picture, [[30.25, 20.5], [40, 30]], [[50, 20], [55.5, 35]], mask, "a dog", "one")

    again = DragTask.load(Picks.of(task).task().save(tmp_path / "task"))

    assert again.handles.tolist() == task.handles.tolist() and again.targets.tolist() == task.targets.tolist()
    assert (again.mask == mask).all() and (again.prompt, again.name) == ("a dog", "one")


def test_the_picks_say_what_comes_next(picks):
    assert picks.says() == "0 pairs; click a handle; the whole picture may change"
    picks.click(1, 1)
    picks.mask[:45] = True
    assert picks.says() == "1 pair; click its target; 50% may change"


def test_the_canvas_turns_its_own_pixels_into_the_pictures(picker):
    assert (picker.canvas.width, picker.canvas.height) == (300, 180)
    assert picker.canvas.layout.width == "300px", "else it stretches over the page"

    picker.on("mouse_down", 21.0, 41.0)  # the middle of picture pixel (10, 20), two canvas pixels wide
    picker.on("mouse_down", 299.9, 0.0)

    assert picker.picks.points == [(10, 20), (149, 0)]


def test_painting_follows_the_mouse_only_while_it_is_down(picker):
    picker.mode.value, picker.brush.value = "paint", 5
    picker.on("mouse_move", 20, 20)
    assert not picker.picks.mask.any()

    for kind, x in (("mouse_down", 81), ("mouse_move", 121), ("mouse_up", 121), ("mouse_move", 281)):
        picker.on(kind, x, 61)

    columns = np.nonzero(picker.picks.mask.any(0))[0]
    assert (columns.min(), columns.max()) == (35, 65)
    assert picker.picks.points == []


def test_touch_buttons_and_the_z_key_do_what_the_mouse_does(picker):
    top = picker.canvas[2]
    top._handle_frontend_event(None, {"event": "touch_start", "touches": [{"x": 21.0, "y": 41.0}]}, [])
    top._handle_frontend_event(None, {"event": "touch_end", "touches": []}, [])
    assert picker.picks.points == [(10, 20)]

    keys = {"shift_key": False, "ctrl_key": False, "meta_key": False}
    top._handle_frontend_event(None, {"event": "key_down", "key": "z"} | keys, [])
    assert picker.picks.points == []

    picker.on("mouse_down", 21, 41)
    undo, clear = picker.widget.children[0].children[2:]
    clear.click()
    assert picker.picks.points == []
    undo.click()
    assert picker.picks.points == [(10, 20)]
    assert picker.text.value.startswith("1 pair; click its target")


def test_a_page_loaded_again_is_drawn_anew_with_the_canvas_named_anew(picker, monkeypatch):
    from ipycanvas.canvas import _CANVAS_MANAGER, COMMANDS

    sent = []
    monkeypatch.setattr(_CANVAS_MANAGER, "_send_custom", lambda commands, buffers=(): sent.append(commands))
    picker.canvas[2]._handle_frontend_event(None, {"event": "client_ready"}, [])

    assert sent[0][0][0] == COMMANDS["switchCanvas"]


def test_the_picture_is_sent_without_loss_and_a_task_is_taken_up(picture, monkeypatch):
    ipycanvas = pytest.importorskip("ipycanvas", reason="ipycanvas is missing")
    drawn = []
    monkeypatch.setattr(ipycanvas.Canvas, "put_image_data", lambda self, data, *_: drawn.append(data))
    mask = np.zeros((90, 150), bool)
    mask[:30] = True

    picker = Picker(DragTask(picture, [[1, 2]], [[3, 4]], mask, "a cat"), side=150)

    shown, veil = drawn
    assert shown.shape == veil.shape == (90, 150, 4), "three channels would be sent as a JPEG"
    assert (shown[..., :3] == picture).all() and (veil[..., 3] > 0).tolist() == (~mask).tolist()
    assert picker.task().targets.tolist() == [[3, 4]]
