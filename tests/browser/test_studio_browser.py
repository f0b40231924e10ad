"""The studio in a real browser, in JupyterLab and as an app; what is asserted is what the kernel holds."""

import shutil
import sys
import time

import psutil
import pytest
from driver import PATIENCE, ROOT, SHOTS, free_port, keep, served
from PIL import Image

pytestmark = pytest.mark.browser

RESULT = "result: difference, tracks, next round"
WIDE = {"width": 1400, "height": 1750}  # all of the studio
STUDIO = """
from dragnb import clay, config
from dragnb.ui import Studio
quick = config.profile("clay", lora_steps=5, steps=10, drag_steps=60, stop=0.0)
task = clay.task(810001, "rabbit", "stretch").task
{name} = Studio(task, "clay", quick, out="exports")
{name}
"""
# the next run waits for Stop where this is true, so that it is not over before a slow browser has pressed it
HOLD = """(lambda s, left: s.on_change(lambda: left and ({}) and left.pop().wait(600)))(
    studio.session, [studio.session._stop])"""


def test_run_stop_travel_branch_and_reload(notebook):
    page = notebook(STUDIO.format(name="studio"), name="studio.ipynb", viewport=WIDE)
    page.ask(HOLD.format("getattr(s.progress.get('drag'), 'i', 0) > 3"))
    page.button("Run")
    page.until(lambda: page.ask("getattr(studio.session.progress.get('drag'), 'i', 0)") > 3)
    page.shot("studio-running")
    begin = time.monotonic()
    page.button("Stop")
    page.until(
        lambda: page.ask("studio.session.progress['drag'].i < 60 and 'denoise' in studio.session.progress")
    )
    print(f"\nfrom the click on Stop to the end of the drag: {time.monotonic() - begin:.2f} s")
    page.until(lambda: page.ask("studio.session.busy") == "")
    assert page.ask("studio.session.shown.result.interrupted")

    page.button("time travel")
    slider = page.page.locator(".widget-slider").filter(has_text="step").locator(".noUi-handle")
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    page.until(lambda: page.ask("studio.travel.step.max - studio.travel.step.value") == 2)
    page.until(lambda: page.ask("studio.picker.canvas.caption").startswith("step "))
    page.shot("studio-travel")
    page.page.locator(".jupyter-widgets.widget-play button").first.click()
    page.until(lambda: page.ask("studio.travel.step.value == studio.travel.step.max"))
    page.until(lambda: page.ask("studio.picker.canvas.caption") == "after")
    # else it plays on from where the slider is put
    page.until(lambda: not page.ask("studio.travel.play.playing"))
    slider.press("ArrowLeft")
    page.until(lambda: page.ask("studio.travel.step.value in studio.session.looks"))
    page.button("branch from here")
    page.until(lambda: "Run begins at step" in page.ask("studio.begins.value"))
    page.button("Run")
    page.until(lambda: page.ask("len(studio.session.snapshots)") == 2)
    assert page.ask("studio.session.shown.start[0] is studio.session.snapshots[0]")
    assert page.ask("studio.session.problem") is None
    page.shot("studio-branched")

    page.save()
    page.open(run=False)
    page.page.get_by_text("drag 2:").wait_for()
    page.button(RESULT)
    page.button("tracks")
    page.until(lambda: page.ask("studio.result.view.value") == "tracks")
    page.shot("studio-reloaded")
    assert not page.errors


PROGRESS = (
    "(lambda s: [len(s.progress), getattr(s.progress.get('drag'), 'i', 0), len(s.snapshots)])(studio.session)"
)
FIRST = (
    "from dragnb import clay\nfrom dragnb.ui import Studio",
    'picture = clay.task(846016, "flower", "move").task.image',
    'studio = Studio(picture, out="exports")\nstudio',
)


def test_a_first_drag_is_picked_run_and_exported_with_three_cells(notebook, lab):
    page = notebook(*FIRST, name="first.ipynb", viewport=WIDE)
    begin, film = time.monotonic(), [page.portrait()]
    page.page.get_by_placeholder("What does the picture show").fill("a red flower")
    page.page.keyboard.press("Tab")
    page.drag((201, 181), (301, 141))
    page.until(
        lambda: (
            page.ask("[len(studio.picker.picks.points), studio.picker.picks.prompt]") == [2, "a red flower"]
        )
    )
    film.append(page.portrait())
    page.button("around the path")
    page.until(lambda: page.ask("bool(studio.picker.picks.mask.any())"))
    film.append(page.portrait())
    page.button("Run")
    filmed = {}

    def done():
        """Is it? Until then every stage is filmed, and every step of the drag."""
        stages, step, made = page.ask(PROGRESS)
        if (stages, step) not in filmed:
            filmed[stages, step] = page.portrait()
        return made == 1

    page.until(done)
    film += [*filmed.values(), page.portrait()]
    page.button("export")
    page.button("picture")
    page.until(lambda: (lab["root"] / "exports" / "drag-1.png").exists())
    print(f"\na first drag, from the first click to the exported picture: {time.monotonic() - begin:.0f} s")
    keep("studio", film[-1])
    keep("studio", *film)
    assert not page.errors


FULL = "setattr(__import__('os'), 'fsync', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left')))"


def test_what_is_pressed_at_the_wrong_time_is_answered_in_a_line_and_nothing_is_lost(notebook):
    page = notebook(STUDIO.format(name="studio"), name="wrong.ipynb", viewport=WIDE)
    page.tap(100, 400)
    page.until(lambda: len(page.ask("studio.picker.picks.points")) == 3)
    page.button("Run")
    page.page.get_by_text("3 points are an odd number").first.wait_for()
    page.button("undo")
    page.until(lambda: len(page.ask("studio.picker.picks.points")) == 2)

    page.ask(HOLD.format("s.progress"))
    page.button("Run")
    page.button("Stop")
    page.page.get_by_text("stopped; there was nothing to keep yet").wait_for()
    page.page.locator(".jp-OutputArea").get_by_role("button", name="Run", exact=True).dblclick()
    page.until(lambda: page.ask("[len(studio.session.snapshots), studio.session.busy]") == [1, ""])

    page.ask(FULL)
    page.button("export")
    page.button("picture")
    page.page.get_by_text("cannot be written (No space left)").first.wait_for()
    page.shot("studio-refused")
    assert page.ask("[len(studio.session.snapshots), len(studio.picker.picks.points)]") == [1, 2]
    assert not page.errors


def test_two_studios_at_once(notebook):
    cells = [STUDIO.format(name=name) for name in ("one", "two")]
    page = notebook(*cells, name="two.ipynb", viewport=WIDE)
    page.until(lambda: page.page.get_by_role("button", name="Run", exact=True).count() == 2)
    page.button("Run", 0)
    page.button("Run", 1)
    done = "[[len(s.session.snapshots), s.session.problem and s.session.problem.line] for s in (one, two)]"
    page.until(lambda: page.ask(done) == [[1, None], [1, None]])

    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.until(lambda: page.ask(done) == [[0, None], [0, None]])
    assert page.ask("[Out[1].session._closed, Out[2].session._closed]") == [True, True], (
        "a cell lets go of its old"
    )
    assert page.ask("len([t for t in __import__('threading').enumerate() if t.name == 'dragnb studio'])") == 0


def test_the_app_of_make_app_picks_runs_and_takes_a_large_picture(chromium, tmp_path):
    pytest.importorskip("voila", reason="voila is missing: pip install 'dragnb[app]'")
    if shutil.which("make") is None:
        pytest.skip("make is missing (Debian: apt install make)")
    port = free_port()
    url, options = f"http://127.0.0.1:{port}", f"--Voila.ip=127.0.0.1 --port={port} --no-browser"
    make = ["make", "--directory", ROOT, "--old-file=setup", "app", f"VENV={sys.prefix}", f"ARGS={options}"]
    with served(make, f"{url}/voila/static/", tmp_path):
        page = chromium.new_context(viewport=WIDE).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        assert "<title>dragnb studio</title>" in page.goto(url).text(), "so it is called while it loads, too"
        page.get_by_text("1 pair; click a handle").wait_for()
        page.get_by_role("button", name="mouse and keys", exact=True).click()
        page.get_by_role("button", name="clear points", exact=True).click()
        page.wait_for_function("() => document.title === 'dragnb studio'")
        page.get_by_text("0 pairs; click a handle").wait_for()
        box = page.locator("canvas").first.bounding_box()
        page.mouse.move(box["x"] + 0.60 * box["width"], box["y"] + 0.18 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.57 * box["width"], box["y"] + 0.25 * box["height"], steps=5)
        page.mouse.up()
        page.get_by_text("1 pair; click a handle").wait_for()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("moved and painted in").wait_for()  # what suits the bundled model
        assert page.get_by_label("keep the original outside the mask").is_checked()
        page.get_by_text("Drags last as long as this page is open").wait_for()
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / "studio-app.png", full_page=True)

        large = Image.effect_noise((2100, 2100), 99).convert("RGB")
        large.save(tmp_path / "large.png", compress_level=0)  # 12 MiB
        page.get_by_text("picture and drag file").click()
        with page.expect_file_chooser() as chooser:
            page.locator(".widget-upload").click()
        chooser.value.set_files(tmp_path / "large.png")
        page.get_by_text("large.png is loaded").wait_for()
        asked = []
        page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
        page.reload()
        assert asked == ["beforeunload"], "finished drags are not lost without a word"

        page.get_by_text("1 pair; click a handle").wait_for()
        assert page.locator(".dragnb-gone").count() == 0
        (app,) = (p for p in psutil.Process().children(recursive=True) if "voila" in p.cmdline())
        for kernel in app.children():
            kernel.kill()
        page.get_by_role("alert").filter(has_text="The kernel behind this page has ended").wait_for()
        page.screenshot(path=SHOTS / "studio-app-ended.png")
        page.context.close()
