"""The studio on the screens that people have: what fits, what can be hit and read. Pictures of each are kept."""

import pytest

pytestmark = pytest.mark.browser

CELLS = (
    "from dragnb import clay, config\nfrom dragnb.ui import Studio",
    'picture = clay.task(831_003, "rabbit", "stretch").task.image',
    'quick = config.profile("clay", lora_steps=5, steps=10, drag_steps=60, stop=0.0, keep_outside=True)\n'
    'studio = Studio(picture, "clay", quick, out="exports")\nstudio',
)
SCREENS = {
    "laptop": dict(viewport={"width": 1440, "height": 900}),
    "small": dict(viewport={"width": 1024, "height": 768}),
    "phone": dict(viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True),
    "large": dict(viewport={"width": 1920, "height": 1080}),
    "dark": dict(viewport={"width": 1440, "height": 900}, device_scale_factor=2),
}
# of these all of it is in view at once
WHOLE = ("laptop", "large", "dark")
DARK = "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
HIDE = "() => window.jupyterapp.commands.execute('application:toggle-left-area')"
# every widget that is seen, with its name and its box in the window
BOXES = """selector => [...document.querySelectorAll(`.jp-OutputArea .dragnb :is(${selector})`)]
  .filter(e => e.offsetParent).map(e => { const r = e.getBoundingClientRect();
    return [e.getAttribute('aria-label') || e.textContent.trim() || e.tagName, r.left, r.top, r.right, r.bottom]; })"""
# every text that is seen and meant to be read now, with its contrast to what is behind it, as WCAG counts it
CONTRAST = """() => {
  const parse = c => { const n = (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const f = c.startsWith('color(') ? 255 : 1; return [n[0] * f, n[1] * f, n[2] * f, n.length > 3 ? n[3] : 1]; };
  const linear = v => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.map(linear);
    return .2126 * r + .7152 * g + .0722 * b; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = e => { const all = [];
    for (; e; e = e.parentElement) all.unshift(parse(getComputedStyle(e).backgroundColor));
    return all.reduce((below, top) => over(top, below), [255, 255, 255]); };
  const found = [], root = document.querySelector('.jp-OutputArea .dragnb');
  const look = (e, text, part) => {
    if (!e.offsetParent || e.closest('button:disabled, .noUi-target, style')) return;
    const style = getComputedStyle(e, part), bg = behind(e);
    const a = light(over(parse(style.color), bg)), b = light(bg);
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), text.slice(0, 40), style.color, bg.join()]);
  };
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim();
    if (text) look(walk.currentNode.parentElement, text);
  }
  const fields = 'input[type=text], input[type=number], textarea, select';
  root.querySelectorAll(fields).forEach(e => {
    look(e, e.tagName + ' ' + e.value);
    if (e.placeholder?.replace('\\u200b', '')) look(e, e.placeholder, '::placeholder');
  });
  return found;
}"""


# what of the notebook is in view, between its bars
VIEW = """() => { const r = document.querySelector('.jp-WindowedPanel-outer').getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom]; }"""
# labels and buttons whose words are cut off
CUT = """() => [...document.querySelectorAll(
    '.jp-OutputArea .dragnb :is(.widget-label, .widget-label-basic, button, .widget-html-content)')]
  .filter(e => e.offsetParent && getComputedStyle(e).fontSize !== '0px')
  .filter(e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 3)
  .map(e => e.textContent.trim())"""
# two things that lie on each other
OVERLAPS = """() => {
  const things = 'button, canvas, input, select, textarea, img, .widget-html-content, .widget-label';
  const seen = [...document.querySelectorAll(`.jp-OutputArea .dragnb :is(${things})`)]
    .filter(e => e.offsetParent && e.getBoundingClientRect().height > 1);
  const found = [], text = e => e.outerHTML.slice(0, 90);
  seen.forEach((a, k) => seen.slice(k + 1).forEach(b => {
    const r = a.getBoundingClientRect(), q = b.getBoundingClientRect();
    const wide = Math.min(r.right, q.right) - Math.max(r.left, q.left);
    const high = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
    if (!a.contains(b) && !b.contains(a) && wide > 2 && high > 2) found.push([text(a), text(b)]);
  }));
  return found;
}"""
FOLDS = (
    "advanced", "generate a picture", "result: difference, tracks, next round", "time travel", "export",
    "picture and drag file", "points as text", "mouse and keys",
)  # fmt: skip
# what is typed in the folds and refused there
WRONG = {"advanced": {"LoRA file": "nowhere.safetensors"}, "generate a picture": {"steps": "7"}}


@pytest.fixture(params=SCREENS)
def screen(notebook, request):
    page = notebook(*CELLS, name=f"{request.param}.ipynb", scroll=False, **SCREENS[request.param])
    page.screen = request.param
    if page.screen == "dark":
        page.page.evaluate(DARK)
        page.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    if page.screen == "phone":
        page.page.evaluate(HIDE)
        page.page.evaluate("() => document.querySelector('.jp-OutputArea .dragnb').scrollIntoView()")
    return page


def fits(page, *names):
    """Is all that the studio shows in view at once, these buttons among it, with nothing scrolled?"""
    left, top, right, bottom = page.page.evaluate(VIEW)
    boxes = page.page.evaluate(BOXES, "button, canvas, input, select, .widget-html-content > *")
    assert {*names, "picture"} <= {box[0].split(":")[0] for box in boxes}
    out = [b for b in boxes if b[1] < left or b[2] < top or b[3] > right or b[4] > bottom]
    assert not out, out


def readable(page):
    """Is no text pale, cut or under another, and on a phone no target small?"""
    texts = page.page.evaluate(CONTRAST)
    assert len(texts) > 40
    pale = [text for text in texts if text[0] < 4.5]
    assert not pale, pale
    assert page.page.evaluate(CUT) == [] and page.page.evaluate(OVERLAPS) == []
    if page.screen == "phone":
        targets = page.page.evaluate(
            BOXES, "button, select, input:not([type=checkbox]), .widget-checkbox label"
        )
        assert any("mask term" in target[0] for target in targets)
        small = [box for box in targets if min(box[3] - box[1], box[4] - box[2]) < 39.5]
        assert not small, small
        left, _, right, _ = page.page.evaluate(VIEW)
        out = [box for box in page.page.evaluate(BOXES, "*") if box[1] < left or box[3] > right]
        assert not out, out


def test_every_screen_before_during_and_after_a_drag(screen):
    page, touch = screen, screen.screen == "phone"
    buttons = ["Run", "Stop", "undo", "fit", "advanced", "time travel", "export", "mouse and keys"]
    whole = (lambda: fits(page, *buttons)) if page.screen in WHOLE else lambda: None
    page.page.wait_for_timeout(1500)  # the small scenes
    page.shot(f"screen-{page.screen}-1-before")
    whole()
    press(page, "rabbit")
    page.until(lambda: page.ask("len(studio.picker.picks.points)") >= 2)
    page.page.wait_for_timeout(300)
    page.shot(f"screen-{page.screen}-2-picked")
    whole()
    press(page, "Run")
    page.until(lambda: page.ask("getattr(studio.session.progress.get('drag'), 'i', 0)") > 3)
    # where the progress is seen; the bar itself goes with the drag, which does not wait for a slow browser
    run, bar = (
        page.page.locator(f".jp-OutputArea {css}").bounding_box() for css in (".dragnb-run", ".dragnb-answer")
    )
    whole()
    page.shot(f"screen-{page.screen}-3-running")
    whole()
    near = bar["y"] - run["y"] - run["height"] if page.screen in ("phone", "small") else 0
    assert near < 60, "how it goes is seen where Run was pressed"
    page.until(lambda: page.ask("[len(studio.session.snapshots), studio.session.busy]") == [1, ""])
    if not touch:
        page.page.mouse.move(*page.at(256, 200))
    page.page.wait_for_timeout(1000)
    page.shot(f"screen-{page.screen}-4-after")
    whole()
    readable(page)
    bar = page.page.evaluate(BOXES, ".dragnb-icons:first-of-type button")[:15]
    assert touch or len({round(box[2]) for box in bar}) == 1, "the icons stand in one row"
    for k, name in enumerate(FOLDS):
        press(page, name)
        for label, wrong in WRONG.get(name, {}).items():
            page.page.get_by_label(label, exact=True).fill(wrong)
            page.page.keyboard.press("Tab")
            page.page.get_by_role("alert").nth(0).wait_for()
        fold = page.page.get_by_role("button", name=name, exact=True)
        block = "end" if page.screen in WHOLE else "start"
        fold.evaluate("(e, block) => e.parentElement.scrollIntoView({block})", block)
        page.page.wait_for_timeout(300)
        page.shot(f"screen-{page.screen}-5-{k}-{name.split(':')[0].replace(' ', '-')}")
        readable(page)
        if page.screen in WHOLE:
            top, picture = page.page.evaluate(VIEW)[1], page.canvas.bounding_box()
            assert top <= picture["y"] + 1, "the picture stays beside a long form"
        press(page, name)
    assert not page.errors


def press(page, name):
    found = page.page.get_by_role("button", name=name, exact=True).first
    (found.tap if page.screen == "phone" else found.click)()
