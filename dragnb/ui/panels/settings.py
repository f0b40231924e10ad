"""What a drag is made with: model, quality, switches, and the numbers under "advanced"."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import ipywidgets as W

from dragnb import config, sd
from dragnb.config import Settings, profile_names, suited_settings
from dragnb.errors import InputError
from dragnb.ui.controls import fold, hover, labelled, narrow, row, show_if
from dragnb.ui.panels.loading import LoadingPanel

MODELS = [
    ("bundled (clay only)", "clay"),
    ("bundled 2 (clay with patterns)", "clay2"),
    ("Stable Diffusion 1.5", "sd15"),
    ("folder, file or hub id", ""),
]
NUMBERS = {
    "lora_steps": "fine-tune steps",
    "drag_steps": "drag steps, at most",
    "drag_lr": "drag step size",
    "lam": "weight of the mask",
    "r1": "patch radius",
    "r2": "tracking radius",
    "block": "feature block",
    "strength": "noise level",
    "guidance": "prompt guidance",
    "seed": "seed",
}
# the part of the profile's steps that each takes
QUALITY = {"fast": 0.5, "normal": 1.0, "best": 2.0}
OWN = "own"
# the setting that is zero, or False, where a stage is off: its label, its meaning
SWITCHES = {
    "lora_steps": ("fine-tune", "teaches the model this picture; without it the picture loses its identity"),
    "reference": ("reference control", "denoising attends to the original picture; without it details drift"),
    "lam": ("mask term", "holds what is outside the mask while dragging; without it the rest drifts"),
    "keep_outside": (
        "keep the original outside the mask",
        "puts the picture's own pixels back there; what is measured is measured without it",
    ),
}


class SettingsPanel:
    """Model, quality and a switch for each stage; under `advanced` profile, canvas, numbers, the model's loading."""

    def __init__(self, model, settings: Settings | None, side: int | None):
        own = [(model.name, model)] if isinstance(model, sd.Model) else []
        self.loading = LoadingPanel()
        self.models = self._beside(W.Dropdown, "model", options=MODELS + own, value="")
        look = {"placeholder": "folder, .safetensors or owner/name", "continuous_update": False}
        self.folder = narrow(W.Text, description="which", **look)
        self.quality = self._beside(W.Dropdown, "quality", options=[*QUALITY, OWN], value="normal")
        hover(
            self.quality,
            f"more steps of the method, or fewer; {OWN!r}: the numbers under advanced; grey: none",
        )
        self.side = labelled(W.IntText, "longer side, px")
        hover(
            self.side,
            "longer side of the canvas, a multiple of 64 (profile reference: its width); 0: the model's own",
        )
        self.profile = labelled(W.Dropdown, "profile", options=list(profile_names()))
        self.numbers, self.switches = {}, {}
        for name in NUMBERS:
            kind = W.IntText if isinstance(getattr(Settings, name), int) else W.FloatText
            self.numbers[name] = hover(labelled(kind, f"{NUMBERS[name]} ({name})"), config.meaning(name))
        for name, (label, meaning) in SWITCHES.items():
            box = W.Checkbox(value=True, description=label, indent=False)
            box.layout = W.Layout(width="auto", margin="2px 10px 2px 2px")
            self.switches[name] = hover(box, meaning)
        self.soft = labelled(W.IntText, "soft edge of the mask, px (feather)")
        hover(self.soft, config.meaning("feather"))
        self._listeners, self._filling = [], False
        self.show(model, suited_settings(model) if settings is None else settings, side)
        self.models.observe(self._chosen, "value")
        self.quality.observe(lambda _: self._take_quality(), "value")
        self.profile.observe(lambda _: self._fill(config.profile(self.profile.value)), "value")
        watched = (
            self.models,
            self.folder,
            self.side,
            self.soft,
            *self.numbers.values(),
            *self.switches.values(),
        )
        for widget in watched:
            widget.observe(lambda _: self._notify(), "value")
        self.loading.on_change(self._notify)
        self.widget = W.VBox([row(self.models, self.quality, self.folder), row(*self.switches.values())])
        numbers = [self.profile, self.side, *self.numbers.values(), self.soft]
        self.advanced = fold("advanced", W.VBox([*numbers, self.loading.widget]))

    @staticmethod
    def _beside(kind, label: str, **options):
        layout, style = W.Layout(width="auto"), {"description_width": "auto"}
        return kind(description=label, layout=layout, style=style, **options)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after every change, once for a profile that fills in many."""
        self._listeners.append(listener)

    def _notify(self) -> None:
        if not self._filling:
            for listener in self._listeners:
                listener()

    def show(self, model, settings: Settings, side: int | None) -> None:
        """Fill in what a drag was made with."""
        known = [value for _, value in self.models.options]
        self.loading.show(model)
        model = model.model if isinstance(model, sd.Wanted) else model
        self.models.value = model if model in known else ""
        self.folder.value = model if isinstance(model, str) and model not in known else ""
        self.side.value = side or 0
        self.profile.value = config.nearest_profile(settings)[0]
        self._fill(settings)
        self._which()

    @property
    def model(self):
        """The model as `pipeline.run` takes it."""
        model = self.models.value or self.folder.value.strip()
        if not model:
            raise InputError("model: say which, a folder, a .safetensors file or a hub id 'owner/name'")
        return self.loading.applied(model)

    @property
    def settings(self) -> Settings:
        """The settings as filled in; InputError names what is out of range."""
        values = {name: widget.value for name, widget in self.numbers.items()}
        values |= {name: self.switches[name].value for name in ("reference", "keep_outside")}
        values["feather"] = self.soft.value
        for name in ("lora_steps", "lam"):
            values[name] = values[name] if self.switches[name].value else 0
        return self._base.replace(**values)

    def _fill(self, settings: Settings) -> None:
        self._base, usual, self._filling = settings, config.profile(self.profile.value), True
        for name, switch in self.switches.items():
            switch.value = bool(getattr(settings, name))
        for name, widget in self.numbers.items():
            value = getattr(settings, name)
            if name in SWITCHES and not self.switches[name].value:  # what the switch brings back
                value = getattr(usual, name) or getattr(Settings, name)
            widget.value = value
        for name, widget in [*self.numbers.items(), *self.switches.items()]:
            widget.disabled = name in settings.unread
        self.quality.disabled = not settings.effort
        self.soft.value = settings.feather
        self.quality.value = self._quality_of(settings)
        self._filling = False
        self._notify()

    def _quality_of(self, settings: Settings) -> str:
        """The quality whose steps these are of the chosen profile, else OWN."""
        if not settings.effort:
            return "normal"
        steps = {name: self._steps(share) for name, share in QUALITY.items()}
        now = {name: getattr(settings, name) for name in steps["normal"]}
        return next((name for name, changes in steps.items() if changes == now), OWN)

    def _steps(self, share: float) -> dict[str, int]:
        usual = config.profile(self.profile.value)
        return {name: round(share * getattr(usual, name)) for name in usual.effort}

    def _take_quality(self) -> None:
        if not self._filling and self.quality.value != OWN:
            with contextlib.suppress(InputError):  # a number under advanced that is being typed
                self._fill(self.settings.replace(**self._steps(QUALITY[self.quality.value])))

    def _chosen(self, change) -> None:
        self._which()
        if change["new"]:
            self.profile.value = config.nearest_profile(suited_settings(change["new"]))[0]

    def _which(self) -> None:
        show_if(not self.models.value, self.folder)
