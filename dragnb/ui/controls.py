"""Buttons, sliders and texts that picker and studio are made of: only what ipywidgets 7 and 8 have in common."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ipywidgets as W

from dragnb.ui import files
from dragnb.ui.picks import Picks
from dragnb.ui.pointer import PAINTERS, SELECT, TOOLS

TOOL_KEYS = {"p": "points", "b": "brush", "r": "rectangle", "l": "lasso", "h": "pan", "w": SELECT}
TOOL_ICONS = {
    "points": "crosshairs",
    "brush": "paint-brush",
    "rectangle": "square-o",
    "lasso": "pencil-square-o",
    "pan": "hand-paper-o",
    SELECT: "eyedropper",
}
TOOL_MEANINGS = {
    "points": "press on what shall move, drag to where, let go",
    "brush": "paint what may change",
    "rectangle": "what may change, as a rectangle",
    "lasso": "what may change, as an outline",
    "pan": "push the enlarged picture",
    SELECT: "click on a thing: it may change, as far as the model's features are alike (key w)",
}
# radius in pixels of the canvas
BIGGEST_BRUSH = 200
# a cosine: of six clay scenes this selects the clicked figure best, by its own three components
LIKENESS = 0.4
# the icon bar's buttons by groups, with their icons
BAR = (
    {"around the path": "magic", "clear mask": "ban"},
    {"undo": "undo", "redo": "repeat", "delete point": "trash"},
    {"zoom in": "search-plus", "zoom out": "search-minus", "fit": "arrows-alt"},
)
# bytes of a file that the page itself carries as a link
LINKED = 16 * 2**20
# what is wanted less often: for the mask, beside the brush; for the rest, in the fold of the keys
MASK_BUTTONS = ("fill", "invert")
MORE_BUTTONS = ("new point", "next point", "delete pair", "clear points", "before", "cancel")
# what the page writes and the kernel reads
PAGE_TEXTS = ("dropped", "width", "pulse")
HELP = (
    "Press on what shall move, drag to where, let go; or click the one and then the other. Drag a point or an arrow to "
    "move it; a press on it also chooses it, for delete and for the arrow keys (with Shift: ten pixels). Ctrl and the "
    "wheel, or two fingers, zoom; <i>pan</i> or two fingers push the picture. Without a mouse: <b>n</b> places a "
    "point, the arrow keys bring it where it belongs, <b>n</b> again places its target. "
    "Keys, once the picture has been clicked (<b>Tab</b> leaves it): "
)
FILES = (
    "A picture, or a drag file: a folder, or a zip of one. Drop or paste one on this page up to 7 MB; for a larger one "
    "give its path: unless it was started by <code>make</code>, Jupyter's server drops a larger upload unread, without "
    "a message."
)


class Action(NamedTuple):
    """What a button and a key do, and what that means."""

    key: str
    do: Callable
    meaning: str


class Panel:
    """The widgets around the canvas: tools, buttons, texts, files; a button calls `run(name)`.

    tools  those of the icon bar, from TOOL_ICONS
    row    the prompt, to which a studio adds its buttons; folds: what is folded away, in an order of their own
    """

    def __init__(self, canvas, actions: dict[str, Action], run: Callable[[str], None], tools=TOOLS):
        self.text, self.tools = W.HTML(), tuple(tools)
        self._table_written = None
        hint = "What does the picture show? As: a green rabbit"
        self.prompt = W.Text(
            placeholder=hint, continuous_update=False, layout={"flex": "1 1 130px", "min_width": "0"}
        )
        self.prompt.add_class("dragnb-prompt")
        hover(self.prompt, "prompt: what the picture shows")
        self.buttons = {
            name: button(name, f"{action.meaning} (key {action.key})", lambda name=name: run(name))
            for name, action in actions.items()
        }
        # they act on what is picked, and so in turn with the presses on the canvas
        for made in self.buttons.values():
            made.add_class("dragnb-now")
        # by their labels: one that is pressed while another is about to take its place does what it says
        self.chips: dict[str, W.Button] = {}
        self._offered: dict[str, Callable] = {}
        self.offers = W.HBox()
        # what the page itself writes: a file that was dropped, how wide the canvas is on the screen, is anybody there
        self.dropped, self.width, self.pulse = hidden = [
            named(W.Textarea(layout={"display": "none"}), f"dragnb-{name}") for name in PAGE_TEXTS
        ]
        self.row = row(self.prompt, align_items="center", max_width="512px", width="98%")
        self.folds = [fold("picture and drag file", self._files()), fold("points as text", self._texts())]
        self.folds.append(fold("mouse and keys", self._keys(actions)))
        self.bar, self.mask_row = self._tools(), self._mask_row()
        self.below = W.VBox([self.text, self.offers])
        # what comes and goes with a tool stands below the canvas, which stays under the mouse so
        parts = [page_hook(), self.bar, canvas, self.mask_row, self.row, *hidden]
        self.left = named(W.VBox(parts), "dragnb-picture")
        self.widget = named(W.VBox([self.left, self.below, folded(*self.folds)]), "dragnb")

    def _tools(self):
        looks = {"icons": [TOOL_ICONS[tool] for tool in self.tools]}
        looks["tooltips"] = [TOOL_MEANINGS[tool] for tool in self.tools]
        self.mode = W.ToggleButtons(options=list(self.tools), value=self.tools[0], **looks)
        self.mode.style.button_width = "32px"
        meaning = "brush, rectangle and lasso take paint off (key e)"
        self.eraser = W.ToggleButton(description="eraser", tooltip=meaning, icon="eraser")
        groups = [self.mode, self.eraser]
        for group in BAR:
            for name, icon in group.items():
                self.buttons[name].icon = icon
            groups += [named(W.HTML(), "dragnb-gap"), *(self.buttons[name] for name in group)]
        return named(row(*groups), "dragnb-icons")

    def _mask_row(self):
        look = {"layout": {"width": "190px"}, "style": {"description_width": "62px"}}
        self.brush = W.IntSlider(12, 1, BIGGEST_BRUSH, description="brush", **look)
        self.brush.add_class("dragnb-size")
        hover(self.brush, "the brush's radius in pixels of the screen (keys [ and ])")
        self.dimming = W.FloatSlider(0.6, min=0, max=1, step=0.05, description="dimming", **look)
        self.likeness = W.FloatSlider(
            LIKENESS, min=-1, max=1, step=0.05, description="alike", continuous_update=False, **look
        )
        hover(self.likeness, "how like the clicked place a cell has to be, as a cosine; lower selects more")
        sliders = self.brush, self.likeness, self.dimming
        return row(*sliders, *(self.buttons[name] for name in MASK_BUTTONS), align_items="center")

    def _keys(self, actions: dict[str, Action]):
        keys = {key: tool for key, tool in TOOL_KEYS.items() if tool in self.tools} | {
            "e": "eraser",
            "[ ]": "brush size",
        }
        keys |= {action.key.replace(" ", "Space"): name for name, action in actions.items() if action.key}
        listed = ", ".join(f"<b>{html.escape(key)}</b> {name}" for key, name in keys.items())
        return W.VBox([row(*(self.buttons[name] for name in MORE_BUTTONS)), W.HTML(paragraph(HELP + listed))])

    def _texts(self):
        wide = {"width": "95%", "height": "7em"}
        self.table = W.Textarea(continuous_update=False, layout=wide)
        self.parameters = W.Textarea(disabled=True, layout=wide)
        means = W.HTML("A pair a line, x y → x y in picture pixels. Type here, then click elsewhere.")
        return W.VBox([means, self.table, W.HTML("To copy, as parameters of notebook 04:"), self.parameters])

    def _files(self):
        self.upload = W.FileUpload(accept="image/*,.zip", multiple=False, description="upload")
        look = {"placeholder": "a path, or a web address to load from", "layout": {"width": "95%"}}
        self.path = W.Text(continuous_update=False, **look)
        self.load, self.save = W.Button(description="load"), W.Button(description="save drag file")
        self.saved = W.HTML()
        buttons = row(self.load, self.save, self.saved, align_items="center")
        return W.VBox([W.HTML(paragraph(FILES)), self.upload, self.path, buttons])

    def write(self, picks: Picks, message: str, notes: list[str]) -> None:
        """All texts, from the state; what was typed into the table and refused is left to be put right."""
        lines = [checklist(picks), html.escape(picks.summary())]
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
        show_if(self.mode.value in PAINTERS or self.eraser.value, self.mask_row)
        show_if(self.mode.value == "brush", self.brush)
        show_if(self.mode.value == SELECT, self.likeness)

    def offer(self, label: str, meaning: str, action: Callable[[], object] | None) -> None:
        """One thing to do next, as a button under the notes; None: nothing."""
        if action is not None:
            self._offered[label] = action
        if action is not None and label not in self.chips:
            self.chips[label] = chip = button(label, meaning, lambda: self._offered[label]())
            chip.add_class("dragnb-chip")
            chip.add_class("dragnb-now")
            self.offers.children = tuple(self.chips.values())
        for name, chip in self.chips.items():
            show_if(name == label and action is not None, chip)


def checklist(picks: Picks) -> str:
    """What a drag needs, and what of it is there."""
    there = {"points": len(picks.points) > 1 and not picks.waiting}
    there |= {"mask": bool(picks.mask.any()), "prompt": bool(picks.prompt.strip())}
    return " &nbsp; ".join(f"{name} {'✓' if yes else '○'}" for name, yes in there.items())


def page_hook() -> W.HTML:
    """Style and script of the page (`page.css`, `page.js`), in a widget that shows nothing."""
    style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    run = html.escape(f"(function() {{ {script} }}).call(this)", quote=True)
    value = f'<style>{style}</style><img hidden alt="" src="data:," onerror="{run}">'
    return W.HTML(value, layout=W.Layout(height="0", margin="0", overflow="hidden"))


def named(widget, css: str):
    """A widget that the page's style and script find by a class."""
    widget.add_class(css)
    return widget


def fold(title: str, content) -> W.VBox:
    """A button with what it shows and hides; ipywidgets' own accordion cannot be reached by keys."""
    head = named(W.ToggleButton(description=title, icon="caret-right"), "dragnb-fold")
    show_if(False, content)

    def turn(_):
        head.icon = "caret-down" if head.value else "caret-right"
        show_if(head.value, content)
        (made.add_class if head.value else made.remove_class)("dragnb-open")

    head.observe(turn, "value")
    made = W.VBox([head, content])
    made.head = head
    return made


def folded(*folds) -> W.HBox:
    """Folds side by side, as many as a line holds."""
    return named(row(*folds), "dragnb-folds")


def hear_in_turn(widget) -> None:
    """Have the kernel hear all that is in a widget in one thread, in turn; called while a message from it is answered.

    ipykernel 7 may hear widgets in two threads, JupyterLab asking for one beside the cells': each widget is heard where
    the message came from that was answered through it last, and until then beside the cells, after those that wait.
    """
    for child in getattr(widget, "children", ()):
        hear_in_turn(child)
    widget.send_state("_view_module_version")  # it says nothing new


def link(name: str, content: bytes, kind: str) -> str:
    """A file as a link that downloads it from the page itself, as HTML; in words where it is too large for that."""
    if len(content) > LINKED:
        return " (too large for a link; copy it from there)"
    name, coded = html.escape(name, quote=True), base64.b64encode(content).decode()
    return f' <a download="{name}" href="data:{kind};base64,{coded}">download</a>'


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


def labelled(kind, label: str, label_width: str = "230px", **options):
    """A widget with its label, one a line."""
    layout, style = W.Layout(width="460px", max_width="98%"), {"description_width": label_width}
    return kind(description=label, layout=layout, style=style, **options)


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
