"""Floors and ceilings: nothing done, pixels pulled, the truth as far as the autoencoder can tell it."""

from types import SimpleNamespace

import numpy as np
import pytest

from dragnb import geometry, metrics
from dragnb.clay import task as clay_task
from dragnb.sweep import grids
from dragnb.task import DragTask


@pytest.fixture
def wide():
    """A smooth picture of 120 x 80 whose mask is a rectangle."""
    x, y = np.meshgrid(np.linspace(0, 1, 120), np.linspace(0, 1, 80))
    image = (255 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8)
    mask = np.zeros((80, 120), bool)
    mask[20:60, 20:100] = True
    return DragTask(image, [[40, 40], [80, 30]], [[55, 40], [80, 45]], mask)


def test_no_edit_is_the_picture_in_a_copy_that_may_be_written_to(wide):
    image = grids.no_edit(SimpleNamespace(task=lambda: wide), None, None)
    assert np.array_equal(image, wide.image)
    image[:] = 0
    assert wide.image.any()


def test_a_warp_carries_the_handles_colour_to_the_target_and_holds_what_is_masked(wide):
    image = geometry.warp(wide)

    for (hx, hy), (tx, ty) in zip(wide.handles.astype(int), wide.targets.astype(int), strict=True):
        assert np.abs(image[ty, tx].astype(int) - wide.image[hy, hx]).max() <= 1
    assert np.array_equal(image[~wide.mask], wide.image[~wide.mask])
    assert (image != wide.image)[wide.mask].any()
    assert np.array_equal(image, geometry.warp(wide)), "twice the same"


def test_a_warp_does_not_tear_at_the_rim(wide):
    """At the mask's rim the shift is small, so a smooth picture stays smooth across it."""
    step = np.abs(np.diff(geometry.warp(wide).astype(int), axis=0)).max()
    assert step <= 12, f"neighbours differ by {step}"


@pytest.mark.parametrize("mask", [None, np.zeros((80, 120), bool), np.ones((80, 120), bool)])
def test_without_a_mask_the_pictures_border_is_held(wide, mask):
    free = DragTask(wide.image, wide.handles, wide.targets, mask)
    image = geometry.warp(free)

    assert np.abs(image[40, 55].astype(int) - wide.image[40, 40]).max() <= 1
    assert np.abs(image[0].astype(int) - wide.image[0]).max() < 10


def test_two_pairs_with_one_target_and_a_target_on_the_rim_are_no_trouble(wide):
    odd = DragTask(wide.image, [[40, 40], [70, 40]], [[55, 40], [55, 40]], wide.mask)
    rim = DragTask(wide.image, [[40, 40]], [[20, 20]], wide.mask)

    x = int(geometry.warp(odd)[40, 55, 0]), wide.image[40, 55, 0]
    assert abs(x[0] - int(x[1])) <= 2, "the mean of both"
    assert np.array_equal(geometry.warp(rim)[~wide.mask], wide.image[~wide.mask])


def test_the_truth_through_the_autoencoder_is_near_the_truth():
    clay = clay_task(830_001, "boat", "move")
    assert 25 < metrics.psnr(grids.encoded(clay.picture_after), clay.picture_after) < 60
