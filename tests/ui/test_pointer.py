"""Pointing, without a widget: from places on the sheet to steps of the picks."""

import numpy as np
import pytest

from dragnb.errors import InputError
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import CLOSEST, Hand, Window


@pytest.fixture
def hand():
    """Over a picture of 150×90, shown at twice its size."""
    picks = Picks(np.zeros((90, 150, 3), np.uint8))
    return Hand(picks, Window(picks.size, side=300))


def drag(hand, *places, lift=True):
    """Press at the first place of the picture, go on to the others, lift."""
    for k, place in enumerate(places):
        (hand.move if k else hand.press)(*hand.window.on_sheet(*place))
    if lift:
        hand.lift()


def columns(mask):
    x = np.nonzero(mask.any(0))[0]
    return x.min(), x.max()


@pytest.mark.parametrize("size", [(150, 90), (90, 150), (2048, 1365), (17, 500)])
def test_the_sheet_has_the_pictures_shape_and_a_place_goes_there_and_back(size):
    window = Window(size, side=512)

    assert max(window.sheet) == 512
    assert np.allclose(window.on_sheet(-0.5, -0.5), (0, 0)), "the corner of the top left pixel"
    corner = window.on_sheet(size[0] - 0.5, size[1] - 0.5)
    assert all(s - 1 < c <= s + 1e-6 for c, s in zip(corner, window.sheet, strict=True)), "nothing is cropped"
    for factor, x, y in ((3, 100, 10), (1.5, 7, 500), (0.5, 300, 30)):
        window.zoom_by(factor, x, y)
        assert np.allclose(window.on_sheet(*window.on_picture(12.5, 300)), (12.5, 300))


def test_zooming_keeps_the_place_under_the_pointer_and_ends_at_all_and_at_single_pixels():
    window = Window((2048, 1365), side=512)
    place = window.on_picture(200, 150)

    window.zoom_by(4, 200, 150)
    assert np.allclose(window.on_picture(200, 150), place) and window.scale == 1

    window.zoom_by(1e9, 200, 150)
    assert window.scale == CLOSEST
    window.zoom_by(1e-9, 0, 0)
    assert (window.zoom, window.left, window.top) == (1, 0, 0)


def test_panning_ends_at_the_edge_of_the_picture():
    window = Window((200, 100), side=200)
    window.zoom_by(2, 0, 0)

    window.pan(-10_000, -10_000)
    assert (window.left, window.top) == (100, 50)
    window.pan(10_000, 10)
    assert (window.left, window.top) == (0, 45)


def test_one_gesture_goes_from_handle_to_target_and_is_one_step(hand):
    drag(hand, (20, 20), (25, 20), (40, 30), (60, 50))

    assert hand.picks.points == [(20, 20), (60, 50)]
    hand.picks.undo()
    assert hand.picks.points == [] and not hand.picks.can_undo


def test_two_clicks_do_the_same_even_with_an_unsteady_hand_and_are_two_steps(hand):
    drag(hand, (20, 20), (21, 20))
    assert hand.picks.points == [(20, 20)]
    drag(hand, (60, 50), (61, 50))

    assert hand.picks.points == [(20, 20), (60, 50)]
    hand.picks.undo()
    assert hand.picks.points == [(20, 20)]


def test_a_press_whose_lift_was_lost_is_lifted_by_the_next(hand):
    drag(hand, (20, 20), lift=False)
    drag(hand, (60, 50), lift=False)

    assert hand.picks.points == [(20, 20), (60, 50)]


def test_a_gesture_that_comes_back_to_its_handle_has_placed_no_target(hand):
    drag(hand, (20, 20), (60, 50), (20, 20))

    assert hand.picks.points == [(20, 20)] and hand.picks.waiting


def test_a_target_may_lie_near_its_handle_and_a_press_on_the_waiting_handle_moves_it(hand):
    drag(hand, (20, 20))
    drag(hand, (21, 20), (31, 30))  # two sheet pixels off: on the handle
    assert hand.picks.points == [(30, 30)]

    drag(hand, (33, 31))  # seven sheet pixels off
    assert hand.picks.points == [(30, 30), (33, 31)]


@pytest.mark.parametrize("k", range(4))
def test_any_point_can_be_taken_beside_its_middle_and_moved_without_a_jump(hand, k):
    points = [(20, 20), (60, 50), (100, 20), (100, 80)]
    hand.picks.set_points(points)
    x, y = points[k]

    drag(hand, (x + 2, y - 1), (x + 12, y + 4))

    assert hand.picks.points == [*points[:k], (x + 10, y + 5), *points[k + 1 :]]
    assert hand.selected == k


def test_a_click_on_a_point_chooses_it_and_moves_nothing(hand):
    hand.picks.set_points([(20, 20), (60, 50)])

    drag(hand, (61, 51))

    assert hand.picks.points == [(20, 20), (60, 50)] and hand.selected == 1
    hand.picks.undo()
    assert hand.picks.points == [], "the click was no step"


def test_an_arrow_taken_by_its_shaft_moves_with_both_ends(hand):
    hand.picks.set_points([(20, 20), (60, 60), (100, 20), (100, 80)])

    drag(hand, (40.5, 39.5), (45, 45), (50.5, 49.5))
    assert hand.picks.points == [(30, 30), (70, 70), (100, 20), (100, 80)]

    drag(hand, (100, 50), (500, 50))
    assert hand.picks.points[2:] == [(149, 20), (149, 80)]


def test_delete_means_the_chosen_point_else_the_last(hand):
    hand.picks.set_points([(20, 20), (60, 60), (100, 20), (100, 80)])
    drag(hand, (20, 20))
    hand.delete(pair=True)
    assert hand.picks.points == [(100, 20), (100, 80)]

    hand.delete()
    assert hand.picks.points == [(100, 20)]
    hand.delete()
    with pytest.raises(InputError, match="no point to delete"):
        hand.delete()


def test_the_brush_paints_while_it_is_down_and_a_stroke_is_one_step(hand):
    hand.tool, hand.radius = "brush", 5
    hand.move(20, 20)
    assert not hand.picks.mask.any()

    drag(hand, (40, 30), (50, 30), (60, 30))
    hand.move(*hand.window.on_sheet(140, 30))

    assert columns(hand.picks.mask) == (35, 65)
    assert hand.fresh == [((40, 30), (40, 30)), ((40, 30), (50, 30)), ((50, 30), (60, 30))]
    hand.erase = True
    drag(hand, (40, 30), (50, 30))
    assert columns(hand.picks.mask) == (51, 65), "the eraser is round"
    hand.picks.undo()
    hand.picks.undo()
    assert not hand.picks.mask.any() and not hand.picks.can_undo


def test_rectangle_and_lasso_show_their_outline_and_paint_when_lifted(hand):
    hand.tool = "rectangle"
    drag(hand, (10, 10), (20, 20), (50, 40), lift=False)
    assert not hand.picks.mask.any() and np.allclose(hand.trail, [(10, 10), (50, 40)])
    hand.lift()
    assert hand.picks.mask.sum() == 41 * 31

    hand.tool, hand.erase = "lasso", True
    drag(hand, (5, 5), (145, 5), (145, 30), (5, 30))
    assert hand.picks.mask.sum() == 41 * 10 and hand.trail == []


def test_a_mere_click_of_rectangle_and_lasso_paints_nothing(hand):
    for hand.tool in ("rectangle", "lasso"):
        drag(hand, (10, 10))

    assert not hand.picks.mask.any() and not hand.picks.can_undo


def test_pan_pushes_the_picture_under_the_pointer_and_picks_nothing(hand):
    hand.window.zoom_by(3, 150, 90)
    place = hand.window.on_picture(100, 100)
    hand.tool = "pan"

    hand.press(100, 100)
    hand.move(60, 110)
    hand.move(40, 120)

    assert np.allclose(hand.window.on_picture(40, 120), place)
    assert not hand.picks.points and not hand.picks.can_undo


def test_points_are_right_where_the_picture_is_zoomed(hand):
    hand.window.zoom_by(4, 299, 179)

    drag(hand, (140, 80), (145, 85))

    assert hand.picks.points == [(140, 80), (145, 85)]


@pytest.mark.parametrize("tool", ["points", "brush", "rectangle", "lasso"])
def test_escape_takes_back_what_is_being_drawn(hand, tool):
    hand.picks.set_points([(10, 10), (100, 80)])
    hand.tool = tool

    drag(hand, (20, 20), (40, 50), (60, 20), lift=False)
    hand.cancel()
    hand.lift()

    assert hand.picks.points == [(10, 10), (100, 80)] and not hand.picks.mask.any() and not hand.trail
    hand.picks.undo()
    assert not hand.picks.can_undo


def test_a_press_outside_the_sheet_is_refused_and_nothing_is_lost(hand):
    drag(hand, (20, 20))

    for place in ((-1, 20), (20, 181), (301, 0)):
        with pytest.raises(InputError, match="outside the picture"):
            hand.press(*place)

    assert hand.picks.points == [(20, 20)] and not hand.busy


def test_a_target_in_the_very_pixel_of_its_handle_is_refused_and_the_hand_is_free_again(hand):
    hand.window.zoom_by(8, 0, 0)
    drag(hand, (5, 5))

    with pytest.raises(InputError, match="nothing to drag"):
        hand.press(*hand.window.on_sheet(5.4, 5.4))

    assert hand.picks.points == [(5, 5)] and not hand.busy
    drag(hand, (7, 7))
    assert hand.picks.points == [(5, 5), (7, 7)]


def test_the_arrow_keys_shift_the_chosen_point_and_else_the_view(hand):
    hand.picks.set_points([(20, 20), (149, 50)])
    drag(hand, (149, 50))
    hand.nudge(1, -10)
    assert hand.picks.points[1] == (149, 40), "no further than the picture"

    hand.cancel()
    hand.window.zoom_by(2, 0, 0)
    hand.nudge(1, 0)
    assert hand.picks.points[1] == (149, 40) and hand.window.left == 7.5


def test_two_fingers_zoom_and_push_what_they_hold_and_what_one_had_begun_is_taken_back(hand):
    hand.tool = "brush"
    drag(hand, (20, 20), (40, 20), lift=False)
    hand.pinch([(100, 90), (200, 90)])
    assert not hand.busy and not hand.picks.mask.any() and not hand.picks.can_undo
    held = hand.window.on_picture(150, 90)

    hand.pinch([(50, 100), (250, 100)])
    assert hand.window.zoom == 2 and np.allclose(hand.window.on_picture(150, 100), held)

    hand.pinch([(60, 100)])
    assert hand.pinching and hand.window.zoom == 2, "the finger that is left does nothing"
    hand.pinch([])
    assert not hand.pinching
    hand.pinch([(10, 10), (10, 10)])
    hand.pinch([(10, 10), (10, 60)])
    assert hand.window.zoom > 2, "two fingers at one place divide nothing by zero"
