"""What to run, as widgets: model, canvas, profile, the numbers that matter, and a switch for each stage."""

from __future__ import annotations

from collections.abc import Callable

from dragnb import config
from dragnb.config import PROFILES, Settings
from dragnb.errors import InputError
from dragnb.prepare import default_settings
from dragnb.ui.parts import W, hover, narrow, row, show_if

MODELS = [("bundled clay model", "clay"), ("Stable Diffusion 1.5", "sd15"), ("folder, file or hub id", "")]
NUMBERS = ("lora_steps", "drag_steps", "drag_lr", "lam", "r1", "r2", "block", "strength", "guidance", "seed")
SWITCHES = {  # the setting that is zero, or False, where a stage is off
    "lora_steps": (
        "fine-tune",
        "teaches the model this one picture; without it the picture loses its identity",
    ),
    "reference": (
        "reference control",
        "the way back looks at the original picture; without it details drift",
    ),
    "lam": ("mask term", "holds what is outside the mask while dragging; without it the rest drifts"),
}


class SettingsPanel:
    """Model, canvas, profile, the numbers that matter with their meaning on hover, and a switch for each stage."""

    def __init__(self, model, settings: Settings | None, side: int | None):
        own = [] if isinstance(model, str) else [(model.name, model)]
        self.models = narrow(W.Dropdown, options=MODELS + own, value="", description="model")
        self.folder = narrow(W.Text, description="which", placeholder="folder, .safetensors or owner/name")
        self.side = narrow(W.IntText, description="side, px")
        hover(self.side, "longer side of the canvas, a multiple of 64; 0: the model's own")
        self.profile = narrow(W.Dropdown, options=list(PROFILES), description="profile")
        self.numbers, self.switches = {}, {}
        for name in NUMBERS:
            kind = W.IntText if isinstance(getattr(Settings, name), int) else W.FloatText
            self.numbers[name] = hover(narrow(kind, description=name), config.meaning(name))
        for name, (label, why) in SWITCHES.items():
            box = W.Checkbox(value=True, description=label, indent=False)
            box.layout = W.Layout(width="auto", margin="2px 10px 2px 2px")
            self.switches[name] = hover(box, why)
        self._listeners, self._busy = [], False
        self.show(model, default_settings(model) if settings is None else settings, side)
        self.models.observe(self._chosen, "value")
        self.profile.observe(lambda _: self._fill(config.profile(self.profile.value)), "value")
        for widget in (self.models, self.folder, self.side, *self.numbers.values(), *self.switches.values()):
            widget.observe(lambda _: self._tell(), "value")
        which = [self.models, self.profile, self.folder, self.side]
        stages = row(W.HTML("stages:"), *self.switches.values())
        self.widget = W.VBox([row(*which), stages, row(*self.numbers.values())])

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after every change, once for a profile that fills in many."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        if not self._busy:
            for listener in self._listeners:
                listener()

    def show(self, model, settings: Settings, side: int | None) -> None:
        """Fill in what a drag was made with."""
        known = [value for _, value in self.models.options]
        self.models.value = model if model in known else ""
        self.folder.value = model if isinstance(model, str) and model not in known else ""
        self.side.value = side or 0
        self.profile.value = config.nearest_profile(settings)[0]
        self._fill(settings)
        self._which()

    @property
    def model(self):
        """The model as `pipeline.run` takes it."""
        found = self.models.value or self.folder.value.strip()
        if not found:
            raise InputError("model: say which, a folder, a .safetensors file or a hub id 'owner/name'")
        return found

    @property
    def settings(self) -> Settings:
        """The settings as filled in; InputError names what is out of range."""
        values = {name: widget.value for name, widget in self.numbers.items()}
        values["reference"] = self.switches["reference"].value
        for name in ("lora_steps", "lam"):
            values[name] = values[name] if self.switches[name].value else 0
        return self._base.replace(**values)

    def _fill(self, settings: Settings) -> None:
        self._base, usual, self._busy = settings, config.profile(self.profile.value), True
        for name, switch in self.switches.items():
            switch.value = bool(getattr(settings, name))
        for name, widget in self.numbers.items():
            shown = settings if name not in SWITCHES or self.switches[name].value else usual
            widget.value = getattr(shown, name)
        self._busy = False
        self._tell()

    def _chosen(self, change) -> None:
        self._which()
        if change["new"]:
            self.profile.value = config.nearest_profile(default_settings(change["new"]))[0]

    def _which(self) -> None:
        show_if(not self.models.value, self.folder)
