"""Feature maps: which block, early stop, reading between cells, PCA."""

import numpy as np
import pytest
import torch

from dragnb import features, geometry, sd
from dragnb.errors import InputError


@pytest.fixture(scope="module")
def z():
    return torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cond(smoke):
    return sd.embed(smoke, "a cat")


def test_block_three_is_the_output_of_up_blocks_two_after_its_upsampler(smoke, z, cond):
    feats, eps = features.capture(smoke, z, 681, cond, blocks=features.BLOCKS, stop_early=False)
    c = smoke.unet.config.block_out_channels
    shapes = {block: tuple(f.shape[1:]) for block, f in feats.items()}
    assert shapes == {
        0: (c[3], 4, 4),
        1: (c[3], 8, 8),
        2: (c[2], 16, 16),
        3: (c[1], 32, 32),
        4: (c[0], 32, 32),
    }
    assert torch.equal(eps, sd.eps(smoke, z, 681, cond))


def test_stopping_early_changes_neither_features_nor_gradients(smoke, z, cond):
    def look(stop_early):
        x = z.clone().requires_grad_(True)
        feats, eps = features.capture(smoke, x, 681, cond, (2, 3), stop_early)
        (grad,) = torch.autograd.grad(feats[2].square().mean() + feats[3].abs().sum(), x)
        return feats[3].detach(), grad, eps

    early, late = look(True), look(False)
    assert early[2] is None and late[2] is not None
    assert torch.equal(early[0], late[0])
    assert torch.equal(early[1], late[1])


def test_hooks_are_gone_after_a_pass_and_after_an_error(smoke, z, cond):
    def hooks():
        return [len(m._forward_hooks) for m in smoke.unet.modules() if m._forward_hooks]

    features.capture(smoke, z, 681, cond, (0, 4))
    assert not hooks()
    with pytest.raises(Exception):  # noqa: B017
        features.capture(smoke, z[:, :2], 681, cond, (3,))
    assert not hooks()


def test_an_unknown_block_is_named(smoke, z, cond):
    with pytest.raises(InputError, match="block = 5"):
        features.capture(smoke, z, 681, cond, (5,))


def test_reading_on_whole_cells_equals_the_upsampled_map():
    feat = torch.randn(1, 5, 8, 6)
    fine = features.upsample(feat, (32, 18))
    cells = torch.cartesian_prod(torch.arange(32.0), torch.arange(18.0))
    read = features.FeatureMap(feat, (32, 18)).read(cells)
    torch.testing.assert_close(read, fine[0].flatten(1).T, atol=1e-5, rtol=1e-5)


def test_reading_outside_reads_the_border():
    feat = torch.randn(1, 3, 8, 8)
    far = features.FeatureMap(feat, (16, 16)).read(torch.tensor([[-9.0, 3.0], [99.0, 99.0]]))
    near = features.FeatureMap(feat, (16, 16)).read(torch.tensor([[0.0, 3.0], [15.0, 15.0]]))
    assert torch.equal(far, near)


def test_matching_finds_content_that_was_rolled():
    before = torch.randn(1, 16, 12, 12)
    after = before.roll((3, -2), dims=(2, 3))
    points = torch.tensor([[4.0, 6.0], [1.0, 9.0]])
    assert features.match(before, after, points).tolist() == [[7.0, 4.0], [4.0, 7.0]]


def test_pca_shares_one_basis_over_maps():
    a, b = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 4, 5)
    first, second, again = features.pca_rgb([a, b, a])
    assert first.shape == (6, 6, 3) and second.shape == (4, 5, 3)
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    with pytest.raises(InputError, match="one channel count"):
        features.pca_rgb([a, torch.randn(1, 7, 4, 4)])


def test_a_map_gets_the_same_colours_alone_as_among_those_the_basis_is_of():
    a, b = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 4, 5)
    colors = features.pca_colors([a, b])
    np.testing.assert_array_equal(colors(b), features.pca_rgb([a, b])[1])
    assert colors(torch.randn(1, 8, 3, 7)).shape == (3, 7, 3)


def test_between_cells_the_enlarged_maps_own_cells_are_mixed_where_that_is_asked_for():
    cells = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = features.upsample(cells, (20, 28))
    yx = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([19.0, 27.0])
    fine = features.FeatureMap(cells, (20, 28), "fine")

    assert torch.allclose(fine.read(yx), geometry.sample_bilinear(whole, yx), atol=1e-5)
    assert torch.allclose(
        fine.read(yx.round()), features.FeatureMap(cells, (20, 28)).read(yx.round()), atol=1e-6
    )
    assert not torch.allclose(fine.read(yx), features.FeatureMap(cells, (20, 28)).read(yx), atol=1e-3)
    assert fine.detach().between == fine.detach(copy=True).between == "fine"
    with pytest.raises(InputError, match="between"):
        features.FeatureMap(cells, (20, 28), "both")


def test_cells_of_one_thing_are_like_each_other_and_unlike_the_rest():
    feat = 0.1 * torch.randn(1, 16, 6, 8, generator=torch.Generator().manual_seed(0))
    feat[:, :, :, 4:] += torch.randn(1, 16, 1, 1, generator=torch.Generator().manual_seed(1)) * 3

    alike = features.likeness(feat, (2, 6))

    assert alike.shape == (6, 8) and alike.max() == alike[2, 6] == 1
    assert alike[:, 4:].min() > 0.5 and alike[:, :4].max() < 0


def test_a_map_without_any_contrast_is_like_nothing_but_the_cell_itself():
    assert features.likeness(torch.ones(1, 8, 4, 4), (1, 2)).sum() == 1
