"""Two drags against each other on the canvas, from the gallery, in a real browser."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

CELL = """
import base64
import numpy as np
from dragnb import clay, config
from dragnb.ui import Studio
quick = config.profile("clay", lora_steps=2, steps=10, drag_steps=3, stop=0.0)
studio = Studio(clay.task(831_003, "rabbit", "stretch").task, "clay", quick, out="exports")
def picture(k):
    return base64.b64encode(np.ascontiguousarray(studio.session.snapshots[k].result.image).tobytes()).decode()
studio
"""
SIDE = 256
DONE = "[len(studio.session.snapshots), studio.session.busy]"


def drawn(page) -> np.ndarray:
    """The canvas as it is drawn, at the picture's size; its caption is left out."""
    url = page.canvas.evaluate("c => c.toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), float)[20:]


def made(page, k) -> np.ndarray:
    """The picture of a drag, as the kernel holds it."""
    content = base64.b64decode(page.ask(f"picture({k})"))
    return np.frombuffer(content, np.uint8).reshape(SIDE, SIDE, 3)[20:].astype(float)


def parts(page, split) -> list[int]:
    """Which of the drags is seen left of a column of the picture, and which right of it."""
    seen, drags = drawn(page), [made(page, k) for k in (0, 1)]
    found = []
    for part in (np.s_[:, 4 : split - 4], np.s_[:, split + 4 : -4]):
        off = [np.abs(seen[part] - drag[part]).mean() for drag in drags]
        k = int(np.argmin(off))
        found.append(k if off[k] < min(2, off[1 - k] / 3) else off)
    return found


def test_two_drags_are_compared_on_the_canvas_half_of_each_and_swiped(notebook):
    page = notebook(CELL, name="compare.ipynb", viewport={"width": 1440, "height": 900}, scroll=False)
    page.button("Run")
    page.until(lambda: page.ask(DONE) == [1, ""])
    page.button("cat")
    page.until(lambda: page.ask("len(studio.picker.picks.points)") >= 2)
    page.page.get_by_label("reference control").uncheck()
    page.button("Run")
    page.until(lambda: page.ask(DONE) == [2, ""])
    page.page.get_by_text("reference off", exact=True).wait_for()
    assert np.abs(made(page, 0) - made(page, 1)).mean() > 20, "the two can be told apart"

    page.button("compare", 0)
    page.until(lambda: parts(page, SIDE // 2) == [0, 1])
    page.shot("compare")
    for at in (60, 200):
        page.page.mouse.move(*page.at(2 * at, 200))
        page.until(lambda at=at: parts(page, at) == [0, 1])
    assert page.ask("[studio.picker.canvas._against_caption, studio.picker.canvas.caption]") == [
        "drag 1",
        "drag 2",
    ]

    page.button("1")  # go back to the first, and compare the other way round
    page.until(lambda: page.ask("studio.session.shown is studio.session.snapshots[0]"))
    page.until(lambda: page.ask("studio.picker.canvas.after is studio.session.shown.result.image"))
    page.button("compare", 1)
    page.until(lambda: parts(page, SIDE // 2) == [1, 0])
    page.button("compare", 0)
    page.page.get_by_text("go back to one drag first").first.wait_for()
    assert not page.errors
