"""A kernel that has something else to do: what is typed, pressed and drawn meanwhile is done as it was meant."""

import contextlib

import pytest

pytestmark = pytest.mark.browser

CELL = """
import os, time
from dragnb import clay, config
from dragnb.ui import Studio
quick = config.profile("clay", lora_steps=2, steps=10, drag_steps=3, stop=0.0)
studio = Studio(clay.task(831_003, "rabbit", "stretch").task.image, "clay", quick, out="exports")
def nap(key="nap", *_):
    while key == "nap" and not os.path.exists("over"):
        time.sleep(0.02)
studio.picker.canvas.widget.on_key_down(nap)
studio
"""
PROMPT = "What does the picture show"
PICKED = "[len(studio.picker.picks.points), bool(studio.picker.picks.mask.any())]"


# what the kernel does meanwhile: JupyterLab may have another thread of it hear the page while a cell is run
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
CANVAS = "document.querySelector('.jp-OutputArea canvas')"
NAP = {
    "page": f"() => {CANVAS}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'nap'}}))",
    "cell": f"() => {{ {KERNEL}.requestExecute({{code: 'nap()'}}); }}",
}


@pytest.fixture(params=NAP)
def slow(notebook, request):
    page = notebook(CELL, name="slow.ipynb", viewport={"width": 1440, "height": 900}, scroll=False)

    @contextlib.contextmanager
    def deaf():
        """Until the block ends the kernel does something else, however slow the page is."""
        over = page.lab["root"] / "over"
        over.unlink(missing_ok=True)
        page.page.evaluate(NAP[request.param])
        yield
        over.touch()

    page.deaf = deaf
    return page


def test_what_is_drawn_is_drawn_with_the_tool_and_the_size_that_were_chosen_last(slow):
    page = slow
    with page.deaf():
        for tool in ("brush", "lasso", "points"):
            page.button(tool)
        page.drag((222, 105), (222, 70))
        for tool in ("brush", "eraser", "eraser"):
            page.button(tool)
    page.until(lambda: page.ask("studio.picker.pointer.tool") == "brush")
    assert page.ask(PICKED) == [2, False] and page.ask("studio.picker.pointer.erase") is False

    handle = page.page.locator(".widget-slider").filter(has_text="brush").locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    with page.deaf():
        page.page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + 45, box["y"] + 5, steps=20)
        page.page.mouse.up()
        page.drag((300, 300), (300, 301))
    page.until(lambda: page.ask(PICKED)[1] and page.ask("not studio.picker.pointer.pressed"))
    page.page.wait_for_timeout(500)
    radius = page.ask("studio.picker.pointer.radius / studio.picker.scale")
    assert radius > 20, "of picture pixels; at first it is 6"
    assert abs(page.ask("int(studio.picker.picks.mask.any(axis=0).sum())") / 2 - radius) < 2
    assert not page.errors


def test_run_takes_the_words_and_settings_that_stood_there_when_it_was_pressed(slow):
    page = slow
    page.drag((222, 105), (222, 70))
    page.until(lambda: page.ask(PICKED) == [2, False])
    with page.deaf():
        for words in ("a rabbit", "an orange rabbit", "an orange clay rabbit"):
            page.page.get_by_placeholder(PROMPT).fill(words)
            page.page.keyboard.press("Tab")
        for _ in range(3):
            page.page.get_by_label("reference control").click()
        for quality in ("best", "fast"):
            page.page.get_by_label("quality").select_option(quality)
        page.button("Run")
        page.page.wait_for_timeout(300)
    page.until(lambda: page.ask("studio.session._dragged is not None"))
    asked = "(lambda s: [s._dragged.prompt, s.settings.reference, s.settings.lora_steps])(studio.session)"
    assert page.ask(asked) == ["an orange clay rabbit", False, 20]
    page.button("Stop")
    page.until(lambda: page.ask("studio.session.busy") == "")
    assert not page.errors


def test_an_impatient_second_press_closes_nothing(slow):
    page = slow
    page.button("export")
    with page.deaf():
        page.page.get_by_role("button", name="close studio", exact=True).dblclick()
    page.page.get_by_role("button", name="press again: all drags are dropped").wait_for()
    assert page.ask("studio.session._closed") is False
