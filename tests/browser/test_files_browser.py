"""What comes in and goes out of the studio on small windows: paste, drop, a photograph, exports; and closing it."""

import base64
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

CELLS = (
    "from dragnb import clay, config\nfrom dragnb.ui import Studio",
    'drag = clay.task(831_003, "rabbit", "stretch").task',
    'quick = config.profile("clay", lora_steps=2, steps=10, drag_steps=3, keep_outside=True)\n'
    'studio = Studio(drag, "clay", quick, out="exports")\nstudio',
)
GIVE = """(canvas, [kind, name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0)), data = new DataTransfer();
  data.items.add(new File([bytes], name, {type}));
  const about = {bubbles: true, cancelable: true};
  if (kind === 'drop') canvas.dispatchEvent(new DragEvent('drop', {...about, dataTransfer: data}));
  else { canvas.focus({preventScroll: true});
    document.activeElement.dispatchEvent(new ClipboardEvent('paste', {...about, clipboardData: data})); }
}"""


@pytest.fixture(params=[(1440, 900), (1024, 768)], ids=lambda size: f"{size[0]}x{size[1]}")
def small(notebook, request):
    width, height = request.param
    return notebook(
        *CELLS, name=f"files{width}.ipynb", viewport={"width": width, "height": height}, scroll=False
    )


DONE = "[len(studio.session.snapshots), studio.session.busy]"


def photo(size=(120, 90)) -> bytes:
    """Rough nearly everywhere, as a photograph is and rendered clay is not."""
    rough = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rough).save(buffer, "PNG")
    return buffer.getvalue()


def give(page, kind: str, name: str, content: bytes, type="image/png"):
    page.canvas.evaluate(GIVE, [kind, name, type, base64.b64encode(content).decode()])


def says(page, text: str):
    page.until(lambda: any(text in line for line in page.says()))


def test_a_picture_is_dropped_and_pasted_and_a_photograph_is_warned_of(small):
    page = small
    give(page, "drop", "photo.png", photo())
    says(page, "photo.png is loaded")
    says(page, "knows rendered clay figures only, and repaints a photograph")
    assert page.ask("studio.picker.picks.size") == [120, 90]
    assert page.ask("studio.settings.settings.keep_outside"), (
        "what is outside the mask stays the photograph's"
    )
    give(page, "paste", "pasted.png", photo((60, 80)))
    says(page, "pasted.png is loaded")
    assert page.ask("studio.picker.picks.size") == [60, 80]
    give(page, "drop", "notes.txt", b"hello", "text/plain")
    says(page, "notes.txt cannot be read as a picture")
    give(page, "drop", "large.png", bytes(7_100_000))
    says(page, "large.png is too large to be dropped")
    assert page.ask("studio.picker.picks.size") == [60, 80]
    for size in ([120, 90], [256, 256]):
        page.button("undo")
        page.until(lambda size=size: page.ask("studio.picker.picks.size") == size)
    page.until(lambda: not any("clay figures only" in line for line in page.says()))
    assert not page.errors


def test_an_export_is_downloaded_where_its_button_is_and_closing_asks_once(small, lab):
    page = small
    page.button("Run")
    page.until(lambda: page.ask(DONE) == [1, ""])
    page.button("export")
    for label, kind in {
        "drag file": "zip",
        "picture": "png",
        "GIF": "gif",
        "open as notebook": "ipynb",
    }.items():
        page.button(label)
        link = page.page.locator(f".jp-OutputArea a[download$='.{kind}']")
        with page.page.expect_download() as download:
            link.click()
        name = download.value.suggested_filename
        content, saved = (
            open(download.value.path(), "rb").read(),
            (lab["root"] / "exports" / name).read_bytes(),
        )
        assert content == saved and len(content) > 1000, "the link holds the file that was saved"
        near = (
            page.page.locator(".jp-OutputArea").get_by_role("button", name=label, exact=True).bounding_box()
        )
        assert abs(link.bounding_box()["y"] - near["y"]) < 120, "it is told where the button is"
    assert "task.json" in zipfile.ZipFile(lab["root"] / "exports" / name.replace("ipynb", "zip")).namelist()

    page.button("close studio")
    page.page.get_by_role("button", name="press again: all drags are dropped").wait_for()
    page.button("clear mask")
    page.page.get_by_role("button", name="close studio", exact=True).wait_for()
    assert page.ask("len(studio.session.snapshots)") == 1
    page.button("close studio")
    page.page.wait_for_timeout(1000)  # to read it: a press at once is no answer
    page.button("press again: all drags are dropped")
    page.until(lambda: page.ask("studio.session._closed"))
    page.page.locator(".jp-OutputArea canvas").wait_for(state="detached")
    assert not page.errors


OFFER = "open the drag that this picture carries"


def test_an_exported_picture_offers_the_drag_that_it_carries_and_any_other_does_not(small, lab):
    page, given = small, "[drag.handles.tolist(), drag.targets.tolist()]"
    picked = "(lambda task: [task.handles.tolist(), task.targets.tolist()])(studio.picker.task())"
    same = "[bool((getattr(studio.picker.picks, k) == getattr(drag, k)).all()) for k in ('image', 'mask')]"
    page.button("Run")
    page.until(lambda: page.ask(DONE) == [1, ""])
    saved = lab["root"] / "exports"
    before = set(saved.glob("*.png"))
    page.button("export")
    page.button("picture")
    page.until(lambda: set(saved.glob("*.png")) - before)
    (exported,) = set(saved.glob("*.png")) - before

    offer = page.page.get_by_role("button", name=OFFER, exact=True)
    for way in ("drop", "path"):
        give(page, "drop", "photo.png", photo())
        says(page, "photo.png is loaded")
        page.page.wait_for_timeout(300)
        assert not offer.is_visible(), "it carries none"
        if way == "drop":
            give(page, "drop", exported.name, exported.read_bytes())
        else:
            page.button("picture and drag file")
            page.page.get_by_placeholder("a path, or a web address").fill(str(exported))
            page.page.keyboard.press("Tab")
            page.button("load")
        offer.wait_for()
        assert page.ask("[studio.picker.picks.points, studio.picker.picks.size]") == [[], [256, 256]], (
            "a picture at first"
        )
        assert page.ask(same)[0] is False, "the result"
        offer.click()
        page.until(lambda: len(page.ask("studio.picker.picks.points")) == 2)
        assert page.ask(picked) == page.ask(given) and page.ask(same) == [True, True]
        page.until(lambda: not offer.is_visible())
    assert not page.errors


def test_a_click_selects_a_thing_and_a_mask_is_offered_beside_its_note(small):
    page = small
    page.button("clear mask")
    page.button("mask: around the path")
    page.until(lambda: page.ask("bool(studio.picker.picks.mask.any())"))
    page.button("clear mask")
    page.until(lambda: page.ask("not studio.picker.picks.mask.any()"))
    page.button("select")
    page.until(lambda: page.ask("studio.picker.pointer.tool") == "select")
    x, y = page.ask("studio.picker.pointer.viewport.to_canvas(*drag.handles[0])")
    page.tap(x, y)
    page.until(lambda: page.ask("bool(studio.picker.picks.mask.any())"))
    few = page.ask("int(studio.picker.picks.mask.sum())")
    assert page.ask("bool(studio.picker.picks.mask[tuple(drag.handles[0].astype(int)[::-1])])")
    assert page.ask("len(studio.picker.picks.points)") == 2, "no point was placed"
    page.shot(f"selected-{page.page.viewport_size['width']}")
    slider = page.page.locator(".widget-slider").filter(has_text="alike").locator(".noUi-handle")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowLeft")
    page.until(lambda: page.ask("int(studio.picker.picks.mask.sum())") > few)
    assert page.ask("studio.session.problem") is None
    assert not page.errors
