"""Points, masks and pictures go to the canvas and come back where they were."""

import dataclasses

import numpy as np
import pytest
import torch

from dragnb.errors import InputError
from dragnb.geometry import Frame, keep_outside, sample_bilinear

SIZES = [(256, 256), (512, 341), (123, 457), (60, 500), (1, 1), (640, 360)]


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_picture(width, height):
    y, x = np.mgrid[:height, :width] / max(width, height)
    return (np.stack([x, y, (x + y) / 2], -1) * 255).astype(np.uint8)


def test_a_picture_of_the_models_own_size_passes_through_unchanged_to_the_bit():
    rgb = picture(256, 256)
    frame = Frame.fit(256, 256, side=256)

    assert np.array_equal(frame.from_canvas(frame.to_canvas(rgb)), rgb)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_any_picture_fits_a_canvas_of_multiples_of_64_and_is_never_cropped(width, height):
    frame = Frame.fit(width, height, side=256)
    canvas = frame.to_canvas(picture(width, height))

    assert canvas.shape == (1, 3, frame.canvas_height, frame.canvas_width)
    assert frame.canvas_width % 64 == frame.canvas_height % 64 == 0
    assert max(frame.inner_width, frame.inner_height) == 256
    assert frame.inner_width <= frame.canvas_width < frame.inner_width + 64
    assert -1 <= canvas.min() and canvas.max() <= 1
    assert frame.from_canvas(canvas).shape == (height, width, 3)


def test_a_smooth_picture_survives_scaling_there_and_back():
    rgb = smooth_picture(600, 400)
    frame = Frame.fit(600, 400, side=512)

    back = frame.from_canvas(frame.to_canvas(rgb))

    assert np.abs(back.astype(int) - rgb).max() <= 3


def test_the_padding_repeats_the_edge_of_the_picture():
    frame = Frame.fit(256, 150, side=256)
    canvas = frame.to_canvas(picture(256, 150))

    assert frame.canvas_height == 192
    assert torch.equal(canvas[:, :, 150:], canvas[:, :, 149:150].expand(-1, -1, 42, -1))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("cells", [8, 32, 128])
def test_points_come_back_to_the_pixel_they_left(width, height, cells):
    frame = Frame.fit(width, height, side=256)
    map_hw = (cells * frame.canvas_height // 64, cells * frame.canvas_width // 64)
    middle = [[width / 2, height / 2], [width * 0.4, height * 0.6]]

    yx = frame.xy_to_yx(middle, map_hw)
    xy = frame.yx_to_xy(yx, map_hw)

    room = torch.tensor([width, height]) - 1
    assert torch.allclose(xy, torch.minimum(torch.tensor(middle), room), atol=1e-3 * max(width, height))


def test_a_half_resolution_map_sees_a_pixel_a_quarter_cell_before_half_its_index():
    frame = Frame.fit(512, 512, side=512)

    assert frame.xy_to_yx([[100, 41]], (256, 256)).tolist() == [[41 / 2 - 0.25, 100 / 2 - 0.25]]


def test_the_conversion_is_torchs_own_align_corners_false():
    frame = Frame.fit(64, 64, side=64)
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    small = torch.nn.functional.interpolate(ramp, size=(16, 16), mode="bilinear", align_corners=False)

    at = frame.xy_to_yx([[30.0, 9.0]], (16, 16))

    assert sample_bilinear(small, at).item() == pytest.approx(30.0)


@pytest.mark.parametrize("xy", [(0, 0), (255, 0), (0, 255), (511, 511), (511, 3)])
def test_points_on_the_border_stay_inside_the_map(xy):
    yx = Frame.fit(512, 512, side=512).xy_to_yx([xy], (256, 256))

    assert yx.min() >= 0 and yx.max() <= 255


def test_a_stroke_one_pixel_thin_still_frees_the_cells_it_touches():
    mask = np.zeros((512, 512), bool)
    mask[:, 200] = True

    cells = Frame.fit(512, 512, side=256).mask_to_canvas(mask, 32, 32)

    assert cells.shape == (1, 1, 32, 32)
    assert cells[0, 0].sum(1).tolist() == [1.0] * 32
    assert cells[0, 0, :, 200 // 16].all()


def test_a_full_mask_frees_the_picture_and_never_the_padding():
    cells = Frame.fit(256, 128 + 8, side=256).mask_to_canvas(np.ones((136, 256), bool), 24, 32)

    assert cells[0, 0, :17].all()
    assert not cells[0, 0, 17:].any()


@pytest.mark.parametrize("mask", [None, np.zeros((100, 256), bool)])
def test_an_empty_mask_frees_everything(mask):
    assert Frame.fit(256, 100, side=256).mask_to_canvas(mask, 16, 32).all()


@pytest.mark.parametrize("y", [0, 63, 64, 127])
def test_a_masked_pixel_frees_exactly_its_own_cell(y):
    mask = np.zeros((128, 128), bool)
    mask[y, 77] = True

    cells = Frame.fit(128, 128, side=128).mask_to_canvas(mask, 16, 16)

    assert cells[0, 0].nonzero().tolist() == [[y // 8, 77 // 8]]


def test_reading_at_whole_cells_gives_the_cells_themselves():
    feat = torch.randn(1, 5, 6, 7)
    yx = torch.tensor([[0.0, 0.0], [5.0, 6.0], [2.0, 3.0]])

    assert torch.equal(sample_bilinear(feat, yx), feat[0, :, [0, 5, 2], [0, 6, 3]].T)


def test_reading_between_cells_agrees_with_grid_sample():
    feat, yx = torch.randn(1, 3, 9, 11), torch.rand(4, 5, 2) * torch.tensor([8.0, 10.0])
    unit = (yx + 0.5) / torch.tensor([9.0, 11.0]) * 2 - 1
    wanted = torch.nn.functional.grid_sample(feat, unit.flip(-1)[None], align_corners=False)

    assert torch.allclose(sample_bilinear(feat, yx), wanted[0].movedim(0, -1), atol=1e-5)


def test_reading_outside_the_map_reads_its_border():
    feat = torch.randn(1, 2, 4, 4)
    outside, border = torch.tensor([[-3.0, 9.0]]), torch.tensor([[0.0, 3.0]])

    assert torch.equal(sample_bilinear(feat, outside), sample_bilinear(feat, border))


def test_reading_lets_gradients_through_to_the_map():
    feat = torch.randn(1, 2, 4, 4, requires_grad=True)

    sample_bilinear(feat, torch.tensor([[1.25, 2.5]])).sum().backward()

    assert feat.grad[0, 0].sum() == pytest.approx(1.0)
    assert feat.grad[0, 0, 1, 2] == pytest.approx(0.75 * 0.5)


def test_impossible_sizes_are_named():
    with pytest.raises(InputError, match=r"side = 250 is not a positive multiple of 64; use 256"):
        Frame.fit(10, 10, side=250)
    with pytest.raises(InputError, match=r"0×5 pixels"):
        Frame.fit(0, 5)
    frame = Frame.fit(20, 10)
    with pytest.raises(InputError, match=r"image is 10×20, the frame was made for 20×10"):
        frame.to_canvas(picture(10, 20))
    with pytest.raises(InputError, match=r"mask is 4×4, the frame was made for 20×10"):
        frame.mask_to_canvas(np.ones((4, 4), bool), 8, 8)
    with pytest.raises(InputError, match=r"canvas has shape \(1, 3, 8, 8\)"):
        frame.from_canvas(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("width", "height", "inner"), [(512, 341, (512, 341)), (640, 360, (512, 288)), (90, 160, (512, 910))]
)
def test_a_fit_to_the_width_is_the_public_codes_size_and_pads_nothing(width, height, inner):
    frame = Frame.fit(width, height, side=512, fit="width")

    assert (frame.inner_width, frame.inner_height) == (frame.canvas_width, frame.canvas_height) == inner
    canvas = frame.to_canvas(smooth_picture(width, height))
    assert canvas.shape == (1, 3, inner[1], inner[0])
    # a decoder makes whole cells of 8 pixels, which are stretched back
    decoded = canvas[:, :, : inner[1] // 8 * 8]
    back = frame.from_canvas(decoded)
    assert back.shape == (height, width, 3)
    with pytest.raises(InputError, match="canvas"):
        frame.from_canvas(canvas[:, :, : inner[1] // 8 * 8 - 8])


def test_a_native_fit_is_the_picture_as_it_is():
    rgb = picture(200, 101)
    frame = Frame.fit(200, 101, side=512, fit="native")

    assert np.array_equal(frame.from_canvas(frame.to_canvas(rgb)), rgb)


def test_fits_that_cannot_be_are_refused_by_name():
    with pytest.raises(InputError, match="'width'"):
        Frame.fit(10, 10, fit="widht")
    with pytest.raises(InputError, match="longer"):
        Frame.fit(2000, 16, side=512, fit="width")


def test_whole_points_are_the_public_codes_pixel_number_scaled_and_rounded_half_to_even():
    frame = Frame.fit(512, 512, side=512)

    cells = frame.xy_to_yx([[100, 41], [3, 1], [511, 511]], (256, 256), whole=True)

    assert cells.tolist() == [
        [20, 50],
        [0, 2],
        [255, 255],
    ]  # there the last is 256, off the map, and it crashes


def test_a_mask_by_nearest_pixels_is_read_twice_and_may_lose_a_thin_stroke():
    frame = Frame.fit(64, 64, side=64)
    corner, thin, both = np.zeros((3, 64, 64), bool)
    corner[8, 16] = thin[:, 5] = both[8, 16] = both[:, 5] = True

    def cells(mask):
        return frame.mask_to_canvas(mask, 8, 8, via=(32, 32))[0, 0]

    assert cells(corner).nonzero().tolist() == [[1, 2]], "the cell's top left pixel decides"
    assert torch.equal(cells(both), cells(corner)), "the stroke lies between the pixels that are read"
    assert cells(thin).all(), "nothing is left of it: an empty mask, which frees everything"
    assert frame.mask_to_canvas(thin, 8, 8)[0, 0].sum() == 8, "by touch it frees a column"


@pytest.mark.parametrize("feather", [0, 6, 40])
def test_the_original_is_kept_outside_the_mask_to_the_bit_and_the_edit_inside_fades_in(drag_task, feather):
    edit = 255 - drag_task.image
    kept = keep_outside(drag_task, edit, feather)
    assert (kept[~drag_task.mask] == drag_task.image[~drag_task.mask]).all()
    assert (kept[45, 75] == edit[45, 75]).all(), "the middle of the mask is the edit's own"
    changed = np.abs(kept.astype(int) - drag_task.image).max(2)[15:45, 75]
    full = np.abs(edit.astype(int) - drag_task.image).max(2)[15:45, 75]
    share = changed / np.maximum(full, 1)
    assert (np.diff(share[full > 100]) >= -0.02).all(), "it only rises towards the middle"


def test_a_stroke_thinner_than_the_soft_edge_is_not_lost_and_an_empty_mask_keeps_the_edit(drag_task):
    thin = np.zeros_like(drag_task.mask)
    thin[40:43, 10:100] = True
    edit = 255 - drag_task.image
    kept = keep_outside(dataclasses.replace(drag_task, mask=thin), edit, 30)
    assert (kept[41, 20:90] == edit[41, 20:90]).all()
    assert keep_outside(dataclasses.replace(drag_task, mask=None), edit, 30) is edit


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_maps_values_come_to_where_their_cells_lie_on_the_picture(width, height):
    frame = Frame.fit(width, height, side=256)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    hw = frame.canvas_height // 8, frame.canvas_width // 8
    values = (x[: hw[0], : hw[1]] / 16 - 1).numpy()
    seen = frame.map_to_picture(values)
    middle = width // 2, height // 2
    (cell,) = frame.xy_to_yx([middle], hw)

    assert seen.shape == (height, width)
    assert abs(seen[middle[::-1]] - (float(cell[1]) / 16 - 1)) < 0.06
