"""What leaves the studio can be read again, is there as a whole or not at all, and an error says what to do."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dragnb import config
from dragnb.drag import DragState
from dragnb.errors import InputError
from dragnb.pipeline import Result
from dragnb.task import DragTask, provenance, read_record
from dragnb.ui import export, frames


@pytest.fixture
def result(drag_task):
    """An edit that nobody had to wait for."""
    z = torch.zeros(1, 4, 8, 8)
    state = DragState(0, 0.5, 0.5, 0.0, torch.zeros(1, 2), torch.ones(1), False, z)
    settings = config.profile("clay", lam=0.5, ref_blocks=(2, 3))
    record = {
        "settings": settings.as_dict(),
        "seed": 42,
        "model": {"name": "smoke", "hash": "ab"},
        "side": 256,
    }
    record |= {"t": 601, "prompt": "eine Katze, größer"}
    tracks = drag_task.handles[None]
    image = drag_task.image[::-1].copy()
    return Result(image, drag_task, settings, None, (state,), tracks, z, {}, frozenset(), record)


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_picture_carries_its_drag_and_its_record(result, tmp_path):
    path = export.save_png(tmp_path / "new" / "cat.png", result)

    task, record = DragTask.load(path), read_record(path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), result.image)
    np.testing.assert_array_equal(task.image, result.task.image)
    np.testing.assert_array_equal(task.mask, result.task.mask)
    assert task.handles.tolist() == result.task.handles.tolist() and task.prompt == result.task.prompt
    assert record == json.loads(json.dumps(result.record))
    assert config.Settings(**record["settings"]) == result.settings


def test_a_picture_without_a_record_or_with_a_broken_drag_file_is_named(tmp_path, drag_task):
    plain, broken, text = (tmp_path / name for name in ("plain.png", "broken.png", "text.png"))
    Image.fromarray(drag_task.image).save(plain)
    Image.fromarray(drag_task.image).save(broken, pnginfo=provenance(b"no zip", {"a": 1}))
    text.write_text("no picture")

    for path in (plain, broken, text):
        with pytest.raises(InputError, match="nor a PNG that an edit made"):
            DragTask.load(path)
    for path in (plain, text, tmp_path / "none.png"):
        with pytest.raises(InputError, match="carries no record"):
            read_record(path)
    assert read_record(broken) == {"a": 1}


@pytest.mark.parametrize("kind", ["png", "gif", "ipynb"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(kind, result, tmp_path, monkeypatch):
    path = tmp_path / f"cat.{kind}"
    path.write_text("the old one")
    monkeypatch.setattr(os, "fsync", full)
    save = {
        "png": lambda: export.save_png(path, result),
        "gif": lambda: frames.save_gif(path, [result.image] * 2),
        "ipynb": lambda: export.save_notebook(path, result),
    }
    named = "cat.zip" if kind == "ipynb" else path.name  # a notebook's drag file lies beside it
    remedy = "export to another folder|save the task elsewhere"
    with pytest.raises(
        InputError, match=rf"{named} cannot be written \(No space left on device\); ({remedy})"
    ):
        save[kind]()
    assert path.read_text() == "the old one" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_notebook_repeats_the_drag_by_its_parameters(result, tmp_path):
    book = json.loads(export.save_notebook(tmp_path / "cat.ipynb", result, "sd15").read_text())
    original = json.loads(export.QUICKSTART.read_text())

    (cell,) = (c for c in book["cells"] if "parameters" in c["metadata"].get("tags", []))
    (before,) = (c for c in original["cells"] if "parameters" in c["metadata"].get("tags", []))
    found, usual = {}, {}
    exec(cell["source"], found)
    exec("".join(before["source"]), usual)
    assert config.profile(found["profile"], **found["settings"]) == result.settings
    assert (found["model"], found["side"], found["out"]) == ("sd15", 256, str(tmp_path))
    assert DragTask.load(found["task"]).handles.tolist() == result.task.handles.tolist()
    assert found.keys() == usual.keys() and found["clay_seed"] == usual["clay_seed"]
    comments = [line.partition("  # ")[2] for line in cell["source"].split("\n")]
    assert comments == [line.partition("  # ")[2] for line in "".join(before["source"]).split("\n")]
    assert not any(c.get("outputs") for c in book["cells"])


def test_the_notebook_can_be_read_by_papermill(result, tmp_path):
    papermill = pytest.importorskip("papermill", reason="papermill is missing")
    found = papermill.inspect_notebook(str(export.save_notebook(tmp_path / "cat.ipynb", result)))
    assert found["profile"]["default"] == "'clay'" and found["task"]["help"].startswith("a drag file")


def test_without_the_repository_there_is_no_notebook_and_that_is_said(result, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "QUICKSTART", tmp_path / "gone.ipynb")
    with pytest.raises(InputError, match=r"gone\.ipynb is missing; work from a clone"):
        export.save_notebook(tmp_path / "cat.ipynb", result)
