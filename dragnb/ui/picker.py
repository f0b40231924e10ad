"""The picker: handles, targets and a mask picked by hand in a notebook.

`Picks` is the state and `Hand` what pointing does; both know no widget. `Easel` draws them and `Panel` has the buttons
and texts; the `Picker` here passes events on, one at a time.

A picture comes in by upload, path or web address. It can be neither pasted nor dropped: of the browser's events,
ipycanvas and ipywidgets pass neither on. (A file dropped on JupyterLab's own file browser has a path.)
"""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Callable

from dragnb.errors import InputError
from dragnb.task import DragTask
from dragnb.ui import advice, files
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import TOOLS, Hand, Window

BIGGEST_BRUSH = 200  # radius in picture pixels
ROWS = (  # of buttons: for the points and all steps, for the mask, for the view
    ("undo", "redo", "delete point", "delete pair", "clear points"),
    ("around the path", "fill", "invert", "clear mask"),
    ("zoom in", "zoom out", "fit", "let go"),
)
TOOL_KEYS = {"p": "points", "b": "brush", "r": "rectangle", "l": "lasso", "h": "pan"}
HELP = (
    "Click a handle, then its target, or drag from one to the other. Drag a point or an arrow to move it; a press on "
    "it also chooses it, for delete and for the arrow keys (with Shift: ten pixels). The wheel or two fingers zoom, "
    "<i>pan</i> or two fingers push the picture. Keys, once the picture has been clicked (<b>Tab</b> leaves it): "
)
FILES = (
    "A picture, or a drag file: a folder, or a zip of one. A picture cannot be pasted or dropped on the canvas; "
    "dropped on JupyterLab's file browser it has a path. Give a path also for more than 10 MB: unless it was started "
    "by <code>make</code>, Jupyter's server drops a larger upload unread, and nobody is told."
)


class Panel:
    """`widget` is everything; actions is name -> (key, function, meaning), and a button calls `run(name)`."""

    def __init__(self, sheet, actions: dict[str, tuple], run: Callable):
        import ipywidgets

        self._widgets, self._tabled = ipywidgets, None
        self.text = ipywidgets.HTML()
        rows = [
            self._tools(),
            self._buttons(actions, run),
            sheet,
            self._prompt(),
            self.text,
            self._folds(actions),
        ]
        self.widget = ipywidgets.VBox(rows)

    def _row(self, *children):
        layout = self._widgets.Layout(flex_flow="row wrap", align_items="center")
        return self._widgets.HBox(list(children), layout=layout)

    def _tools(self):
        widgets = self._widgets
        self.mode = widgets.ToggleButtons(options=list(TOOLS), value=TOOLS[0])
        self.mode.style.button_width = "auto"
        self.eraser = widgets.ToggleButton(description="eraser")
        self.eraser.tooltip = "brush, rectangle and lasso take paint off (key e)"
        self.eraser.layout.width = "auto"
        self.brush = self._slider(widgets.IntSlider, "brush, px", value=12, min=1, max=BIGGEST_BRUSH)
        self.dimming = self._slider(widgets.FloatSlider, "dimming", value=0.6, min=0, max=1, step=0.05)
        return self._row(self.mode, self.eraser, self.brush, self.dimming)

    def _slider(self, kind, label: str, **options):
        layout, style = self._widgets.Layout(width="240px"), {"description_width": "66px"}
        return kind(description=label, layout=layout, style=style, **options)

    def _buttons(self, actions, run):
        self.buttons = {}
        for name, (key, _, meaning) in actions.items():
            button = self._widgets.Button(description=name, tooltip=f"{meaning} (key {key})")
            button.layout.width = "auto"
            button.on_click(lambda _, name=name: run(name))
            self.buttons[name] = button
        return self._widgets.VBox([self._row(*(self.buttons[name] for name in names)) for names in ROWS])

    def _prompt(self):
        style, layout = {"description_width": "auto"}, {"width": "98%", "max_width": "512px"}
        self.prompt = self._widgets.Text(
            continuous_update=False, description="prompt", style=style, layout=layout
        )
        self.prompt.placeholder = "what the picture shows, as: a green rabbit"
        return self.prompt

    def _folds(self, actions):
        keys = TOOL_KEYS | {"e": "eraser", "[ ]": "brush size"} | {a[0]: name for name, a in actions.items()}
        said = ", ".join(f"<b>{html.escape(key)}</b> {name}" for key, name in keys.items())
        folds = self._widgets.Accordion([self._texts(), self._files(), self._text(HELP + said)])
        for k, title in enumerate(("points as text", "picture and drag file", "mouse and keys")):
            folds.set_title(k, title)
        folds.selected_index = None
        return folds

    def _text(self, content: str):
        return self._widgets.HTML(f'<div style="line-height: 1.4">{content}</div>')

    def _texts(self):
        widgets, wide = self._widgets, {"width": "95%", "height": "7em"}
        self.table = widgets.Textarea(continuous_update=False, layout=wide)
        self.parameters = widgets.Textarea(disabled=True, layout=wide)
        means = widgets.Label("A pair a line, x y → x y in picture pixels. Type here, then click elsewhere.")
        copy = widgets.Label("To copy, as parameters of notebook 04:")
        return widgets.VBox([means, self.table, copy, self.parameters])

    def _files(self):
        widgets = self._widgets
        means = self._text(FILES)
        self.upload = widgets.FileUpload(accept="image/*,.zip", multiple=False, description="upload")
        self.path = widgets.Text(placeholder="a path, or a web address to load from", layout={"width": "95%"})
        self.load = widgets.Button(description="load")
        self.save = widgets.Button(description="save drag file")
        return widgets.VBox([means, self.upload, self.path, self._row(self.load, self.save)])

    def write(self, picks: Picks, said: str, notes: list[str]) -> None:
        """All texts, from the state; what was typed into the table and refused is left to be put right."""
        lines = [html.escape(picks.says())]
        lines += [f"<b>{html.escape(said)}</b>"] if said else []
        lines += [f"• {html.escape(note)}" for note in notes]
        self.text.value = f'<div role="status" style="line-height: 1.4">{"<br>".join(lines)}</div>'
        table = files.table(picks.points)
        if table != self._tabled:
            self._tabled = self.table.value = table
        self.prompt.value = picks.prompt
        self.parameters.value = files.parameters(picks)
        self.buttons["undo"].disabled = not picks.can_undo
        self.buttons["redo"].disabled = not picks.can_redo


__all__ = ["Picker", "Picks"]

MOUSE = ("mouse_down", "mouse_move", "mouse_up", "mouse_out")
TOUCH = {  # no mouse events come for the same touch
    "touch_start": "mouse_down",
    "touch_move": "mouse_move",
    "touch_end": "mouse_up",
    "touch_cancel": "mouse_up",
}
ARROW_KEYS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
OTHER_KEYS = {"Z": "redo", "Delete": "delete point", "Backspace": "delete point", "=": "zoom in"}
WITH_CTRL = "zZy"  # what Ctrl or Cmd leaves as it is; it makes any other key the browser's
LEAP = 10  # pixels of an arrow key with Shift
ZOOM = 1.5
WHEEL = 600  # wheel pixels that zoom by a factor of e


class Picker:
    """Points and a mask on a picture; show `widget`, or the Picker itself, and read `picks` or `task()` later.

    picks  a Picks, a DragTask to go on from, or a picture, uint8 (h, w, 3)
    side   the longer side of the canvas in its own pixels; all of the picture is drawn at that size
    notes  (picks) -> sentences to show beside it, as `advice.notes`; a studio gives its own, which knows the model
    """

    def __init__(self, picks, side: int = 512, notes: Callable[[Picks], list[str]] = advice.notes):
        self.picks = picks if isinstance(picks, Picks) else Picks.of(picks)
        self.notes = notes
        self.hand = Hand(self.picks, Window(self.picks.size, side))
        self._lock, self._changed, self._inside, self._callbacks = threading.RLock(), False, False, []
        self._pointer = (0.0, 0.0)  # where the wheel turns
        self._actions = self._list_actions()
        try:
            from dragnb.ui.canvas import Easel

            self.easel = Easel(self.hand)
            self.panel = Panel(self.easel.sheet, self._actions, self.act)
        except ImportError as error:
            message = (
                f"the picker needs {error.name}: pip install 'dragnb[widgets]'; or give points as numbers"
            )
            raise InputError(message) from error
        self.widget, self.mode, self.brush = self.panel.widget, self.panel.mode, self.panel.brush
        self._listen()
        self.picks.on_change(self._on_picks)
        self.refresh()

    def on_change(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called after every change of the picks: a step, an undo, a redo, a load."""
        self._callbacks.append(callback)

    def load(self, task) -> None:
        """Show a task, or a bare picture, instead of what is here; `undo` brings that back."""
        self.do(self._load, task)

    def task(self, prompt: str | None = None) -> DragTask:
        """The drag task of what is picked by now; InputError says what is missing."""
        return self.picks.task(prompt)

    @property
    def scale(self) -> float:
        """Canvas pixels to a picture pixel."""
        return self.hand.window.scale

    def refresh(self) -> None:
        """Say and draw everything anew, as after a change of what `notes` depends on."""
        self.do(lambda: None)

    def do(self, change: Callable, *args) -> None:
        """Make a change, show it, then tell who listens. What is refused is said in one line under the canvas."""
        with self._lock:
            outer, self._inside = self._inside, True
            try:
                said = change(*args)
            except (InputError, OSError) as error:  # a full disk, too
                said = " ".join(str(error).split())
            finally:
                self._inside = outer
            self.easel.show()
            self.panel.write(self.picks, said if isinstance(said, str) else "", self.notes(self.picks))
            changed, self._changed = self._changed, False
        if changed:
            for callback in list(self._callbacks):  # without the lock: they may wait for others
                callback()

    def act(self, name: str) -> None:
        """Do one of the actions, as its button and its key do."""
        self.do(self._act, name)

    def _act(self, name: str):
        if name != "let go":
            self.hand.lift()
        return self._actions[name][1]()

    def _on_picks(self):
        self._changed = True
        if not self._inside:  # a program has called a method of the picks
            self.refresh()

    def on(self, kind: str, x: float, y: float) -> None:
        """An event at a place in canvas pixels: mouse_down, mouse_move, mouse_up or mouse_out."""
        if kind == "mouse_down":
            self.do(self.hand.press, x, y)
        elif kind == "mouse_move":
            self._pointer = x, y
            with self._lock:
                if self.hand.busy:  # a hundred of these make a stroke, so they draw and say nothing
                    self.hand.move(x, y)
                    self.easel.show()
        elif self.hand.busy:
            if kind == "mouse_out":  # it may have crossed the border faster than events come
                self.on("mouse_move", x, y)
            self.do(self.hand.lift)

    def touch(self, kind: str, places) -> None:
        """Fingers at places in canvas pixels: one is a mouse, two zoom and push the picture."""
        if len(places) > 1 or self.hand.pinching:
            with self._lock:
                self.hand.pinch(places)
                self.easel.show()
        else:
            self.on(TOUCH[kind], *(places[0] if places else (0.0, 0.0)))

    def key(self, key: str, shift: bool = False, ctrl: bool = False, meta: bool = False) -> None:
        """A key pressed while the canvas has the focus."""
        named = {key: name for name, (key, _, _) in self._actions.items()} | OTHER_KEYS
        if (ctrl or meta) and key not in WITH_CTRL:
            return
        if key == "Tab" and hasattr(self.easel.sheet, "blur"):  # the canvas keeps every key from the browser
            self.easel.sheet.blur()
        if key in named:
            self.act(named[key])
        elif key in ARROW_KEYS:
            self.do(self.hand.nudge, *(LEAP * n if shift else n for n in ARROW_KEYS[key]))
        elif key in TOOL_KEYS:
            self.mode.value = TOOL_KEYS[key]
        elif key == "e":
            self.panel.eraser.value = not self.panel.eraser.value
        elif key in ("[", "]"):
            size = self.brush.value * 1.25 + 1 if key == "]" else self.brush.value / 1.25
            self.brush.value = min(max(int(size), 1), BIGGEST_BRUSH)

    def _listen(self):
        sheet, panel = self.easel.sheet, self.panel
        for kind in MOUSE:
            getattr(sheet, f"on_{kind}")(lambda x, y, kind=kind: self.on(kind, x, y))
        for kind in TOUCH:
            getattr(sheet, f"on_{kind}")(lambda places, kind=kind: self.touch(kind, places))
        sheet.on_client_ready(self._redraw)
        sheet.on_mouse_wheel(self._wheel)
        sheet.on_key_down(self.key)
        for widget in (panel.mode, panel.eraser, panel.brush, panel.dimming):
            widget.observe(lambda _: self.do(self._take_tool), "value")
        panel.table.observe(lambda change: self._typed(change.new), "value")
        panel.prompt.observe(lambda change: self._prompted(change.new), "value")
        panel.upload.observe(lambda change: self._uploaded(change.new), "value")
        panel.load.on_click(lambda _: self.do(self._load_path))
        panel.save.on_click(lambda _: self.do(self._save))

    def _redraw(self):
        with self._lock:
            self.easel.redraw()

    def _take_tool(self):
        panel = self.panel
        self.hand.lift()
        self.hand.tool, self.hand.erase, self.hand.radius = (
            panel.mode.value,
            panel.eraser.value,
            panel.brush.value,
        )
        self.easel.dimming = panel.dimming.value

    def _wheel(self, _, dy: float):
        with self._lock:
            self.hand.window.zoom_by(math.exp(-dy / WHEEL), *self._pointer)
            self.easel.show()

    def _zoom(self, factor: float):
        w, h = self.hand.window.sheet
        self.hand.window.zoom_by(factor, w / 2, h / 2)

    def _typed(self, text: str):
        if text != files.table(self.picks.points):  # else it was the panel that wrote it
            self.do(lambda: self.picks.set_points(files.parse_table(text, self.picks.points)))

    def _prompted(self, text: str):
        if text != self.picks.prompt:
            self.do(self.picks.set_prompt, text)

    def _uploaded(self, value):
        for name, content in files.uploads(value):
            self.panel.upload.set_trait("value", type(value)())  # so that the same file can come again
            self.do(lambda name=name, content=content: self._load(files.read_bytes(name, content), name))

    def _load_path(self):
        return self._load(files.read_place(self.panel.path.value), self.panel.path.value)

    def _load(self, found, name: str = "") -> str:
        self.hand.lift()
        self.hand.selected = None
        self.picks.load(found)
        return f"{name} is loaded; undo brings back what was here" if name else ""

    def _save(self) -> str:
        return f"saved to {files.save(self.picks, self.panel.path.value)}"

    def _list_actions(self) -> dict[str, tuple[str, Callable, str]]:
        """name -> (key, what is done, what it means); each has a button and a key."""
        picks, hand = self.picks, self.hand
        return {
            "undo": ("z", picks.undo, "take the last step back"),
            "redo": ("y", picks.redo, "do it again"),
            "delete point": ("d", hand.delete, "delete the chosen point, or the last one"),
            "delete pair": ("D", lambda: hand.delete(pair=True), "delete it with its other end"),
            "clear points": ("c", picks.clear_points, "delete all points"),
            "clear mask": ("m", picks.clear_mask, "nothing painted: the whole picture may change"),
            "fill": ("f", picks.fill, "paint what the paint encloses"),
            "invert": ("i", picks.invert, "swap what may change and what is held"),
            "around the path": (
                "a",
                picks.around_paths,
                "paint around all handles and targets: a first guess",
            ),
            "zoom in": ("+", lambda: self._zoom(ZOOM), "come nearer"),
            "zoom out": ("-", lambda: self._zoom(1 / ZOOM), "go back"),
            "fit": ("0", hand.window.fit, "show the whole picture"),
            "let go": ("Escape", hand.cancel, "take back what is being drawn, or choose no point"),
        }

    def _ipython_display_(self):
        from IPython.display import display

        display(self.widget)
