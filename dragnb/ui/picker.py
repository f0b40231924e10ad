"""The picker: handles, targets and a mask picked by hand in a notebook.

`Picks` is the state and `Pointer` what pointing does; both know no widget. `CanvasView` draws them and `Panel` has the
buttons and texts; the `Picker` here passes events on, one at a time. Only what ipywidgets 7 and 8 share is used.
What neither they nor ipycanvas pass on (which button, drop and paste, a key let go) is done by `page.js`.
"""

from __future__ import annotations

import base64
import contextlib
import math
import threading
from collections.abc import Callable

from PIL import Image

from dragnb.errors import InputError
from dragnb.task import DragTask
from dragnb.ui import advice, files, frames, masks, preview
from dragnb.ui.canvas import DENSITY, CanvasView
from dragnb.ui.controls import BIGGEST_BRUSH, TOOL_KEYS, Action, Panel, hear_in_turn, link
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import SELECT, TOOLS, Pointer, Viewport

MOUSE = ("mouse_down", "mouse_move", "mouse_up", "mouse_out")
# no mouse events come for the same touch
TOUCH = {"start": "mouse_down", "move": "mouse_move", "end": "mouse_up", "cancel": "mouse_up"}
ARROW_KEYS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}
OTHER_KEYS = {
    "Z": "redo",
    "SpaceUp": "after",
    "Delete": "delete point",
    "Backspace": "delete point",
    "=": "zoom in",
}
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
    select (picks, place, then) asks a model how like the place (x, y) every pixel is: `then` is called from any thread
           with (h, w) in [-1, 1], or with None where there is no answer. Without it that tool is not offered

    While an arrow is drawn the picture's own pixels are pulled along it at once: a preview, gone when the arrow is let
    go, and never taken for a result. `show_result` puts an edit on the canvas, to be swiped against the picture.
    """

    def __init__(
        self,
        picks,
        side: int = 512,
        notes: Callable[[Picks], list[str]] = advice.notes,
        select: Callable | None = None,
    ):
        self.picks = picks if isinstance(picks, Picks) else Picks.of(picks)
        self.notes = notes
        self.pointer = Pointer(self.picks, Viewport(self.picks.size, side))
        self.canvas = CanvasView(self.pointer)
        # held by whichever thread draws, here or around it: with two locks, two threads could wait for each other
        self.lock = threading.RLock()
        self._changed, self._inside, self._listeners = False, False, []
        # has any page drawn the canvas?
        self.seen = False
        self._preview, self._select = preview.Warp(), select
        # of the last selection: its place, how like it all is, whether it is taken off, and the masks around it
        self._selection: tuple | None = None
        # the drag that the opened picture carries
        self._carried: DragTask | None = None
        self._actions = self._list_actions()
        self._keys = {action.key: name for name, action in self._actions.items() if action.key} | OTHER_KEYS
        tools = TOOLS if select is None else (*TOOLS, SELECT)
        self.panel = Panel(self.canvas.widget, self._actions, self.act, tools)
        self.widget, self.mode, self.brush = self.panel.widget, self.panel.mode, self.panel.brush
        # all that is shown with it
        self.around = self.widget
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
        with self.lock:
            outer, self._inside = self._inside, True
            try:
                message = change(*args)
            except (InputError, OSError) as error:  # a full disk, too
                message = " ".join(str(error).split())
            finally:
                self._inside = outer
            if not self.pointer.pressed:
                self._end_warp()
            self.canvas.show()
            message = message if isinstance(message, str) else ""
            self.panel.write(self.picks, message, self.notes(self.picks))
            self._offer()
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
        self._changed, self.panel.saved.value = True, ""
        self._end_result()
        if not self._inside:  # a program has called a method of the picks
            self.refresh()

    def show_result(self, image, caption: str = "after", other=None, other_caption: str = "before") -> None:
        """Put an edit on the canvas, to be swiped against the picture, or another; None: the picture alone.

        A press with the mouse, a tool, or any change of the picks brings the picking back.
        """
        with self.lock:
            self.canvas.show_after(image, caption, True, other, other_caption)

    def show_live(self, image, caption: str) -> None:
        """Put a preview on the canvas, with the points over it."""
        with self.lock:
            self.canvas.show_after(image, caption)

    def on(self, kind: str, x: float, y: float) -> None:
        """An event at a place in canvas pixels: mouse_down, mouse_move, mouse_up or mouse_out."""
        pointer = self.pointer
        pointer.hover = None if kind == "mouse_out" else (x, y)
        if kind == "mouse_down":
            self._end_result()
            self.do(pointer.press, x, y)
        elif kind == "mouse_move":
            with self.lock:
                if pointer.pressed:  # a hundred of these make a stroke, so they draw and write nothing
                    pointer.move(x, y)
                    self._show_warp()
                    self.canvas.show()
                elif self.canvas.swiped and self.canvas.after is not None:
                    self.swipe(x)
                elif pointer.tool == "brush" or self.picks.waiting:
                    self._show_warp(pointer.viewport.to_picture(x, y))
                    self.canvas.show()
        elif pointer.pressed:
            if kind == "mouse_out":  # it may have crossed the border faster than events come
                self.on("mouse_move", x, y)
                pointer.hover = None
            self._end_warp()
            self.do(self._release)
        elif kind == "mouse_out":
            with self.lock:
                self._end_warp()
                self.canvas.show()

    def _release(self):
        place = self.pointer.pressed_place if self.pointer.tool == SELECT else None
        self.pointer.release()
        return self._select_at(self.picks.snap(*place)) if place else None

    def _select_at(self, place) -> str:
        image, erase = self.picks.image, self.pointer.erase

        def then(alike):
            if alike is None or self.picks.image is not image:  # another one was loaded meanwhile
                return
            self._selection = place, alike, erase, self.picks.mask, None
            self._draw_selection()

        self._select(self.picks, place, lambda alike: self.do(then, alike))
        return "looking for what is like this place"

    def _draw_selection(self):
        place, alike, erase, before, _ = self._selection
        part = masks.alike(alike, place, self.panel.likeness.value)
        self.picks.set_mask(before & ~part if erase else before | part)
        self._selection = place, alike, erase, before, self.picks.mask

    def _select_again(self):
        """The slider was moved: select anew, if nothing else has been painted since."""
        if self._selection is not None and self.picks.mask is self._selection[-1]:
            self._draw_selection()

    def swipe(self, x: float) -> None:
        """Left of this place of the canvas the picture is seen, right of it the result."""
        with self.lock:
            self.canvas.split, self.canvas.before = x, False
            self.canvas.show()

    def _end_result(self):
        if self.canvas.after is not None and self.canvas.swiped:
            self.canvas.show_after(None)

    def _show_warp(self, target=None):
        """The picture's own pixels, pulled along the arrows drawn so far; `target` of the handle that waits for one."""
        if self.pointer.tool == "points" and (self.canvas.after is None or self._preview.shown):
            image = self._preview.image(self.picks, target)
            if image is not None:
                self.canvas.show_after(image, preview.CAPTION)
                self._preview.shown = True

    def _end_warp(self):
        if self._preview.shown and self.canvas.caption == preview.CAPTION:  # and no result in its place
            self.canvas.show_after(None)
        self._preview.shown = False

    def touch(self, kind: str, places) -> None:
        """Fingers at places in canvas pixels: one is a mouse, two zoom and push the picture."""
        if len(places) > 1 or self.pointer.pinching:
            with self.lock:
                self.pointer.pinch(places)
                self.canvas.show()
        elif self.canvas.after is not None and self.canvas.swiped:  # a finger does not hover
            if places:
                self.swipe(places[0][0])
        else:
            self.on(TOUCH[kind], *(places[0] if places else (0.0, 0.0)))

    def key(self, key: str, shift: bool = False, ctrl: bool = False, meta: bool = False) -> None:
        """A key pressed while the canvas has the focus."""
        canvas, brush, eraser = self.canvas.widget, self.brush, self.panel.eraser
        if (ctrl or meta) and key not in WITH_CTRL:
            return
        what, _, value = key.partition(" ")
        if value:
            self._hear(what, value)
            return
        if key == "Tab" and hasattr(canvas, "blur"):  # the canvas keeps every key from the browser
            canvas.blur()
        if key in self._keys:
            self.act(self._keys[key])
        elif key in ARROW_KEYS:
            self.do(self.pointer.nudge, *(LEAP * n if shift else n for n in ARROW_KEYS[key]))
        elif TOOL_KEYS.get(key) in self.panel.tools:
            self.mode.value = TOOL_KEYS[key]
        elif key == "e":
            eraser.value = not eraser.value
        elif key in ("[", "]"):
            size = brush.value * 1.25 + 1 if key == "]" else brush.value / 1.25
            self._resize(int(size))

    def _resize(self, size: int):
        self.brush.value = min(max(size, 1), BIGGEST_BRUSH)

    def _hear(self, what: str, value: str):
        """What was chosen on the page before the next press: "tool lasso", "eraser on", "brush 24"."""
        panel = self.panel
        if what == "tool" and value in panel.tools:
            panel.mode.value = value
        elif what == "eraser":
            panel.eraser.value = value == "on"
        elif what == "brush" and value.isdecimal():
            self._resize(int(value))

    def _listen(self):
        canvas, panel = self.canvas.widget, self.panel
        for kind in MOUSE:
            getattr(canvas, f"on_{kind}")(lambda x, y, kind=kind: self.on(kind, x / DENSITY, y / DENSITY))
        for kind in TOUCH:
            getattr(canvas, f"on_touch_{kind}")(
                lambda places, kind=kind: self.touch(kind, [(x / DENSITY, y / DENSITY) for x, y in places])
            )
        canvas.on_client_ready(self._redraw)
        canvas.on_mouse_wheel(self._wheel)
        canvas.on_key_down(self.key)
        for widget in (panel.mode, panel.eraser, panel.brush, panel.dimming):
            widget.observe(lambda _: self.do(self._take_tool), "value")
        panel.likeness.observe(lambda _: self.do(self._select_again), "value")
        panel.table.observe(lambda change: self._set_points(change.new), "value")
        panel.prompt.observe(lambda change: self._set_prompt(change.new), "value")
        panel.upload.observe(lambda change: self._load_uploads(change.new), "value")
        panel.dropped.observe(lambda change: self._load_dropped(change.new), "value")
        panel.pulse.observe(lambda _: panel.pulse.set_trait("value", ""), "value")
        panel.width.observe(lambda change: self._take_width(change.new), "value")
        panel.load.on_click(lambda _: self.do(self._load_path))
        panel.save.on_click(lambda _: self.do(self._save))

    def _redraw(self):
        self.seen = True
        hear_in_turn(self.around)
        with self.lock:
            self.canvas.redraw()

    def _take_tool(self):
        pointer, panel = self.pointer, self.panel
        pointer.release()
        pointer.tool, pointer.erase, pointer.radius = panel.mode.value, panel.eraser.value, panel.brush.value
        self.canvas.dimming = panel.dimming.value
        self._end_result()

    def _take_width(self, text: str):
        """The page says how many pixels of the screen the canvas is wide."""
        with contextlib.suppress(ValueError), self.lock:
            self.pointer.shown_width = float(text)
            self.canvas.show()

    def _wheel(self, _, dy: float):
        with self.lock:
            self.pointer.viewport.zoom_by(math.exp(-dy / WHEEL), *(self.pointer.hover or (0.0, 0.0)))
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
            self._offer_drag(files.carried(name, content))

    def _load_dropped(self, value: str):
        if value:
            self.panel.dropped.value = ""
            name, _, content = value.partition("\n")
            self.do(lambda: self._load(files.read_dropped(name, content), name))
            self._offer_drag(files.carried(name, base64.b64decode(content)))

    def _load_path(self):
        place = self.panel.path.value
        what, drag = files.read_place(place)
        message = self._load(what, place)
        self._offer_drag(drag)
        return message

    def _load(self, task, name: str = "") -> str:
        self.pointer.release()
        self.pointer.selected = self._carried = None
        self.picks.load(task)
        return f"{name} is loaded; undo brings back what was here" if name else ""

    def _offer_drag(self, drag: DragTask | None):
        """A picture that carries a drag is opened as a picture, and the drag is offered."""
        self._carried = drag
        self._offer()

    def _offer(self):
        """What may be wanted next: the drag that a picture carries, until points are picked; a mask for points."""
        picks, drag = self.picks, self._carried
        if drag is not None and not picks.points:
            meaning = "the picture that it was made from, with its points, mask and prompt"
            self.panel.offer("open the drag that this picture carries", meaning, lambda: self.load(drag))
        elif len(picks.points) > 1 and not picks.mask.any():
            name = "around the path"
            self.panel.offer(f"mask: {name}", self._actions[name].meaning, lambda: self.act(name))
        else:
            self.panel.offer("", "", None)

    def _save(self) -> str:
        place, content = files.save(self.picks, self.panel.path.value), self.picks.task().packed()
        # the page may be on another machine than the folder
        name = f"{place.name.removesuffix('.zip')}.zip"
        self.panel.saved.value = f"saved{link(name, content, 'application/zip')}"
        return f"saved to {place}"

    def _show_before(self, before: bool):
        self.canvas.before = before and self.canvas.after is not None
        self.canvas.show()

    def _list_actions(self) -> dict[str, Action]:
        picks, pointer = self.picks, self.pointer
        around = "paint around all handles and targets: a first guess"
        return {
            "undo": Action("z", picks.undo, "take the last step back"),
            "redo": Action("y", picks.redo, "do it again"),
            "new point": Action("n", pointer.place, "a point without the mouse; the arrow keys move it"),
            "next point": Action("s", pointer.choose_next, "choose the next point"),
            "before": Action(" ", lambda: self._show_before(True), "while it is held: the picture as it was"),
            "after": Action("", lambda: self._show_before(False), "the result again"),
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

    def still(self, *others) -> Image.Image:
        """The picture with its arrows, and others beside it."""
        points = self.picks.points[: len(self.picks.points) // 2 * 2]
        drawn = frames.arrows(self.picks.image, points[::2], points[1::2], frames.SHARPEST)
        return frames.beside(drawn, *others)

    def _ipython_display_(self):
        shown = frames.Still(self.widget, self.still, "the picture with what was picked on it")
        shown.show()
        self.on_change(lambda: shown.update(self.seen))
