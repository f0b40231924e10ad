"""Pick handles, targets and a mask by hand: `Picks` is the state and knows no widget, `Picker` is a canvas on it.

Everything a click or a stroke does is a method of `Picks`, so it can be tested, saved and driven without a browser;
the canvas only draws the state and may be drawn again at any time.
"""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from dragnb.errors import InputError
from dragnb.task import DragTask, pair_up

UNDO_LIMIT = 100
MODES = ("points", "paint", "erase")
TOUCH = {
    "touch_start": "mouse_down",
    "touch_move": "mouse_move",
    "touch_end": "mouse_up",
    "touch_cancel": "mouse_up",
}
HANDLE, TARGET, LINE = "#D55E00", "#0072B2", "black"  # as `viz` draws them
VEIL = (128, 128, 128, 150)  # laid over what the mask holds still
DOT = 6  # radius of a point in canvas pixels


class Picks:
    """Points and mask on one picture: clicks are handle and target in turn, the mask is painted, all can be undone.

    image   uint8 (h, w, 3)
    points  list of (x, y) in picture pixels; a click is rounded to a whole pixel and moved into the picture
    mask    bool (h, w), True = may change; nothing painted leaves the whole picture free
    """

    def __init__(self, image: np.ndarray, points=(), mask=None, prompt: str = "", name: str = ""):
        self.image, self.prompt, self.name = image, prompt, name
        self.points: list[tuple[float, float]] = [(float(x), float(y)) for x, y in points]
        self.mask = np.zeros(image.shape[:2], bool) if mask is None else np.array(mask, bool)
        self._past: list[tuple[list, np.ndarray]] = []

    @classmethod
    def of(cls, task: DragTask) -> Picks:
        """The picks of a task, to go on from."""
        points = np.stack([task.handles, task.targets], axis=1).reshape(-1, 2).tolist()
        return cls(task.image, points, task.mask, task.prompt, task.name)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.image.shape[1], self.image.shape[0]

    def snap(self, x: float, y: float) -> tuple[float, float]:
        """The pixel nearest to a place that may lie between pixels or outside."""
        w, h = self.size
        return float(min(max(round(x), 0), w - 1)), float(min(max(round(y), 0), h - 1))

    def remember(self) -> None:
        """Keep the state as it is now for `undo`; call it once before a stroke."""
        self._past = [*self._past[1 - UNDO_LIMIT :], (list(self.points), np.packbits(self.mask))]

    def click(self, x: float, y: float) -> None:
        """Add a point: a handle, or the target of the last handle. A target on its handle is no drag, so ignored."""
        point = self.snap(x, y)
        if len(self.points) % 2 and point == self.points[-1]:
            return
        self.remember()
        self.points.append(point)

    def stroke(self, start, end, radius: float, erase: bool = False) -> None:
        """Paint (or erase) all pixels within `radius` of the line from `start` to `end`, places (x, y)."""
        w, h = self.size
        (ax, ay), (bx, by) = start, end
        x0, x1 = (int(np.clip(v, 0, w)) for v in (min(ax, bx) - radius, max(ax, bx) + radius + 2))
        y0, y1 = (int(np.clip(v, 0, h)) for v in (min(ay, by) - radius, max(ay, by) + radius + 2))
        y, x = np.mgrid[y0:y1, x0:x1]
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
        near = (x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2 <= radius**2
        self.mask[y0:y1, x0:x1][near] = not erase

    def undo(self) -> None:
        """Take the last click, stroke or clearing back; nothing to take back is no error."""
        if self._past:
            self.points, packed = self._past.pop()
            self.mask = np.unpackbits(packed, count=self.mask.size).reshape(self.mask.shape).astype(bool)

    def clear(self) -> None:
        """Remove all points and the mask; `undo` brings them back."""
        self.remember()
        self.points, self.mask = [], np.zeros_like(self.mask)

    def says(self) -> str:
        """One line on what is picked and what comes next."""
        pairs, half = divmod(len(self.points), 2)
        todo = "click its target" if half else "click a handle"
        free = f"{self.mask.mean():.0%} may change" if self.mask.any() else "the whole picture may change"
        return f"{pairs + half} {'pair' if pairs + half == 1 else 'pairs'}; {todo}; {free}"

    def task(self, prompt: str | None = None, name: str | None = None) -> DragTask:
        """The drag task of the picks; InputError says what is missing."""
        handles, targets = pair_up(self.points)
        mask = self.mask if self.mask.any() else None
        prompt, name = self.prompt if prompt is None else prompt, self.name if name is None else name
        return DragTask(self.image, handles, targets, mask, prompt, name)


class Picker:
    """A canvas on `picks`: click a handle, then its target; paint what may change; z or the button takes back.

    picks  a Picks, a DragTask to go on from, or a picture, uint8 (h, w, 3)
    side   the longer side of the canvas in its own pixels; the picture is drawn at that size
    Show `widget`, or the Picker itself, in a notebook; read `picks` (or `task()`) in a later cell.
    """

    def __init__(self, picks, side: int = 512):
        try:
            import ipycanvas
            import ipywidgets
        except ImportError as error:
            message = (
                f"the picker needs {error.name}: pip install 'dragnb[widgets]'; or give the points as numbers"
            )
            raise InputError(message) from error
        self.picks = picks if isinstance(picks, Picks) else _start(picks)
        self.scale = side / max(self.picks.size)
        self._canvas, self._from, self._lock = ipycanvas, None, threading.RLock()
        w, h = (max(1, round(n * self.scale)) for n in self.picks.size)
        self.canvas = ipycanvas.MultiCanvas(3, width=w, height=h)
        self.canvas.layout.width, self.canvas.layout.height = f"{w}px", "auto"  # else it fills the page
        self.canvas.layout.max_width = "100%"
        self._listeners = []
        self.widget = self._controls(ipywidgets)
        self._listen()
        self.redraw()

    def _controls(self, widgets):
        self.mode = widgets.ToggleButtons(options=list(MODES), value=MODES[0])
        self.brush = widgets.IntSlider(12, 1, 100, description="brush, px")
        self.text = widgets.Label()
        undo, clear = widgets.Button(description="undo"), widgets.Button(description="clear")
        undo.on_click(lambda _: self.do(self.picks.undo))
        clear.on_click(lambda _: self.do(self.picks.clear))
        tools = widgets.HBox([self.mode, self.brush, undo, clear])
        tools.layout.flex_flow = "row wrap"
        return widgets.VBox([tools, self.canvas, self.text])

    def _listen(self):
        for kind in ("mouse_down", "mouse_move", "mouse_up", "mouse_out"):
            getattr(self.canvas, f"on_{kind}")(lambda x, y, kind=kind: self.on(kind, x, y))
        for touch, kind in TOUCH.items():  # no mouse events come for the same touch
            listen = getattr(self.canvas, f"on_{touch}")
            listen(lambda places, kind=kind: self.on(kind, *(places[0] if places else (0.0, 0.0))))
        self.canvas.on_key_down(lambda key, *_: self.do(self.picks.undo) if key == "z" else None)
        self.canvas.on_client_ready(self.redraw)

    def on(self, kind: str, x: float, y: float) -> None:
        """An event at a place in canvas pixels: mouse_down, mouse_move, mouse_up or mouse_out."""
        with self._lock:
            x, y = (v / self.scale - 0.5 for v in (x, y))  # (0, 0) is the centre of the top left pixel
            if kind in ("mouse_up", "mouse_out"):
                self._from = None
            elif kind == "mouse_down" and self.mode.value == "points":
                self.do(self.picks.click, x, y)
            elif kind == "mouse_down":
                self.picks.remember()
                self._paint((x, y), (x, y))
            elif kind == "mouse_move" and self._from is not None:
                self._paint(self._from, (x, y))

    def _paint(self, start, end):
        self.do(self.picks.stroke, start, end, self.brush.value, self.mode.value == "erase")
        self._from = end

    def do(self, change, *args) -> None:
        """Change the picks and draw them."""
        with self._lock:
            change(*args)
            self._draw()
        for listener in self._listeners:
            listener()

    def on_change(self, listener) -> None:
        """Call `listener()` after every change of the picks."""
        self._listeners.append(listener)

    def load(self, what) -> None:
        """Show another task or picture instead."""
        with self._lock:
            self.picks = _start(what)
            self.scale = max(self.canvas.width, self.canvas.height) / max(self.picks.size)
            self.canvas.width, self.canvas.height = (max(1, round(n * self.scale)) for n in self.picks.size)
            self.redraw()
        for listener in self._listeners:
            listener()

    def redraw(self) -> None:
        """Draw everything, also on a page that was loaded again."""
        manager = getattr(self._canvas.canvas, "_CANVAS_MANAGER", None)
        if manager is not None:
            manager._current_canvas = None  # else a reloaded page stays blank: ipycanvas issue 322
        with self._lock, self._canvas.hold_canvas():
            picture = Image.fromarray(self.picks.image).resize((self.canvas.width, self.canvas.height))
            self.canvas[0].put_image_data(
                np.array(picture.convert("RGBA"))
            )  # RGB would be sent as a poor JPEG
            self._draw()

    def _draw(self):
        """The mask and the points, from the state; nothing adds up from stroke to stroke."""
        self.text.value = self.picks.says()
        with self._canvas.hold_canvas():
            self.canvas[1].clear()
            if self.picks.mask.any():
                held = Image.fromarray(~self.picks.mask).resize((self.canvas.width, self.canvas.height))
                self.canvas[1].put_image_data(np.array(held)[..., None] * np.array(VEIL, np.uint8))
            self.canvas[2].clear()
            places = [((x + 0.5) * self.scale, (y + 0.5) * self.scale) for x, y in self.picks.points]
            for k, (x, y) in enumerate(places):
                if k % 2:
                    self._arrow(places[k - 1], (x, y))
            for k, (x, y) in enumerate(places):
                self._dot(x, y, k)

    def _arrow(self, start, end):
        layer = self.canvas[2]
        for width, color in ((5, "white"), (2, LINE)):
            layer.line_width, layer.stroke_style = width, color
            layer.stroke_line(*start, *end)

    def _dot(self, x, y, k):
        layer = self.canvas[2]
        for r, color in ((DOT + 2, "white"), (DOT, TARGET if k % 2 else HANDLE)):
            layer.fill_style = color
            if k % 2:
                layer.fill_rect(x - r, y - r, 2 * r)
            else:
                layer.fill_circle(x, y, r)
        layer.font, layer.fill_style = "bold 14px sans-serif", "black"
        layer.fill_text(str(k // 2 + 1), x + DOT + 4, y - DOT)

    def task(self, prompt: str | None = None) -> DragTask:
        """The drag task of what is picked by now."""
        return self.picks.task(prompt)

    def _ipython_display_(self):
        from IPython.display import display

        display(self.widget)


def _start(what) -> Picks:
    return Picks.of(what) if isinstance(what, DragTask) else Picks(what)
