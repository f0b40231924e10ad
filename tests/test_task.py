"""A drag file says what to drag; whatever is wrong with one is named, and nothing is lost."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dragnb.errors import InputError
from dragnb.task import DragTask, pair_up, read_image, read_mask

W, H = 40, 30


def picture(width=W, height=H, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def square_mask():
    mask = np.zeros((H, W), bool)
    mask[5:20, 5:30] = True
    return mask


def a_task(**changes):
    fields = {
        "image": picture(),
        "handles": [[10, 12], [6.5, 7.25]],
        "targets": [[20, 12], [9, 9]],
        "mask": square_mask(),
        "prompt": "a cat",
        "name": "cat",
    }
    return DragTask(**{**fields, **changes})


def saved(tmp_path, **json_changes):
    """The folder of a good task, with some fields of its task.json changed (None removes one)."""
    folder = a_task().save(tmp_path / "task")
    data = json.loads((folder / "task.json").read_text()) | json_changes
    data = {name: value for name, value in data.items() if value is not None}
    (folder / "task.json").write_text(json.dumps(data))
    return folder


def assert_same(one, other):
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.handles, other.handles) and np.array_equal(one.targets, other.targets)
    assert (one.mask is None) == (other.mask is None)
    assert one.mask is None or np.array_equal(one.mask, other.mask)
    assert (one.prompt, one.name, one.size) == (other.prompt, other.name, other.size)


# what comes back


@pytest.mark.parametrize("name", ["folder", "task.zip"])
@pytest.mark.parametrize("mask", [None, square_mask()])
def test_a_task_comes_back_from_disk_as_it_was(tmp_path, name, mask):
    task = a_task(mask=mask, prompt="eine Katze, 猫")

    assert_same(DragTask.load(task.save(tmp_path / name)), task)


def test_the_file_is_what_the_format_says(tmp_path):
    folder = a_task().save(tmp_path / "task")

    assert json.loads((folder / "task.json").read_text()) == {
        "schema": 1,
        "size": [W, H],
        "pairs": [
            {"handle": [10, 12], "target": [20, 12]},
            {"handle": [6.5, 7.25], "target": [9, 9]},
        ],
        "prompt": "a cat",
        "name": "cat",
    }
    assert sorted(p.name for p in folder.iterdir()) == ["image.png", "mask.png", "task.json"]


def test_a_zip_of_the_folder_itself_is_read_too(tmp_path):
    a_task().save(tmp_path / "task")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for name in ("task.json", "image.png", "mask.png"):
            archive.write(tmp_path / "task" / name, f"task/{name}")
        archive.writestr("__MACOSX/task.json", "rubbish")
        archive.writestr("../../escape.png", "rubbish")

    assert_same(DragTask.load(tmp_path / "t.zip"), a_task())


def test_a_task_without_a_name_takes_that_of_its_file(tmp_path):
    assert DragTask.load(a_task(name="").save(tmp_path / "bear.zip")).name == "bear"


def test_a_task_keeps_copies_that_nobody_can_change():
    image = picture()
    task = a_task(image=image)
    image[:] = 0

    assert task.image.any()
    with pytest.raises(ValueError, match="read-only"):
        task.handles[0, 0] = 1


def test_clicks_are_paired_in_turn():
    handles, targets = pair_up([[1, 2], [3, 4], [5, 6], [7, 8]])

    assert handles.tolist() == [[1, 2], [5, 6]]
    assert targets.tolist() == [[3, 4], [7, 8]]


# saving


def test_saving_again_replaces_the_task_and_keeps_other_files(tmp_path):
    folder = a_task().save(tmp_path / "task")
    (folder / "result.png").write_bytes(b"mine")
    (folder / "older").mkdir()
    (folder / "older" / "mask.png").write_bytes(b"mine too")

    a_task(mask=None, prompt="new").save(folder)

    assert DragTask.load(folder).prompt == "new"
    assert DragTask.load(folder).mask is None, "the old mask went with the old task"
    assert (folder / "result.png").read_bytes() == b"mine"
    assert (folder / "older" / "mask.png").read_bytes() == b"mine too"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["task", "task.zip"])
def test_a_save_that_fails_half_way_leaves_the_old_task(tmp_path, monkeypatch, name):
    path = a_task().save(tmp_path / name)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        InputError, match=r"cannot be written \(No space left on device\); save the task else"
    ):
        a_task(prompt="new").save(path)

    assert_same(DragTask.load(path), a_task())
    assert list(tmp_path.iterdir()) == [path], "no scraps are left"


def test_a_rename_that_fails_puts_the_old_task_back(tmp_path, monkeypatch):
    path, replace = a_task().save(tmp_path / "task"), os.replace

    def refuse(source, target):
        if str(source).endswith(".tmp"):
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        a_task(prompt="new").save(path)

    assert_same(DragTask.load(path), a_task())


def test_a_folder_of_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="is a folder with other things in it; save the task to a new one"):
        a_task().save(tmp_path)
    with pytest.raises(InputError, match="is a file; a task is saved to a folder"):
        a_task().save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


# points, mask, prompt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": [[W, 12], [9, 9]]},
            r"pairs\[0\]\.target = \[40, 12\] lies outside the 40×30 image: x goes fr",
        ),
        ({"handles": [[10, 12], [6, -0.5]]}, r"pairs\[1\]\.handle = \[6, -0\.5\] lies outside"),
        ({"handles": [[10, 12], [6, float("nan")]]}, r"pairs\[1\]\.handle = \[6, nan\] lies outside"),
        (
            {"targets": [[20, 12], [6.5, 7.25]]},
            r"pairs\[1\]: handle and target are both \[6\.5, 7\.25\]; there is",
        ),
        ({"handles": [], "targets": []}, r"pairs: there are none; pick at least one handle and its target"),
        ({"handles": [[1, 2]]}, r"pairs: 1 handles and 2 targets; every handle needs its target"),
        ({"handles": [1, 2]}, r"handles has shape \(2,\), not \(n, 2\)"),
        ({"handles": "here"}, r"handles = 'here' are not points"),
        ({"mask": np.ones((H, W + 1), bool)}, r"mask is 41×30, the picture 40×30; paint the mask on"),
        ({"mask": np.ones(7, bool)}, r"mask is of shape \(7,\)"),
        ({"image": picture().astype(float)}, r"image is float64 of shape .* not a uint8 array .*read_image"),
        ({"image": "cat.png"}, r"image is str, not a uint8 array"),
        ({"image": picture(1, 1)}, r"image is 1×1 pixels; both sides must have 16 or more"),
        ({"prompt": None}, r"prompt = None is not text"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_the_remedy(changes, message):
    with pytest.raises(InputError, match=message):
        a_task(**changes)


def test_an_odd_number_of_points_is_refused():
    with pytest.raises(
        InputError, match=r"points: 3 points are an odd number; every handle needs its target"
    ):
        pair_up([[1, 2], [3, 4], [5, 6]])


def test_a_sound_task_has_nothing_to_warn_about():
    assert a_task().warnings() == []


@pytest.mark.parametrize("mask", [None, np.zeros((H, W), bool)])
def test_an_empty_mask_means_the_whole_picture_is_free_and_says_so(mask):
    task = a_task(mask=mask)

    assert task.free
    assert task.warnings() == ["no mask: the whole picture may change; paint what may, and the rest is held"]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"mask": np.ones((H, W), bool)}, "the mask covers everything: nothing is held in place"),
        (
            {"handles": [[10, 12], [1, 29]]},
            "pair 2: its handle lies outside the mask, so it is held in place",
        ),
        (
            {"prompt": "cat " * 500},
            "the prompt has about 500 tokens; the model reads 75, and the rest is cut off",
        ),
    ],
)
def test_what_may_not_be_meant_is_a_warning(changes, warning):
    assert a_task(**changes).warnings() == [warning]


@pytest.mark.parametrize(
    ("mask", "handles", "sentence"),
    [
        (
            np.arange(H * W).reshape(H, W) > 40,
            [[5, 5]],
            "the mask frees 96.6% of the picture: is it inverted?",
        ),
        (~square_mask(), [[10, 12]], "no handle lies inside the mask: is it inverted, or of another drag?"),
        (
            np.arange(H * W).reshape(H, W) == 6 * W + 6,
            [[6, 6]],
            "the mask frees one pixel of the picture alone",
        ),
    ],
)
def test_a_mask_that_looks_inverted_or_stale_is_asked_about(mask, handles, sentence):
    task = a_task(mask=mask, handles=handles, targets=[[20, 20]])

    assert any(said.startswith(sentence) for said in task.warnings())


@pytest.mark.parametrize("prompt", ["猫" * 80, "собака" * 20, "ก" * 90, "1" * 76, "word " * 76])
def test_a_prompt_that_is_too_long_is_said_in_any_script(prompt):
    (said,) = a_task(prompt=prompt).warnings()

    assert said.endswith("tokens; the model reads 75, and the rest is cut off")


# task.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [W + 1, H]}, r"task\.json: size is 41×30, image\.png is 40×30"),
        ({"size": 40}, r"task\.json: size = 40 is not \[width, height\]"),
        ({"schema": 2}, r"task\.json: schema = 2; this version reads 1"),
        ({"schema": None}, r"task\.json: schema is missing"),
        ({"pairs": None}, r"task\.json: pairs is missing"),
        ({"pairs": []}, r"task\.json: pairs: there are none"),
        ({"pairs": [{"handle": [1, 2]}]}, r"task\.json: pairs\[0\]\.target = None is not \[x, y\]"),
        ({"pairs": [[1, 2]]}, r"task\.json: pairs\[0\]\.handle = None is not"),
        (
            {"pairs": [{"handle": [1, True], "target": [3, 4]}]},
            r"pairs\[0\]\.handle = \[1, True\] is not \[x, y\]",
        ),
        (
            {"pairs": [{"handle": [1, 2], "target": [53, 12]}]},
            r"task\.json: pairs\[0\]\.target = \[53, 12\] lies outside the 40×30 image",
        ),
        ({"promt": "a cat"}, r"task\.json: unknown field 'promt'; did you mean 'prompt'\?"),
        ({"prompt": 7}, r"task\.json: prompt = 7 is not text"),
    ],
)
def test_a_wrong_field_of_the_json_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        DragTask.load(saved(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"), [("{oops", r"cannot be read \(no JSON: Expecting"), ("[1]", "holds a list")]
)
def test_a_json_that_is_none_is_named(tmp_path, text, message):
    folder = saved(tmp_path)
    (folder / "task.json").write_text(text)

    with pytest.raises(InputError, match=f"task.json {message}"):
        DragTask.load(folder)


def test_a_task_that_is_not_there_or_not_whole_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        DragTask.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"task\.json does not exist; a task is a folder or zip with"):
        DragTask.load(tmp_path)
    (saved(tmp_path) / "image.png").unlink()
    with pytest.raises(InputError, match=r"image\.png: .*image\.png does not exist"):
        DragTask.load(tmp_path / "task")


def test_a_damaged_zip_is_named(tmp_path):
    path = a_task().save(tmp_path / "t.zip")
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"t\.zip is neither a folder nor a whole zip file"):
        DragTask.load(path)

    whole[60:90] = bytes(30)
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"t\.zip cannot be unpacked .*write the zip again"):
        DragTask.load(path)


def test_a_mask_of_another_size_is_named(tmp_path):
    folder = saved(tmp_path)
    Image.new("L", (W, H + 1)).save(folder / "mask.png")

    with pytest.raises(
        InputError, match=r"mask\.png is 40×31, the picture 40×30; paint the mask on the picture"
    ):
        DragTask.load(folder)


# pictures


def test_a_picture_turned_by_its_exif_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right by a quarter
    upright = picture()
    Image.fromarray(np.rot90(upright)).save(tmp_path / "p.png", exif=exif)

    assert np.array_equal(read_image(tmp_path / "p.png"), upright)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pictures_of_every_kind_become_rgb(tmp_path, mode):
    grey = np.full((H, W), 255, np.uint8)
    grey[:, : W // 2] = 0
    if mode == "I;16":
        source = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        source = Image.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("p.tif" if mode in ("CMYK", "YCbCr") else "p.png")
    source.save(path)

    rgb = read_image(path)

    assert rgb.shape == (H, W, 3) and rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - grey[..., None]).max() <= 1


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((H, W, 4), np.uint8)
    rgba[:, :10, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "p.png")

    rgb = read_image(tmp_path / "p.png")

    assert not rgb[:, :10].any() and (rgb[:, 10:] == 255).all()


def test_an_animation_is_refused_with_its_number_of_frames(tmp_path):
    frames = [Image.fromarray(picture(seed=k)) for k in range(3)]
    frames[0].save(tmp_path / "p.gif", save_all=True, append_images=frames[1:])

    with pytest.raises(InputError, match=r"image: .*p\.gif holds 3 frames; save one of them as a PNG"):
        read_image(tmp_path / "p.gif")


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "p.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"image: .*p\.png cannot be read as a picture .*save it as a PNG"):
        read_image(tmp_path / "p.png")
    with pytest.raises(InputError, match=r"image: .*none\.png does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"image: .* is a folder, not a picture"):
        read_image(tmp_path)


def test_half_a_picture_is_named(tmp_path):
    Image.fromarray(picture(200, 200)).save(tmp_path / "p.jpg")
    (tmp_path / "p.jpg").write_bytes((tmp_path / "p.jpg").read_bytes()[:3000])

    with pytest.raises(InputError, match=r"p\.jpg cannot be read as a picture"):
        read_image(tmp_path / "p.jpg")


def test_a_tiny_picture_and_one_of_floats_are_named(tmp_path):
    Image.fromarray(picture(1, 1)).save(tmp_path / "p.png")
    with pytest.raises(InputError, match=r"image is 1×1 pixels; both sides must have 16 or more"):
        read_image(tmp_path / "p.png")
    Image.fromarray(np.zeros((H, W), np.float32)).save(tmp_path / "p.tif")
    with pytest.raises(InputError, match=r"image has floating-point values; save it with 8 bits"):
        read_image(tmp_path / "p.tif")


@pytest.mark.parametrize("side", [8_100, 14_000])
def test_a_huge_picture_is_named_before_it_is_read(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "p.png")

    with pytest.raises(InputError, match=r"huge|image is 8100×8100 pixels; scale it down to 64 Mpx or fewer"):
        read_image(tmp_path / "p.png")


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "I;16"])
def test_a_mask_is_whatever_is_painted(tmp_path, mode):
    wanted = square_mask()
    if mode == "RGBA":
        rgba = np.zeros((H, W, 4), np.uint8)
        rgba[wanted] = (255, 0, 0, 90)
        source = Image.fromarray(rgba)
    elif mode == "I;16":
        source = Image.fromarray(wanted.astype(np.uint16))
    else:
        source = Image.fromarray(wanted.astype(np.uint8) * 255).convert(mode)
    source.save(tmp_path / "m.png")

    assert np.array_equal(read_mask(tmp_path / "m.png", (W, H)), wanted)


def test_an_unnamed_drag_replaces_no_other_and_a_named_one_its_own(tmp_path):
    first, second, named = a_task(name=""), a_task(name="", prompt="a dog"), a_task(name="cat")

    places = [task.save(task.place(tmp_path)).name for task in (first, second, first, second, named, named)]

    assert places == ["drag", "drag-2", "drag", "drag-2", "cat", "cat"]
    assert DragTask.load(tmp_path / "drag").prompt == first.prompt
