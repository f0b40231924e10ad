"""What leaves the studio: a picture that says where it comes from, a film of the process, a notebook that repeats it.

Every file is written beside its place and then renamed, so it is there as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dragnb.config import nearest_profile
from dragnb.errors import InputError
from dragnb.result import Result
from dragnb.store import replacing
from dragnb.task import provenance

FPS = 10
HOLD = 1.5  # seconds that the last frame of a film stays
FILM_SIDE = 512  # pixels
QUICKSTART = Path(__file__).resolve().parents[2] / "notebooks" / "00_quickstart.ipynb"


def save_png(path: str | os.PathLike, result: Result) -> Path:
    """The edited picture as a PNG that carries its drag file and its record.

    `DragTask.load(path)` reads the drag back, `task.read_record(path)` settings, seed, model, versions.
    """
    with _written(path) as temp:
        info = provenance(result.task.packed(), result.record)
        Image.fromarray(result.image).save(temp, "PNG", pnginfo=info)
    return Path(path)


def save_gif(path: str | os.PathLike, frames: Sequence[np.ndarray], fps: float = FPS) -> Path:
    """Pictures, uint8 (h, w, 3), as an animated GIF that starts over after holding the last."""
    pictures = [_small(frame) for frame in frames]
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * HOLD)]
    with _written(path) as temp:
        options = dict(save_all=True, append_images=pictures[1:], duration=durations, loop=0)
        pictures[0].save(temp, "GIF", **options)
    return Path(path)


def save_mp4(path: str | os.PathLike, frames: Sequence[np.ndarray], fps: float = FPS) -> Path:
    """Pictures as an MP4 (H.264) that plays in any browser; needs imageio-ffmpeg."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise InputError("an MP4 needs imageio-ffmpeg: pip install 'dragnb[video]'; or save a GIF") from error
    pictures = [_even(_small(frame)) for frame in frames]
    pictures += [pictures[-1]] * round(HOLD * fps)
    with _written(path) as temp:
        writer = imageio_ffmpeg.write_frames(
            str(temp), pictures[0].size, fps=fps, macro_block_size=2, output_params=["-f", "mp4"]
        )
        with contextlib.closing(writer):
            writer.send(None)
            for picture in pictures:
                writer.send(picture.tobytes())
    return Path(path)


def save_notebook(path: str | os.PathLike, result: Result, model: str = "clay") -> Path:
    """Notebook 00 with this drag as its parameters, ready for Jupyter and papermill; its drag file lies beside it.

    A drag that began at a step of another one is repeated from the picture: a notebook's parameters hold no latent.
    """
    path = Path(path)
    if not QUICKSTART.exists():
        raise InputError(f"{QUICKSTART} is missing; work from a clone of the repository")
    book = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    task = result.task.save(path.with_suffix(".zip"))
    profile, changes = nearest_profile(result.settings)
    values = {"task": str(task.resolve()), "model": model, "profile": profile, "settings": changes}
    values |= {"side": result.record["side"], "out": str(path.resolve().parent)}
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = _with_values("".join(cell["source"]), values)
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    with _written(path) as temp:
        temp.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _with_values(source: str, values: dict) -> str:
    """A cell of `name = value  # what it is` with some values replaced."""
    lines = []
    for line in source.split("\n"):
        name = line.partition(" = ")[0]
        comment = line.partition("  # ")[2]
        lines.append(f"{name} = {values[name]!r}  # {comment}" if name in values else line)
    return "\n".join(lines)


def _small(frame: np.ndarray) -> Image.Image:
    picture = Image.fromarray(frame)
    picture.thumbnail((FILM_SIDE, FILM_SIDE))
    return picture


def _even(picture: Image.Image) -> Image.Image:
    """H.264 takes sides of even numbers only."""
    return picture.crop((0, 0, *(max(2, n // 2 * 2) for n in picture.size)))


@contextlib.contextmanager
def _written(path: str | os.PathLike) -> Iterator[Path]:
    """`replacing`, with an error that says what to do."""
    try:
        with replacing(path) as temp:
            yield temp
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be written ({reason}); export to another folder") from error
