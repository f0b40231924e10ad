"""Pointing, without a widget: from places on the canvas to steps of the picks."""

import numpy as np
import pytest

from dragnb.errors import InputError
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import CLOSEST, Pointer, Viewport


@pytest.fixture
def pointer():
    """Over a picture of 150×90, shown at twice its size."""
    picks = Picks(np.zeros((90, 150, 3), np.uint8))
    return Pointer(picks, Viewport(picks.size, side=300))


def drag(pointer, *places, release=True):
    """Press at the first place of the picture, go on to the others, release."""
    for k, place in enumerate(places):
        (pointer.move if k else pointer.press)(*pointer.viewport.to_canvas(*place))
    if release:
        pointer.release()


def columns(mask):
    x = np.nonzero(mask.any(0))[0]
    return x.min(), x.max()


def test_what_a_press_reaches_and_the_brush_are_of_one_size_on_the_screen(pointer):
    at = pointer.viewport.to_canvas
    drag(pointer, (20, 20), (60, 20))
    for shown, factor in ((None, 1), (100, 3), (600, 0.5)):
        pointer.shown_width = shown
        assert pointer.unit == factor and pointer.brush == 12 * factor / 2
        for beyond, grabbed in ((8, True), (12, False)):
            x, y = at(20, 20)
            pointer.press(x - beyond * factor, y)
            assert (len(pointer.picks.points) == 2) == grabbed
            pointer.cancel()


@pytest.mark.parametrize("size", [(150, 90), (90, 150), (2048, 1365), (17, 500)])
def test_the_canvas_has_the_pictures_shape_and_a_place_goes_there_and_back(size):
    viewport = Viewport(size, side=512)

    assert max(viewport.canvas) == 512
    assert np.allclose(viewport.to_canvas(-0.5, -0.5), (0, 0)), "the corner of the top left pixel"
    corner = viewport.to_canvas(size[0] - 0.5, size[1] - 0.5)
    assert all(s - 1 < c <= s + 1e-6 for c, s in zip(corner, viewport.canvas, strict=True)), (
        "nothing is cropped"
    )
    for factor, x, y in ((3, 100, 10), (1.5, 7, 500), (0.5, 300, 30)):
        viewport.zoom_by(factor, x, y)
        assert np.allclose(viewport.to_canvas(*viewport.to_picture(12.5, 300)), (12.5, 300))


def test_zooming_keeps_the_place_under_the_pointer_and_ends_at_all_and_at_single_pixels():
    viewport = Viewport((2048, 1365), side=512)
    place = viewport.to_picture(200, 150)

    viewport.zoom_by(4, 200, 150)
    assert np.allclose(viewport.to_picture(200, 150), place) and viewport.scale == 1

    viewport.zoom_by(1e9, 200, 150)
    assert viewport.scale == CLOSEST
    viewport.zoom_by(1e-9, 0, 0)
    assert (viewport.zoom, viewport.left, viewport.top) == (1, 0, 0)


def test_panning_ends_at_the_edge_of_the_picture():
    viewport = Viewport((200, 100), side=200)
    viewport.zoom_by(2, 0, 0)

    viewport.pan(-10_000, -10_000)
    assert (viewport.left, viewport.top) == (100, 50)
    viewport.pan(10_000, 10)
    assert (viewport.left, viewport.top) == (0, 45)


def test_one_gesture_goes_from_handle_to_target_and_is_one_step(pointer):
    drag(pointer, (20, 20), (25, 20), (40, 30), (60, 50))

    assert pointer.picks.points == [(20, 20), (60, 50)]
    pointer.picks.undo()
    assert pointer.picks.points == [] and not pointer.picks.can_undo


def test_two_clicks_do_the_same_even_with_an_unsteady_pointer_and_are_two_steps(pointer):
    drag(pointer, (20, 20), (21, 20))
    assert pointer.picks.points == [(20, 20)]
    drag(pointer, (60, 50), (61, 50))

    assert pointer.picks.points == [(20, 20), (60, 50)]
    pointer.picks.undo()
    assert pointer.picks.points == [(20, 20)]


def test_a_press_whose_release_was_lost_is_released_by_the_next(pointer):
    drag(pointer, (20, 20), release=False)
    drag(pointer, (60, 50), release=False)

    assert pointer.picks.points == [(20, 20), (60, 50)]


def test_a_gesture_that_comes_back_to_its_handle_has_placed_no_target(pointer):
    drag(pointer, (20, 20), (60, 50), (20, 20))

    assert pointer.picks.points == [(20, 20)] and pointer.picks.waiting


def test_a_target_may_lie_near_its_handle_and_a_press_on_the_waiting_handle_moves_it(pointer):
    drag(pointer, (20, 20))
    drag(pointer, (21, 20), (31, 30))  # two canvas pixels off: on the handle
    assert pointer.picks.points == [(30, 30)]

    drag(pointer, (33, 31))  # seven canvas pixels off
    assert pointer.picks.points == [(30, 30), (33, 31)]


@pytest.mark.parametrize("k", range(4))
def test_any_point_can_be_taken_beside_its_middle_and_moved_without_a_jump(pointer, k):
    points = [(20, 20), (60, 50), (100, 20), (100, 80)]
    pointer.picks.set_points(points)
    x, y = points[k]

    drag(pointer, (x + 2, y - 1), (x + 12, y + 4))

    assert pointer.picks.points == [*points[:k], (x + 10, y + 5), *points[k + 1 :]]
    assert pointer.selected == k


def test_a_click_on_a_point_chooses_it_and_moves_nothing(pointer):
    pointer.picks.set_points([(20, 20), (60, 50)])

    drag(pointer, (61, 51))

    assert pointer.picks.points == [(20, 20), (60, 50)] and pointer.selected == 1
    pointer.picks.undo()
    assert pointer.picks.points == [], "the click was no step"


def test_an_arrow_taken_by_its_shaft_moves_with_both_ends(pointer):
    pointer.picks.set_points([(20, 20), (60, 60), (100, 20), (100, 80)])

    drag(pointer, (40.5, 39.5), (45, 45), (50.5, 49.5))
    assert pointer.picks.points == [(30, 30), (70, 70), (100, 20), (100, 80)]

    drag(pointer, (100, 50), (500, 50))
    assert pointer.picks.points[2:] == [(149, 20), (149, 80)]


def test_delete_means_the_chosen_point_else_the_last(pointer):
    pointer.picks.set_points([(20, 20), (60, 60), (100, 20), (100, 80)])
    drag(pointer, (20, 20))
    pointer.delete(pair=True)
    assert pointer.picks.points == [(100, 20), (100, 80)]

    pointer.delete()
    assert pointer.picks.points == [(100, 20)]
    pointer.delete()
    with pytest.raises(InputError, match="no point to delete"):
        pointer.delete()


def test_the_brush_paints_while_it_is_down_and_a_stroke_is_one_step(pointer):
    pointer.tool, pointer.radius = "brush", 5 * pointer.viewport.scale
    pointer.move(20, 20)
    assert not pointer.picks.mask.any()

    drag(pointer, (40, 30), (50, 30), (60, 30))
    pointer.move(*pointer.viewport.to_canvas(140, 30))

    assert columns(pointer.picks.mask) == (35, 65)
    assert pointer.new_segments == [((40, 30), (40, 30)), ((40, 30), (50, 30)), ((50, 30), (60, 30))]
    pointer.erase = True
    drag(pointer, (40, 30), (50, 30))
    assert columns(pointer.picks.mask) == (51, 65), "the eraser is round"
    pointer.picks.undo()
    pointer.picks.undo()
    assert not pointer.picks.mask.any() and not pointer.picks.can_undo


def test_rectangle_and_lasso_show_their_outline_and_paint_when_released(pointer):
    pointer.tool = "rectangle"
    drag(pointer, (10, 10), (20, 20), (50, 40), release=False)
    assert not pointer.picks.mask.any() and np.allclose(pointer.outline, [(10, 10), (50, 40)])
    pointer.release()
    assert pointer.picks.mask.sum() == 41 * 31

    pointer.tool, pointer.erase = "lasso", True
    drag(pointer, (5, 5), (145, 5), (145, 30), (5, 30))
    assert pointer.picks.mask.sum() == 41 * 10 and pointer.outline == []


def test_a_mere_click_of_rectangle_and_lasso_paints_nothing(pointer):
    for pointer.tool in ("rectangle", "lasso"):
        drag(pointer, (10, 10))

    assert not pointer.picks.mask.any() and not pointer.picks.can_undo


def test_pan_pushes_the_picture_under_the_pointer_and_picks_nothing(pointer):
    pointer.viewport.zoom_by(3, 150, 90)
    place = pointer.viewport.to_picture(100, 100)
    pointer.tool = "pan"

    pointer.press(100, 100)
    pointer.move(60, 110)
    pointer.move(40, 120)

    assert np.allclose(pointer.viewport.to_picture(40, 120), place)
    assert not pointer.picks.points and not pointer.picks.can_undo


def test_points_are_right_where_the_picture_is_zoomed(pointer):
    pointer.viewport.zoom_by(4, 299, 179)

    drag(pointer, (140, 80), (145, 85))

    assert pointer.picks.points == [(140, 80), (145, 85)]


@pytest.mark.parametrize("tool", ["points", "brush", "rectangle", "lasso"])
def test_escape_takes_back_what_is_being_drawn(pointer, tool):
    pointer.picks.set_points([(10, 10), (100, 80)])
    pointer.tool = tool

    drag(pointer, (20, 20), (40, 50), (60, 20), release=False)
    pointer.cancel()
    pointer.release()

    assert (
        pointer.picks.points == [(10, 10), (100, 80)] and not pointer.picks.mask.any() and not pointer.outline
    )
    pointer.picks.undo()
    assert not pointer.picks.can_undo


def test_a_press_outside_the_canvas_is_refused_and_nothing_is_lost(pointer):
    drag(pointer, (20, 20))

    for place in ((-1, 20), (20, 181), (301, 0)):
        with pytest.raises(InputError, match="outside the picture"):
            pointer.press(*place)

    assert pointer.picks.points == [(20, 20)] and not pointer.pressed


def test_a_target_in_the_very_pixel_of_its_handle_is_refused_and_the_next_press_is_heard(pointer):
    pointer.viewport.zoom_by(8, 0, 0)
    drag(pointer, (5, 5))

    with pytest.raises(InputError, match="nothing to drag"):
        pointer.press(*pointer.viewport.to_canvas(5.4, 5.4))

    assert pointer.picks.points == [(5, 5)] and not pointer.pressed
    drag(pointer, (7, 7))
    assert pointer.picks.points == [(5, 5), (7, 7)]


def test_the_arrow_keys_shift_the_chosen_point_and_else_the_view(pointer):
    pointer.picks.set_points([(20, 20), (149, 50)])
    drag(pointer, (149, 50))
    pointer.nudge(1, -10)
    assert pointer.picks.points[1] == (149, 40), "no further than the picture"

    pointer.cancel()
    pointer.viewport.zoom_by(2, 0, 0)
    pointer.nudge(1, 0)
    assert pointer.picks.points[1] == (149, 40) and pointer.viewport.left == 7.5


def test_two_fingers_zoom_and_push_what_they_hold_and_what_one_had_begun_is_taken_back(pointer):
    pointer.tool = "brush"
    drag(pointer, (20, 20), (40, 20), release=False)
    pointer.pinch([(100, 90), (200, 90)])
    assert not pointer.pressed and not pointer.picks.mask.any() and not pointer.picks.can_undo
    held = pointer.viewport.to_picture(150, 90)

    pointer.pinch([(50, 100), (250, 100)])
    assert pointer.viewport.zoom == 2 and np.allclose(pointer.viewport.to_picture(150, 100), held)

    pointer.pinch([(60, 100)])
    assert pointer.pinching and pointer.viewport.zoom == 2, "the finger that is left does nothing"
    pointer.pinch([])
    assert not pointer.pinching
    pointer.pinch([(10, 10), (10, 10)])
    pointer.pinch([(10, 10), (10, 60)])
    assert pointer.viewport.zoom > 2, "two fingers at one place divide nothing by zero"
