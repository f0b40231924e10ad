"""How the model is loaded: a LoRA and an autoencoder of the user's own, clip skip, precision."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as W

from dragnb import checkpoints, sd
from dragnb.errors import InputError
from dragnb.ui.controls import hover, labelled
from dragnb.ui.panels.checked import Checked

DTYPES = ("auto", "fp32", "fp16", "bf16")
MEANINGS = {
    "lora": "a LoRA file of your own, merged into the U-Net: its path on the machine that computes",
    "vae": "another autoencoder: its folder or .safetensors file, by path; or a hub id",
    "clip_skip": "how many last layers of the text encoder are left out (Civitai's clip skip 2 is 1)",
    "dtype": "precision of the U-Net: auto is half precision on CUDA and fp32 elsewhere",
}


class LoadingPanel:
    """What is laid over a model, as `sd.load` takes it; each field says below itself what is wrong with it."""

    def __init__(self):
        late = {"continuous_update": False}
        fields = {
            "lora": labelled(W.Text, "LoRA file", placeholder="path/to/style.safetensors", **late),
            "vae": labelled(W.Text, "autoencoder (VAE)", placeholder="folder or file", **late),
            "clip_skip": labelled(W.IntText, "clip skip", **late),
            "dtype": labelled(W.Dropdown, "precision (dtype)", options=DTYPES),
        }
        self.fields = {
            name: Checked(hover(field, MEANINGS[name]), _check(name)) for name, field in fields.items()
        }
        # of a model that was given with more than the fields show: device, config, low_memory
        self._more = {}
        self.widget = W.VBox([field.widget for field in self.fields.values()])

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after every change of a field."""
        for checked in self.fields.values():
            checked.field.observe(lambda _: listener(), "value")

    def show(self, model) -> None:
        """Fill in how a model is loaded; of one by its name, or in memory, nothing is asked for."""
        asked = model if isinstance(model, sd.Wanted) else sd.Wanted()
        self._more = {name: getattr(asked, name) for name in ("device", "config", "low_memory")}
        for name, checked in self.fields.items():
            value = getattr(asked, name)
            checked.field.value = value if isinstance(checked.field.value, int) else str(value or "")

    def applied(self, model):
        """The model with what is asked for: by its bare name where that is nothing; InputError by field."""
        asked = self._more | {name: checked.value for name, checked in self.fields.items()}
        asked |= {name: asked[name].strip() or None for name in ("lora", "vae")}
        usual = sd.Wanted()
        asked = {name: value for name, value in asked.items() if value != getattr(usual, name)}
        if not asked:
            return model
        if isinstance(model, sd.Model):
            raise InputError(
                f"{', '.join(asked)}: model {model.name!r} is loaded already; choose it by name to load it so"
            )
        return sd.wanted(model, **asked)


def _check(name: str) -> Callable:
    if name == "dtype":
        return lambda value: None  # a choice of those there are
    return lambda value: checkpoints.check_laid_over(
        **{name: value.strip() if isinstance(value, str) else value}
    )
