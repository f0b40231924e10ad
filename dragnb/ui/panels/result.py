"""What came out, in views of its own, and the way there, step by step."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as W
import numpy as np

from dragnb.pipeline import Result
from dragnb.ui import frames
from dragnb.ui.controls import button, hover, paragraph, picture, put, row, show_if

NOTHING = "Nothing has been dragged yet: pick, then press Run."
LOOK = "Move the slider, or play: each step appears on the picture, in one leap, and a new drag can branch from there."
LOSS = (
    "The distance says how the drag goes. The loss may rise while all goes well: it compares what is at the handle "
    "with what is one cell further, and both move on; what has changed outside the mask is added to it."
)
# milliseconds from one step to the next when played; a step that comes later than that is passed over
PACE = 400


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
    """Time travel: a slider over a drag's steps that can be played, with distances, loss and features.

    look    called with a step to look at; `refresh` is given what comes of it
    branch  called with the step where a new drag shall begin
    frame   called with the picture of the step, in one leap and with its marks, and a caption; with None where the
            slider is at the end, whose picture is the result
    """

    def __init__(self, look: Callable[[int], None], branch: Callable[[int], None], frame: Callable):
        self._look, self._branch, self._frame, self._result, self._looks = look, branch, frame, None, {}
        self.step = W.IntSlider(value=0, min=0, max=0, description="step", layout=W.Layout(width="300px"))
        self.play = W.Play(interval=PACE, layout=W.Layout(width="auto"))
        hover(self.play, "play the drag from this step on, on the picture itself")
        W.jslink((self.play, "value"), (self.step, "value"))
        self.text, self.features = W.HTML(), picture("256px")
        meaning = "a new drag from this step's latent, with other points or settings"
        self.branch = button("branch from here", meaning, self._begin)
        self.widget = W.VBox([row(self.play, self.step, self.branch), self.text, self.features])
        self.step.observe(self._choose_step, "value")
        self.show(None)

    def show(self, result: Result | None) -> None:
        """Travel in this edit, from its last step on; nothing is looked at before the slider is moved."""
        self._result, self._looks = None, {}  # no look while the slider is set
        self.step.max = self.play.max = last = len(result.states) - 1 if result else 0
        self.step.value = self.play.value = last
        self._result = result
        put(self.features, b"")
        self._draw()

    def refresh(self, looks: dict) -> None:
        """Draw the steps that were looked at meanwhile."""
        if looks.keys() != self._looks.keys():
            new = looks.keys() - self._looks.keys()
            self._looks = looks
            self._draw()
            if self.step.value in new:
                self._show_frame()

    def _begin(self) -> None:
        # its next steps would come over what is picked now; ipywidgets 8 and 7
        setattr(self.play, "playing" if self.play.has_trait("playing") else "_playing", False)
        self._branch(self.step.value)

    def _choose_step(self, _) -> None:
        self._draw()
        if self._result is None:
            return
        if self.step.value in self._looks or self.step.value == self.step.max:
            self._show_frame()
        if self.step.value not in self._looks:
            self._look(self.step.value)

    def _show_frame(self) -> None:
        result, step = self._result, self.step.value
        if step == self.step.max:
            self._frame(None, "after")
        else:
            marked = frames.marked(self._looks[step].image, result.tracks_xy[: step + 1], result.task.targets)
            self._frame(marked, f"step {step} of {self.step.max}, in one leap")

    def _draw(self) -> None:
        result, step = self._result, self.step.value
        self.branch.disabled = result is None or step not in self._looks
        show_if(result is not None, self.play, self.step, self.branch)
        if result is None:
            self.text.value = NOTHING
            return
        distances = np.linalg.norm(result.tracks_xy - result.task.targets, axis=2)
        several = distances.shape[1] > 1
        label = f"{'largest ' if several else ''}distance, px"
        text = frames.curve(distances.max(axis=1), step, label)
        if several:
            text += f"<div>px to each target: {', '.join(f'{d:.1f}' for d in distances[step])}</div>"
        if result.states[-1].kept is None:  # else the picture's pixels were moved, and nothing was optimised
            text += frames.curve(result.losses, step, "loss") + f"<small>{LOSS}</small>"
        self.text.value = paragraph(text if self._looks else f"{text}<br>{LOOK}")
        if step in self._looks:
            put(self.features, frames.jpeg(frames.enlarged(self._looks[step].features)))
