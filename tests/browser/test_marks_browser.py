"""What the canvas shows of a tool, on any screen: cursor, ring, rubber band, sizes and sharpness; in a real browser."""

import io

import numpy as np
import pytest
from PIL import Image
from test_picker_browser import cell

from dragnb.ui.canvas import DENSITY

pytestmark = pytest.mark.browser

# of the canvas on the screen, beside its own 384
WIDTHS = [("384px", 1), ("250px", 2), ("600px", 1)]
CURSOR = "c => getComputedStyle(c).cursor"
BLUES = """(c, [x, y]) => [...c.getContext('2d').getImageData(x - 1, y - 1, 3, 3).data]
  .filter((_, k) => k % 4 == 2)"""
# how wide the picture of a cursor is; 0 where it is none
DRAWN = """async cursor => {
  const image = new Image(); image.src = cursor.match(/url\\("(.*?)"\\)/)[1];
  await image.decode().catch(() => {}); return image.naturalWidth;
}"""


@pytest.fixture(params=WIDTHS, ids=lambda width: f"{width[0]}-dpr{width[1]}")
def page(notebook, request):
    css, ratio = request.param
    opened = notebook(cell(css=css), name=f"marks{css}.ipynb", device_scale_factor=ratio)
    opened.unit = 384 / float(css[:-2])  # canvas pixels to a pixel of the screen
    opened.until(lambda: abs(opened.ask("p.pointer.unit") - opened.unit) < 0.01)
    return opened


def inked(page, x, y) -> bool:
    """Is something drawn over the picture there, or a pixel beside? Its own blue is 128 everywhere."""
    blues = page.canvas.evaluate(BLUES, [int(x * DENSITY), int(y * DENSITY)])
    return max(abs(blue - 128) for blue in blues) > 50


def test_the_brush_shows_a_ring_of_its_size_that_follows_the_mouse_and_paints_what_it_encloses(page):
    def ring(x, y, radius):
        r = radius * page.unit
        return [inked(page, *at) for at in ((x + r, y), (x - r, y), (x, y - r), (x, y + r), (x, y))]

    whole = [True] * 4 + [False]

    def hover(x, y):
        """Go there, once more where the page has moved under the mouse meanwhile, until the ring is there."""

        def there():
            page.page.mouse.move(*page.at(x, y))
            return ring(x, y, 12) == whole

        page.until(there)

    page.button("brush")
    hover(150, 120)
    hover(250, 100)
    assert not any(ring(150, 120, 12)), "the old one is gone"
    page.key("]")
    page.until(lambda: ring(250, 100, 16) == whole)
    page.tap(250, 100)
    page.until(lambda: page.ask("box()") is not None)
    left, top, right, bottom = page.ask("box()")
    assert abs((right - left + 1) / (32 * page.unit) - 1) < 0.1, "32 pixels of the screen, on any screen"
    assert abs((left + right) / 2 - 250) < 3 and abs((top + bottom) / 2 - 100) < 3
    page.button("undo")
    page.page.mouse.move(*page.at(250, 300))  # beside the canvas
    page.until(lambda: not any(ring(250, 100, 16)))
    assert not page.errors


def test_a_band_is_drawn_from_the_first_click_to_the_mouse_until_the_second(page):
    def band(end):
        """How much of the line from (100, 60) is drawn over, leaving out what lies at its ends."""
        along = np.linspace(0.25, 0.9, 40)
        return np.mean([inked(page, 100 + k * (end[0] - 100), 60 + k * (end[1] - 60)) for k in along])

    page.tap(100, 60)
    page.until(lambda: len(page.ask("p.picks.points")) == 1)
    for end in ((250, 60), (180, 160)):
        page.page.mouse.move(*page.at(*end))
        page.until(lambda end=end: 0.3 < band(end) < 0.95)  # it is dashed
    assert band((250, 60)) == 0, "it follows the mouse"
    page.tap(180, 160)
    page.until(lambda: len(page.ask("p.picks.points")) == 2)
    page.page.mouse.move(*page.at(300, 60))
    page.page.wait_for_timeout(500)
    page.until(lambda: band((180, 160)) > 0.95)  # what stays is the arrow
    assert band((300, 60)) == 0
    assert not page.errors


def test_points_are_of_one_size_on_any_screen_and_a_press_on_their_edge_grabs_them(page):
    page.tap(100, 60)
    page.tap(200, 120)
    page.until(lambda: len(page.ask("p.picks.points")) == 2)
    page.page.mouse.move(*page.at(20, 200))
    # about six pixels of the screen, and a line round it
    page.until(lambda: 5 <= sum(inked(page, 100 - k * page.unit, 60) for k in range(14)) <= 13)
    x = 100 - 8 * page.unit
    page.drag((x, 60), (x - 30, 90))
    page.until(lambda: abs(page.ask("p.picks.points")[0][0] - 70) < 3)
    assert len(page.ask("p.picks.points")) == 2
    assert not page.errors


def test_each_tool_has_its_cursor(notebook):
    page = notebook(cell(more="p = Picker(image, side=384, select=lambda *_: None)"), name="cursors.ipynb")
    cursors = {}
    for tool in ("points", "brush", "rectangle", "lasso", "pan", "select"):
        page.button(tool)
        page.until(lambda tool=tool: page.ask("p.pointer.tool") == tool)
        page.until(lambda: page.canvas.evaluate(CURSOR) not in cursors.values())
        cursors[tool] = page.canvas.evaluate(CURSOR)
    assert cursors["points"] == "crosshair" and cursors["pan"] == "grab"
    pictures = [cursor for cursor in cursors.values() if cursor.startswith("url")]
    assert len(pictures) == 4 and all(page.page.evaluate(DRAWN, cursor) == 24 for cursor in pictures)


STRIPES = "p = Picker(np.repeat((x % 2 * 255).astype('uint8')[..., None], 3, 2), side=384)"


def test_a_screen_of_twice_the_density_shows_twice_the_detail(notebook):
    """The picture has as many pixels as the screen: black and white by turns."""
    page = notebook(cell((768, 512), more=STRIPES), name="sharp.ipynb", device_scale_factor=2)
    page.page.mouse.move(5, 5)
    page.until(lambda: page.size() == [384, 256])
    shown = np.asarray(Image.open(io.BytesIO(page.canvas.screenshot())).convert("L"), float)
    assert abs(shown.shape[1] - 768) <= 2
    contrast = np.abs(np.diff(shown[60:300, 20:-20], axis=1)).mean()
    assert contrast > 150, f"{contrast:.0f} grey levels from column to column; 255 where it is sharp"
