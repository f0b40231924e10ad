"""What is said before a drag is run."""

import numpy as np
import pytest

from dragnb import sd
from dragnb.config import profile
from dragnb.ui.advice import notes
from dragnb.ui.picks import Picks


@pytest.fixture
def picks():
    """A picture half as wide again as the model's, its middle free to change, one drag of 100 px in it."""
    picks = Picks(np.zeros((512, 768, 3), np.uint8), [(300, 200), (400, 200)], prompt="a cat")
    picks.rectangle((100, 100), (700, 400))
    return picks


def test_nothing_is_said_of_an_ordinary_drag(picks):
    assert notes(picks) == []


def test_a_prompt_that_is_missing_is_asked_for(picks):
    picks.set_prompt(" ")
    assert notes(picks) == [
        "no prompt: say what the picture shows, or the model may take it for something else"
    ]


def test_a_prompt_that_is_too_long_is_said_to_be_cut_off(picks):
    picks.set_prompt("word " * 75)
    assert notes(picks) == []
    picks.set_prompt("word " * 76)
    assert notes(picks) == ["the prompt has about 76 tokens; the model reads 75, and the rest is cut off"]


def test_a_prompt_is_counted_by_the_models_own_tokenizer_where_it_is_loaded(picks, smoke):
    picks.set_prompt("猫" * 74)
    assert notes(picks) == []

    (note,) = notes(picks, model=smoke)

    tokens = len(smoke.tokenizer("猫" * 74).input_ids) - 2
    assert (
        note == f"the prompt has {tokens} tokens; the model reads 75, and the rest is cut off" and tokens > 75
    )
    with pytest.warns(UserWarning, match=f"the prompt has {tokens} tokens"):
        sd.embed(smoke, "猫" * 74)
    loaded = sd.load(smoke.name, device="cpu")  # `smoke` itself may have made room for other tests' models
    assert sd.tokenizer_of(loaded.name) is loaded.tokenizer and sd.tokenizer_of("never") is None


def test_a_mask_that_frees_almost_all_or_no_handle_is_asked_about(picks):
    picks.invert()
    assert any(note.startswith("no handle lies inside the mask: is it inverted") for note in notes(picks))
    picks.clear_mask()
    picks.invert()
    picks.rectangle((0, 0), (767, 9), erase=True)
    assert notes(picks) == ["the mask frees 98.0% of the picture: is it inverted? White may change"]


def test_an_empty_and_a_full_mask_are_explained(picks):
    picks.clear_mask()
    assert notes(picks) == ["no mask: the whole picture may change; paint what may, and the rest is held"]
    picks.invert()
    assert notes(picks) == ["the mask covers everything: nothing is held in place"]


@pytest.mark.parametrize(
    "points, said",
    [
        ([(300, 200), (300, 200)], "pair 1 has no length"),
        ([(300, 200), (400, 200), (20, 20), (400, 110)], "pair 2: its handle lies outside the mask"),
        ([(300, 200), (400, 300), (400, 200), (300, 300)], "the paths of pairs 1 and 2 cross"),
        ([(300, 200), (400, 200), (310, 220)], "pair 2 has no target yet"),
        ([(300, 200), (400, 200), (300, 200), (200, 200)], "pairs 1 and 2 drag one handle to two targets"),
    ],
)
def test_a_doubtful_pair_is_named_by_its_number_and_nothing_else_is(picks, points, said):
    picks.set_points(points)

    (note,) = notes(picks)

    assert note.startswith(said)


@pytest.mark.parametrize(
    "change",
    [
        lambda picks: picks.set_points(
            [(300, 200), (400, 300), (400, 200), (300, 300), (300, 200), (200, 100)]
        ),
        lambda picks: picks.set_prompt(""),
        lambda picks: picks.set_prompt("word " * 90),
        lambda picks: picks.clear_mask(),
        lambda picks: picks.invert(),
        lambda picks: picks.rectangle((0, 0), (767, 511)),
        lambda picks: picks.set_points([(1, 1), (400, 300)]),
    ],
)
def test_what_is_said_while_picking_is_said_of_the_task_too_word_for_word(picks, change):
    change(picks)

    assert notes(picks) and notes(picks) == picks.task().warnings()


def test_paths_that_only_meet_or_run_side_by_side_do_not_cross(picks):
    picks.set_points([(300, 200), (400, 300), (400, 300), (500, 200), (300, 210), (400, 310)])

    assert notes(picks) == []


def test_a_drag_beyond_the_reach_of_the_steps_and_one_below_a_cell_are_said_in_pixels(picks):
    settings = profile("fast", drag_steps=20, supersample=0.5, stop=1.0)  # cells of 3 picture pixels
    picks.set_points([(300, 200), (359, 200), (300, 220), (361, 220), (300, 240), (302, 240)])

    far, near, size = notes(picks, settings, side=512)

    assert far.startswith("pair 2 is 61 px long, and 20 steps of one 3.0 px cell reach 60 px")
    assert near == "pair 3 is 2.0 px long: under 3.0 px a handle counts as arrived"
    assert size == "the model works at 512×341; the result is scaled back to 768×512"


def test_a_picture_of_the_models_own_size_is_not_resized(picks):
    assert notes(picks, profile("fast"), side=768) == []
