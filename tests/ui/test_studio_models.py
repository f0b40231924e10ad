"""The studio's models by its fields: a LoRA and an autoencoder of the user's own, pictures that the model makes."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("ipycanvas", reason="ipycanvas is missing: pip install 'dragnb[widgets]'")

from dragnb import lora, sd
from dragnb.pipeline import generated
from dragnb.ui import Studio
from dragnb.ui.panels import GeneratePanel, SettingsPanel

PATIENCE = 120  # seconds; a run takes about one
RECIPE = {"prompt": "a cat", "negative": "a dog", "seed": 5, "guidance": 3.0, "steps": 5}


@pytest.fixture
def studio(drag_task, smoke_folder, quick, kept, tmp_path):
    studio = Studio(drag_task, str(smoke_folder), quick, store=kept, out=tmp_path / "out")
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def style(smoke, tmp_path_factory):
    """A LoRA file for the smoke model."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"unet.{n.removesuffix('.weight')}.lora.{half}.weight": torch.randn(shape, generator=generator) / 2
        for n, p in smoke.unet.named_parameters()
        if n.endswith("to_q.weight")
        for half, shape in (("down", (2, p.shape[1])), ("up", (p.shape[0], 2)))
    }
    return lora.save(tmp_path_factory.mktemp("lora") / "style.safetensors", weights)


def press(studio, button):
    button.click()
    assert studio.session.wait(PATIENCE)
    assert studio.session.problem is None, studio.session.problem


def make(studio, **changes):
    """The picture that the page's fields make, pressed for and waited for."""
    for name, value in (RECIPE | changes).items():
        studio.generate.fields[name].field.value = value
    press(studio, studio.generate.button)
    return studio.picker.picks.image


def drag(studio):
    image = studio.picker.picks.image
    h, w = image.shape[:2]
    studio.picker.picks.set_points([(w // 3, h // 2), (w // 2, h // 2)])
    press(studio, studio.run_button)
    return studio.session.shown


# a picture that the model makes


def test_a_generated_picture_is_on_the_canvas_and_is_the_one_of_its_recipe(studio, smoke):
    image = make(studio)
    assert np.array_equal(image, generated.generate(smoke, **RECIPE).image)
    assert studio.picker.picks.prompt == "a cat" and "made this picture" in studio.picker.panel.text.value
    assert "the picture is made" in studio.message.value
    studio.picker.act("undo")
    assert not np.array_equal(studio.picker.picks.image, image), "undo brings back what was there"
    assert "made this picture" not in studio.picker.panel.text.value


def test_its_drag_begins_at_its_own_latents(studio):
    make(studio)
    shown = drag(studio)
    assert shown.result.record["generated"] == RECIPE and shown.generated is not None
    assert not isinstance(shown.generated.model, sd.Model), "no model hangs on what is kept"
    assert "fine-tune off" in studio.progress.value and "invert off" in studio.progress.value
    assert np.allclose(
        shown.result.states[0].z, shown.generated.zs[shown.generated.ts.index(shown.result.record["t"])]
    )


def test_it_is_looked_into_branched_from_and_gone_back_to_like_any_other(studio):
    image = make(studio)
    first = drag(studio)
    studio.travel.step.value = 1
    assert studio.session.wait(PATIENCE)
    press(studio, studio.travel.branch)
    press(studio, studio.run_button)
    branch = studio.session.shown
    assert branch.start == (first, 1) and branch.generated is first.generated
    studio.go_back(first)
    assert np.array_equal(studio.picker.picks.image, image)
    press(studio, studio.run_button)
    assert studio.session.shown.generated is first.generated


def test_another_model_drags_it_as_a_picture_like_any_other_and_no_branch_mixes_two(studio, smoke, style):
    make(studio)
    first = drag(studio)
    studio.travel.step.value = 1
    assert studio.session.wait(PATIENCE)
    studio.settings.loading.fields["lora"].field.value = str(style)
    other = drag(studio)
    assert other.generated is None and other.result.record["generated"] is None
    studio.go_back(first)
    studio.travel.step.value = 1
    assert studio.session.wait(PATIENCE)
    studio.travel.branch.click()
    studio.settings.loading.fields["lora"].field.value = str(style)
    studio.run_button.click()
    assert "made this picture; choose that model" in studio.session.problem.line


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prompt", " ", "prompt is empty; say what"),
        ("seed", -1, "seed = -1 is not a whole number from 0"),
        ("guidance", 0.5, "guidance = 0.5 is not a number from 1"),
        ("steps", 7, "steps = 7 does not divide 1000; the nearest that does is 8"),
    ],
)
def test_a_wrong_value_is_a_line_at_its_field_and_makes_nothing(studio, name, value, said):
    checked, before = studio.generate.fields[name], studio.picker.picks.image
    assert checked.line.layout.display == "none"
    checked.field.value = value
    assert said in checked.line.value and checked.line.layout.display == ""
    studio.generate.button.click()
    assert said in studio.session.problem.line and not studio.session.busy
    assert studio.picker.picks.image is before
    checked.field.value = RECIPE[name]
    assert checked.line.value == "" and checked.line.layout.display == "none"


def test_stop_ends_the_making_and_leaves_what_was_there(studio):
    before = studio.picker.picks.image
    studio.generate.fields["steps"].field.value = 500
    studio.generate.button.click()
    studio.stop_button.click()
    assert studio.session.wait(PATIENCE)
    assert "stopped" in studio.message.value and studio.picker.picks.image is before


def test_the_guidance_follows_the_model_until_it_is_typed():
    panel = GeneratePanel("clay", lambda: None)
    assert panel.recipe["guidance"] == 1.0
    panel.suit("sd15")
    assert panel.recipe["guidance"] == 7.5
    panel.fields["guidance"].field.value = 4.0
    panel.suit("clay")
    assert panel.recipe["guidance"] == 4.0


# a LoRA, an autoencoder, clip skip, precision


def test_what_is_laid_over_reaches_the_drag_and_comes_back_with_it(studio, smoke, smoke_folder, style):
    plain, fields = drag(studio), studio.settings.loading.fields
    fields["lora"].field.value, fields["vae"].field.value = f" {style} ", str(smoke_folder)
    fields["dtype"].field.value = "fp32"
    wanted = sd.wanted(str(smoke_folder), lora=str(style), vae=str(smoke_folder), dtype="fp32")
    assert studio.settings.model == wanted
    laid = drag(studio)
    assert laid.result.record["model"]["hash"] == sd.hash_of(wanted) != plain.result.record["model"]["hash"]
    studio.go_back(plain)
    assert studio.settings.model == str(smoke_folder) and fields["lora"].field.value == ""
    studio.go_back(laid)
    assert studio.settings.model == wanted


def test_the_exported_notebook_loads_the_model_as_it_was_loaded(studio, style, tmp_path):
    studio.settings.loading.fields["lora"].field.value = str(style)
    drag(studio)
    press(studio, studio.exports["ipynb"])
    (path,) = (tmp_path / "out").glob("*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    (source,) = ("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    assert f"loading = {{'lora': '{style}'}}  # how it is loaded" in source


def test_a_model_wanted_in_some_way_fills_the_fields_and_keeps_the_rest():
    wanted = sd.wanted("owner/name", lora="a.safetensors", clip_skip=1, device="cpu", low_memory=True)
    panel = SettingsPanel(wanted, None, None)
    assert panel.folder.value == "owner/name" and panel.loading.fields["lora"].field.value == "a.safetensors"
    assert "there is no such file" in panel.loading.fields["lora"].line.value
    panel.loading.fields["lora"].field.value = ""
    assert panel.model == sd.wanted("owner/name", clip_skip=1, device="cpu", low_memory=True)


def test_more_layers_left_out_than_the_text_encoder_has_is_a_line(studio):
    studio.settings.loading.fields["clip_skip"].field.value = 1
    studio.run_button.click()
    assert studio.session.wait(PATIENCE)
    assert "clip_skip = 1: the text encoder has 1 layers" in studio.session.problem.line


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lora", "nowhere.safetensors", "lora = &#x27;nowhere.safetensors&#x27;: there is no such file"),
        ("vae", "./nowhere", "vae = &#x27;./nowhere&#x27; is not there; give an autoencoder"),
        ("clip_skip", -1, "clip_skip = -1 is no whole number from 0"),
    ],
)
def test_what_cannot_be_laid_over_is_a_line_at_its_field(studio, name, value, said):
    checked = studio.settings.loading.fields[name]
    checked.field.value = value
    assert said in checked.line.value and checked.line.layout.display == ""
    studio.run_button.click()
    assert not studio.session.busy and studio.session.problem.line.startswith(name)


def test_files_of_another_kind_are_named_by_what_is_in_them(studio, style, tmp_path):
    text, fields = tmp_path / "notes.safetensors", studio.settings.loading.fields
    text.write_text("no weights")
    fields["lora"].field.value = str(text)
    assert "cannot be read" in fields["lora"].line.value
    fields["vae"].field.value = str(style)
    assert "holds no autoencoder" in fields["vae"].line.value
    fields["vae"].field.value = str(tmp_path)
    assert "holds no config.json" in fields["vae"].line.value


def test_a_model_in_memory_says_that_it_is_loaded_already(drag_task, smoke, style):
    panel = SettingsPanel(smoke, None, None)
    assert panel.model is smoke
    panel.loading.fields["lora"].field.value = str(style)
    with pytest.raises(ValueError, match="is loaded already; choose it by name"):
        _ = panel.model
