"""What came out, in views of its own, and the way there, step by step."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as W

from dragnb.pipeline import Result
from dragnb.ui import frames
from dragnb.ui.controls import button, picture, put, row, show_if

NOTHING = "Nothing has been dragged yet: pick, then press Run."
LOOK = "Move the slider to see a step: its picture in one leap, its features, and a way to branch from there."


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
