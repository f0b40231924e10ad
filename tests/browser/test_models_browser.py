"""Pictures that the model makes, models with what is laid over them, and what is left of a page, in a real browser."""

import nbformat
import pytest

pytestmark = pytest.mark.browser

CELL = """
from dragnb import clay, config
from dragnb.ui import Studio
quick = config.profile("clay", lora_steps=2, steps=10, drag_steps=4, stop=0.0)
studio = Studio(clay.task(810001, "rabbit", "stretch").task, "clay", quick, out="exports")
studio
"""
WIDE = {"width": 1400, "height": 1500}
# how wide the pictures are that stand for the studio, as they are seen
STILLS = "() => [...document.querySelectorAll('.dragnb-still')].map(e => e.getBoundingClientRect().width)"
END = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await window.jupyterapp.commands.execute('docmanager:save'); await panel.sessionContext.shutdown();
}"""


def fill(page, label, value):
    field = page.page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Enter")


def test_a_picture_is_made_of_a_prompt_and_dragged_from_its_own_latents(notebook):
    page = notebook(CELL, name="made.ipynb", viewport=WIDE)
    page.button("generate a picture")
    fill(page, "steps", "7")
    page.page.get_by_text("steps = 7 does not divide 1000; the nearest that does is 8").first.wait_for()
    page.shot("made-wrong")
    fill(page, "steps", "10")
    fill(page, "seed", "5")
    fill(page, "negative prompt", "a boat")
    fill(page, "guidance (CFG)", "2")
    page.button("make a picture")
    page.page.get_by_text("the picture is made; undo brings back what was here").wait_for()
    recipe = {"negative": "a boat", "seed": 5, "steps": 10, "guidance": 2.0}
    made = page.ask("studio._generated[0].recipe")
    assert {name: made[name] for name in recipe} == recipe and "rabbit" in made["prompt"]
    assert page.ask("bool((studio.picker.picks.image == studio._generated[0].image).all())")
    page.drag((200, 100), (220, 60))
    page.until(lambda: len(page.ask("studio.picker.picks.points")) == 2)
    page.button("Run")
    page.until(lambda: page.ask("len(studio.session.snapshots)") == 1)
    page.page.get_by_text("fine-tune off").wait_for()
    assert page.ask("studio.session.shown.result.record['generated']['seed']") == 5
    page.shot("made-dragged")
    assert not page.errors


def test_a_lora_and_an_autoencoder_are_named_by_path_and_refused_at_their_fields(notebook):
    page = notebook(CELL, name="laid.ipynb", viewport={"width": 390, "height": 844})
    page.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.button("advanced")
    fill(page, "LoRA file", "nowhere.safetensors")
    page.page.get_by_role("alert").filter(has_text="there is no such file").wait_for()
    fill(page, "LoRA file", "")
    fill(page, "autoencoder (VAE)", "./nowhere")
    page.page.get_by_role("alert").filter(has_text="is not there; give an autoencoder").wait_for()
    page.page.get_by_role("alert").filter(has_text="is not there").scroll_into_view_if_needed()
    page.shot("laid-over-390")
    vae = page.ask("str(__import__('dragnb.checkpoints', fromlist=['x']).clay_folder())")
    fill(page, "autoencoder (VAE)", vae)
    page.until(lambda: page.ask("studio.settings.loading.fields['vae'].field.value") == vae)
    assert page.ask("studio.settings.model.vae") == vae
    assert page.page.get_by_role("alert").filter(has_text="is not there").count() == 0
    assert not page.errors


def test_once_the_kernel_has_ended_the_notebook_shows_the_newest_result(notebook):
    page = notebook(CELL, name="ended.ipynb", viewport=WIDE)
    page.page.get_by_text("1 pair; click a handle").wait_for()
    assert page.page.evaluate(STILLS) == [0], "beside the running studio no picture is seen"
    page.button("Run")
    page.until(lambda: page.ask("len(studio.session.snapshots)") == 1)
    page.page.wait_for_timeout(500)
    assert page.canvas.is_visible() and page.page.evaluate(STILLS) == [0]
    page.page.evaluate(END)
    open_without_kernel(page, "ended.ipynb")
    page.page.wait_for_function(f"() => ({STILLS})().some(w => w > 500)")
    page.shot("ended")

    book = nbformat.read(page.lab["root"] / "ended.ipynb", 4)
    book.cells[0].source += "# from somebody else, so that no style and no script of it is trusted"
    nbformat.write(book, page.lab["root"] / "untrusted.ipynb")
    open_without_kernel(page, "untrusted.ipynb")
    trusted = "() => window.jupyterapp.shell.currentWidget.content.widgets.some(c => c.model.trusted)"
    assert not page.page.evaluate(trusted)
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('.jp-OutputArea img')].some(e => e.getBoundingClientRect().width > 500)"
    )
    page.shot("untrusted")


def open_without_kernel(page, name):
    page.page.goto(f"{page.lab['url']}/lab?reset&token={page.lab['token']}")
    page.page.wait_for_function("() => window.jupyterapp")
    page.page.evaluate(
        "async path => { const app = window.jupyterapp; await app.started;"
        " const kernelPreference = {shouldStart: false, autoStartDefault: false, canStart: false};"
        " const panel = await app.commands.execute('docmanager:open', {path, kernelPreference});"
        " await panel.context.ready; app.shell.activateById(panel.id); }",
        name,
    )


def test_an_output_that_is_hidden_is_whole_once_it_is_shown_and_says_when_its_kernel_has_gone(notebook):
    page = notebook(CELL, name="hidden.ipynb", viewport=WIDE)
    page.button("Run")
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:hide-all-cell-outputs')")
    page.canvas.wait_for(state="hidden")
    page.until(lambda: page.ask("[len(studio.session.snapshots), studio.session.busy]") == [1, ""])
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:show-all-cell-outputs')")
    page.canvas = page.page.locator(".jp-OutputArea canvas").first
    page.canvas.wait_for()
    red = page.ask("int(studio.session.shown.result.image[240, 40][0])")
    page.until(lambda: abs(page.pixel(80, 480)[0] - red) < 8)
    page.until(lambda: page.ask("studio.picker.pointer.shown_width") == 512)

    words = "e => getComputedStyle(e, '::before').content"
    studio = page.page.locator(".jp-OutputArea .dragnb")
    assert studio.evaluate(words) == "none"
    page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    page.until(lambda: "The kernel has ended" in studio.evaluate(words))
    page.shot("restarted")
    assert not page.errors
