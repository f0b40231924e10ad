"""The studio's panels, each a widget on plain values: what came out, the way there, how it goes."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable

import ipywidgets as W

from dragnb import config
from dragnb.config import STAGES, Settings, profile_names, suited_settings
from dragnb.errors import InputError
from dragnb.pipeline import Event, Result
from dragnb.ui import frames
from dragnb.ui.controls import button, hover, narrow, paragraph, picture, put, row, show_if
from dragnb.ui.worker import Problem

REUSED = "same picture, prompt and model: reused"
NOTHING = "Nothing has been dragged yet: pick, then press Run."
LOOK = "Move the slider to see a step: its picture in one leap, its features, and a way to branch from there."
MODELS = [("bundled clay model", "clay"), ("Stable Diffusion 1.5", "sd15"), ("folder, file or hub id", "")]
NUMBERS = ("lora_steps", "drag_steps", "drag_lr", "lam", "r1", "r2", "block", "strength", "guidance", "seed")
# the setting that is zero, or False, where a stage is off: its label, its meaning
SWITCHES = {
    "lora_steps": ("fine-tune", "teaches the model this picture; without it the picture loses its identity"),
    "reference": ("reference control", "denoising attends to the original picture; without it details drift"),
    "lam": ("mask term", "holds what is outside the mask while dragging; without it the rest drifts"),
}


class SettingsPanel:
    """Model, canvas, profile, the numbers that matter with their meaning on hover, and a switch for each stage."""

    def __init__(self, model, settings: Settings | None, side: int | None):
        own = [] if isinstance(model, str) else [(model.name, model)]
        self.models = narrow(W.Dropdown, options=MODELS + own, value="", description="model")
        self.folder = narrow(W.Text, description="which", placeholder="folder, .safetensors or owner/name")
        self.side = narrow(W.IntText, description="side, px")
        hover(
            self.side,
            "longer side of the canvas, a multiple of 64 (profile reference: its width); 0: the model's own",
        )
        self.profile = narrow(W.Dropdown, options=list(profile_names()), description="profile")
        self.numbers, self.switches = {}, {}
        for name in NUMBERS:
            kind = W.IntText if isinstance(getattr(Settings, name), int) else W.FloatText
            self.numbers[name] = hover(narrow(kind, description=name), config.meaning(name))
        for name, (label, meaning) in SWITCHES.items():
            box = W.Checkbox(value=True, description=label, indent=False)
            box.layout = W.Layout(width="auto", margin="2px 10px 2px 2px")
            self.switches[name] = hover(box, meaning)
        self._listeners, self._filling = [], False
        self.show(model, suited_settings(model) if settings is None else settings, side)
        self.models.observe(self._chosen, "value")
        self.profile.observe(lambda _: self._fill(config.profile(self.profile.value)), "value")
        for widget in (self.models, self.folder, self.side, *self.numbers.values(), *self.switches.values()):
            widget.observe(lambda _: self._notify(), "value")
        which = [self.models, self.profile, self.folder, self.side]
        stages = row(W.HTML("stages:"), *self.switches.values())
        self.widget = W.VBox([row(*which), stages, row(*self.numbers.values())])

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
        return model

    @property
    def settings(self) -> Settings:
        """The settings as filled in; InputError names what is out of range."""
        values = {name: widget.value for name, widget in self.numbers.items()}
        values["reference"] = self.switches["reference"].value
        for name in ("lora_steps", "lam"):
            values[name] = values[name] if self.switches[name].value else 0
        return self._base.replace(**values)

    def _fill(self, settings: Settings) -> None:
        self._base, usual, self._filling = settings, config.profile(self.profile.value), True
        for name, switch in self.switches.items():
            switch.value = bool(getattr(settings, name))
        for name, widget in self.numbers.items():
            shown = settings if name not in SWITCHES or self.switches[name].value else usual
            widget.value = getattr(shown, name)
        self._filling = False
        self._notify()

    def _chosen(self, change) -> None:
        self._which()
        if change["new"]:
            self.profile.value = config.nearest_profile(suited_settings(change["new"]))[0]

    def _which(self) -> None:
        show_if(not self.models.value, self.folder)


class ResultPanel:
    """Before and after: a slider between them, what changed, or the handles' ways over the result."""

    VIEWS = ("before | after", "difference", "tracks")

    def __init__(self):
        self.view = W.ToggleButtons(options=self.VIEWS)
        self.part = W.FloatSlider(value=0.5, min=0, max=1, step=0.01, description="after", readout=False)
        self.nothing, self.image = W.HTML(NOTHING), picture("512px")
        self.widget = W.VBox([self.nothing, self.view, self.part, self.image])
        self.view.observe(self._draw, "value")
        self.part.observe(self._draw, "value")
        self.show(None)

    def show(self, result: Result | None) -> None:
        """Show this edit, or nothing."""
        self._result = result
        self._draw()

    def _draw(self, _=None) -> None:
        result, view = self._result, self.view.value
        show_if(result is None, self.nothing)
        show_if(result is not None, self.view)
        show_if(result is not None and view == self.VIEWS[0], self.part)
        if result is None:
            return put(self.image, b"")
        before, after = result.task.image, result.image
        if view == self.VIEWS[0]:
            drawn = frames.wipe(before, after, self.part.value)
        elif view == self.VIEWS[1]:
            drawn = frames.difference(before, after)
        else:
            drawn = frames.marked(after, result.tracks_xy, result.task.targets)
        put(self.image, frames.jpeg(frames.enlarged(drawn, frames.SHARPEST)))


class TravelPanel:
    """Time travel: a slider over a drag's steps, with loss, handles, picture in one leap, and features.

    look    called with a step to look at; `refresh` is given what comes of it
    branch  called with the step where a new drag shall begin
    """

    def __init__(self, look: Callable[[int], None], branch: Callable[[int], None]):
        self._look, self._result, self._looks = look, None, {}
        self.step = W.IntSlider(value=0, min=0, max=0, description="step", layout=W.Layout(width="420px"))
        self.text = W.HTML()
        self.image, self.features = picture("300px"), picture("300px")
        meaning = "a new drag from this step's latent, with other points or settings"
        self.branch = button("branch from here", meaning, lambda: branch(self.step.value))
        self.widget = W.VBox([row(self.step, self.branch), self.text, row(self.image, self.features)])
        self.step.observe(self._choose_step, "value")
        self.show(None)

    def show(self, result: Result | None) -> None:
        """Travel in this edit, from its last step on; nothing is looked at before the slider is moved."""
        self._result, self._looks = None, {}  # no look while the slider is set
        self.step.max = last = len(result.states) - 1 if result else 0
        self.step.value = last
        self._result = result
        put(self.image, b"")
        put(self.features, b"")
        self._draw()

    def refresh(self, looks: dict) -> None:
        """Draw the steps that were looked at meanwhile."""
        if looks.keys() != self._looks.keys():
            self._looks = looks
            self._draw()

    def _choose_step(self, _) -> None:
        self._draw()
        if self._result is not None and self.step.value not in self._looks:
            self._look(self.step.value)

    def _draw(self) -> None:
        result, step = self._result, self.step.value
        self.branch.disabled = result is None or step not in self._looks
        show_if(result is not None, self.step, self.branch)
        if result is None:
            self.text.value = NOTHING
            return
        distances = ", ".join(f"{d:.1f}" for d in result.states[step].distance.tolist())
        text = f"{frames.curve(result.losses, step, 'loss')}<br>cells to the targets: {distances}"
        self.text.value = text if self._looks else f"{text}<br>{LOOK}"
        if step in self._looks:
            view, tracks = self._looks[step], result.tracks_xy[: step + 1]
            put(self.image, frames.jpeg(frames.marked(view.image, tracks, result.task.targets)))
            put(self.features, frames.jpeg(frames.enlarged(view.features)))


def progress(events: Iterable[Event], running: bool = True) -> str:
    """A bar for each stage so far, with the time it still takes, took, or that it was reused; as HTML."""
    rows, events = [], list(events)
    for event in events:
        if event.stage == "done":
            continue
        over = event is not events[-1] or event.i == event.n  # a drag that arrives ends before its last step
        if event.cached:
            note = REUSED
        elif over:
            note = f"{event.seconds:.1f} s" if event.n else "off"
        else:
            note = f"{event.i} of {event.n}" + (f", {event.left:.0f} s left" if running and event.i else "")
        steps = event.n or 1
        bar = f'<progress style="width: 36px" max="{steps}" value="{steps if over else event.i}"></progress>'
        name = STAGES[event.stage].title if event.stage in STAGES else event.stage
        rows.append(f'<tr><td style="white-space: nowrap">{name}</td><td>{bar}</td><td>{note}</td></tr>')
    return f'<table style="line-height: 1.3">{"".join(rows)}</table>' if rows else ""


def message(text: str, problem: Problem | None) -> str:
    """What happened, and an error as one line with its details folded; as HTML."""
    text = html.escape(text)
    if problem is not None:
        line, details = html.escape(problem.line), html.escape(problem.details)
        details = f'<pre style="overflow: auto">{details}</pre>'
        text += f"<details><summary><b>&#9888; {line}</b></summary>{details}</details>"
    return paragraph(text, 'role="status"')
