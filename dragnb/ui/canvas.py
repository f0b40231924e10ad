"""Picks drawn on an ipycanvas, from their state alone, so that they can be drawn again at any time.

Picture and overlay are kept by the browser on two canvases of their own that nobody sees; the visible canvas shows a
part of them. So zooming, dimming and a stroke of the brush send a few words to the browser and no pixels.
"""

from __future__ import annotations

import io
import math
import operator
import threading

import ipycanvas
import ipywidgets
import numpy as np
from PIL import Image

from dragnb.ui.picks import Picks
from dragnb.ui.pointer import Pointer
from dragnb.viz import HANDLE, TARGET

# pixels of the longer side that the browser is given; the picks count in the picture's own
LONGEST = 2048
# Okabe and Ito's yellow
CHOSEN = "#F0E442"
INK, HALO = "black", "white"
# grey over what the mask holds still
GREY = 128
OVERLAY_COLOR = f"rgb({GREY}, {GREY}, {GREY})"
# radius of a point in pixels of the screen
DOT = 6
# pixels of the screen that the mouse has to leave a handle by before an arrow is drawn to it
CLEAR = 12
FONT = "bold 14px sans-serif"
# pixels of the browser's canvas to a pixel of ours, so that it is sharp on a screen of twice the density
DENSITY = 2
# what an empty canvas says
FIRST = ("press on what shall move,", "drag to where, let go")
# ipycanvas gathers the commands of all canvases in one list
DRAWING = threading.RLock()


class CanvasView:
    """Draws `pointer.picks` as `pointer.viewport` shows them. `widget` is what is seen; `dimming` goes from 0 to 1.

    The marks, and what is written, are of one size on every screen: they are drawn in pixels of the screen.

    after    another picture over it, as `show_after` is given it; split: left of this place of the canvas the picture
             itself is seen; before: it is seen everywhere, for as long as this is true
    """

    def __init__(self, pointer: Pointer):
        self.pointer, self.dimming = pointer, 0.6
        self.after: np.ndarray | None = None
        self.caption, self.swiped, self.split, self.before = "", False, 0.0, False
        self._against, self._against_caption = None, ""
        # the other picture on a canvas that nobody sees, right of it what it is swiped against, and which two they are
        self._after_png, self._after = ipywidgets.Image(format="png"), ipycanvas.Canvas()
        self._after_of = (None, None)
        self._png = ipywidgets.Image(format="png")
        self._picture, self._overlay = ipycanvas.Canvas(), ipycanvas.Canvas()
        # picture, overlay, marks
        self.widget = ipycanvas.MultiCanvas(3)
        self._cursor = ""
        # the arrays that are in the PNG, on the picture's canvas and on the overlay's
        self._png_of = self._picture_of = self._overlay_of = None
        self._covered = False
        # the part of the picture that is shown
        self._shown = None

    @property
    def picks(self) -> Picks:
        return self.pointer.picks

    def redraw(self) -> None:
        """Draw everything, also on a page that was loaded again."""
        with DRAWING:
            manager = getattr(ipycanvas.canvas, "_CANVAS_MANAGER", None)
            if manager is not None:
                manager._current_canvas = None  # else a reloaded page stays blank: ipycanvas issue 322
            self._picture_of = self._overlay_of = self._shown = None
            self._after_of = (None, None)
            self.show()

    def show_after(
        self,
        image: np.ndarray | None,
        caption: str = "",
        swiped: bool = False,
        other=None,
        other_caption="before",
    ) -> None:
        """Show another picture, uint8 (h, w, 3) of any size, in the place of the one that is picked on; None: no more.

        swiped  it is a result: the mouse swipes it against the picture, and neither points nor mask are drawn over it
        other   what it is swiped against, in the place of the picture; half of each is seen at first
        """
        self.after, self.caption, self.swiped, self.before = image, caption, swiped, False
        self._against, self._against_caption = other, other_caption
        self.split = 0.0 if other is None else self.pointer.viewport.canvas[0] / 2
        self.show()

    def show(self) -> None:
        """Bring the canvas up to date; only what has changed is sent."""
        with DRAWING, ipycanvas.hold_canvas():
            if self._picture_of is not self.picks.image:
                self._send_picture()
            if self.pointer.new_segments and self._overlay_of is not None:
                self._paint_segments()
            elif self._overlay_is_old():
                self._send_overlay()
            wanted = self.after, self._against
            if self.after is not None and not all(map(operator.is_, wanted, self._after_of)):
                self._send_after()
            for layer in (self.widget[k] for k in range(3)):
                layer.save()
                layer.scale(DENSITY)
            self._draw_view()
            self._draw_marks()
            for layer in (self.widget[k] for k in range(3)):
                layer.restore()
            self._set_cursor()

    def _set_cursor(self):
        if self._cursor != self.pointer.tool:
            self.widget.remove_class(f"dragnb-{self._cursor}")
            self._cursor = self.pointer.tool
            self.widget.add_class(f"dragnb-{self._cursor}")

    def _send_after(self):
        both = self.after if self._against is None else np.concatenate([self.after, self._against], axis=1)
        picture, buffer = Image.fromarray(both), io.BytesIO()
        picture.thumbnail((LONGEST, LONGEST))
        picture.save(buffer, "PNG", compress_level=1)
        self._after_png.value, self._shown = buffer.getvalue(), None
        self._after_of = self.after, self._against
        if (self._after.width, self._after.height) != picture.size:
            self._after.width, self._after.height = picture.size
        self._after.draw_image(self._after_png, 0, 0)

    def _send_picture(self):
        """Give the browser a picture, without loss: ipycanvas itself would make a poor JPEG of RGB."""
        image = self.picks.image
        h, w = image.shape[:2]
        self._shrink = min(1.0, LONGEST / max(w, h))
        size = max(1, round(w * self._shrink)), max(1, round(h * self._shrink))
        if self._png_of is not image:
            buffer, picture = io.BytesIO(), Image.fromarray(image)
            picture = picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
            picture.save(buffer, "PNG", compress_level=1)
            self._png.value, self._png_of = buffer.getvalue(), image
            self._resize(size)
        self._picture.clear()
        self._picture.draw_image(self._png, 0, 0)
        self._picture_of, self._overlay_of, self._shown = image, None, None

    def _resize(self, size):
        for canvas in (self._picture, self._overlay):
            canvas.width, canvas.height = size
        widget, viewport = self.widget, self.pointer.viewport
        viewport.picture = self.picks.size
        viewport.fit()
        widget.width, widget.height = (DENSITY * n for n in viewport.canvas)
        widget.layout.width, widget.layout.height = (
            f"{viewport.canvas[0]}px",
            "auto",
        )  # else it fills the page
        widget.layout.max_width = "100%"

    def _overlay_is_old(self) -> bool:
        """Is it another mask's? The eraser may also have left one over a mask that is empty by now."""
        emptied = self._covered and not self.pointer.pressed and not self.picks.mask.any()
        return self._overlay_of is not self.picks.version or emptied

    def _send_overlay(self):
        """Grey over all that the mask holds still, as a picture."""
        overlay, self._overlay_of, mask = self._overlay, self.picks.version, self.picks.mask
        self._covered, self.pointer.new_segments = bool(mask.any()), []
        overlay.global_composite_operation = "source-over"
        overlay.clear()
        if self._covered:
            held = np.array(Image.fromarray(~mask).resize((overlay.width, overlay.height)))
            rgba = np.full((*held.shape, 4), GREY, np.uint8)
            rgba[..., 3] = held * np.uint8(255)
            overlay.put_image_data(rgba)

    def _paint_segments(self):
        """What the brush has just painted, repeated on the overlay by the browser itself."""
        overlay, erase = self._overlay, self.pointer.erase
        overlay.fill_style = overlay.stroke_style = OVERLAY_COLOR
        if not self._covered and not erase:
            overlay.global_composite_operation = "source-over"
            overlay.fill_rect(0, 0, overlay.width, overlay.height)
            self._covered = True
        overlay.global_composite_operation = "source-over" if erase else "destination-out"
        radius = self.pointer.brush * self._shrink
        overlay.line_width, overlay.line_cap = 2 * radius, "round"
        for start, end in self.pointer.new_segments if self._covered else ():
            a, b = (((x + 0.5) * self._shrink, (y + 0.5) * self._shrink) for x, y in (start, end))
            overlay.fill_circle(*b, radius)  # a line without length draws nothing
            overlay.stroke_line(*a, *b)
        self.pointer.new_segments, self._overlay_of = [], self.picks.version

    def _draw_view(self):
        """Picture and overlay, as far as the viewport shows them."""
        viewport = self.pointer.viewport
        place = (-viewport.left * viewport.scale, -viewport.top * viewport.scale)
        place += tuple(n * viewport.scale for n in viewport.picture)
        below, above = self.widget[0], self.widget[1]
        after = self.after is not None and not self.before
        shown = (place, after, self.split)
        if self._shown != shown:
            self._shown = shown
            below.clear()
            below.draw_image(self._picture, *place)
            if after:
                self._draw_after(below, place)
        above.clear()
        if self._covered and not (self.after is not None and self.swiped):
            above.global_alpha = self.dimming
            above.draw_image(self._overlay, *place)

    def _draw_after(self, layer, place):
        """The other picture, right of the split, and left of it what it is swiped against, if that is a third one."""
        w, h = self.pointer.viewport.canvas
        x, y, width, height = place
        both = self._against is not None
        parts = [((self.split, 0, w, h), x)] + [((0, 0, self.split, h), x - width)] * both
        for clip, left in parts:
            layer.save()
            layer.begin_path()
            layer.rect(*clip)
            layer.clip()
            layer.draw_image(self._after, left, y, width * (1 + both), height)
            layer.restore()
        for width, color in ((3, INK), (1, HALO)) if self.split > 0 else ():
            layer.line_width, layer.stroke_style = width, color
            layer.stroke_line(self.split, 0, self.split, h)

    def _draw_marks(self):
        """Arrows, points, numbers, the length of the chosen pair, and the outline under way."""
        layer, chosen, to_screen = self.widget[2], self.pointer.selected, self._to_screen
        layer.clear()
        layer.scale(self.pointer.unit)
        layer.font = FONT
        if self.after is not None and self.swiped:
            return self._draw_captions()
        if self.caption and self.after is not None:
            self._write(self.caption, 8, 20)
        places = [to_screen(*point) for point in self.picks.points]
        for k in range(1, len(places), 2):
            self._draw_arrow(places[k - 1], places[k])
        for k, place in enumerate(places):
            self._draw_point(place, k, k == chosen)
        if chosen is not None and (pair := self.picks.points[chosen // 2 * 2 :][:2])[1:]:
            x, y = places[chosen // 2 * 2 + 1]
            self._write(f"{math.dist(*pair):.0f} px", x + DOT + 4, y + 2 * DOT + 6)
        outline = [to_screen(*place) for place in self.pointer.outline]
        if self.pointer.tool == "rectangle" and len(outline) == 2:
            (x0, y0), (x1, y1) = outline
            outline = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        for width, color in ((3, HALO), (1, INK)) if len(outline) > 1 else ():
            layer.line_width, layer.stroke_style = width, color
            layer.stroke_lines(outline)
        self._draw_hover()
        if not places and not self.pointer.pressed:
            self._say_first()

    def _to_screen(self, x: float, y: float) -> tuple[float, float]:
        """A place of the picture, in pixels of the screen from the canvas' corner."""
        return self._in_screen(*self.pointer.viewport.to_canvas(x, y))

    def _in_screen(self, *lengths: float) -> tuple[float, ...]:
        """Canvas pixels in pixels of the screen."""
        return tuple(length / self.pointer.unit for length in lengths)

    def _draw_hover(self):
        """What a press would do: the brush's ring, or the arrow to the target that is missing."""
        layer, pointer = self.widget[2], self.pointer
        if pointer.hover is None:
            return
        hover = self._in_screen(*pointer.hover)
        begin = self._to_screen(*self.picks.points[-1]) if self.picks.waiting else hover
        # right after a press the pointer still stands on the handle: nothing is drawn over its mark
        pulled = pointer.tool == "points" and not pointer.pressed and math.dist(begin, hover) > CLEAR
        for width, color in ((3, HALO), (1, INK)):
            layer.line_width, layer.stroke_style = width, color
            if pointer.tool == "brush":
                layer.stroke_circle(*hover, pointer.radius)
            elif pulled:
                layer.set_line_dash([6, 4])
                layer.stroke_line(*begin, *hover)
                layer.set_line_dash([])

    def _say_first(self):
        w, h = self._in_screen(*self.pointer.viewport.canvas)
        layer = self.widget[2]
        layer.text_align = "center"
        for k, line in enumerate(FIRST):
            self._write(line, w / 2, h - 40 + 20 * k)
        layer.text_align = "start"

    def _draw_captions(self):
        w, split = self._in_screen(self.pointer.viewport.canvas[0], self.split)
        split = w if self.before else split
        if split > 60:
            self._write(self._against_caption, 8, 20)
        if split < w - 60:
            layer = self.widget[2]
            layer.text_align = "end"
            self._write(self.caption, w - 8, 20)
            layer.text_align = "start"

    def _draw_arrow(self, start, end):
        layer, length = self.widget[2], math.dist(start, end)
        for width, color in ((5, HALO), (2, INK)):
            layer.line_width, layer.stroke_style = width, color
            layer.stroke_line(*start, *end)
        if length > 4 * DOT:
            ux, uy = ((b - a) / length for a, b in zip(start, end, strict=True))
            x, y = end[0] - ux * DOT, end[1] - uy * DOT  # where the target's square begins
            wings = [(x - (ux + s * uy / 2) * 2 * DOT, y - (uy - s * ux / 2) * 2 * DOT) for s in (-1, 1)]
            layer.fill_style = INK
            layer.fill_polygon([(x, y), *wings])

    def _draw_point(self, place, k: int, chosen: bool):
        layer, (x, y) = self.widget[2], place
        for r, color in ((DOT + 2, CHOSEN if chosen else HALO), (DOT, TARGET if k % 2 else HANDLE)):
            layer.fill_style = color
            if k % 2:
                layer.fill_rect(x - r, y - r, 2 * r)
            else:
                layer.fill_circle(x, y, r)
        if chosen:
            layer.line_width, layer.stroke_style = 1, INK
            layer.stroke_circle(x, y, DOT + 5)
        if not k % 2:
            self._write(str(k // 2 + 1), x + DOT + 4, y - DOT)

    def _write(self, text: str, x: float, y: float):
        layer = self.widget[2]
        layer.line_width, layer.stroke_style, layer.fill_style = 4, HALO, INK
        layer.stroke_text(text, x, y)
        layer.fill_text(text, x, y)
