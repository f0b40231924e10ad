"""The easel: picks drawn on an ipycanvas, from their state alone, so that they can be drawn again at any time.

Picture and veil are kept by the browser on two canvases of their own that nobody sees; the sheet shows a window of
them. So zooming, dimming and a stroke of the brush send a few words to the browser and no pixels.
"""

from __future__ import annotations

import io
import math
import threading

import numpy as np
from PIL import Image

from dragnb.ui.picks import Picks
from dragnb.ui.pointer import Hand
from dragnb.viz import HANDLE, TARGET

LONGEST = 2048  # pixels of the longer side that the browser is given; the picks count in the picture's own
CHOSEN = "#F0E442"  # Okabe and Ito's yellow
INK, HALO = "black", "white"
VEIL = 128  # grey over what the mask holds still
DOT = 6  # radius of a point in sheet pixels
FONT = "bold 14px sans-serif"
PAINTING = threading.RLock()  # ipycanvas gathers the commands of all canvases in one list


class Easel:
    """Draws `pointer.picks` as `pointer.window` shows them. `sheet` is the widget; dimming goes from 0 to 1."""

    def __init__(self, hand: Hand):
        import ipycanvas
        import ipywidgets

        self.hand, self.dimming = hand, 0.6
        self._ipycanvas = ipycanvas
        self._photo = ipywidgets.Image(format="png")
        self._picture, self._veil = ipycanvas.Canvas(), ipycanvas.Canvas()
        self.sheet = ipycanvas.MultiCanvas(3)  # picture, veil, marks
        self._encoded = self._hung = self._laid = None  # what photo, picture and veil were made from
        self._covered = False  # is anything veiled?
        self._seen = None  # the part of the picture that the sheet shows

    @property
    def picks(self) -> Picks:
        return self.hand.picks

    def redraw(self) -> None:
        """Draw everything, also on a page that was loaded again."""
        with PAINTING:
            manager = getattr(self._ipycanvas.canvas, "_CANVAS_MANAGER", None)
            if manager is not None:
                manager._current_canvas = None  # else a reloaded page stays blank: ipycanvas issue 322
            self._hung = self._laid = self._seen = None
            self.show()

    def show(self) -> None:
        """Bring the sheet up to date; only what has changed is sent."""
        with PAINTING, self._ipycanvas.hold_canvas():
            if self._hung is not self.picks.image:
                self._hang()
            if self.hand.fresh and self._laid is not None:
                self._cut()
            elif self._stale():
                self._lay()
            self._look()
            self._mark()

    def _hang(self):
        """Give the browser a picture, without loss: ipycanvas itself would make a poor JPEG of RGB."""
        image = self.picks.image
        h, w = image.shape[:2]
        self._shrink = min(1.0, LONGEST / max(w, h))
        size = max(1, round(w * self._shrink)), max(1, round(h * self._shrink))
        if self._encoded is not image:
            png = io.BytesIO()
            picture = Image.fromarray(image)
            picture = picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
            picture.save(png, "PNG", compress_level=1)
            self._photo.value, self._encoded = png.getvalue(), image
            self._resize(size)
        self._picture.clear()
        self._picture.draw_image(self._photo, 0, 0)
        self._hung, self._laid, self._seen = image, None, None

    def _resize(self, size):
        for canvas in (self._picture, self._veil):
            canvas.width, canvas.height = size
        sheet, window = self.sheet, self.hand.window
        window.picture = self.picks.size
        window.fit()
        sheet.width, sheet.height = window.sheet
        sheet.layout.width, sheet.layout.height = f"{sheet.width}px", "auto"  # else it fills the page
        sheet.layout.max_width = "100%"

    def _stale(self) -> bool:
        """Is the veil another mask's? The eraser may also have left one over a mask that is empty by now."""
        mask = self.picks.mask
        return self._laid is not mask or (self._covered and not self.hand.busy and not mask.any())

    def _lay(self):
        """The veil over all that the mask holds still, as a picture."""
        mask, veil = self.picks.mask, self._veil
        self._laid, self._covered, self.hand.fresh = mask, bool(mask.any()), []
        veil.global_composite_operation = "source-over"
        veil.clear()
        if self._covered:
            held = np.array(Image.fromarray(~mask).resize((veil.width, veil.height)))
            rgba = np.full((*held.shape, 4), VEIL, np.uint8)
            rgba[..., 3] = held * np.uint8(255)
            veil.put_image_data(rgba)

    def _cut(self):
        """What the brush has just done, done again on the veil by the browser itself."""
        veil, erase = self._veil, self.hand.erase
        if not self._covered and not erase:
            veil.global_composite_operation, veil.fill_style = "source-over", f"rgb({VEIL}, {VEIL}, {VEIL})"
            veil.fill_rect(0, 0, veil.width, veil.height)
            self._covered = True
        veil.global_composite_operation = "source-over" if erase else "destination-out"
        veil.fill_style = veil.stroke_style = f"rgb({VEIL}, {VEIL}, {VEIL})"
        radius = self.hand.radius * self._shrink
        veil.line_width, veil.line_cap = 2 * radius, "round"
        for start, end in self.hand.fresh if self._covered else ():
            a, b = (((x + 0.5) * self._shrink, (y + 0.5) * self._shrink) for x, y in (start, end))
            veil.fill_circle(*b, radius)  # a line without length draws nothing
            veil.stroke_line(*a, *b)
        self.hand.fresh, self._laid = [], self.picks.mask

    def _look(self):
        """Picture and veil through the window."""
        window = self.hand.window
        x, y = -window.left * window.scale, -window.top * window.scale
        size = tuple(n * window.scale for n in window.picture)
        below, veil = self.sheet[0], self.sheet[1]
        if self._seen != (x, y, *size):
            self._seen = (x, y, *size)
            below.clear()
            below.draw_image(self._picture, x, y, *size)
        veil.clear()
        if self._covered:
            veil.global_alpha = self.dimming
            veil.draw_image(self._veil, x, y, *size)

    def _mark(self):
        """Arrows, points, numbers, the length of the chosen pair, and the outline being drawn."""
        layer, chosen = self.sheet[2], self.hand.selected
        layer.clear()
        layer.font = FONT
        places = [self.hand.window.on_sheet(*point) for point in self.picks.points]
        for k in range(1, len(places), 2):
            self._arrow(places[k - 1], places[k])
        for k, place in enumerate(places):
            self._dot(place, k, k == chosen)
        if chosen is not None and (pair := self.picks.points[chosen // 2 * 2 :][:2])[1:]:
            x, y = places[chosen // 2 * 2 + 1]
            self._write(f"{math.dist(*pair):.0f} px", x + DOT + 4, y + 2 * DOT + 6)
        trail = [self.hand.window.on_sheet(*place) for place in self.hand.trail]
        if self.hand.tool == "rectangle" and len(trail) == 2:
            (x0, y0), (x1, y1) = trail
            trail = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        for width, color in ((3, HALO), (1, INK)) if len(trail) > 1 else ():
            layer.line_width, layer.stroke_style = width, color
            layer.stroke_lines(trail)

    def _arrow(self, start, end):
        layer, length = self.sheet[2], math.dist(start, end)
        for width, color in ((5, HALO), (2, INK)):
            layer.line_width, layer.stroke_style = width, color
            layer.stroke_line(*start, *end)
        if length > 4 * DOT:
            ux, uy = ((b - a) / length for a, b in zip(start, end, strict=True))
            x, y = end[0] - ux * DOT, end[1] - uy * DOT  # where the target's square begins
            wings = [(x - (ux + s * uy / 2) * 2 * DOT, y - (uy - s * ux / 2) * 2 * DOT) for s in (-1, 1)]
            layer.fill_style = INK
            layer.fill_polygon([(x, y), *wings])

    def _dot(self, place, k: int, chosen: bool):
        layer, (x, y) = self.sheet[2], place
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
        layer = self.sheet[2]
        layer.line_width, layer.stroke_style, layer.fill_style = 4, HALO, INK
        layer.stroke_text(text, x, y)
        layer.fill_text(text, x, y)
