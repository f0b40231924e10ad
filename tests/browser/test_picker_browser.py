"""The picker in a real JupyterLab and a real browser; what is asserted is what the kernel holds."""

import math
import statistics
import time

import pytest
from PIL import Image

pytestmark = pytest.mark.browser

CELL = """
import numpy as np
from dragnb.ui import Picker

w, h = {size}
y, x = np.mgrid[:h, :w]
image = np.stack([x * 255 // w, y * 255 // h, 128 + 0 * x], axis=-1).astype("uint8")
p = Picker(image, side={side})
if {css!r}:
    p.canvas.widget.layout.width = {css!r}

def box():
    y, x = np.nonzero(p.picks.mask)
    return [int(v) for v in (x.min(), y.min(), x.max(), y.max())] if len(x) else None
"""
SMALL = (384, 256)
VERMILLION = [213, 94, 0]


def cell(size=SMALL, side=SMALL[0], css="", more="") -> str:
    return CELL.format(size=size, side=side, css=css) + more + "\np"


def red(x: float, width: int = SMALL[0]) -> float:
    """Of the picture, at a column of the canvas."""
    return x * 255 / width


def dimmed(x: float, width: int = SMALL[0]) -> float:
    return 0.4 * red(x, width) + 0.6 * 128


def near(found, wanted, slack: float) -> bool:
    flat = [v for point in found for v in point], [v for point in wanted for v in point]
    return len(flat[0]) == len(flat[1]) and all(abs(a - b) <= slack for a, b in zip(*flat, strict=True))


@pytest.mark.parametrize(
    "css, ratio, touch",
    [("", 1, False), ("600px", 2, False), ("250px", 3, False), ("384px", 2, True)],
    ids=["plain", "stretched-dpr2", "shrunk-dpr3", "touch-dpr2"],
)
def test_points_and_mask_are_where_they_were_put_on_any_screen(notebook, css, ratio, touch):
    page = notebook(cell(css=css), device_scale_factor=ratio, has_touch=touch)
    unit = 384 / float(css[:-2] or 384)  # picture pixels to one of the screen
    slack, radius = math.ceil(unit), 12 * unit  # half a pixel of the screen, and rounding
    page.until(lambda: abs(page.ask("p.pointer.unit") - unit) < 0.01)

    page.drag((100, 60), (180, 90), touch=touch)
    page.tap(300, 200, touch)
    page.tap(250, 220, touch)
    page.until(lambda: len(page.ask("p.picks.points")) == 4)
    wanted = [(100, 60), (180, 90), (300, 200), (250, 220)]
    assert near(page.ask("p.picks.points"), wanted, slack)

    page.button("brush")
    page.until(lambda: page.ask("p.pointer.tool") == "brush")
    page.drag((50, 150), (200, 150), touch=touch)
    page.until(lambda: page.ask("box() is not None and not p.pointer.pressed"))
    wanted = [(50 - radius, 150 - radius, 200 + radius, 150 + radius)]
    assert near([page.ask("box()")], wanted, slack + 1), "the brush is as large as it is on the screen"

    page.until(lambda: abs(page.pixel(60, 240)[0] - dimmed(60)) < 6)
    assert abs(page.pixel(60, 150)[0] - red(60)) < 6, "what is free is not dimmed"
    page.shot(f"picker-{css or 'plain'}-{ratio}{'-touch' if touch else ''}")

    page.button("undo")
    page.until(lambda: page.ask("box()") is None)
    page.key("z")
    page.until(lambda: len(page.ask("p.picks.points")) == 3)
    page.key("y")
    page.button("redo")
    page.until(lambda: len(page.ask("p.picks.points")) == 4 and page.ask("box()") is not None)
    assert not page.errors


def test_a_page_loaded_again_shows_points_mask_and_picture_and_goes_on(notebook):
    page = notebook(cell(), name="reload.ipynb")
    page.drag((100, 60), (180, 90))
    page.button("rectangle")
    page.until(lambda: page.ask("p.pointer.tool") == "rectangle")
    page.drag((60, 30), (240, 130))
    page.until(lambda: page.ask("box() is not None"))
    before = page.ask("[p.picks.points, box()]")
    page.save()

    page.open(run=False)
    page.until(lambda: page.pixel(100, 60)[:3] == VERMILLION)
    page.until(lambda: abs(page.pixel(300, 240)[0] - dimmed(300)) < 6)
    assert page.ask("[p.picks.points, box()]") == before
    page.shot("picker-reloaded")

    page.button("points")
    page.tap(300, 200)
    page.until(lambda: len(page.ask("p.picks.points")) == 3)
    page.until(lambda: page.pixel(300, 200)[:3] == VERMILLION)


def test_files_and_typed_points_come_in_and_wrong_ones_are_answered(notebook, tmp_path):
    page = notebook(cell(), name="files.ipynb")
    page.drag((100, 60), (180, 90))
    Image.new("RGB", (60, 90), "red").save(tmp_path / "red.png")
    (tmp_path / "notes.txt").write_text("hello")

    page.page.get_by_text("points as text").click()
    page.page.locator(".jp-OutputArea textarea:visible").first.fill("10 20 -> 30 40")
    page.page.keyboard.press("Tab")
    page.until(lambda: page.ask("p.picks.points") == [[10, 20], [30, 40]])

    page.page.get_by_text("picture and drag file").click()
    page.page.get_by_placeholder("a path, or a web address").fill(str(tmp_path / "drag"))
    page.page.keyboard.press("Tab")
    page.button("save drag file")
    page.until(lambda: (tmp_path / "drag" / "task.json").exists())
    (tmp_path / "empty.png").touch()
    (tmp_path / "broken.zip").write_bytes(b"PK broken")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    for name, said in {
        "notes.txt": "notes.txt cannot be read as a picture",
        "empty.png": "empty.png is empty",
        "huge.png": "image is 10000×10000 pixels; scale it down",
        "broken.zip": "broken.zip is neither a folder nor a whole zip file",
    }.items():
        page.upload(tmp_path / name)
        page.until(lambda said=said: said in page.ask("p.panel.text.value"))
        assert page.ask("p.picks.points") == [[10, 20], [30, 40]]
    page.shot("picker-refused")

    page.upload(tmp_path / "red.png")
    page.until(lambda: page.ask("p.picks.size") == [60, 90])
    page.until(lambda: page.size() == [256, 384])
    page.until(lambda: page.pixel(128, 200) == [255, 0, 0, 255])
    page.shot("picker-files")

    page.button("load")
    page.until(lambda: page.ask("p.picks.size") == [384, 256])
    assert page.ask("p.picks.points") == [[10, 20], [30, 40]]
    assert not page.errors


def test_a_pen_draws_two_fingers_zoom_and_tab_leaves_the_canvas(notebook):
    page = notebook(cell(), name="fingers.ipynb", has_touch=True)
    page.fingers("touchStart", (100, 100))
    page.fingers("touchStart", (100, 100), (200, 100))
    page.fingers("touchMove", (50, 100), (250, 100))
    page.fingers("touchEnd")
    page.until(lambda: page.ask("p.pointer.viewport.zoom") == 2 and not page.ask("p.pointer.pinching"))
    assert page.ask("p.picks.points") == []

    page.key("0")
    page.drag((100, 60), (180, 90), pen=True)
    page.until(
        lambda: (
            near(page.ask("p.picks.points"), [(100, 60), (180, 90)], 1) and not page.ask("p.pointer.pressed")
        )
    )
    page.key("c")
    page.until(lambda: page.ask("p.picks.points") == [])

    page.key("0")
    page.tap(100, 60, touch=True)
    page.until(lambda: len(page.ask("p.picks.points")) == 1)
    on_canvas = "() => document.activeElement.tagName === 'CANVAS'"
    page.canvas.evaluate("c => c.focus()")
    assert page.page.evaluate(on_canvas)
    page.page.keyboard.press("Tab")
    page.until(lambda: not page.page.evaluate(on_canvas))
    page.page.keyboard.press("Tab")
    after = "c => c.compareDocumentPosition(document.activeElement) & Node.DOCUMENT_POSITION_FOLLOWING"
    assert page.canvas.evaluate(after), "it goes on to what follows the canvas"
    assert not page.errors


def test_two_pickers_at_once_keep_their_points_masks_and_pictures_apart(notebook):
    page = notebook(cell(), cell().replace("p = ", "q = ").replace("\np", "\nq"), name="two.ipynb")
    page.drag((100, 60), (180, 90))
    page.until(lambda: len(page.ask("p.picks.points")) == 2)
    page.canvas = page.page.locator(".jp-OutputArea canvas").nth(1)
    page.canvas.scroll_into_view_if_needed()
    page.button("brush", 1)
    page.until(lambda: page.ask("q.pointer.tool") == "brush")
    page.drag((50, 150), (200, 150))
    page.until(lambda: page.ask("bool(q.picks.mask.any()) and not q.pointer.pressed"))
    page.until(lambda: abs(page.pixel(60, 240)[0] - dimmed(60)) < 6)
    assert page.ask("[len(p.picks.points), bool(p.picks.mask.any()), p.pointer.tool]") == [2, False, "points"]
    assert page.ask("q.picks.points") == []
    page.shot("picker-two")
    assert not page.errors


TIMER = """
import time

spent, plain = [], p.on

def timed(*event):
    begin = time.thread_time()
    plain(*event)
    spent.append(time.thread_time() - begin)

p.on = timed
"""


def test_a_large_picture_is_painted_and_zoomed_without_delay(notebook):
    page = notebook(cell((2048, 1365), side=768, more=TIMER), name="large.ipynb")
    page.button("brush")
    page.until(lambda: page.ask("p.pointer.tool") == "brush")

    page.drag((100, 100), (700, 400), steps=100)
    lifted = time.monotonic()
    page.until(lambda: abs(page.pixel(200, 150)[0] - red(200, 768)) < 6 and page.ask("not p.pointer.pressed"))
    seen = time.monotonic() - lifted
    assert abs(page.pixel(200, 300)[0] - dimmed(200, 768)) < 6
    spent, moves = page.ask("spent"), page.ask("spent[1:-1]")
    page.canvas.hover()
    page.page.keyboard.down("Control")  # without it the wheel scrolls the page
    page.page.mouse.wheel(0, -600)
    page.page.keyboard.up("Control")
    page.until(lambda: page.ask("p.scale") > 1)
    page.shot("picker-large")

    page.ask("[spent.clear(), timed.__globals__.update(plain=lambda: p.canvas.redraw()), timed()][0]")
    (whole,) = page.ask("spent")
    print(
        f"\n{len(moves)} moves: {1000 * sum(moves):.0f} ms in the kernel, {1000 * sum(spent):.0f} ms with press"
    )
    print(f"and lift; seen {seen:.2f} s after the lift; to draw all anew takes {1000 * whole:.0f} ms")
    assert len(moves) >= 100
    assert statistics.median(moves) < whole / 4, "a move may not cost what drawing all costs"
