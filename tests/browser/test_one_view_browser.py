"""The studio as a newcomer meets it: small windows, three cells, nothing scrolled into view before a press."""

import pytest

pytestmark = pytest.mark.browser

FIRST = (
    "from dragnb import clay, config\nfrom dragnb.ui import Studio",
    'picture = clay.task(831_003, "rabbit", "stretch").task.image',
    'quick = config.profile("clay", lora_steps=5, steps=10, drag_steps=60, stop=0.0, keep_outside=True)\n'
    'studio = Studio(picture, "clay", quick, out="exports")\nstudio',
)
WINDOWS = [(1440, 900), (1024, 768)]
SEEN = "c => { const r = c.getBoundingClientRect(); return [r.top, Math.min(r.bottom, innerHeight)]; }"


@pytest.fixture(params=WINDOWS, ids=lambda size: f"{size[0]}x{size[1]}")
def small(notebook, request):
    """The three cells, run, in a small window; nothing is scrolled."""
    width, height = request.param
    return notebook(
        *FIRST, name=f"small{width}.ipynb", viewport={"width": width, "height": height}, scroll=False
    )


def points(page):
    return page.ask("studio.picker.picks.points")


def cells(page):
    """How many cells the notebook has, and how many of them are code."""
    return page.page.evaluate(
        "() => { const c = window.jupyterapp.shell.currentWidget.content.widgets;"
        " return [c.length, c.filter(x => x.model.type === 'code').length]; }"
    )


def test_traps_of_the_mouse_and_the_keys(small):
    page = small
    page.shot(f"one-view-{page.page.viewport_size['width']}-before")
    top, bottom = page.canvas.evaluate(SEEN)
    y = (min(bottom, page.page.viewport_size["height"] - 30) - top) / 2
    wanted = page.ask(f"studio.picker.pointer.viewport.to_picture(200, {y})")
    page.drag((200, y), (260, y))
    page.until(lambda: len(points(page)) == 2)
    assert max(abs(a - b) for a, b in zip(points(page)[0], wanted, strict=True)) <= 1, (
        "the first press lands where it is"
    )
    assert page.canvas.evaluate(SEEN)[0] == top, "the page has not jumped"

    page.page.mouse.click(*page.at(100, y), button="right")
    page.page.keyboard.press("Escape")
    page.page.mouse.click(*page.at(100, y), button="middle")
    page.page.mouse.move(*page.at(120, y))
    page.page.mouse.wheel(0, 40)
    page.until(lambda: page.canvas.evaluate(SEEN)[0] < top)  # the wheel scrolls the page
    page.page.wait_for_timeout(500)
    assert len(points(page)) == 2 and page.ask("studio.picker.pointer.viewport.zoom") == 1
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -200)
    page.page.keyboard.up("Control")
    page.until(lambda: page.ask("studio.picker.pointer.viewport.zoom") > 1)
    page.button("fit")
    page.until(lambda: page.ask("studio.picker.pointer.viewport.zoom") == 1)

    before, top = cells(page), page.canvas.evaluate(SEEN)[0]
    for button in ("brush", "undo", "points"):
        page.button(button)
        page.page.wait_for_timeout(150)
        assert page.canvas.evaluate(SEEN)[0] == top, "a tool's controls do not push the picture away"
        for key in ("m", "d", "d"):
            page.page.keyboard.press(key)
    page.page.wait_for_timeout(500)
    assert cells(page) == before, "keys after a button are the canvas's"
    assert not page.errors


PRESS = """async ([name, then]) => {
  const all = selector => [...document.querySelectorAll('.jp-OutputArea ' + selector)];
  const button = all('button').find(b => b.getAttribute('aria-label') === name);
  for (const kind of ['pointerdown', 'pointerup', 'click'])
    button.dispatchEvent(new PointerEvent(kind, {bubbles: true, button: 0, pointerType: 'mouse'}));
  const slider = all('.noUi-handle').find(h => h.offsetParent), canvas = all('canvas')[0];
  const places = {slider, notebook: canvas.closest(".jp-Notebook"), canvas};
  places[then].focus();
  await new Promise(done => setTimeout(done, 1000));
  return Object.keys(places).find(name => places[name] === document.activeElement);
}"""


def test_the_focus_comes_back_from_the_notebook_but_not_from_where_somebody_has_gone_since(small):
    page = small
    page.button("brush")
    page.page.locator(".jp-OutputArea .noUi-handle:visible").first.wait_for()
    assert page.page.evaluate(PRESS, ["undo", "slider"]) == "slider", "however late the page is"
    assert page.page.evaluate(PRESS, ["undo", "notebook"]) == "canvas", "the canvas has the keys again"


def test_a_stroke_goes_on_beyond_the_edge_and_back(small):
    page = small
    page.button("brush")
    page.until(lambda: page.ask("studio.picker.pointer.tool") == "brush")
    top, bottom = page.canvas.evaluate(SEEN)
    y = (min(bottom, page.page.viewport_size["height"] - 30) - top) / 2
    x0, y0 = page.at(20, y)
    page.page.mouse.move(x0, y0)
    page.page.mouse.down()
    page.page.mouse.move(x0 - 60, y0, steps=5)
    page.page.mouse.move(x0 - 60, y0 - 60, steps=5)
    page.page.mouse.move(x0 + 40, y0 - 60, steps=5)
    page.page.mouse.up()
    page.until(lambda: page.ask("bool(studio.picker.picks.mask.any()) and not studio.picker.pointer.pressed"))
    at = int(page.ask(f"studio.picker.pointer.viewport.to_picture(0, {y - 60})")[1])
    row = page.ask(f"studio.picker.picks.mask[{at}].tolist()")
    assert any(row[:20]), "one stroke, that left and came back"
    page.button("undo")
    page.until(lambda: page.ask("not studio.picker.picks.mask.any()"))


def test_keys_alone_place_move_and_delete_points(small):
    page = small
    page.canvas.evaluate("c => c.focus({preventScroll: true})")
    for key in ("n", "ArrowLeft", "ArrowUp", "n", "Shift+ArrowRight"):
        page.page.keyboard.press(key)
    page.until(lambda: len(points(page)) == 2)
    page.until(lambda: points(page)[0] == [126, 126] or points(page)[0] == [127, 127])
    assert points(page)[1][0] > points(page)[0][0] + 30
    page.page.keyboard.press("d")
    page.until(lambda: len(points(page)) == 1)
    assert page.canvas.get_attribute("aria-label")


NAMED = """() => {
  const e = document.activeElement; return e.getAttribute('aria-label') || e.placeholder || e.textContent.trim();
}"""


def go(page, name, key="Tab"):
    """Go on from one thing of the page to the next by a key, until one whose name begins so has the focus."""
    passed = []
    while not page.page.evaluate(NAMED).startswith(name):
        passed.append(page.page.evaluate(NAMED))
        assert len(passed) < 80, f"{name!r} was not among {passed}"
        page.page.keyboard.press(key)


def test_keys_alone_save_load_and_export_and_jupyterlab_takes_none_of_them(small, tmp_path):
    page, keys = small, small.page.keyboard
    page.page.evaluate("() => document.querySelector('.jp-OutputArea .dragnb button').focus()")
    before = cells(page)
    go(page, "picture: ")
    for key in ("n", "ArrowUp", "n", "Shift+ArrowRight"):
        keys.press(key)
    page.until(lambda: len(points(page)) == 2)
    placed = points(page)
    go(page, "What does the picture show")
    keys.type("a rabbit")
    go(page, "around the path", "Shift+Tab")
    keys.press("Enter")
    page.until(
        lambda: (
            page.ask("[bool(studio.picker.picks.mask.any()), studio.picker.picks.prompt]")
            == [True, "a rabbit"]
        )
    )

    go(page, "picture and drag file")
    for key in ("m", "d", "d", "a", "x", "Enter"):
        keys.press(key)
    go(page, "a path, or a web address")
    page.busy(3)
    keys.type(str(tmp_path / "drag"))
    go(page, "save drag file")
    keys.press("Enter")
    page.until(lambda: "saved to" in " ".join(page.says()))
    assert (tmp_path / "drag" / "task.json").exists(), page.says()

    go(page, "picture: ", "Shift+Tab")
    for _ in placed:
        keys.press("d")
    page.until(lambda: points(page) == [])
    go(page, "load")
    keys.press(" ")
    page.until(lambda: points(page) == placed)
    go(page, "export", "Shift+Tab")
    keys.press("Enter")
    go(page, "drag file")
    keys.press("Enter")
    page.page.get_by_text("there is nothing to export yet").first.wait_for()
    assert cells(page) == before, "the notebook is as it was"
    assert not page.errors


def test_a_first_drag_takes_three_steps_and_no_scrolling(notebook):
    page = notebook(*FIRST, name="view.ipynb", viewport={"width": 1440, "height": 900}, scroll=False)
    page.page.evaluate(
        "() => document.querySelector('.jp-OutputArea .dragnb-run').scrollIntoView({block: 'nearest'})"
    )
    page.drag((222, 105), (222, 70))
    page.until(lambda: len(points(page)) == 2)
    page.button("around the path")
    page.shot("one-view-picked")
    page.page.get_by_placeholder("What does the picture show").fill("an orange rabbit")
    page.button("Run")
    page.until(lambda: page.ask("getattr(studio.session.progress.get('drag'), 'i', 0)") > 3)
    page.shot("one-view-running")
    page.until(lambda: page.ask("len(studio.session.snapshots)") == 1)
    page.page.mouse.move(*page.at(256, 200))
    page.until(lambda: page.ask("studio.picker.canvas.split") > 200)
    page.page.wait_for_timeout(500)
    page.shot("one-view-done")
    for name in ("Run", "Stop"):
        box = (
            page.page.locator(".jp-OutputArea")
            .get_by_role("button", name=name, exact=True)
            .first.bounding_box()
        )
        assert box["y"] + box["height"] < 900
    page.page.keyboard.down(" ")
    page.until(lambda: page.ask("studio.picker.canvas.before"))
    page.page.keyboard.up(" ")
    page.until(lambda: not page.ask("studio.picker.canvas.before"))
    assert page.ask("studio.session.problem") is None
    assert not page.errors
