"""A picture that the model makes of a prompt, to be dragged from its own latents (the paper's Fig. 5)."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as W

from dragnb.config import suited
from dragnb.errors import InputError
from dragnb.pipeline import generated
from dragnb.ui.controls import button, hover, labelled
from dragnb.ui.panels.checked import Checked

EXAMPLE = "a red rabbit on green ground under a blue sky"
MEANINGS = {
    "prompt": "what the picture shall show",
    "negative": "what it shall not show; counts where the guidance is above 1",
    "seed": "of the noise that it begins with: the same seed, the same picture",
    "guidance": "how much more the prompt counts than the negative one (classifier-free); 1 is off",
    "steps": "of DDIM, a divisor of 1000",
}
ABOUT = (
    "The model above makes a picture. Its drag then begins at the picture's own latents: nothing is fine-tuned or "
    "inverted."
)


class GeneratePanel:
    """Prompt, negative prompt, seed, guidance and steps of a picture, each with a line for what is wrong with it.

    model  whose usual guidance stands there at first; make: called when the button is pressed
    """

    def __init__(self, model, make: Callable[[], None]):
        late = {"continuous_update": False, "label_width": "120px"}
        fields = {
            "prompt": labelled(W.Text, "prompt", value=EXAMPLE, **late),
            "negative": labelled(W.Text, "negative prompt", **late),
            "seed": labelled(W.IntText, "seed", value=42, **late),
            "guidance": labelled(W.FloatText, "guidance (CFG)", value=suited(model).guidance, **late),
            "steps": labelled(W.IntText, "steps", value=50, **late),
        }
        self.fields = {
            name: Checked(hover(field, MEANINGS[name]), _check(name)) for name, field in fields.items()
        }
        self._usual = suited(model).guidance
        self.button = button("make a picture", "in the background; Stop ends it", make)
        self.button.icon = "picture-o"
        self.widget = W.VBox([W.HTML(ABOUT), *(field.widget for field in self.fields.values()), self.button])

    def suit(self, model) -> None:
        """Another model: its usual guidance, unless another one was typed."""
        field, usual = self.fields["guidance"].field, suited(model).guidance
        if field.value == self._usual:
            field.value = usual
        self._usual = usual

    @property
    def recipe(self) -> dict:
        """What stands in the fields, as `pipeline.generated.generate` takes it; InputError by field."""
        return {name: checked.value for name, checked in self.fields.items()}


def _check(name: str) -> Callable:
    if name == "prompt":
        return _require_words
    if name == "negative":
        return lambda value: None  # any text, or none
    return lambda value: generated.check(**{name: value})


def _require_words(prompt: str) -> None:
    if not prompt.strip():
        raise InputError(f"prompt is empty; say what the picture shall show, as: {EXAMPLE}")
