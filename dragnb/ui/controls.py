"""Buttons, sliders and texts that picker and studio are made of: only what ipywidgets 7 and 8 have in common."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import NamedTuple

import ipywidgets as W

from dragnb.ui import files
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import TOOLS

TOOL_KEYS = {"p": "points", "b": "brush", "r": "rectangle", "l": "lasso", "h": "pan"}
# radius in picture pixels
BIGGEST_BRUSH = 200
# of buttons: for the points and all steps, for the mask, for the view
ROWS = (
    ("undo", "redo", "delete point", "delete pair", "clear points"),
    ("around the path", "fill", "invert", "clear mask"),
    ("zoom in", "zoom out", "fit", "cancel"),
)
HELP = (
    "Click a handle, then its target, or drag from one to the other. Drag a point or an arrow to move it; a press on "
    "it also chooses it, for delete and for the arrow keys (with Shift: ten pixels). The wheel or two fingers zoom, "
    "<i>pan</i> or two fingers push the picture. Keys, once the picture has been clicked (<b>Tab</b> leaves it): "
)
FILES = (
    "A picture, or a drag file: a folder, or a zip of one. A picture cannot be pasted or dropped on the canvas; "
    "dropped on JupyterLab's file browser it has a path. Give a path also for more than 10 MB: unless it was started "
    "by <code>make</code>, Jupyter's server drops a larger upload unread, without a message."
)


class Action(NamedTuple):
    """What a button and a key do, and what that means."""

    key: str
    do: Callable
    meaning: str


class Panel:
    """The widgets around the canvas: tools, buttons, texts, files; a button calls `run(name)`."""

    def __init__(self, canvas, actions: dict[str, Action], run: Callable[[str], None]):
        self.text = W.HTML()
        self._table_written = None
        style, layout = {"description_width": "auto"}, {"width": "98%", "max_width": "512px"}
        hint = "what the picture shows, as: a green rabbit"
        self.prompt = W.Text(
            description="prompt", placeholder=hint, continuous_update=False, style=style, layout=layout
        )
        tools, buttons = self._tools(), self._buttons(actions, run)
        self.widget = W.VBox([tools, buttons, canvas, self.prompt, self.text, self._folds(actions)])

    def _tools(self):
        self.mode = W.ToggleButtons(options=list(TOOLS), value=TOOLS[0])
        self.mode.style.button_width = "auto"
        meaning = "brush, rectangle and lasso take paint off (key e)"
        self.eraser = W.ToggleButton(description="eraser", tooltip=meaning, layout={"width": "auto"})
        look = {"layout": {"width": "240px"}, "style": {"description_width": "66px"}}
        self.brush = W.IntSlider(12, 1, BIGGEST_BRUSH, description="brush, px", **look)
        self.dimming = W.FloatSlider(0.6, min=0, max=1, step=0.05, description="dimming", **look)
        return row(self.mode, self.eraser, self.brush, self.dimming, align_items="center")

    def _buttons(self, actions: dict[str, Action], run):
        self.buttons = {
            name: button(name, f"{action.meaning} (key {action.key})", lambda name=name: run(name))
            for name, action in actions.items()
        }
        return W.VBox([row(*(self.buttons[name] for name in names), align_items="center") for names in ROWS])

    def _folds(self, actions: dict[str, Action]):
        keys = TOOL_KEYS | {"e": "eraser", "[ ]": "brush size"}
        keys |= {action.key: name for name, action in actions.items()}
        listed = ", ".join(f"<b>{html.escape(key)}</b> {name}" for key, name in keys.items())
        folds = W.Accordion([self._texts(), self._files(), W.HTML(paragraph(HELP + listed))])
        for k, title in enumerate(("points as text", "picture and drag file", "mouse and keys")):
            folds.set_title(k, title)
        folds.selected_index = None
        return folds

    def _texts(self):
        wide = {"width": "95%", "height": "7em"}
        self.table = W.Textarea(continuous_update=False, layout=wide)
        self.parameters = W.Textarea(disabled=True, layout=wide)
        means = W.Label("A pair a line, x y → x y in picture pixels. Type here, then click elsewhere.")
        return W.VBox([means, self.table, W.Label("To copy, as parameters of notebook 04:"), self.parameters])

    def _files(self):
        self.upload = W.FileUpload(accept="image/*,.zip", multiple=False, description="upload")
        self.path = W.Text(placeholder="a path, or a web address to load from", layout={"width": "95%"})
        self.load, self.save = W.Button(description="load"), W.Button(description="save drag file")
        return W.VBox(
            [
                W.HTML(paragraph(FILES)),
                self.upload,
                self.path,
                row(self.load, self.save, align_items="center"),
            ]
        )

    def write(self, picks: Picks, message: str, notes: list[str]) -> None:
        """All texts, from the state; what was typed into the table and refused is left to be put right."""
        lines = [html.escape(picks.summary())]
        lines += [f"<b>{html.escape(message)}</b>"] if message else []
        lines += [f"• {html.escape(note)}" for note in notes]
        self.text.value = paragraph("<br>".join(lines), 'role="status"')
        table = files.table(picks.points)
        if table != self._table_written:
            self._table_written = self.table.value = table
        self.prompt.value = picks.prompt
        self.parameters.value = files.parameters(picks)
        self.buttons["undo"].disabled = not picks.can_undo
        self.buttons["redo"].disabled = not picks.can_redo


def paragraph(content: str, attributes: str = "") -> str:
    """A text in HTML, its lines close to each other."""
    return f'<div {attributes} style="line-height: 1.4">{content}</div>'


def row(*children, **layout) -> W.HBox:
    """Widgets side by side, in several rows where the page is narrow."""
    return W.HBox(children, layout=W.Layout(flex_flow="row wrap", **layout))


def button(label: str, meaning: str, action: Callable[[], object]) -> W.Button:
    """A button that is as wide as its label and tells its meaning on hover."""
    made = W.Button(description=label, tooltip=meaning, layout=W.Layout(width="auto"))
    made.on_click(lambda _: action())
    return made


def hover(widget, text: str):
    """Show `text` while the mouse is over the widget, in ipywidgets 7 and 8."""
    setattr(widget, "tooltip" if widget.has_trait("tooltip") else "description_tooltip", text)
    return widget


def narrow(kind, **options):
    """A widget with a label, two of which stand side by side. Each has a layout of its own: hiding one hides one."""
    layout, style = W.Layout(width="204px"), {"description_width": "80px"}
    return kind(layout=layout, style=style, **options)


def picture(width: str) -> W.Image:
    """A place for a JPEG, empty at first; `put` fills it."""
    return W.Image(format="jpeg", layout=W.Layout(width=width, max_width="100%", display="none"))


def put(image: W.Image, jpeg: bytes) -> None:
    """Show a JPEG there, or nothing: an empty one would be drawn as a broken picture."""
    image.value = jpeg
    show_if(jpeg, image)


def show_if(yes, *widgets) -> None:
    """Show widgets or hide them, all alike."""
    for widget in widgets:
        widget.layout.display = "" if yes else "none"
