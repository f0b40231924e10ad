"""The drag file on disk: its json, checked field by field; its folder or zip, opened and replaced safely.

A picture that an edit made may carry its drag file, as a zip in a chunk of its PNG, and a record of what made it.
"""

import contextlib
import io
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from numbers import Real
from pathlib import Path

from PIL import Image, PngImagePlugin

from dragnb.errors import InputError, did_you_mean

SCHEMA = 1
JSON, IMAGE, MASK = "task.json", "image.png", "mask.png"
MEMBERS = (JSON, IMAGE, MASK)
FIELDS = ("schema", "size", "pairs", "prompt", "name")
MAX_BYTES = 512 * 2**20  # one unpacked member of a zip
CHUNK = b"drAG"  # ancillary, private, and not to be copied by a program that changes the picture
RECORD = "dragnb"  # the PNG's text with the record, as json


def read(path: Path) -> dict:
    """task.json as `parse` gives it, from the disk."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; a task is a folder or zip with {', '.join(MEMBERS)}"
        ) from None
    except OSError as error:
        raise InputError(f"{JSON} cannot be read: {error}") from None
    return parse(text)


def parse(text: bytes) -> dict:
    """task.json as a dict of known fields of the right kinds; what the points mean is checked by DragTask."""
    data = parse_json(text, JSON)
    if not isinstance(data, dict):
        raise InputError(f"{JSON} holds a {type(data).__name__}, not an object with {', '.join(FIELDS)}")
    for name in data:
        if name not in FIELDS:
            raise InputError(f"{JSON}: unknown field {name!r}{did_you_mean(name, FIELDS)}")
    for name in ("schema", "size", "pairs"):
        if name not in data:
            raise InputError(f"{JSON}: {name} is missing")
    if data["schema"] != SCHEMA:
        raise InputError(f"{JSON}: schema = {data['schema']!r}; this version reads {SCHEMA}")
    if not are_numbers(data["size"], 2):
        raise InputError(f"{JSON}: size = {data['size']!r} is not [width, height]")
    if not isinstance(data["pairs"], list):
        raise InputError(f"{JSON}: pairs = {data['pairs']!r} is not a list")
    for k, pair in enumerate(data["pairs"]):
        for end in ("handle", "target"):
            point = pair.get(end) if isinstance(pair, dict) else None
            if not are_numbers(point, 2):
                raise InputError(f"{JSON}: pairs[{k}].{end} = {point!r} is not [x, y]")
    return data


def parse_json(text: bytes, name: str):
    """The value of a json file's content; InputError names the file where it is none."""
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read: {error}") from None


def write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def are_numbers(value, n: int) -> bool:
    """Is this a list of n finite numbers?"""
    if not isinstance(value, (list, tuple)) or len(value) != n:
        return False
    return all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in value)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A task's folder: `path` itself, or a temporary one with what the zip, or a result's PNG, holds of it."""
    if path.is_dir():
        yield path
        return
    if not path.exists():
        raise InputError(f"task: {path} does not exist")
    packed = _chunk(path) or path
    if not zipfile.is_zipfile(packed):
        raise InputError(
            f"task: {path} is neither a folder nor a whole zip file, nor a PNG that an edit made"
        )
    with tempfile.TemporaryDirectory() as folder:
        _unpack(packed, path, Path(folder))
        yield Path(folder)


def _unpack(packed, path: Path, folder: Path) -> None:
    """Only the task's own members, by their bare names, from the zip's top or its one folder."""
    try:
        with zipfile.ZipFile(packed) as archive:
            for info in archive.infolist():
                parts = Path(info.filename).parts
                hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
                if not parts or hidden or parts[-1] not in MEMBERS or len(parts) > 2:
                    continue
                if (folder / parts[-1]).exists():
                    raise InputError(f"{path} holds {parts[-1]} twice; one zip, one task")
                if info.file_size > MAX_BYTES:
                    raise InputError(f"{path}: {info.filename} is larger than {MAX_BYTES // 2**20} MiB")
                (folder / parts[-1]).write_bytes(archive.read(info))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}); write the zip again") from error


def _chunk(path: Path) -> io.BytesIO | None:
    """The drag file that a PNG carries; None where `path` is no such PNG."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            found = dict(chunk[:2] for chunk in picture.private_chunks)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return io.BytesIO(found[CHUNK]) if CHUNK in found else None


def provenance(packed: bytes, record: dict) -> PngImagePlugin.PngInfo:
    """What a PNG carries of the edit that made it: the drag file as a zip, and the record as text."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))
    info.add(CHUNK, packed)
    return info


def record(path: Path) -> dict:
    """The record in a PNG that an edit made: settings, seed, model and its hash, versions, and where it began."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return json.loads(picture.info[RECORD])
    except (OSError, SyntaxError, ValueError, KeyError, Image.DecompressionBombError):
        raise InputError(f"{path} is no PNG that an edit made: it carries no record") from None


def pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MEMBERS:
            if (folder / name).exists():
                archive.write(folder / name, name)
    return packed.getvalue()


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of the task at `path` when the block succeeds.

    Other files in the old folder are kept. The old task steps aside for one rename only; if the block
    raises, or that rename fails, it is back.
    """
    _require_ours(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    aside = temp.with_suffix(".old")
    try:
        yield temp
        temp.chmod(0o777 & ~_umask())
        if path.exists():
            for other in path.iterdir():
                if other.name not in MEMBERS:
                    (shutil.copytree if other.is_dir() else shutil.copy2)(other, temp / other.name)
            os.replace(path, aside)
        try:
            os.replace(temp, path)
        except OSError:
            if aside.exists():
                os.replace(aside, path)
            raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _require_ours(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; a task is saved to a folder or to a name that ends in .zip")
    if path.is_dir() and any(path.iterdir()) and not (path / JSON).exists():
        raise InputError(f"{path} is a folder with other things in it; save the task to a new one")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
