"""The widgets around the picker's canvas: tools, buttons, texts, files. They show, and leave it to others to listen.

Only what ipywidgets 7 and 8 have in common is used.
"""

from __future__ import annotations

import html
from collections.abc import Callable

from dragnb.ui import files
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import TOOLS

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
