"""Figures: every convention of a picture is shown alike, a drag is drawn where it is, a file is the same twice."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from dragnb import viz
from dragnb.errors import InputError
from dragnb.task import DragTask


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def drag_task(picture):
    mask = np.zeros((60, 80), bool)
    mask[10:50, 10:70] = True
    return DragTask(picture, [[20, 30], [30, 40]], [[50, 20], [60, 45]], mask, "a cat")


def test_a_picture_is_shown_alike_in_all_its_conventions(picture):
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1

    for given in (tensor, tensor[None], picture / 255.0):
        assert np.allclose(viz.as_shown(given), picture / 255.0, atol=1e-6)
    assert viz.as_shown(picture) is picture
    assert viz.as_shown(torch.ones(4, 5)).shape == (4, 5)


@pytest.mark.parametrize("shape", [(5,), (4, 4, 2), (2, 3, 8, 8)])
def test_what_is_no_picture_is_refused_by_its_shape(shape):
    with pytest.raises(InputError, match="picture: shape"):
        viz.as_shown(torch.zeros(shape))


def test_a_grid_has_one_place_for_each_picture_and_needs_a_title_for_each(picture):
    fig = viz.pictures([picture] * 5, list("abcde"), columns=3)

    assert [ax.get_title() for ax in fig.axes if ax.get_visible()] == list("abcde")
    with pytest.raises(InputError, match="2 pictures and 1 titles"):
        viz.pictures([picture] * 2, ["a"])
    with pytest.raises(InputError, match="0 pictures"):
        viz.pictures([])


def test_a_drag_is_drawn_where_it_is_with_two_shapes_and_the_rest_dimmed(drag_task):
    ax = viz.draw_drag(viz.figure()[1][0, 0], drag_task)

    drawn = {line.get_marker(): line.get_xydata().tolist() for line in ax.lines[:2]}
    assert drawn == {"o": [[20, 30]], "s": [[50, 20]]}
    shown = ax.images[0].get_array()
    assert (shown[drag_task.mask] == drag_task.image[drag_task.mask]).all()
    assert shown[~drag_task.mask].std() < 0.6 * drag_task.image[~drag_task.mask].std()


def test_tracks_end_with_a_star_where_the_handle_was_seen_last(drag_task):
    tracks = np.stack([drag_task.handles, drag_task.handles + 3, drag_task.handles + 5])

    ax = viz.draw_tracks(viz.figure()[1][0, 0], tracks, drag_task)

    stars = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() == "*"]
    assert stars == [[25, 35], [35, 45]]


def test_curves_and_tables_carry_their_labels_and_numbers():
    fig = viz.curves({"a": [3, 2, 1], "b": ([0, 5], [1, 1])}, "step", "loss", levels={"goal": 1}, ylim=(0, 4))
    table = viz.heat([[1, 2], [3, np.nan]], ["x", "y"], [10, 20], title="dB", fmt="{:.1f}")

    ax = fig.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()) == ("step", "loss", (0, 4))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in table.axes[0].texts] == ["1.0", "2.0", "3.0", "nan"]


def test_intervals_stand_around_their_points_and_what_is_no_number_is_left_out():
    fig = viz.spans({"a": ([1, 2], [(5, 4, 7), (6, 5, 9)])}, "t", "MD")
    band = fig.axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (4, 9)
    assert fig.axes[0].lines[0].get_ydata().tolist() == [5, 6]

    fig = viz.plane({"a": ((1, 0, 3), (10, 8, 11)), "gone": ((np.nan,) * 3, (1, 1, 1))}, "MD", "IF")
    (only,) = fig.axes[0].containers
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["a"]
    reach = np.concatenate([bar.get_segments()[0] for bar in only.lines[2]])
    assert sorted(reach[:2, 0]) == [0, 3] and sorted(reach[2:, 1]) == [8, 11]


def test_a_saved_figure_is_the_same_twice_and_tells_nothing_of_when_and_by_what(drag_task, tmp_path):
    first = viz.save(viz.task_figure(drag_task), tmp_path / "new", "drag")
    again = viz.save(viz.task_figure(drag_task), tmp_path, "drag")

    assert first.name == "drag.png" and first.read_bytes() == again.read_bytes()
    assert set(Image.open(first).info) <= {"dpi"}
    assert viz.task_figure(drag_task)._repr_png_() == first.read_bytes()


def test_a_difference_is_coloured_by_what_its_interval_says():
    assert viz.verdict(0.1, 2, better=1) == viz.verdict(-2, -0.1, better=-1) == viz.BETTER
    assert viz.verdict(0.1, 2, better=-1) == viz.verdict(-2, -0.1, better=1) == viz.WORSE
    assert viz.verdict(-1, 2, better=1) == viz.verdict(np.nan, np.nan, better=1) == viz.OPEN


def test_differences_stand_in_rows_from_the_top_with_their_intervals():
    found = {"one": (1.0, 0.5, 2.0), "other": (-1.0, -3.0, 1.0)}

    ax = viz.differences(found, 1, "minus full", "md").axes[0]

    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["one", "other"] and ax.yaxis_inverted()
    lines = [(list(line.get_xdata()), line.get_color()) for line in ax.lines]
    assert lines[:4] == [
        ([0.5, 2.0], viz.BETTER),
        ([1.0], viz.BETTER),
        ([-3.0, 1.0], viz.OPEN),
        ([-1.0], viz.OPEN),
    ]
    assert viz.png(viz.differences({}, 1)), "none is a picture too"


def test_among_many_differences_only_the_certain_ones_are_coloured():
    found = {"one": (1.0, 0.5, 2.0), "other": (-1.0, -3.0, 1.0)}
    for certain, colors in (
        ((), [viz.OPEN, viz.OPEN]),
        (("one",), [viz.BETTER, viz.OPEN]),
        (("other",), [viz.OPEN, viz.WORSE]),
    ):
        ax = viz.differences(found, 1, certain=certain).axes[0]
        assert [line.get_color() for line in ax.lines[1:4:2]] == colors


def overlaps(axis_labels) -> bool:
    """Do any two neighbours of these texts cover each other on the page? Slanted ones are taken as they lie."""
    boxes = [label.get_window_extent() for label in axis_labels if label.get_text()]
    if axis_labels[0].get_rotation():  # parallel lines: apart by more than their height
        return any(b.x1 - a.x1 < axis_labels[0].get_fontsize() for a, b in itertools.pairwise(boxes))
    return any(a.x1 > b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    "names", [["animals", "landscapes", "plants", "things"], ["0.1", "0.2"], ["a rather long name"] * 9]
)
def test_the_names_below_a_table_in_colour_never_touch(names):
    fig = viz.heat([range(len(names))], ["one"], names)
    fig.draw_without_rendering()

    assert not overlaps(fig.axes[0].get_xticklabels())


@pytest.mark.parametrize("reach", [0.001, 0.3, 7, 12345])
def test_the_numbers_below_narrow_panels_never_touch(reach):
    fig, (axes,) = viz.figure(1, 5, (2.7, 2.0), sharey=True)
    for ax in axes:
        viz.differences({"no edit": (0.1 * reach, -reach, reach / 3)}, 1, "minus full", "m", ax)
    fig.draw_without_rendering()

    for ax in axes:
        assert not overlaps(ax.get_xticklabels())
