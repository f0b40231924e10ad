"""The studio: pick, paint, drag, watch, go back and go on, in one widget. All of it calls what a cell could call."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import ipywidgets as W
import numpy as np

from dragnb import sd
from dragnb.config import Settings
from dragnb.errors import InputError
from dragnb.store.names import safe_stem
from dragnb.task import DragTask
from dragnb.ui import advice, controls, export, frames, panels
from dragnb.ui.controls import picture, put, row
from dragnb.ui.picker import Picker
from dragnb.ui.session import Session, Snapshot

# by the file's ending: the button and its meaning
EXPORTS = {
    "png": ("picture", "a PNG that carries its drag file, settings, seed, model and versions"),
    "zip": ("drag file", "picture, points, mask and prompt, to go on from"),
    "gif": ("GIF", "the process as a film"),
    "mp4": ("MP4", "the process as a film; needs the extra 'video'"),
    "ipynb": ("open as notebook", "notebook 00 with this drag as its parameters"),
}
THUMBNAIL = 96  # pixels
# side by side in a notebook, the one below the other on a phone
PICKER_WIDTH, SETTINGS_WIDTH = "530px", "425px"
# pixels from the target: nothing is left to drag
ARRIVED = 1.0

# cell -> its newest run, and the studios that this run has shown
_shown: dict[str, tuple[str, list]] = {}


class Studio:
    """The whole app round a Picker; show `widget`, or the Studio itself, in a notebook.

    what   a DragTask to begin with, a picture, uint8 (h, w, 3), or Picks
    model, settings, side, store  as `pipeline.run` takes them; model, settings and side can be changed on the page
    out    folder for what is exported

    Drags run in a thread of `session`, so the page stays awake; `session.wait()` waits for them. `close()` ends the
    thread and frees the memory; so does running its cell again, unless a name still refers to the studio.
    """

    def __init__(
        self, what, model="clay", settings: Settings | None = None, *, side=None, store=None, out="."
    ):
        self.session = Session(model, settings, store, side)
        # the snapshot and step that a branch begins at, and the picture it was picked on
        self._branch: tuple[Snapshot, int, np.ndarray] | None = None
        self.settings = panels.SettingsPanel(model, settings, side)
        self.picker = Picker(what, notes=self._notes)
        self.result = panels.ResultPanel()
        self.travel = panels.TravelPanel(self.session.look, lambda step: self._try(self.branch, step))
        self.out = W.Text(value=str(out), description="folder")
        # two threads may draw: the page's and the session's
        self._lock = threading.RLock()
        self._drawn: Snapshot | None = None
        self._busy = ""
        # names of what was exported, and the files that this studio wrote
        self._stems: dict[Snapshot, str] = {}
        self._written: set[Path] = set()
        self.widget = self._build()
        self.picker.on_change(self._on_picks)
        self.settings.on_change(self.picker.refresh)
        self.session.on_change(self.refresh)
        self._on_picks()
        self.refresh()

    def _build(self):
        self.run_button = self._button("Run", "drag, in the background", self.run)
        self.run_button.button_style = "primary"
        self.stop_button = self._button("Stop", "keep what there is; again: at once", self.session.stop)
        self.next_button = self._button("next round", "the result becomes the picture", self.next_round)
        close = self._button("close", "end the thread, free the memory; export first", self.close)
        self.begins, self.progress, self.message, self.strip = W.HTML(), W.HTML(), W.HTML(), row()
        self.live = picture("300px")
        self.exports = {
            kind: self._button(label, meaning, lambda kind=kind: self.export(kind))
            for kind, (label, meaning) in EXPORTS.items()
        }
        exports = W.VBox([self.out, row(*self.exports.values())])
        tabs = W.Tab([self.result.widget, self.travel.widget, exports])
        for k, title in enumerate(("result", "time travel", "export")):
            tabs.set_title(k, title)
        buttons = row(self.run_button, self.stop_button, self.next_button, close)
        now = [self.begins, buttons, self.message, self.progress, self.live]
        left, right = self.picker.widget, W.VBox([self.settings.widget, *now])
        left.layout.max_width, right.layout.max_width = PICKER_WIDTH, SETTINGS_WIDTH
        return W.VBox([row(left, right), tabs, self.strip])

    def _button(self, label: str, meaning: str, action):
        return controls.button(label, meaning, lambda: self._try(action))

    def _try(self, action, *args) -> None:
        """Do what was clicked; an error is shown on the page, and nothing else changes."""
        try:
            self.session.problem = None
            action(*args)
        except Exception as error:
            self.session.report(error)

    def run(self) -> None:
        """Drag what is picked, in the background; InputError says what is missing."""
        task, start = self.picker.picks.task(), self._branch and self._branch[:2]
        self._take_settings()
        self.session.run(task, start)

    def _take_settings(self) -> None:
        session, panel = self.session, self.settings
        session.settings, session.model, session.side = panel.settings, panel.model, panel.side.value or None

    def _notes(self, picks) -> list[str]:
        """What is written beside the canvas: on the picks, on the settings, and how long the drag will take."""
        session = self.session
        try:
            self._take_settings()
            notes = advice.notes(
                picks, session.settings, session.canvas_side(), sd.tokenizer_of(session.model)
            )
            image = self._branch[0].result.task.image if self._branch else picks.image
            seconds = session.estimate(image, picks.prompt)
        except InputError as error:
            return [*advice.notes(picks), str(error)]
        if seconds is not None:
            notes.append(f"Run will take about {seconds:.0f} s, by the last drag of this model here")
        return notes

    def branch(self, step: int) -> None:
        """Pick the next drag on the picture as it was at this step of the shown one; Run begins at its latent."""
        shown, view = self.session.shown, self.session.looks.get(step)
        if shown is None or view is None:
            raise InputError(f"step {step} was not looked at yet; move the slider of the time travel there")
        task, places = shown.result.task, shown.result.tracks_xy[step].round()
        left = np.abs(places - task.targets).max(axis=1) >= ARRIVED
        what = view.image
        if left.any():
            what = DragTask(view.image, places[left], task.targets[left], task.mask, task.prompt, task.name)
        self._load(what, task.prompt, (shown, step))

    def next_round(self) -> None:
        """The shown result becomes the picture to pick on."""
        if self.session.shown is None:
            raise InputError("there is no result yet; press Run first")
        result = self.session.shown.result
        self._load(result.image, result.task.prompt)

    def go_back(self, snapshot: Snapshot) -> None:
        """Show an earlier drag again, with its points and settings, to look at it or to go on from it."""
        self.settings.show(snapshot.model, snapshot.result.settings, snapshot.side)
        self._load(snapshot.result.task, snapshot.result.task.prompt, snapshot.start)
        self.session.show(snapshot)

    def export(self, kind: str) -> None:
        """Save the shown drag as one of EXPORTS, in the folder that the page names."""
        snapshot = self.session.shown
        if snapshot is None:
            raise InputError("there is nothing to export yet; press Run first")
        result, path = snapshot.result, Path(f"{self._stem(snapshot, kind)}.{kind}")

        def ours(place: Path) -> bool:
            return place in self._written

        def write(pictures=()):
            if kind == "png":
                export.save_png(path, result, ours)
            elif kind == "zip":
                export.save_zip(path, result, ours)
            elif kind == "ipynb":
                model = snapshot.model if isinstance(snapshot.model, str) else snapshot.model.name
                export.save_notebook(path, result, model, ours)
                self._written.add(path.with_suffix(".zip"))
            else:
                tracks, targets = result.tracks_xy, result.task.targets
                film = [frames.marked(image, tracks[: k + 1], targets) for k, image in pictures]
                getattr(frames, f"save_{kind}")(path, film, ours=ours)
            self._written.add(path)
            return path

        if kind in ("gif", "mp4"):
            self.session.film(snapshot, write)
        else:
            self.session.report(f"saved: {write()}")

    def close(self) -> None:
        """End the thread, drop pictures, states and models, take the widgets off the page."""
        self.session.close()
        self._drawn, self._branch, self._stems = None, None, {}
        self.result.show(None)
        self.travel.show(None)
        _close(self.widget)

    def refresh(self) -> None:
        """Bring the page up to date with the session."""
        session = self.session
        with session.lock:
            events, looks = list(session.progress.values()), dict(session.looks)
            busy, shown, snapshots = session.busy, session.shown, list(session.snapshots)
            message, problem, preview = session.message, session.problem, session.preview
        with self._lock:
            ended, self._busy = self._busy and not busy, busy
            self.run_button.disabled, self.stop_button.disabled = bool(busy), not busy
            self.progress.value = panels.progress(events, bool(busy))
            self.message.value = panels.message(message, problem)
            if busy != "drag":  # then it shows how the last one ended
                preview = shown and shown.result.image
            put(self.live, b"" if preview is None else frames.jpeg(preview))
            if shown is not self._drawn:
                self._drawn = shown
                self.result.show(shown and shown.result)
                self.travel.show(shown and shown.result)
            self.travel.refresh(looks)
            for snapshot in snapshots[len(self.strip.children) :]:
                self.strip.children = (*self.strip.children, self._thumbnail(snapshot))
        if ended:  # how long a drag takes is known better now
            self.picker.refresh()

    def _thumbnail(self, snapshot: Snapshot):
        image = W.Image(value=frames.jpeg(snapshot.result.image, THUMBNAIL), format="jpeg")
        number = f"{len(self.strip.children) + 1}"
        return W.VBox([image, self._button(number, "go back to this drag", lambda: self.go_back(snapshot))])

    def _load(self, what, prompt: str, start: tuple[Snapshot, int] | None = None) -> None:
        self._branch = None
        self.picker.load(what)
        self.picker.picks.set_prompt(prompt)
        self._branch = start and (*start, self.picker.picks.image)
        self._on_picks()
        self.picker.refresh()

    def _on_picks(self) -> None:
        """The picks changed: another picture ends a branch."""
        if self._branch and not np.array_equal(self.picker.picks.image, self._branch[2]):
            self._branch = None
        step = self._branch and self._branch[1]
        self.begins.value = f"Run begins at step {step} of the drag it branches from." if self._branch else ""

    def _stem(self, snapshot: Snapshot, kind: str) -> Path:
        """Where a snapshot's files go: one free name for all of them, and a new one where another has come there."""
        out, taken = Path(self.out.value).expanduser(), set(self._stems.values())
        needed = {
            out / f"{self._stems.get(snapshot)}.{end}" for end in {kind, "zip" if kind == "ipynb" else kind}
        }
        if snapshot not in self._stems or any(map(os.path.lexists, needed - self._written)):
            name, k = safe_stem(snapshot.result.task.name, plain=True, taken=()), 1
            there = [path.name.casefold() for path in out.iterdir()] if out.is_dir() else []
            while f"{name}-{k}" in taken or any(n.startswith(f"{name}-{k}.".casefold()) for n in there):
                k += 1
            self._stems[snapshot] = f"{name}-{k}"
        return out / self._stems[snapshot]

    def _ipython_display_(self):
        from IPython import get_ipython
        from IPython.display import display

        close_replaced(self, get_ipython())
        display(self.widget)


def close_replaced(studio, shell) -> None:
    """The cell under way shows `studio`: what its earlier run has shown is closed, unless a name still refers to it.

    shell  IPython's; where that does not say which cell is run (a script, papermill), nothing is closed
    """
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell, run = request.get("metadata", {}).get("cellId"), request.get("header", {}).get("msg_id")
    if not cell:
        return
    last_run, studios = _shown.get(cell, (run, []))
    if last_run != run:
        named = {id(value) for name, value in shell.user_ns.items() if not name.startswith("_")}
        for old in studios:
            if old is not studio and id(old) not in named:
                old.close()
        studios = []
    _shown[cell] = run, [*studios, studio]


def _close(widget) -> None:
    """A widget and all in it, off the page and out of the registry that would keep it alive."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()
