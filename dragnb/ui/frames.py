"""Pictures for the screen, quick enough to follow a slider: no figure is made for them. And films: GIF, MP4."""

from __future__ import annotations

import base64
import contextlib
import errno
import html
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw

from dragnb.drag import DragState
from dragnb.errors import InputError
from dragnb.pipeline import Prepared
from dragnb.store.files import SIGNATURE, Ours, replacing, signed
from dragnb.viz import HANDLE, TARGET

JPEG_QUALITY = 85
STAR = "#F0E442"
LONGEST = 1024  # pixels of a picture on the screen
# pixels: a smaller picture is enlarged, so that lines drawn on it stay thin
SHARPEST = 512
FPS = 10
# seconds that the last frame of a film stays
HOLD = 1.5
FILM_SIDE = 512  # pixels
# a picture for where no kernel runs: it is seen, and the output before it is not, while there is no widget
STILL = "dragnb-still"
STILL_STYLE = (
    f".{STILL} {{ display: none; max-width: 100%; }} .jp-OutputArea:not(:has(.dragnb)) .{STILL} {{ display: block; }} "
    f".jp-OutputArea-child:not(:has(.dragnb)):has(+ .jp-OutputArea-child .{STILL}) {{ display: none; }}"
)
MARKS = [ImageColor.getrgb(name) for name in (HANDLE, TARGET, STAR, "white", "black")]


def jpeg(image: np.ndarray, side: int = LONGEST) -> bytes:
    """A picture, uint8 or float in [0, 1], as JPEG, scaled down to `side` where it is larger."""
    if image.dtype != np.uint8:
        image = (image * 255).round().astype(np.uint8)
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def enlarged(image: np.ndarray, side: int = SHARPEST // 2) -> np.ndarray:
    """A small map or picture with every cell as a square of pixels, the longer side about `side`."""
    k = max(1, round(side / max(image.shape[:2])))
    return image.repeat(k, axis=0).repeat(k, axis=1)


def wipe(before: np.ndarray, after: np.ndarray, part: float) -> np.ndarray:
    """The right `part` (0 to 1) of the width after, the rest before, with a white line between."""
    w = before.shape[1]
    x = round((1 - part) * w)
    joined = np.concatenate([before[:, :x], after[:, x:]], axis=1)
    if 0 < x < w:
        joined[:, max(0, x - w // 256 - 1) : x] = 255
    return joined


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How much each pixel changed, at most over the channels, in viridis: dark is none, yellow is all of 255."""
    change = np.abs(before.astype(np.int16) - after).max(axis=2).astype(np.uint8)
    return (matplotlib.colormaps["viridis"](change)[..., :3] * 255).round().astype(np.uint8)


def marked(image: np.ndarray, tracks_xy: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The picture with each handle's path so far, (states, n, 2): circle, dots, star; and its target, a square."""
    picture, scale = _large(image)
    draw = ImageDraw.Draw(picture)
    r = max(picture.size) // 100 + 2
    places = (np.asarray(tracks_xy) + 0.5) * scale
    for track, target in zip(np.moveaxis(places, 1, 0), (np.asarray(targets) + 0.5) * scale, strict=True):
        path = [tuple(xy) for xy in track.tolist()]
        for width, color in ((r, "white"), (max(1, r // 3), "black")):
            draw.line(path, fill=color, width=width, joint="curve")
        _mark(draw.rectangle, target, r, TARGET)
        _mark(draw.ellipse, track[0], r, HANDLE)
        draw.regular_polygon((*track[-1].tolist(), r + 2), 3, fill=STAR, outline="black")
    return np.asarray(picture)


def arrows(image: np.ndarray, handles, targets, most: float = math.inf) -> np.ndarray:
    """The picture with an arrow from every handle, (n, 2), a circle, to its target, a square.

    most  pixels of its longer side; a large picture is made small before anything is drawn on it
    """
    picture, scale = _large(image, most)
    draw = ImageDraw.Draw(picture)
    r = max(picture.size) // 100 + 2
    for handle, target in zip(
        *((np.reshape(xy, (-1, 2)) + 0.5) * scale for xy in (handles, targets)), strict=True
    ):
        along = (target - handle) / max(float(np.linalg.norm(target - handle)), 1e-9)
        tip, across = target - along * r, np.array([-along[1], along[0]])
        head = [tuple(tip), *(tuple(tip - along * 3 * r + side * across * 1.5 * r) for side in (-1, 1))]
        for width, color in ((r, "white"), (max(2, r // 2), "black")):
            draw.line([tuple(handle), tuple(tip - along * r)], fill=color, width=width)
        draw.polygon(head, fill="black", outline="white")
        _mark(draw.rectangle, target, r, TARGET)
        _mark(draw.ellipse, handle, r, HANDLE)
    return np.asarray(picture)


def _large(image: np.ndarray, most: float = math.inf) -> tuple[Image.Image, float]:
    """A picture enlarged by a whole number where it is small, or made small where it is over `most`; and the scale."""
    h, w = image.shape[:2]
    scale = min(max(1, round(SHARPEST / max(w, h))), most / max(w, h))
    size = max(1, round(w * scale)), max(1, round(h * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), scale


def beside(*images: np.ndarray, side: int = SHARPEST) -> Image.Image:
    """Pictures in a row on white, each with `side` pixels as its longer side at most."""
    pictures = [_large(image, side)[0] for image in images]
    for picture in pictures:
        picture.thumbnail((side, side))
    gap, height = side // 64, max(picture.height for picture in pictures)
    row = Image.new("RGB", (sum(p.width + gap for p in pictures) - gap, height), "white")
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + gap
    return row


def _mark(shape, xy, r: int, color: str) -> None:
    shape((*(xy - r), *(xy + r)), fill=color, outline="white", width=2)


def curve(values, at: int, label: str, width: int = 320, height: int = 90) -> str:
    """A curve as SVG with its value at one place marked and written; it costs nothing to draw again."""
    values = np.asarray(values, dtype=float)
    low, high = values.min(), values.max()
    x = np.linspace(4, width - 4, len(values))
    y = height - 4 - (values - low) / max(high - low, 1e-12) * (height - 26)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg viewBox="0 0 {width} {height}" style="width: {width}px; max-width: 100%; display: block" role="img" '
        f'aria-label="{label}: {values[at]:.3g} at step {at}">'
        f'<polyline points="{line}" fill="none" stroke="{TARGET}" stroke-width="2"/>'
        f'<circle cx="{x[at]:.1f}" cy="{y[at]:.1f}" r="4" fill="{HANDLE}"/>'
        f'<text x="4" y="14" font-size="12" fill="currentColor">{label}: {values[at]:.3g}, '
        f"from {low:.3g} to {high:.3g}</text></svg>"
    )


def save_gif(
    path: str | os.PathLike, frames: Sequence[np.ndarray], fps: float = FPS, ours: Ours = signed
) -> Path:
    """Pictures, uint8 (h, w, 3), as an animated GIF that starts over after holding the last."""
    pictures = [_small(frame) for frame in frames]
    palette = _palette(pictures)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * HOLD)]
    with writing(path, ours) as temp:
        options = dict(
            save_all=True, append_images=pictures[1:], duration=durations, loop=0, comment=SIGNATURE
        )
        pictures[0].save(temp, "GIF", **options)
    return Path(path)


def _palette(pictures: Sequence[Image.Image]) -> Image.Image:
    """A GIF's 256 colours for a whole film: those of the marks, which are few pixels, and the film's own."""
    sample = np.concatenate([np.asarray(picture)[::4, ::4].reshape(1, -1, 3) for picture in pictures], axis=1)
    own = Image.fromarray(sample).quantize(256 - len(MARKS)).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*np.ravel(MARKS).tolist(), *own])
    return palette


def save_mp4(
    path: str | os.PathLike, frames: Sequence[np.ndarray], fps: float = FPS, ours: Ours = signed
) -> Path:
    """Pictures as an MP4 (H.264) that plays in any browser; needs imageio-ffmpeg."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise InputError("an MP4 needs imageio-ffmpeg: pip install 'dragnb[video]'; or save a GIF") from error
    pictures = [_even(_small(frame)) for frame in frames]
    pictures += [pictures[-1]] * round(HOLD * fps)
    with writing(path, ours) as temp:
        params = ["-metadata", f"comment={SIGNATURE}", "-f", "mp4"]
        writer = imageio_ffmpeg.write_frames(
            str(temp), pictures[0].size, fps=fps, macro_block_size=2, output_params=params
        )
        with contextlib.closing(writer):
            writer.send(None)
            # an encoder that ended early closes its pipe; what it wrote is counted below
            with contextlib.suppress(OSError):
                for picture in pictures:
                    writer.send(picture.tobytes())
        _require_frames(temp, len(pictures))
    return Path(path)


def _require_frames(path: Path, n: int) -> None:
    """Raise OSError unless a film has n frames: the encoder does not say whether it could write them."""
    import imageio_ffmpeg

    try:
        count, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError:
        count = 0
    if count != n:
        raise OSError(errno.ENOSPC, f"{count} of {n} frames were written; is the disk full?")


def _small(frame: np.ndarray) -> Image.Image:
    picture = Image.fromarray(frame)
    picture.thumbnail((FILM_SIDE, FILM_SIDE))
    return picture


def _even(picture: Image.Image) -> Image.Image:
    """H.264 takes sides of even numbers only."""
    return picture.crop((0, 0, *(max(2, n // 2 * 2) for n in picture.size)))


def writing(path: str | os.PathLike, ours: Ours = signed):
    """`replacing` for what is exported: over nothing but an earlier export."""
    return replacing(path, "export to another folder", ours)


def film(prepared: Prepared, states: Sequence[DragState], most: int = 48) -> Iterator[tuple[int, np.ndarray]]:
    """Previews of a drag from first to last, at most so many, evenly spread: yields (step, image)."""
    for step in np.linspace(0, len(states) - 1, min(most, len(states))).round().astype(int).tolist():
        yield step, prepared.preview(states[step])[0]


class Still:
    """A widget in a cell's output, with a picture of it for readers where no kernel runs.

    widget   what a running notebook shows; its root has the class "dragnb"
    picture  called for the picture as it is by now

    The widget's own output has the picture as a PNG, which pages on the web show in its place. JupyterLab does not,
    once the kernel has ended: for it the picture stands in an output of its own, hidden while the widget is there.
    """

    def __init__(self, widget, picture: Callable[[], Image.Image], alt: str):
        self._widget, self._picture, self._alt = widget, picture, alt
        self._shown = self._hidden = None

    def show(self) -> None:
        """Put widget and picture into the output of the cell under way."""
        from IPython.display import display

        self._shown = display(self._bundle(True), metadata=self._metadata(), raw=True, display_id=True)
        self._hidden = display({"text/html": self._html(), "text/plain": ""}, raw=True, display_id=True)

    def update(self, live: bool) -> None:
        """Bring the picture up to date, if it was shown.

        live  a page has drawn the widget, and would draw it anew: there the widget's own output is left as it is
        """
        if self._hidden is not None:
            self._hidden.update({"text/html": self._html(), "text/plain": ""}, raw=True)
        if self._shown is not None and not live:
            self._shown.update(self._bundle(True), metadata=self._metadata(), raw=True)

    def end(self) -> None:
        """Leave the picture alone in the place of the widget, which is closed."""
        if self._shown is not None:
            self._shown.update(self._bundle(False), metadata=self._metadata(), raw=True)
            self._hidden.update({"text/plain": ""}, raw=True)
        self._shown = self._hidden = None

    def _metadata(self) -> dict:
        return {"image/png": {"alt": self._alt}}

    def _bundle(self, live: bool) -> dict:
        buffer = io.BytesIO()
        self._picture().save(buffer, "PNG", optimize=True)
        bundle = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": self._alt}
        if live:
            view = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = view
        return bundle

    def _html(self) -> str:
        content = base64.b64encode(jpeg(np.asarray(self._picture()))).decode()
        alt = html.escape(self._alt, quote=True)
        return f'<style>{STILL_STYLE}</style><img class="{STILL}" alt="{alt}" src="data:image/jpeg;base64,{content}">'


def follow(run) -> None:
    """Do a run, as `sweep.run(...)`, and show in a notebook how far it is: one line, the last thing that it yielded."""
    from IPython.display import display

    done, line = 0, display({"text/plain": "beginning"}, raw=True, display_id=True)
    for done, progress in enumerate(run, 1):  # noqa: B007
        line.update({"text/plain": str(progress)}, raw=True)
    line.update({"text/plain": f"{done} trials done now"}, raw=True)
