"""A picture stands for picker and studio where no kernel runs: on the web, and once the kernel has ended."""

import base64
import io
from types import SimpleNamespace

import nbformat
import notebook_outputs
import numpy as np
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

pytest.importorskip("ipycanvas", reason="ipycanvas is missing: pip install 'dragnb[widgets]'")

from dragnb import viz
from dragnb.ui import Picker, Studio, frames

CELLS = (
    "from dragnb import config\nfrom dragnb.task import DragTask\nfrom dragnb.store import Store\n"
    "from dragnb.ui import Studio\n"
    'quick = config.profile("fast", steps=5, lora_steps=1, lora_rank=2, lora_batch=1, drag_steps=1)\n'
    "studio = Studio(DragTask.load({drag!r}), {model!r}, quick, store=Store({cache!r}))",
    "studio",
    "studio.run()\nassert studio.session.wait(120) and studio.session.problem is None, studio.session.problem",
)


@pytest.fixture
def displayed(monkeypatch):
    """What cells have shown, by its number: the newest of each."""
    outputs = {}

    def display(data, metadata=None, raw=False, display_id=None):
        assert raw and display_id
        number = len(outputs)
        outputs[number] = data
        return SimpleNamespace(update=lambda data, **_: outputs.__setitem__(number, data))

    monkeypatch.setattr("IPython.display.display", display)
    return outputs


def png(output) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(output["image/png"])))


def test_the_picker_shows_a_widget_and_a_picture_that_follows_the_picks(displayed, drag_task):
    picker = Picker(drag_task.image)
    picker._ipython_display_()
    own, hidden = displayed[0], displayed[1]
    assert own[notebook_outputs.WIDGET]["model_id"] == picker.widget.model_id and png(own).width == 450
    assert f'class="{frames.STILL}"' in hidden["text/html"]
    picker.picks.set_points([(20, 30), (60, 30)])
    assert displayed[0]["image/png"] != own["image/png"], "no page has drawn it: its own output follows"
    assert displayed[1]["text/html"] != hidden["text/html"]

    picker._redraw()  # a page is there
    own, hidden = displayed[0], displayed[1]
    picker.picks.set_points([(20, 30), (60, 60)])
    assert displayed[0] is own, "a page that shows the widget is not made to draw it anew"
    assert displayed[1]["text/html"] != hidden["text/html"]


def test_a_closed_studio_leaves_its_picture_alone(displayed, drag_task, smoke):
    studio = Studio(drag_task, smoke)
    studio._ipython_display_()
    assert notebook_outputs.WIDGET in displayed[0]
    studio.close()
    assert displayed[0].keys() == {"image/png", "text/plain"} and displayed[1] == {"text/plain": ""}


def test_a_notebook_that_papermill_ran_keeps_the_result_and_its_commit_no_widget(
    drag_task, smoke_folder, tmp_path
):
    given = {
        "drag": str(drag_task.save(tmp_path / "drag")),
        "model": str(smoke_folder),
        "cache": str(tmp_path / "cache"),
    }
    book = new_notebook(cells=[new_code_cell(CELLS[0].format(**given)), *map(new_code_cell, CELLS[1:])])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "book.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "book.ipynb"), str(tmp_path / "made.ipynb"), progress_bar=False, start_timeout=300
    )

    made = nbformat.read(tmp_path / "made.ipynb", 4)
    own, hidden = made.cells[1].outputs
    assert notebook_outputs.WIDGET in own.data and frames.STILL in hidden.data["text/html"]
    assert png(own.data).width > 800, "picked and result, side by side"
    notebook_outputs.clean(made, tmp_path)
    (left,) = made.cells[1].outputs
    assert left.data.keys() == {"image/png", "text/plain"} and left.metadata["image/png"]["alt"]


def test_an_arrow_goes_from_its_circle_to_its_square():
    drawn = frames.arrows(np.full((64, 128, 3), 200, np.uint8), [(20, 30)], [(100, 30)])
    scale = drawn.shape[1] / 128

    def at(x, y):
        return "#{:02X}{:02X}{:02X}".format(*drawn[int((y + 0.5) * scale), int((x + 0.5) * scale)])

    assert at(20, 30) == viz.HANDLE and at(100, 30) == viz.TARGET and at(60, 30) == "#000000"
    assert at(60, 50) == "#C8C8C8"
    still = frames.arrows(np.full((64, 64, 3), 200, np.uint8), [(20, 30)], [(20, 30)])
    assert np.isfinite(still).all(), "a drag without length has no direction"


def test_pictures_beside_each_other_keep_their_proportions():
    row = frames.beside(np.zeros((100, 300, 3), np.uint8), np.zeros((3000, 1500, 3), np.uint8), side=256)
    assert row.size == (256 + 4 + 128, 256)
    assert row.getpixel((0, 200)) == (255, 255, 255), "below the lower one it is white"
