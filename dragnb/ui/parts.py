"""Small parts that the studio's panels are made of."""

from __future__ import annotations

from dragnb.errors import InputError

try:
    import ipywidgets as W
except ImportError as error:
    raise InputError("the studio needs ipywidgets: pip install 'dragnb[widgets]'") from error


def hover(widget, text: str):
    """Show `text` while the mouse is over the widget, in ipywidgets 7 and 8."""
    setattr(widget, "tooltip" if widget.has_trait("tooltip") else "description_tooltip", text)
    return widget


def narrow(kind, **options):
    """A widget with a label, two of which stand side by side. Each has a layout of its own: hiding one hides one."""
    layout, style = W.Layout(width="204px"), {"description_width": "80px"}
    return kind(layout=layout, style=style, **options)


def picture(width: str) -> W.Image:
    """A place for a JPEG; `put` fills it."""
    return W.Image(format="jpeg", layout=W.Layout(width=width, max_width="100%", display="none"))


def put(image: W.Image, jpeg: bytes) -> None:
    """Show a JPEG there, or nothing: an empty one would be drawn as a broken picture."""
    image.value = jpeg
    show_if(jpeg, image)


def show_if(yes, *widgets) -> None:
    """Show widgets or hide them, all alike."""
    for widget in widgets:
        widget.layout.display = "" if yes else "none"


def row(*children) -> W.HBox:
    """Widgets side by side, in several rows where the page is narrow."""
    return W.HBox(children, layout=W.Layout(flex_flow="row wrap"))
