"""The pages for people, of a class and of a sweep, in a real browser: nothing is cut off, nothing lies on another."""

import class_page
import nbformat
import numpy as np
import pytest
import run_class
import sweep_stand_ins as stand
from driver import SHOTS
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from dragnb import clay, sweep
from dragnb.metrics import judge
from dragnb.sweep import report

pytestmark = pytest.mark.browser

LONG = "a very long name without end as pupils give them " * 3
WINDOWS = [1280, 390]
# what is wider than its place, and texts that are cut there
CUT = """() => {
  const page = document.documentElement, out = page.scrollWidth > page.clientWidth ? ['the page'] : [];
  for (const e of document.querySelectorAll('body *')) {
    const hides = ['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(e).overflowX);
    if (hides && e.clientWidth && e.scrollWidth > e.clientWidth + 1) out.push(e.className || e.tagName);
    if (e.getBoundingClientRect().right > page.clientWidth + 1) out.push('beyond the edge: ' + e.tagName);
  }
  return out;
}"""


@pytest.fixture
def opened(chromium):
    """opened(path, width): a file in a window of this width that reaches no network."""
    contexts = []

    def opened(path, width):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, offline=True))
        page = contexts[-1].new_page()
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        page.wait_for_function("() => [...document.images].every(i => i.complete)")
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"page-{path.stem}-{width}.png", full_page=True)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def a_class(tmp_path_factory):
    """The page of seven drags, one of them with all that can be long, one that failed, one that is to come."""
    out, entries = tmp_path_factory.mktemp("class"), []
    for k, name in enumerate([LONG, "a", "b", "c", "x" * 150]):
        entry = class_page.Entry(name, out, f"d{k}")
        (out / entry.folder).mkdir()
        run_class.ask(entry, clay.task(831_003, "rabbit", "stretch").task, out / entry.folder)
        entry.after, entry.notebook, entry.rendered = entry.before, f"d{k}/n.ipynb", f"d{k}/n.html"
        entry.scores = {"moved": k / 10, "left_px": 20.0 - k, "tracker_px": 0.4, "rest_psnr": 31.0}
        entry.scores["success"] = k % 2
        entries.append(entry)
    failed = class_page.Entry(
        "failed", out, "f", error="in cell [3]: " + "word" * 60 + "\nAssertionError: no"
    )
    class_page.write([*entries, failed, class_page.Entry("to come", out, "t")], out, LONG)
    return out / class_page.PAGE


@pytest.mark.parametrize("width", WINDOWS)
def test_nothing_of_a_class_is_cut_off(opened, a_class, width):
    page = opened(a_class, width)

    assert page.evaluate(CUT) == []
    assert page.get_by_role("article").count() == 2 + 2 + 7, "best, worst, all"
    boxes = [p.bounding_box() for p in page.get_by_role("article").first.get_by_role("img").all()]
    assert len(boxes) == 3 and min(box["width"] for box in boxes) > 100


def test_a_rendered_notebook_is_not_cut_off(opened, tmp_path):
    picture = new_output("stream", name="stdout", text="a line of a notebook that is quite long " * 3)
    book = new_notebook(cells=[new_code_cell("x = 1", outputs=[picture], execution_count=1)])
    nbformat.write(book, tmp_path / "notebook.ipynb")

    page = opened(run_class.render(tmp_path / "notebook.ipynb", "a drag"), 1280)

    assert page.evaluate(CUT) == [] and page.title() == "a drag"


def figures(image, task, name, truth, truth_image):
    """A judgement with every figure of a table, of made-up numbers."""
    mark = len(name) + int(name[-1]) + float(image.mean()) / 50
    known = {
        "md": 20 + mark,
        "m_md": 10 + mark,
        "if": 0.9,
        "rest_psnr": 30 + mark,
        "moved": 0.5,
        "truth_psnr": mark,
    }
    return dict.fromkeys(judge.METRICS) | {"pairs": 1, "md_pairs": [20 + mark], **known}


def test_nothing_of_a_sweep_is_cut_off(opened, smoke, tmp_path):
    settings = {"full": stand.floor, "no edit": stand.brighter}
    settings |= {f"setting {k} with quite a name": stand.brighter for k in range(4)}
    categories = ("landscapes", "animals", "architecture", "humans in rooms", "other objects")
    samples = [stand.Sample(f"s/{k:02}", categories[k % 5]) for k in range(10)]
    list(sweep.run(samples, settings, tmp_path / "sweep", smoke, figures, keep=True))

    page = opened(report.report(tmp_path / "sweep"), 1280)

    assert page.evaluate(CUT) == []
    rows = page.locator("table tr").all()
    assert len(rows) == 1 + len(settings) and "md" in rows[0].inner_text()
    ink = np.asarray(Image.open(SHOTS / "page-report-1280.png").convert("L"))
    assert (ink[:, -8:] > 250).all(), "nothing runs out at the right"
