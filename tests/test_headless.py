"""Without a browser: the notebooks of the canvas and the studio run from a drag file and leave pictures."""

import base64
import io

import nbformat
import numpy as np
import pytest
import run_notebooks
from PIL import Image

from dragnb import clay, pipeline, store
from dragnb.task import DragTask, read_record
from dragnb.ui import export

QUICK = {"steps": 5, "lora_steps": 2, "lora_batch": 1, "drag_steps": 30, "stop": 0.0}


@pytest.fixture
def rabbit(tmp_path, monkeypatch):
    """A drag file; what the notebooks keep goes to a cache of their own."""
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "cache"))
    return clay.task(810001, "rabbit", "stretch").task.save(tmp_path / "rabbit.zip")


def pictures(path):
    """All pictures in an executed notebook."""
    outputs = [o for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs]
    found = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(png))) for png in found]


def run(tmp_path, *arguments):
    assert run_notebooks.main(["--out", str(tmp_path / "out"), *arguments]) == 0


def test_picking_takes_a_drag_file_and_leaves_pictures_of_the_picks(rabbit, tmp_path):
    run(tmp_path, "--only", "04", "-p", "task", str(rabbit))
    assert len(pictures(tmp_path / "out" / "04_pick_points.ipynb")) >= 3
    picked, task = DragTask.load(next((tmp_path / "out" / "picked").iterdir())), DragTask.load(rabbit)
    assert picked.handles.tolist() == task.handles.tolist() and (picked.mask == task.mask).all()


def test_the_studio_takes_a_drag_file_and_leaves_pictures_of_picks_and_result(rabbit, smoke_folder, tmp_path):
    model = ["-p", "model", str(smoke_folder), "-p", "profile", "fast", "-p", "settings", repr(QUICK)]
    run(tmp_path, "--only", "10", "-p", "task", str(rabbit), *model)
    assert len(pictures(tmp_path / "out" / "10_studio.ipynb")) >= 5
    (saved,) = (tmp_path / "out" / "studio").glob("*.png")
    task, first = (
        DragTask.load(rabbit),
        read_record(saved)["began"]["of"],
    )  # it saves a branch of the first drag
    assert np.allclose(first["pairs"], np.stack([task.handles, task.targets], 1))


def test_open_as_notebook_repeats_the_drag_to_the_bit(
    smoke, smoke_folder, quick, drag_task, kept, tmp_path, monkeypatch
):
    papermill = pytest.importorskip("papermill", reason="papermill is missing")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "cache"))
    result = pipeline.edit(drag_task, smoke, quick, kept)
    book = export.save_notebook(tmp_path / "drag.ipynb", result, str(smoke_folder))
    papermill.execute_notebook(str(book), str(tmp_path / "ran.ipynb"), cwd=str(tmp_path), progress_bar=False)
    (after,) = tmp_path.rglob("after.png")
    assert np.array_equal(np.asarray(Image.open(after)), result.image)
