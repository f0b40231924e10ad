"""The studio on the screens that people have: what fits, what can be hit and read. Pictures of each are kept."""

import pytest

pytestmark = pytest.mark.browser

CELLS = (
    "from dragnb import clay, config\nfrom dragnb.ui import Studio",
    'picture = clay.task(831_003, "rabbit", "stretch").task.image',
    'quick = config.profile("clay", lora_steps=5, steps=10, drag_steps=30, keep_outside=True)\n'
    'studio = Studio(picture, "clay", quick, out="exports")\nstudio',
)
SCREENS = {
    "laptop": dict(viewport={"width": 1440, "height": 900}),
    "small": dict(viewport={"width": 1024, "height": 768}),
    "phone": dict(viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True),
    "large": dict(viewport={"width": 1920, "height": 1080}),
    "dark": dict(viewport={"width": 1440, "height": 900}, device_scale_factor=2),
}
DARK = "() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
HIDE = "() => window.jupyterapp.commands.execute('application:toggle-left-area')"
# every widget that is seen, with its name and its box in the window
BOXES = """selector => [...document.querySelectorAll('.jp-OutputArea .dragnb ' + selector)].filter(e => e.offsetParent)
  .map(e => { const r = e.getBoundingClientRect();
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
  const look = (e, text) => {
    if (!e.offsetParent || e.closest(':disabled, .noUi-target, style')) return;
    const style = getComputedStyle(e), bg = behind(e);
    const a = light(over(parse(style.color), bg)), b = light(bg);
    found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), text.slice(0, 40), style.color, bg.join()]);
  };
  const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim();
    if (text) look(walk.currentNode.parentElement, text);
  }
  const fields = 'input[type=text], input[type=number], textarea, select';
  root.querySelectorAll(fields).forEach(e => look(e, e.tagName + ' ' + e.value));
  return found;
}"""


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


def in_window(page, *names):
    """Are all buttons of these names, and the picture, in the window as a whole?"""
    size = page.page.viewport_size
    boxes = page.page.evaluate(BOXES, "button") + page.page.evaluate(BOXES, "canvas")
    seen = [box for box in boxes if box[0] in names or box[0].startswith("picture:")]
    assert {box[0].split(":")[0] for box in seen} == {*names, "picture"}
    out = [
        box for box in seen if box[1] < 0 or box[2] < 0 or box[3] > size["width"] or box[4] > size["height"]
    ]
    assert not out, out


def test_every_screen_before_during_and_after_a_drag(screen):
    page, touch = screen, screen.screen == "phone"
    press = (
        (lambda name: page.page.get_by_role("button", name=name, exact=True).first.tap())
        if touch
        else page.button
    )
    page.page.wait_for_timeout(1500)  # the small scenes
    page.shot(f"screen-{page.screen}-1-before")
    press("rabbit")
    page.until(lambda: page.ask("len(studio.picker.picks.points)") >= 2)
    page.page.wait_for_timeout(300)
    page.shot(f"screen-{page.screen}-2-picked")
    press("Run")
    page.until(lambda: page.ask("getattr(studio.session.progress.get('drag'), 'i', 0)") > 3)
    page.page.wait_for_timeout(500)
    page.shot(f"screen-{page.screen}-3-running")
    page.until(lambda: page.ask("[len(studio.session.snapshots), studio.session.busy]") == [1, ""])
    if not touch:
        page.page.mouse.move(*page.at(256, 200))
    page.page.wait_for_timeout(1000)
    page.shot(f"screen-{page.screen}-4-after")
    if page.screen in ("laptop", "large", "dark"):
        in_window(page, "Run", "Stop", "undo", "fit", "advanced", "time travel", "export", "mouse and keys")
    bar = page.page.evaluate(BOXES, ".dragnb-icons:first-of-type button")[:15]
    if not touch:
        assert len({round(box[2]) for box in bar}) == 1, "the icons stand in one row"
    for fold in ("advanced", "time travel", "export"):
        press(fold)
    page.page.wait_for_timeout(500)
    texts = page.page.evaluate(CONTRAST)
    assert len(texts) > 40
    contrast = [found for found in texts if found[0] < 4.5]
    targets = page.page.evaluate(BOXES, "button") + page.page.evaluate(
        BOXES, "select, input:not([type=checkbox])"
    )
    small = [box for box in targets if min(box[3] - box[1], box[4] - box[2]) < 39.5]
    page.shot(f"screen-{page.screen}-5-folds")
    assert not contrast, contrast
    assert not (touch and small), small
    width = page.page.evaluate("() => document.querySelector('.jp-OutputArea .dragnb').scrollWidth")
    assert not touch or width <= 390
    assert not page.errors
