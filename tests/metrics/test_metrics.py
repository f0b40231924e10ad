"""Figures against values known by hand."""

import math

import numpy as np
import pytest
import torch

from dragnb import metrics
from dragnb.errors import InputError


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def test_equal_pictures_are_infinitely_alike(image):
    assert metrics.psnr(image, image) == math.inf


def test_psnr_of_a_constant_error_is_known():
    a, b = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 51, np.uint8)
    assert metrics.psnr(a, b) == pytest.approx(-20 * math.log10(0.2))


def test_bytes_and_tensors_are_one_convention(image):
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert metrics.psnr(image, x) > 100
    assert metrics.psnr(image, x[0]) > 100


def test_a_mask_says_which_pixels_count(image):
    other, mask = image.copy(), np.zeros((24, 32), bool)
    other[:, :16] = 0
    mask[:, 16:] = True
    assert metrics.psnr(image, other, mask) == math.inf
    assert metrics.psnr(image, other, ~mask) < metrics.psnr(image, other)
    with pytest.raises(InputError, match="mask: it is empty"):
        metrics.psnr(image, other, mask & ~mask)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32), torch.zeros(2, 3, 4, 4)])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(InputError, match="picture"):
        metrics.psnr(bad, bad)


def test_pictures_of_two_sizes_are_refused(image):
    with pytest.raises(InputError, match="one size"):
        metrics.psnr(image, image[1:])


def test_distances_between_points():
    found, wanted = [[0, 0], [3, 4]], [[0, 0], [0, 0]]
    assert metrics.mean_distance(found, wanted) == 2.5
    assert metrics.pck(found, wanted, radius=1) == 0.5
    with pytest.raises(InputError, match="two lists"):
        metrics.mean_distance(found, wanted[:1])


def test_dai_by_hand_and_pixels_beyond_either_picture_do_not_count():
    before, after = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)
    after[4, 4] = 255  # one white pixel: a squared difference of 3 over the colours
    assert metrics.dai(before, after, [[2, 2]], [[4, 4]], 0) == 3
    assert metrics.dai(before, after, [[2, 2]], [[4, 4]], 1) == pytest.approx(3 / 9)
    assert metrics.dai(before, after, [[2, 2], [1, 1]], [[4, 4], [7, 1]], 1) == pytest.approx(3 / 9 / 2)
    assert metrics.dai(before, after, [[0, 8]], [[4, 4]], 1) == pytest.approx(3 / 4), "a corner leaves 2 x 2"
    assert metrics.dai(before, after, [[2, 2]], [[4.4, 3.6]], 20) == pytest.approx(3 / 7**2)
    with pytest.raises(InputError, match="radius = -1"):
        metrics.dai(before, after, [[2, 2]], [[4, 4]], -1)


def test_a_patch_that_was_carried_over_unchanged_has_no_dai(image):
    moved = np.roll(image, (3, 5), (0, 1))
    assert metrics.dai(image, moved, [[12, 10]], [[17, 13]], 4) == 0
    assert metrics.dai(image, moved, [[12, 10]], [[16, 13]], 4) > 0


def test_discs_are_regiondrags_pixel_by_pixel():
    handles, targets, size = [[4, 5], [20, 3]], [[4, 6], [6, 21]], (33, 25)

    found = metrics.discs(handles, targets, size)

    for k, (handle, target) in enumerate(zip(handles, targets, strict=True)):
        radius = max(5, math.dist(handle, target) / math.sqrt(2))
        for y in range(size[1]):
            for x in range(size[0]):
                near = min(math.dist((x, y), handle), math.dist((x, y), target)) < radius
                assert found[k, y, x] == near, (k, x, y)
