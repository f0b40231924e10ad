"""Picks in and out: what is uploaded, typed, fetched or copied, as a task, a picture, or text."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import tempfile
from pathlib import Path, PurePath
from urllib.parse import unquote, urlparse

import numpy as np

from dragnb.errors import InputError, boundary
from dragnb.inputs import web
from dragnb.task import DragTask, read_image
from dragnb.ui.picks import Picks

WEB = ("http://", "https://")
MAX_BYTES = 512 * 2**20  # of an upload
# bytes that are kept of a file's name; most disks take 255
NAME = 200
ARROW = "→"
NOTEBOOK = "04_pick_points.ipynb"
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
# all that may stand between the numbers of a line
BETWEEN = re.compile(r"[\s,;:()\[\]>=→-]*")


def uploads(value) -> list[tuple[str, bytes]]:
    """A FileUpload's value as (name, content): ipywidgets 8 gives a tuple of dicts, 7 a dict by name."""
    files = [file | {"name": name} for name, file in value.items()] if isinstance(value, dict) else value
    return [(file["name"], bytes(file["content"])) for file in files]


def read_bytes(name: str, content: bytes) -> DragTask | np.ndarray:
    """A zipped drag file, or a picture; InputError says what is wrong with it, by its own name."""
    name = PurePath(name).name.encode(errors="ignore")[-NAME:].decode(errors="ignore") or "file"
    if not content:
        raise InputError(f"{name} is empty")
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MiB; save it smaller")
    if name.lower().endswith(".json"):
        raise InputError(
            f"{name} is one part of a drag file; give the whole: its zip, or the path of its folder"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read_path(path)
        except InputError as error:
            raise InputError(str(error).replace(folder + os.sep, "")) from error


def carried(name: str, content: bytes) -> DragTask | None:
    """The drag that a PNG of an edit carries, if it is one."""
    if not name.lower().endswith(".png"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "carried.png"
        with contextlib.suppress(OSError):  # no room to look
            path.write_bytes(content)
            return _drag_in(path)
    return None


def _drag_in(path: Path) -> DragTask | None:
    if path.suffix.lower() == ".png" and path.is_file():
        with contextlib.suppress(InputError, OSError):  # a picture like any other
            return DragTask.load(path)
    return None


def read_dropped(name: str, content: str) -> DragTask | np.ndarray:
    """A file that was dropped on the page or pasted, as its name and its bytes in base 64."""
    if not content:
        raise InputError(f"{name} is too large to be dropped, or empty; type its path instead")
    try:
        whole = base64.b64decode(content, validate=True)
    except ValueError as error:  # binascii.Error
        raise InputError(f"{name} did not arrive whole; drop it again, or type its path") from error
    return read_bytes(name, whole)


def read_path(path: Path) -> DragTask | np.ndarray:
    """A drag file, folder or zip, or a picture."""
    return DragTask.load(path) if path.is_dir() or path.suffix.lower() == ".zip" else read_image(path)


def read_place(place: str) -> tuple[DragTask | np.ndarray, DragTask | None]:
    """A drag file or a picture by its path or http address, which is fetched; and the drag that a picture carries."""
    place = place.strip()
    if not place:
        raise InputError("type a path or a web address first")
    if not place.lower().startswith(WEB):
        path = Path(place).expanduser()
        return read_path(path), _drag_in(path)
    with boundary(f"{place!r} is no web address", web.REMEDY):
        name = unquote(urlparse(place).path)
    content = web.fetch(place)
    return read_bytes(name, content), carried(name, content)


def save(picks: Picks, place: str) -> Path:
    """Write the drag file where a path says: a folder, or a zip by its name."""
    place = place.strip()
    if not place or place.lower().startswith(WEB):
        raise InputError("type the path of a folder, or of a .zip, to save to")
    return picks.task().save(Path(place).expanduser())


def table(points) -> str:
    """Points as text, a pair a line: `103 133 → 81 133`; a handle that waits stands alone."""
    pairs = (points[k : k + 2] for k in range(0, len(points), 2))
    return "\n".join(_line(pair) for pair in pairs)


def _line(pair) -> str:
    return f" {ARROW} ".join(f"{round(x, 1):g} {round(y, 1):g}" for x, y in pair)


def parse_table(text: str, known=()) -> list[tuple[float, float]]:
    """The points of a table. A line as `table` writes it of `known` points keeps the digits that it does not show."""
    exact = {_line(known[k : k + 2]): known[k : k + 2] for k in range(0, len(known), 2)}
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    points = []
    for k, line in enumerate(lines, 1):
        numbers = [float(n) for n in NUMBERS.findall(line)]
        whole = len(numbers) == 4 or (len(numbers) == 2 and k == len(lines))
        if not whole or not BETWEEN.fullmatch(NUMBERS.sub("", line)):
            raise InputError(
                f"line {k}: {line!r} is not a pair; write x y {ARROW} x y, as 103 133 {ARROW} 81 133"
            )
        points += exact.get(line) or list(zip(numbers[0::2], numbers[1::2], strict=True))
    return points


def parameters(picks: Picks) -> str:
    """The picks for notebook 04: as lines for its parameters cell, and as an option of papermill's command line."""
    points = [[int(v) if v.is_integer() else v for v in point] for point in picks.points]
    values = {"points": points, "prompt": picks.prompt}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    if picks.mask.any():
        lines.append("# the mask is not in here: save the drag file and give `task` instead")
    option = shlex.quote(json.dumps(values, ensure_ascii=False))
    return "\n".join([*lines, "", f"papermill {NOTEBOOK} picked.ipynb -y {option}"])
