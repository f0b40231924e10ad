"""Matching by DIFT: the frugal way equals the plain one, and what has moved is found where it went."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from dragnb import ddim, features, sd
from dragnb.clay.training import parts as clay_model
from dragnb.errors import InputError
from dragnb.metrics import dift


@pytest.fixture
def maps():
    """Two maps that have nothing to do with each other."""
    return torch.randn((2, 1, 5, 7, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def points():
    return np.array([[0.0, 0.0], [11.0, 3.0], [61.0, 149.0]])


def plain(before, after, points, size, mode):
    """Both maps scaled up to the picture, and every pixel compared."""
    up = dict(size=size[::-1], mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))
    a, b = (F.interpolate(x.double(), **up)[0] for x in (before, after))
    return torch.stack([F.cosine_similarity(a[:, int(y), int(x), None, None], b, dim=0) for x, y in points])


@pytest.mark.parametrize("size", [(62, 150), (63, 151), (300, 200)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_cosines_without_the_big_map_are_those_of_the_big_map(maps, points, size, mode):
    want = plain(*maps, points, size, mode)

    found = dift.cosines(*maps, points, size, nearest=mode == "nearest")
    pixels = dift.match(*maps, points, size, nearest=mode == "nearest")

    assert torch.allclose(found, want, rtol=0, atol=1e-12)
    at = pixels.astype(int)
    chosen = want[range(len(points)), at[:, 1], at[:, 0]]
    assert torch.allclose(chosen, want.flatten(1).max(1).values, rtol=0, atol=1e-12)


def test_on_a_map_of_the_pictures_own_size_the_match_is_that_of_features():
    before, after = torch.randn((2, 1, 6, 20, 30), generator=torch.Generator().manual_seed(1))
    xy = np.array([[3.0, 4.0], [29.0, 19.0]])

    found = dift.match(before, after, xy, (30, 20))

    assert np.array_equal(found[:, ::-1], features.match(before, after, torch.tensor(xy[:, ::-1].copy())))


def test_a_map_that_has_shifted_is_found_at_its_shift():
    before = torch.randn((1, 8, 16, 16), generator=torch.Generator().manual_seed(2))
    after = before.roll((2, 3), (2, 3))  # cells of 8 pixels

    found = dift.match(before, after, [[43.0, 35.0]], (128, 128))

    assert np.abs(found - [[43 + 24, 35 + 16]]).max() <= 1


def test_scale_and_order_of_the_channels_do_not_matter(maps, points):
    before, after = maps
    order = torch.tensor([3, 1, 4, 0, 2])

    assert np.array_equal(
        dift.match(before, after, points, (62, 150)),
        dift.match(7 * before[:, order], 0.1 * after[:, order], points, (62, 150)),
    )


def test_only_the_pixels_asked_for_are_searched(maps, points):
    where = np.zeros((150, 62), bool)
    where[10:20, 30:40] = True
    of_each = np.stack([where, ~where, where[::-1]])

    inside, each = (dift.match(*maps, points, (62, 150), w).astype(int) for w in (where, of_each))

    assert where[inside[:, 1], inside[:, 0]].all()
    assert of_each[range(3), each[:, 1], each[:, 0]].all()
    with pytest.raises(InputError, match=r"where: no pixel is searched for points\[0\]"):
        dift.match(*maps, points, (62, 150), where & ~where)


def test_features_are_the_mean_over_draws_of_noise_at_one_level(smoke, drag_task):
    place = dift.Place(261, 2)
    mean = sd.encode(smoke, torch.from_numpy(np.array(drag_task.image)).permute(2, 0, 1)[None] / 127.5 - 1)
    noise = torch.randn((6, *mean.shape[1:]), generator=torch.Generator().manual_seed(9))
    z = ddim.ddim_move(mean, noise, smoke.abar.new_ones(()), smoke.abar[261])
    cond = sd.embed(smoke, drag_task.prompt)
    with torch.no_grad():
        wanted = torch.cat([features.capture(smoke, one[None], 261, cond, (2,))[0][2] for one in z]).mean(0)

    found = dift.describe(smoke, drag_task.image, drag_task.prompt, place, ensemble=6, seed=9)

    assert torch.allclose(found[0], wanted, atol=1e-5)
    assert found.shape[2:] != found.shape[:1:-1], "90 x 150 pixels, shown as they are"
    square = dift.describe(smoke, drag_task.image, drag_task.prompt, place, 1, side=64)
    assert square.shape[2] == square.shape[3]


def test_an_autoencoder_with_a_distribution_is_drawn_from_as_published_or_gives_its_mean(drag_task):
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4,
    )  # fmt: skip
    parts = clay_model.build("smoke")
    model = sd.assemble(parts.unet, vae, parts.text_encoder, parts.tokenizer, parts.scheduler, device="cpu")
    place = dift.Place(261, 2)

    drawn, mean = (dift.describe(model, drag_task.image, "", place, 2, sample=s) for s in (True, False))

    assert dift.spreads(model) and not dift.spreads(dift.load("clay"))
    assert drawn.shape == mean.shape and not torch.allclose(drawn, mean)


def test_a_picture_matches_itself_point_for_point_under_the_same_noise(smoke, drag_task):
    same = [dift.describe(smoke, drag_task.image, "", dift.Place(81, 3), 2, seed=4) for _ in range(2)]
    points = np.array([[40.0, 45.0], [7.0, 80.0], [136.0, 0.0]])

    assert torch.equal(*same)
    assert np.array_equal(dift.match(*same, points, drag_task.size), points)


def test_a_seed_comes_from_words_alone_and_from_all_of_them():
    assert dift.seed_of("cat", "before") == 8108913663830314482
    assert len({dift.seed_of(*w) for w in (("a", "b"), ("ab",), ("ab", ""), ("b", "a"))}) == 4
    torch.Generator().manual_seed(2**63 - 1)  # the largest there can be


def test_where_features_are_taken_suits_the_model(smoke):
    assert dift.suited(smoke) == (261, 2)
    assert dift.suited(dift.load("clay")) == (81, 3)
    assert dift.load("clay").dtype == torch.float32


@pytest.mark.parametrize(("place", "ensemble"), [((1000, 2), 1), ((-1, 2), 1), ((261, 2), 0)])
def test_a_level_or_a_number_of_draws_that_is_none_is_refused(smoke, drag_task, place, ensemble):
    with pytest.raises(InputError, match=r"ensemble = \d, t = -?\d+"):
        dift.describe(smoke, drag_task.image, "", dift.Place(*place), ensemble)


def test_the_bundled_model_finds_what_a_move_has_carried_off():
    from dragnb.clay import task

    clay = task(830_000, "car", "move")
    model = dift.load("clay")
    maps = [
        dift.describe(model, picture, clay.task.prompt, ensemble=2, seed=k)
        for k, picture in enumerate((clay.task.image, clay.picture_after))
    ]

    found = dift.match(*maps, clay.task.handles, clay.task.size)

    way = np.linalg.norm(clay.task.targets - clay.task.handles)
    assert np.linalg.norm(found - clay.task.targets) < 0.5 * way
