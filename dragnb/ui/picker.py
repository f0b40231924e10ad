"""The picker: handles, targets and a mask picked by hand in a notebook.

`Picks` is the state and `Pointer` what pointing does; both know no widget. `CanvasView` draws them and `Panel` has the
buttons and texts; the `Picker` here passes events on, one at a time. Only what ipywidgets 7 and 8 share is used.

A picture comes in by upload, path or web address. It can be neither pasted nor dropped: of the browser's events,
ipycanvas and ipywidgets pass neither on. (A file dropped on JupyterLab's own file browser has a path.)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from dragnb.errors import InputError
from dragnb.task import DragTask
from dragnb.ui import advice, files
from dragnb.ui.canvas import CanvasView
from dragnb.ui.controls import BIGGEST_BRUSH, TOOL_KEYS, Action, Panel
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import Pointer, Viewport

MOUSE = ("mouse_down", "mouse_move", "mouse_up", "mouse_out")
# no mouse events come for the same touch
TOUCH = {"start": "mouse_down", "move": "mouse_move", "end": "mouse_up", "cancel": "mouse_up"}
ARROW_KEYS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
OTHER_KEYS = {"Z": "redo", "Delete": "delete point", "Backspace": "delete point", "=": "zoom in"}
# what Ctrl or Cmd leaves as it is; it makes any other key the browser's
WITH_CTRL = "zZy"
# pixels of an arrow key with Shift
LEAP = 10
ZOOM = 1.5
# wheel pixels that zoom by a factor of e
WHEEL = 600


class Picker:
    """Points and a mask on a picture; show `widget`, or the Picker itself, and read `picks` or `task()` later.

    picks  a Picks, a DragTask to go on from, or a picture, uint8 (h, w, 3)
    side   the longer side of the canvas in its own pixels; all of the picture is drawn at that size
    notes  (picks) -> sentences to show beside it, as `advice.notes`; a studio gives its own, which knows the model
    """

    def __init__(self, picks, side: int = 512, notes: Callable[[Picks], list[str]] = advice.notes):
        self.picks = picks if isinstance(picks, Picks) else Picks.of(picks)
        self.notes = notes
        self.pointer = Pointer(self.picks, Viewport(self.picks.size, side))
        self.canvas = CanvasView(self.pointer)
        self._lock, self._changed, self._inside, self._listeners = threading.RLock(), False, False, []
        # where the wheel turns
        self._hover = 0.0, 0.0
        self._actions = self._list_actions()
        self._keys = {action.key: name for name, action in self._actions.items()} | OTHER_KEYS
        self.panel = Panel(self.canvas.widget, self._actions, self.act)
        self.widget, self.mode, self.brush = self.panel.widget, self.panel.mode, self.panel.brush
        self._listen()
        self.picks.on_change(self._on_picks)
        self.refresh()

    def on_change(self, listener: Callable[[], object]) -> None:
        """Have `listener()` called after every change of the picks: a step, an undo, a redo, a load."""
        self._listeners.append(listener)

    def load(self, task) -> None:
        """Show a task, or a bare picture, instead of what is here; `undo` brings that back."""
        self.do(self._load, task)

    def task(self, prompt: str | None = None) -> DragTask:
        """The drag task of what is picked by now; InputError says what is missing."""
        return self.picks.task(prompt)

    @property
    def scale(self) -> float:
        """Canvas pixels to a picture pixel."""
        return self.pointer.viewport.scale

    def refresh(self) -> None:
        """Write and draw everything anew, as after a change of what `notes` depends on."""
        self.do(lambda: None)

    def do(self, change: Callable, *args) -> None:
        """Make a change, show it, then call the listeners. An error is one line under the canvas."""
        with self._lock:
            outer, self._inside = self._inside, True
            try:
                message = change(*args)
            except (InputError, OSError) as error:  # a full disk, too
                message = " ".join(str(error).split())
            finally:
                self._inside = outer
            self.canvas.show()
            message = message if isinstance(message, str) else ""
            self.panel.write(self.picks, message, self.notes(self.picks))
            changed, self._changed = self._changed, False
        if changed:
            for listener in list(self._listeners):  # without the lock: they may wait for others
                listener()

    def act(self, name: str) -> None:
        """Do one of the actions, as its button and its key do."""
        self.do(self._act, name)

    def _act(self, name: str):
        if name != "cancel":
            self.pointer.release()
        return self._actions[name].do()

    def _on_picks(self):
        self._changed = True
        if not self._inside:  # a program has called a method of the picks
            self.refresh()

    def on(self, kind: str, x: float, y: float) -> None:
        """An event at a place in canvas pixels: mouse_down, mouse_move, mouse_up or mouse_out."""
        if kind == "mouse_down":
            self.do(self.pointer.press, x, y)
        elif kind == "mouse_move":
            self._hover = x, y
            with self._lock:
                if self.pointer.pressed:  # a hundred of these make a stroke, so they draw and write nothing
                    self.pointer.move(x, y)
                    self.canvas.show()
        elif self.pointer.pressed:
            if kind == "mouse_out":  # it may have crossed the border faster than events come
                self.on("mouse_move", x, y)
            self.do(self.pointer.release)

    def touch(self, kind: str, places) -> None:
        """Fingers at places in canvas pixels: one is a mouse, two zoom and push the picture."""
        if len(places) > 1 or self.pointer.pinching:
            with self._lock:
                self.pointer.pinch(places)
                self.canvas.show()
        else:
            self.on(TOUCH[kind], *(places[0] if places else (0.0, 0.0)))

    def key(self, key: str, shift: bool = False, ctrl: bool = False, meta: bool = False) -> None:
        """A key pressed while the canvas has the focus."""
        canvas, brush, eraser = self.canvas.widget, self.brush, self.panel.eraser
        if (ctrl or meta) and key not in WITH_CTRL:
            return
        if key == "Tab" and hasattr(canvas, "blur"):  # the canvas keeps every key from the browser
            canvas.blur()
        if key in self._keys:
            self.act(self._keys[key])
        elif key in ARROW_KEYS:
            self.do(self.pointer.nudge, *(LEAP * n if shift else n for n in ARROW_KEYS[key]))
        elif key in TOOL_KEYS:
            self.mode.value = TOOL_KEYS[key]
        elif key == "e":
            eraser.value = not eraser.value
        elif key in ("[", "]"):
            size = brush.value * 1.25 + 1 if key == "]" else brush.value / 1.25
            brush.value = min(max(int(size), 1), BIGGEST_BRUSH)

    def _listen(self):
        canvas, panel = self.canvas.widget, self.panel
        for kind in MOUSE:
            getattr(canvas, f"on_{kind}")(lambda x, y, kind=kind: self.on(kind, x, y))
        for kind in TOUCH:
            getattr(canvas, f"on_touch_{kind}")(lambda places, kind=kind: self.touch(kind, places))
        canvas.on_client_ready(self._redraw)
        canvas.on_mouse_wheel(self._wheel)
        canvas.on_key_down(self.key)
        for widget in (panel.mode, panel.eraser, panel.brush, panel.dimming):
            widget.observe(lambda _: self.do(self._take_tool), "value")
        panel.table.observe(lambda change: self._set_points(change.new), "value")
        panel.prompt.observe(lambda change: self._set_prompt(change.new), "value")
        panel.upload.observe(lambda change: self._load_uploads(change.new), "value")
        panel.load.on_click(lambda _: self.do(self._load_path))
        panel.save.on_click(lambda _: self.do(self._save))

    def _redraw(self):
        with self._lock:
            self.canvas.redraw()

    def _take_tool(self):
        pointer, panel = self.pointer, self.panel
        pointer.release()
        pointer.tool, pointer.erase, pointer.radius = panel.mode.value, panel.eraser.value, panel.brush.value
        self.canvas.dimming = panel.dimming.value

    def _wheel(self, _, dy: float):
        with self._lock:
            self.pointer.viewport.zoom_by(math.exp(-dy / WHEEL), *self._hover)
            self.canvas.show()

    def _zoom(self, factor: float):
        w, h = self.pointer.viewport.canvas
        self.pointer.viewport.zoom_by(factor, w / 2, h / 2)

    def _set_points(self, text: str):
        if text != files.table(self.picks.points):  # else it was the panel that wrote it
            self.do(lambda: self.picks.set_points(files.parse_table(text, self.picks.points)))

    def _set_prompt(self, text: str):
        if text != self.picks.prompt:
            self.do(self.picks.set_prompt, text)

    def _load_uploads(self, value):
        for name, content in files.uploads(value):
            self.panel.upload.set_trait("value", type(value)())  # so that the same file can come again
            self.do(lambda name=name, content=content: self._load(files.read_bytes(name, content), name))

    def _load_path(self):
        return self._load(files.read_place(self.panel.path.value), self.panel.path.value)

    def _load(self, task, name: str = "") -> str:
        self.pointer.release()
        self.pointer.selected = None
        self.picks.load(task)
        return f"{name} is loaded; undo brings back what was here" if name else ""

    def _save(self) -> str:
        return f"saved to {files.save(self.picks, self.panel.path.value)}"

    def _list_actions(self) -> dict[str, Action]:
        picks, pointer = self.picks, self.pointer
        around = "paint around all handles and targets: a first guess"
        return {
            "undo": Action("z", picks.undo, "take the last step back"),
            "redo": Action("y", picks.redo, "do it again"),
            "delete point": Action("d", pointer.delete, "delete the chosen point, or the last one"),
            "delete pair": Action("D", lambda: pointer.delete(pair=True), "delete it with its other end"),
            "clear points": Action("c", picks.clear_points, "delete all points"),
            "clear mask": Action("m", picks.clear_mask, "nothing painted: the whole picture may change"),
            "fill": Action("f", picks.fill, "paint what the paint encloses"),
            "invert": Action("i", picks.invert, "swap what may change and what is held"),
            "around the path": Action("a", picks.around_paths, around),
            "zoom in": Action("+", lambda: self._zoom(ZOOM), "enlarge the picture"),
            "zoom out": Action("-", lambda: self._zoom(1 / ZOOM), "show more of the picture"),
            "fit": Action("0", pointer.viewport.fit, "show the whole picture"),
            "cancel": Action("Escape", pointer.cancel, "undo what is being drawn, or choose no point"),
        }

    def _ipython_display_(self):
        from IPython.display import display

        display(self.widget)
