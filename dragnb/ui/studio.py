"""The studio: pick, paint, drag, watch, go back and go on, in one widget. All of it calls what a cell could call."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
import os
import threading
import time
from pathlib import Path

import ipywidgets as W
import numpy as np

from dragnb import checkpoints, clay
from dragnb.config import Settings, suited_settings
from dragnb.errors import InputError
from dragnb.pipeline.generated import Generated
from dragnb.store.names import safe_stem
from dragnb.task import DragTask
from dragnb.ui import advice, controls, export, frames, panels
from dragnb.ui.controls import fold, folded, named, row
from dragnb.ui.picker import Picker
from dragnb.ui.session import Session, Snapshot

# by the file's ending: the button, its meaning, and what it is to a browser
EXPORTS = {
    "png": ("picture", "a PNG that carries its drag file, settings, seed, model and versions", "image/png"),
    "zip": ("drag file", "picture, points, mask and prompt, to go on from", "application/zip"),
    "gif": ("GIF", "the process as a film", "image/gif"),
    "mp4": ("MP4", "the process as a film; needs the extra 'video'", "video/mp4"),
    "ipynb": ("open as notebook", "notebook 00 with this drag as its parameters", "application/x-ipynb+json"),
}
# side by side in a notebook, the one below the other on a phone
PICKER_WIDTH, SETTINGS_WIDTH = "530px", "470px"
# scenes to begin with: seed, kind, edit
EXAMPLES = (
    (831_003, "rabbit", "stretch"),
    (810_004, "cat", "turn"),
    (831_020, "tree", "bend"),
    (831_021, "balloon", "move"),
    (831_022, "car", "move"),
    (831_023, "rocket", "tilt"),
)
CLOSE, CLOSE_SURELY = "close studio", "press again: all drags are dropped"
# seconds that the question stands, and before which a press is none that has read it
ASKED, READ = 10.0, 0.5
# pixels from the target: nothing is left to drag
ARRIVED = 1.0

# cell -> its newest run, and the studios that this run has shown
_shown: dict[str, tuple[str, list]] = {}


LIVE = "live preview, blurred"
MADE = "the model made this picture, so nothing is fine-tuned or inverted; the drag's prompt is"


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
        if settings is None:
            settings = suited_settings(model).replace(keep_outside=True)
        self.session = Session(model, settings, store, side)
        self.session.scores.append(self._truth_line)
        # the snapshot and step that a branch begins at, and the picture it was picked on
        self._branch: tuple[Snapshot, int, np.ndarray] | None = None
        # the scene whose drag is picked on, where its truth is known
        self._example: clay.ClayTask | None = None
        self.settings = panels.SettingsPanel(model, settings, side)
        # pictures that a model made here, with their latents
        self._generated: list[Generated] = []
        self.generate = panels.GeneratePanel(model, lambda: self._try(self.make_picture))
        self.picker = Picker(what, notes=self._notes, select=self._select)
        self.result = panels.ResultPanel()
        self.travel = panels.TravelPanel(
            self.session.look, lambda step: self._try(self.branch, step), self._show_step
        )
        self.gallery = panels.Gallery(
            lambda snapshot: self._try(self.go_back, snapshot),
            lambda snapshot: self._try(self.compare, snapshot),
            lambda snapshot: self._try(self.session.delete, snapshot),
            self.session.star,
        )
        self.out = W.Text(value=str(out), description="folder", continuous_update=False)
        self._asking, self._asked_at = threading.Timer(0, lambda: None), 0.0
        self._drawn: Snapshot | None = None
        # what was picked on when Run was pressed
        self._run_on: np.ndarray | None = None
        self._busy = ""
        self._still: frames.Still | None = None
        # names of what was exported, and the files that this studio wrote
        self._stems: dict[Snapshot, str] = {}
        self._written: set[Path] = set()
        self._picture = self.picker.picks.image
        self.widget = self.picker.around = self._build()
        self.picker.on_change(self._on_picks)
        self.settings.on_change(self._on_settings)
        self.session.on_change(self.refresh)
        self._on_picks()
        self.refresh()

    def _build(self):
        self.run_button = self._button("Run", "drag, in the background", self.run)
        self.run_button.button_style, self.run_button.icon = "primary", "play"
        self.stop_button = self._button("Stop", "keep what there is; again: at once", self.session.stop)
        self.stop_button.icon = "stop"
        self.run_button.add_class("dragnb-run")
        panel, settings = self.picker.panel, self.settings
        panel.row.children = (panel.prompt, self.run_button, self.stop_button)
        self.begins, self.progress, self.message = W.HTML(), W.HTML(), W.HTML()
        examples = (
            [panels.Examples(EXAMPLES, _example, self.load_example).widget]
            if settings.models.value in checkpoints.BUNDLED
            else []
        )
        made = fold("generate a picture", self.generate.widget)
        folds = [settings.advanced, made, *self._folds(), *panel.folds]
        answer = named(W.VBox([self.begins, self.progress, self.message]), "dragnb-answer")
        status = [answer, self.gallery.widget, panel.below]
        right = W.VBox([*examples, settings.widget, *status, folded(*folds)])
        panel.left.layout.max_width, right.layout.max_width = PICKER_WIDTH, SETTINGS_WIDTH
        # beside the picture wherever that leaves it so much
        right.layout.flex, right.layout.min_width = "1 1 300px", "0"
        return named(row(panel.left, right), "dragnb")

    def _folds(self) -> list[W.VBox]:
        self.exports = {
            kind: self._button(label, meaning, lambda kind=kind: self.export(kind))
            for kind, (label, meaning, _) in EXPORTS.items()
        }
        self.saved = W.HTML()
        self.next_button = self._button("next round", "the result becomes the picture", self.next_round)
        self.close_button = self._button(
            CLOSE, "end the thread, free the memory; export first", self._ask_to_close
        )
        exports = W.VBox([self.out, row(*self.exports.values()), self.saved, self.close_button])
        after = W.VBox([self.next_button, self.result.widget])
        return [
            fold("result: difference, tracks, next round", after),
            fold("time travel", self.travel.widget),
            fold("export", exports),
        ]

    def _ask_to_close(self) -> None:
        """The first press asks, a second one soon after closes."""
        if self.close_button.description == CLOSE_SURELY:
            if time.monotonic() - self._asked_at >= READ:
                self.close()
            return
        self._asked_at = time.monotonic()
        self.close_button.description, self.close_button.button_style = CLOSE_SURELY, "danger"
        self._asking = threading.Timer(ASKED, self._ask_no_more)
        self._asking.daemon = True
        self._asking.start()

    def _ask_no_more(self) -> None:
        """Whoever did something else, or nothing for a while, did not want to close."""
        self._asking.cancel()
        self.close_button.description, self.close_button.button_style = CLOSE, ""

    def _button(self, label: str, meaning: str, action):
        return controls.button(label, meaning, lambda: self._try(action))

    def _try(self, action, *args) -> None:
        """Do what was clicked; an error is shown on the page, and nothing else changes."""
        if action != self._ask_to_close:
            self._ask_no_more()
        try:
            self.session.problem = None
            action(*args)
        except Exception as error:
            self.session.report(error)

    def run(self) -> None:
        """Drag what is picked, in the background; InputError says what is missing."""
        task, start = self.picker.picks.task(), self._branch and self._branch[:2]
        self._take_settings()
        self.session.run(task, start, self._generated_of(task.image))
        self._run_on = self.picker.picks.image

    def make_picture(self) -> None:
        """Make a picture of the prompt in the panel, in the background, and pick on it."""
        self._take_settings()
        self.session.generate(self._take_picture, **self.generate.recipe)

    def _take_picture(self, made: Generated) -> None:
        self._generated.append(made)
        self._load(made.image, made.prompt)
        self.session.report("the picture is made; undo brings back what was here")

    def _generated_of(self, image: np.ndarray) -> Generated | None:
        """The picture with its latents, where the chosen model made it here; None of any other."""
        model = self.session.model
        same = (m for m in reversed(self._generated) if m.model == model and np.array_equal(m.image, image))
        return next(same, None)

    def _take_settings(self) -> None:
        session, panel = self.session, self.settings
        session.settings, session.model, session.side = panel.settings, panel.model, panel.side.value or None

    def load_example(self, sample) -> None:
        """Pick on a scene of the clay world, with its drag: of it the truth is known."""
        self._load(sample.task, sample.task.prompt)
        self._example = sample

    def _truth_line(self, result) -> str:
        """Where the content went in truth; "" where that is not known, since the scene or its drag is another."""
        sample = self._example
        if sample is None or not np.array_equal(sample.task.image, result.task.image):
            return ""
        if not all(
            np.array_equal(getattr(sample.task, k).round(), getattr(result.task, k).round())
            for k in ("handles", "targets")
        ):
            return ""
        place = clay.locate(sample, result.unpasted)
        return f"in truth the content went {place.moved:.0%} of the way, {place.distance:.1f} px are left"

    def compare(self, snapshot: Snapshot) -> None:
        """Swipe the shown drag against another one."""
        shown = self.session.shown
        if shown is None or shown is snapshot:
            raise InputError("compare: go back to one drag first, then press this at another")
        one, two = shown.result.image, snapshot.result.image
        if one.shape != two.shape:
            raise InputError("compare: these two drags are of pictures of different sizes")
        self.picker.show_result(one, f"drag {shown.number}", two, f"drag {snapshot.number}")

    def _on_settings(self) -> None:
        """What was said of other settings is not true of these."""
        with self.session.lock:
            self.session.problem = None
        with contextlib.suppress(InputError):  # said beside the canvas
            self.generate.suit(self.settings.model)
        self.refresh()
        self.picker.refresh()

    def _notes(self, picks) -> list[str]:
        """What is written beside the canvas: on the picks, on the settings, and how long the drag will take."""
        session = self.session
        try:
            self._take_settings()
            notes = advice.notes(picks, session.settings, session.canvas_side(), session.model)
            image = self._branch[0].result.task.image if self._branch else picks.image
            made = self._generated_of(image)
            notes += [f"{MADE} {made.prompt!r}"] if made else []
            seconds = session.estimate(image, picks.prompt, made)
        except InputError as error:
            return [*advice.notes(picks), str(error)]
        if seconds is not None and not session.busy:
            notes.append(f"Run will take about {seconds:.0f} s, by the last drag of this model here")
        return notes

    def _show_step(self, image, caption: str) -> None:
        """A step of the shown drag on the canvas, or its result; not over another picture, nor what is being drawn."""
        shown, picker = self.session.shown, self.picker
        if shown is None or picker.pointer.pressed or shown.result.image.shape != picker.picks.image.shape:
            return
        picker.show_result(shown.result.image if image is None else image, caption)

    def _select(self, picks, place, then) -> None:
        """What is like a place of the picture, by the chosen model's features."""
        self._take_settings()
        self.session.select(picks.image, picks.prompt, place, then)

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
        if snapshot in self.session.starred:
            result = dataclasses.replace(result, record=result.record | {"starred": True})

        def ours(place: Path) -> bool:
            return place in self._written

        def write(pictures=()):
            if kind == "png":
                export.save_png(path, result, ours)
            elif kind == "zip":
                export.save_zip(path, result, ours)
            elif kind == "ipynb":
                export.save_notebook(path, result, snapshot.model, ours)
                self._written.add(path.with_suffix(".zip"))
            else:
                tracks, targets = result.tracks_xy, result.task.targets
                film = [frames.marked(image, tracks[: k + 1], targets) for k, image in pictures]
                getattr(frames, f"save_{kind}")(path, film, ours=ours)
            self._written.add(path)
            return path

        if kind in ("gif", "mp4"):
            self.session.film(snapshot, write, self._tell_saved)
        else:
            self._tell_saved(write())

    def _tell_saved(self, path: Path) -> None:
        """Say it where the button is, with the file itself as a link: the page may be on another machine."""
        self.session.report(f"saved: {path}")
        kind = EXPORTS[path.suffix[1:]][2]
        said = f'<span role="status">saved: {html.escape(str(path))}</span>'
        self.saved.value = said + controls.link(path.name, path.read_bytes(), kind)

    def close(self) -> None:
        """End the thread, drop pictures, states and models, take the widgets off the page; a picture stays there."""
        if self._still is not None:
            self._still.end()
        self.session.close()
        self._asking.cancel()
        self._drawn, self._branch, self._stems, self._generated = None, None, {}, []
        self.result.show(None)
        self.travel.show(None)
        _close(self.widget)

    def refresh(self) -> None:
        """Bring the page up to date with the session."""
        session = self.session
        # two threads draw, the page's and the session's: each draws what is the case when its turn comes
        with self.picker.lock:
            with session.lock:
                events, looks = list(session.progress.values()), dict(session.looks)
                busy, shown, snapshots = session.busy, session.shown, list(session.snapshots)
                message, problem, preview = session.message, session.problem, session.preview
                starred = set(session.starred)
            ended, begun = "" if busy else self._busy, busy and not self._busy
            self._busy = busy
            self.run_button.disabled, self.stop_button.disabled = bool(busy), not busy
            self.progress.value = panels.progress(events, bool(busy), session.left())
            self.message.value = panels.message(message, problem)
            elsewhere = self._run_on is not None and self._run_on is not self.picker.picks.image
            if busy == "drag" and preview is not None and not elsewhere:
                self.picker.show_live(preview, LIVE)
            elif ended == "drag" and self.picker.canvas.caption == LIVE:
                self.picker.show_live(None, "")
            if shown is not self._drawn:
                self._drawn = shown
                self.result.show(shown and shown.result)
                self.travel.show(shown and shown.result)
                own = shown and np.array_equal(shown.result.task.image, self.picker.picks.image)
                self.picker.show_result(shown.result.image if own or (shown and not elsewhere) else None)
                if self._still is not None:
                    self._still.update(self.picker.seen)
            self.travel.refresh(looks)
            self.gallery.show(snapshots, shown, starred)
            # what would be lost with the page is asked about before it is left
            (self.widget.add_class if busy or snapshots else self.widget.remove_class)("dragnb-unsaved")
        if ended or begun:  # how long a drag takes is said before it, and known better after it
            self.picker.refresh()

    def _load(self, what, prompt: str, start: tuple[Snapshot, int] | None = None) -> None:
        self._branch = self._example = None
        with self.picker.picks.action():  # one undo takes back both
            self.picker.load(what)
            self.picker.picks.set_prompt(prompt)
        self._branch = start and (*start, self.picker.picks.image)
        self._on_picks()
        self.picker.refresh()

    def _on_picks(self) -> None:
        """The picks changed: another picture ends a branch, and nobody who picks wants to close."""
        self._ask_no_more()
        if self._branch and not np.array_equal(self.picker.picks.image, self._branch[2]):
            self._branch = None
        if self.picker.picks.image is not self._picture:
            self._picture = self.picker.picks.image
            with self.session.lock:  # what was said of another picture
                self.session.problem, self.session.message = None, ""
                self.session.progress = self.session.progress if self.session.busy else {}
            self.refresh()
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

        close_replaced(self, get_ipython())
        self._still = frames.Still(
            self.widget, self._draw_still, "the studio: what was picked, and the result"
        )
        self._still.show()

    def _draw_still(self):
        """What was picked, and beside it the shown drag; without a drag, what is picked."""
        shown = self.session.shown
        if shown is None:
            return self.picker.still()
        task = shown.result.task
        drawn = frames.arrows(task.image, task.handles, task.targets, frames.SHARPEST)
        return frames.beside(drawn, shown.result.image)


@functools.cache
def _example(seed: int, kind: str, edit: str) -> clay.ClayTask:
    return clay.task(seed, kind, edit)


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
