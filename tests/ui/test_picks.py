"""Points, mask and their history, without a browser or a widget."""

import numpy as np
import pytest

from dragnb.errors import InputError
from dragnb.task import DragTask
from dragnb.ui import masks
from dragnb.ui.picks import UNDO_LIMIT, Picks


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8)


@pytest.fixture
def picks(picture):
    return Picks(picture, prompt="a cat")


@pytest.fixture
def pairs(picture):
    return Picks(picture, [(10, 10), (20, 20), (30, 30), (40, 40)])


def state(picks):
    return picks.image.tobytes(), list(picks.points), picks.mask.tobytes(), picks.prompt, picks.name


def box(mask):
    """The outermost pixels that are painted: left, right, top, bottom."""
    y, x = np.nonzero(mask)
    return x.min(), x.max(), y.min(), y.max()


CHANGES = {
    "add": lambda p: p.add(5, 5),
    "move": lambda p: p.move(1, 70, 70),
    "move_pair": lambda p: p.move_pair(0, 3, 4),
    "remove": lambda p: p.remove(1),
    "set_points": lambda p: p.set_points([(1, 2), (3, 4)]),
    "clear_points": lambda p: p.clear_points(),
    "stroke": lambda p: p.stroke((40, 40), (60, 60), 5),
    "erase": lambda p: p.stroke((5, 5), (9, 9), 3, erase=True),
    "rectangle": lambda p: p.rectangle((40, 40), (60, 60)),
    "lasso": lambda p: p.lasso([(40, 40), (60, 60), (40, 60)]),
    "fill": lambda p: p.fill(),
    "invert": lambda p: p.invert(),
    "around_paths": lambda p: p.around_paths(),
    "set_mask": lambda p: p.set_mask(np.eye(90, 150)),
    "clear_mask": lambda p: p.clear_mask(),
    "set_prompt": lambda p: p.set_prompt("a dog"),
    "load": lambda p: p.load(DragTask(np.zeros((20, 30, 3), np.uint8), [[1, 2]], [[3, 4]], name="other")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_one_step_that_is_undone_and_done_again_and_told(picture, name):
    picks = Picks(picture, [(10, 10), (20, 20)], prompt="a cat")
    picks.rectangle((0, 0), (20, 20))
    picks.rectangle((8, 8), (12, 12), erase=True)
    told, before = [], state(picks)
    picks.on_change(lambda: told.append(state(picks)))

    CHANGES[name](picks)
    after = state(picks)
    picks.undo()
    undone = state(picks)
    picks.redo()

    assert before != after
    assert (undone, state(picks)) == (before, after)
    assert told == [after, before, after]


def test_every_method_that_changes_something_is_tried_above():
    silent = {
        "begin",
        "end",
        "cancel",
        "undo",
        "redo",
        "on_change",
        "action",
        "of",
        "summary",
        "snap",
        "task",
    }
    methods = {n for n, f in vars(Picks).items() if not n.startswith("_") and not isinstance(f, property)}

    assert methods - silent == set(CHANGES) - {"erase"}


def test_clicks_are_handle_and_target_in_turn_on_whole_pixels_of_the_picture(picks):
    for place in [(10.4, 20.6), (30.5, -0.3), (149.4, 45.0), (60, 89.4)]:
        picks.add(*place)

    task = picks.task()

    assert task.handles.tolist() == [[10, 21], [149, 45]]
    assert task.targets.tolist() == [[30, 0], [60, 89]]
    assert task.prompt == "a cat" and task.mask is None


def test_a_target_on_its_own_handle_is_refused_and_the_handle_kept(picks):
    picks.add(10, 10)

    with pytest.raises(InputError, match="nothing to drag"):
        picks.add(10.2, 9.8)

    assert picks.points == [(10, 10)]


def test_a_task_needs_a_target_for_every_handle_and_at_least_one_pair(picks):
    with pytest.raises(InputError, match="pairs: there are none"):
        picks.task()
    picks.add(10, 10)
    with pytest.raises(InputError, match="odd number; every handle needs its target"):
        picks.task()


def test_a_pair_is_moved_as_a_whole_and_stops_at_the_border_of_the_picture(pairs):
    assert pairs.move_pair(0, -3.4, 5) == (-3, 5)
    assert pairs.points[:2] == [(7, 15), (17, 25)]

    assert pairs.move_pair(0, -100, 100) == (-7, 64)
    assert pairs.points == [(0, 79), (10, 89), (30, 30), (40, 40)]


def test_a_deleted_handle_takes_its_pair_along_and_a_deleted_target_leaves_its_handle_waiting(pairs):
    pairs.remove(1)
    assert pairs.points == [(30, 30), (40, 40), (10, 10)] and pairs.waiting

    pairs.remove(1)
    assert pairs.points == [(10, 10)], "only one handle can wait"

    pairs.undo()
    pairs.remove(0)
    assert pairs.points == [(10, 10)]


def test_points_outside_the_picture_are_refused_by_number_and_nothing_is_lost(pairs):
    before = state(pairs)

    with pytest.raises(InputError, match=r"pair 2: its target \(150, 4\) lies outside the 150×90 picture"):
        pairs.set_points([(1, 2), (3, 4), (5, 6), (150, 4)])
    with pytest.raises(InputError, match="not a list of"):
        pairs.set_points(["ab"])

    assert state(pairs) == before and not pairs.can_undo


def test_a_stroke_paints_a_round_brush_along_its_line_and_the_eraser_takes_it_off(picks):
    picks.stroke((40, 30), (80, 30), radius=10)

    assert box(picks.mask) == (30, 90, 20, 40)
    assert not picks.mask[21, 31], "its ends are round"

    picks.stroke((0, 30), (149, 30), radius=15, erase=True)
    assert not picks.mask.any()


@pytest.mark.parametrize("place", [(-5, -5), (0, 0), (149, 89), (400, 300), (-400, 45)])
def test_a_stroke_over_the_edge_paints_what_is_inside(picks, place):
    picks.stroke(place, place, radius=8)

    assert picks.mask.any() == (abs(place[0]) < 400)


def test_a_rectangle_includes_both_corners_in_any_order_and_erases_too(picks):
    picks.rectangle((60.2, 50), (39.8, 20))
    assert box(picks.mask) == (40, 60, 20, 50) and picks.mask.sum() == 21 * 31

    picks.rectangle((-9, -9), (49, 500), erase=True)
    assert box(picks.mask) == (50, 60, 20, 50)


def test_a_lasso_paints_the_inside_of_its_closed_line(picks):
    picks.lasso([(10, 10), (50, 10), (50, 50), (10, 50)])
    assert box(picks.mask) == (10, 50, 10, 50) and picks.mask[11:50, 11:50].all()

    picks.lasso([(-100, -100), (-50, -100), (-50, -50)])
    assert picks.mask.sum() == 41 * 41, "outside the picture there is nothing to paint"


def test_filling_paints_what_is_enclosed_and_says_so_where_nothing_is(picks):
    ring = np.zeros((90, 150), bool)
    masks.rectangle(ring, (20, 20), (60, 60))
    masks.rectangle(ring, (30, 30), (50, 50), value=False)
    picks.set_mask(ring)
    picks.rectangle((100, 20), (149, 60))  # with a bay that is open to the border
    picks.rectangle((120, 30), (149, 50), erase=True)

    picks.fill()

    assert picks.mask[20:61, 20:61].all() and not picks.mask[40, 130]
    with pytest.raises(InputError, match="encloses nothing"):
        picks.fill()


def test_the_suggested_mask_holds_every_path_with_room_around_it_and_nothing_far_away(picks):
    with pytest.raises(InputError, match="pick a handle and its target first"):
        picks.around_paths()
    picks.set_points([(20, 20), (24, 20), (120, 80)])
    picks.around_paths()
    assert box(picks.mask) == (0, 54, 0, 50), "a fifth of the picture at least; none for a handle that waits"

    picks.clear_mask()
    picks.set_points([(45, 50), (75, 50)])
    picks.around_paths()
    assert box(picks.mask) == (0, 120, 5, 89), "one and a half lengths of the path"


def test_a_mask_of_another_size_is_refused(picks):
    with pytest.raises(InputError, match="mask is 5×4, the picture 150×90"):
        picks.set_mask(np.ones((4, 5)))


def test_a_stroke_of_many_moves_is_one_step(picks):
    picks.begin()
    for x in range(20, 60):
        picks.stroke((x, 30), (x + 1, 30), 5)
    picks.end()
    picks.undo()

    assert not picks.mask.any() and not picks.can_undo


def test_a_mask_that_was_handed_out_is_never_written_to(picks):
    shapes = {
        "stroke": lambda x: picks.stroke((x, 60), (x + 5, 70), 5),
        "rectangle": lambda x: picks.rectangle((x, 75), (x + 9, 85)),
        "lasso": lambda x: picks.lasso([(x, 50), (x + 15, 50), (x + 10, 80)]),
        "path": lambda x: (picks.set_points([(x, 20), (x + 10, 20)]), picks.around_paths()),
        "eraser": lambda x: picks.stroke((x, 60), (x + 5, 70), 5, erase=True),
    }
    for name, paint in shapes.items():
        picks.begin()  # within one step: the mouse is down
        for x in (20, 90):
            mask, kept = picks.mask, picks.mask.copy()
            paint(x)
            assert (mask == kept).all() and (picks.mask != kept).any(), name
            assert picks.mask is picks.mask and not picks.mask.flags.writeable, "it is copied once"
        picks.end()


def test_a_step_that_changes_nothing_or_fails_leaves_no_trace(pairs):
    before = state(pairs)
    pairs.move(0, 10.2, 10)
    pairs.clear_mask()
    with pytest.raises(RuntimeError), pairs.action():
        pairs.clear_points()
        pairs.invert()
        raise RuntimeError

    assert state(pairs) == before and not pairs.can_undo


def test_a_new_step_forgets_what_was_undone(picks):
    picks.add(1, 1)
    picks.undo()
    picks.add(2, 2)
    picks.redo()

    assert picks.points == [(2, 2)] and not picks.can_redo


def test_the_history_is_bounded_and_its_ends_are_no_errors(picks):
    for k in range(UNDO_LIMIT + 10):
        picks.set_points([(k, 1)])
    for _ in range(UNDO_LIMIT + 50):
        picks.undo()

    assert picks.points == [(9, 1)]
    for _ in range(UNDO_LIMIT + 50):
        picks.redo()
    assert picks.points == [(UNDO_LIMIT + 9, 1)]


def test_picks_go_on_from_a_task_and_give_it_back_unchanged(picture, tmp_path):
    mask = np.zeros((90, 150), bool)
    mask[10:40, 20:60] = True
    task = DragTask(picture, [[30.25, 20.5], [40, 30]], [[50, 20], [55.5, 35]], mask, "a dog", "one")

    again = DragTask.load(Picks.of(task).task().save(tmp_path / "task"))

    assert again.handles.tolist() == task.handles.tolist() and again.targets.tolist() == task.targets.tolist()
    assert (again.mask == mask).all() and (again.prompt, again.name) == ("a dog", "one")


def test_what_cannot_be_loaded_leaves_all_as_it_was(pairs):
    before = state(pairs)

    with pytest.raises(InputError, match="image is str"):
        pairs.load("a picture")

    assert state(pairs) == before and not pairs.can_undo


def test_the_picks_say_what_comes_next(picks):
    assert picks.summary() == "0 pairs; click a handle; the whole picture may change"
    picks.add(1, 1)
    picks.rectangle((0, 0), (149, 44))
    assert picks.summary() == "1 pair; click its target; 50% may change"


def test_what_is_alike_is_selected_around_the_place_only_and_without_holes():
    likeness = np.full((20, 30), -1.0)
    likeness[5:15, 5:15] = 0.8
    likeness[8:10, 8:10] = -1
    likeness[5:15, 20:28] = 0.9
    part = masks.alike(likeness, (6, 6), 0.4)
    assert part[5:15, 5:15].all() and part.sum() == 100
    assert masks.alike(likeness, (8, 8), 0.4)[8, 8], "the place itself is in it, however unlike all it is"
