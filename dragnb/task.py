"""A drag task: a picture, pairs of handle and target points, a mask, a prompt; and its file, the only format.

A drag file is a folder or a zip with task.json, image.png and, where there is a mask, mask.png:

    {"schema": 1, "size": [512, 384], "pairs": [{"handle": [x, y], "target": [x, y]}], "prompt": "a cat"}

Points are in pixels of the upright picture, the centre of its top left pixel at (0, 0).
A picture that an edit made may carry its drag file, as a zip in a chunk of its PNG, and a record of what made it.
"""

import io
import json
import math
import os
import zipfile
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from dragnb import doubts
from dragnb.errors import InputError, boundary, did_you_mean, short
from dragnb.inputs import archives
from dragnb.inputs.pictures import check_mask, read_image, read_mask, require_size
from dragnb.store import files as disk
from dragnb.store.names import safe_stem

SCHEMA = 1
ELSEWHERE = "save the task elsewhere"
TASK_JSON, TASK_IMAGE, TASK_MASK = MEMBERS = ("task.json", "image.png", "mask.png")
FIELDS = ("schema", "size", "pairs", "prompt", "name")
CHUNK = b"drAG"  # ancillary, private, and not to be copied by a program that changes the picture
RECORD = "dragnb"  # the PNG's text with the record, as json


@dataclass(frozen=True, eq=False)
class DragTask:
    """One drag on one picture, checked when made; InputError names the field, the value and the remedy.

    image      uint8 (height, width, 3)
    handles    float (n, 2), x and y in picture pixels: what is dragged, n >= 1
    targets    float (n, 2): where each handle shall go
    mask       bool (height, width), True = may change; None or empty leaves the whole picture free
    prompt     what the picture shows; may be empty

    The arrays are copies that cannot be written to.
    """

    image: np.ndarray
    handles: np.ndarray
    targets: np.ndarray
    mask: np.ndarray | None = None
    prompt: str = ""
    name: str = ""

    def __post_init__(self):
        check_image(self.image)
        handles, targets = _check_points(self.handles, self.targets, self.size)
        mask = None if self.mask is None else check_mask(self.mask, self.size)
        for field in ("prompt", "name"):
            check_text(getattr(self, field), field)
        arrays = {"image": np.array(self.image), "handles": handles, "targets": targets, "mask": mask}
        for field, array in arrays.items():
            if array is not None:
                array.flags.writeable = False
            object.__setattr__(self, field, array)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def stem(self) -> str:
        """The name as one of a file or folder, which no text in a drag file can lead elsewhere; "drag" without one."""
        return safe_stem(self.name) if self.name else "drag"

    @property
    def free(self) -> bool:
        """Is the whole picture free to change, because nothing is masked?"""
        return self.mask is None or not self.mask.any()

    def warnings(self) -> list[str]:
        """What is allowed but may not be meant, a sentence each; empty when all is well (`doubts.of_drag`).

        The picker says the same while one picks, and more where it knows settings and model.
        """
        return doubts.of_drag(self.handles, self.targets, self.mask, self.prompt)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "DragTask":
        """The task in a folder, a zip, or a PNG that the studio saved, checked; InputError names file and field."""
        path = Path(path)
        files = _read_files(path)
        data = parse_task_json(files[TASK_JSON])
        image = read_image(io.BytesIO(files[TASK_IMAGE]), TASK_IMAGE)
        size = (image.shape[1], image.shape[0])
        if tuple(data["size"]) != size:
            want = "×".join(map(str, data["size"]))
            raise InputError(f"{TASK_JSON}: size is {want}, {TASK_IMAGE} is {size[0]}×{size[1]}")
        painted = files.get(TASK_MASK)
        mask = None if painted is None else read_mask(io.BytesIO(painted), size, TASK_MASK)
        handles, targets = ([pair[end] for pair in data["pairs"]] for end in ("handle", "target"))
        try:
            return cls(image, handles, targets, mask, data.get("prompt", ""), data.get("name") or path.stem)
        except InputError as error:
            raise InputError(f"{TASK_JSON}: {error}") from None

    def save(self, path: str | os.PathLike) -> Path:
        """Write the task to a folder, or to a zip where `path` ends so; whole or not at all.

        A task already there is replaced, other files in its folder are kept, and so is its picture or mask where it
        is the same to the eye. A folder, or a zip, that holds something else is refused.
        """
        path = Path(path)
        if path.suffix.lower() == ".zip":
            with disk.replacing(path, ELSEWHERE, ours=is_drag_zip) as temp:
                temp.write_bytes(self.packed())
        else:
            _write_folder(path, self)
        return path

    def place(self, folder: str | os.PathLike) -> Path:
        """Where in a folder of drags this one is saved: under its name; without one, where no other drag is."""
        folder, number = Path(folder), 1
        while True:
            path = folder / (self.stem if number == 1 else f"{self.stem}-{number}")
            if self.name or not os.path.lexists(path) or self._is_at(path):
                return path
            number += 1

    def _is_at(self, path: Path) -> bool:
        try:
            other = DragTask.load(path)
        except InputError:
            return False
        pairs = [
            (getattr(self, field), getattr(other, field)) for field in ("image", "handles", "targets", "mask")
        ]
        return self.prompt == other.prompt and all(np.array_equal(a, b) for a, b in pairs)

    def packed(self) -> bytes:
        """The task as the bytes of a zip."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self._files().items():
                archive.writestr(name, content)
        return packed.getvalue()

    def _files(self) -> dict[str, bytes]:
        """The files of the drag file, by name."""
        pairs = [
            {"handle": _point(handle), "target": _point(target)}
            for handle, target in zip(self.handles, self.targets, strict=True)
        ]
        data = {"schema": SCHEMA, "size": list(self.size), "pairs": pairs, "prompt": self.prompt}
        data |= {"name": self.name} if self.name else {}
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        files = {TASK_JSON: text.encode(), TASK_IMAGE: _png(self.image)}
        return files if self.mask is None else files | {TASK_MASK: _png(self.mask.astype(np.uint8) * 255)}


def pair_up(points) -> tuple[np.ndarray, np.ndarray]:
    """A flat list of clicks, handle and target in turn -> handles (n, 2) and targets (n, 2)."""
    points = _float_points("points", points)
    if len(points) % 2:
        raise InputError(f"points: {len(points)} points are an odd number; every handle needs its target")
    return points[0::2], points[1::2]


def check_image(image) -> None:
    """InputError unless `image` is an array of uint8 RGB with sides that can be handled."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        is_array = isinstance(image, np.ndarray)
        have = f"{image.dtype} of shape {image.shape}" if is_array else type(image).__name__
        raise InputError(f"image is {have}, not a uint8 array (height, width, 3); read_image(path) makes one")
    require_size(image.shape[1], image.shape[0], "image")


def check_text(value, field: str) -> None:
    """InputError unless `value` is text that a file can hold."""
    if not isinstance(value, str):
        raise InputError(f"{field} = {short(value)} is not text")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{field} = {short(value)} holds half a character; write it again")


def _float_points(field: str, points) -> np.ndarray:
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError, MemoryError):
        raise InputError(f"{field} = {short(points)} are not points [x, y]") from None
    array = array.reshape(-1, 2) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"{field} has shape {array.shape}, not (n, 2): a list of [x, y]")
    return array


def _check_points(handles, targets, size) -> tuple[np.ndarray, np.ndarray]:
    handles, targets = _float_points("handles", handles), _float_points("targets", targets)
    if len(handles) != len(targets):
        odd = f"{len(handles)} handles and {len(targets)} targets"
        raise InputError(f"pairs: {odd}; every handle needs its target")
    if len(handles) == 0:
        raise InputError("pairs: there are none; pick at least one handle and its target")
    require_inside(handles, targets, size)
    for k in np.flatnonzero((handles == targets).all(axis=1)):
        both = _point(handles[k])
        raise InputError(f"pairs[{k}]: handle and target are both {both}; there is nothing to drag")
    return handles, targets


def require_inside(handles, targets, size: tuple[int, int]) -> None:
    """InputError names the first of the points (n, 2) that lies outside a picture of `size` = (width, height)."""
    last = np.array(size) - 1
    ends = np.stack([handles, targets], axis=1)
    inside = ((ends >= 0) & (ends <= last)).all(axis=-1)  # NaN is outside too
    for k, end in np.argwhere(~inside):
        raise InputError(
            f"pairs[{k}].{('handle', 'target')[end]} = {_point(ends[k, end])} lies outside the "
            f"{size[0]}×{size[1]} image: x goes from 0 to {last[0]}, y from 0 to {last[1]}"
        )


def _point(xy) -> list[int | float]:
    return [int(v) if float(v).is_integer() else float(v) for v in xy]


def parse_task_json(text: bytes) -> dict:
    """task.json as a dict of known fields of the right kinds; what the points mean is checked by DragTask."""
    data = parse_json(text, TASK_JSON)
    if not isinstance(data, dict):
        raise InputError(f"{TASK_JSON} holds a {type(data).__name__}, not an object with {', '.join(FIELDS)}")
    for name in data:
        if name not in FIELDS:
            raise InputError(f"{TASK_JSON}: unknown field {short(name)}{did_you_mean(name, FIELDS)}")
    for name in ("schema", "size", "pairs"):
        if name not in data:
            raise InputError(f"{TASK_JSON}: {name} is missing")
    if data["schema"] != SCHEMA:
        raise InputError(f"{TASK_JSON}: schema = {short(data['schema'])}; this version reads {SCHEMA}")
    if not is_xy(data["size"]):
        raise InputError(f"{TASK_JSON}: size = {short(data['size'])} is not [width, height]")
    if not isinstance(data["pairs"], list):
        raise InputError(f"{TASK_JSON}: pairs = {short(data['pairs'])} is not a list")
    for k, pair in enumerate(data["pairs"]):
        for end in ("handle", "target"):
            point = pair.get(end) if isinstance(pair, dict) else None
            if not is_xy(point):
                raise InputError(f"{TASK_JSON}: pairs[{k}].{end} = {short(point)} is not [x, y]")
    return data


def parse_json(text: bytes, name: str):
    """The value of a json file's content, in UTF-8; InputError names the file where it is none."""
    with boundary(f"{name} cannot be read", "give a JSON file in UTF-8"):
        return json.loads(text.decode("utf-8-sig"))


def is_xy(value) -> bool:
    """Is this a list of two finite numbers?"""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(isinstance(v, Real) and not isinstance(v, bool) and _finite(v) for v in value)


def _finite(number) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of more digits than a float holds
        return False


def _read_files(path: Path) -> dict[str, bytes]:
    """The files of the drag file at `path`, by name: a folder, a zip, or an edit's PNG."""
    found = disk.recover(path)
    if found == "folder":
        try:
            files = disk.read_folder(path, MEMBERS)
        except OSError as error:
            raise InputError(
                f"task: {path} cannot be read ({error.strerror}); check its permissions"
            ) from error
    elif found:
        files = _unpacked(path)
    else:
        raise InputError(f"task: {path} does not exist")
    for name in (TASK_JSON, TASK_IMAGE):
        if name not in files:
            parts = ", ".join(MEMBERS)
            raise InputError(f"{name}: {path / name} does not exist; a task is a folder or zip with {parts}")
    return files


def _unpacked(path: Path) -> dict[str, bytes]:
    """Only the task's own files, by their bare names, from the zip's top or its one folder."""
    packed, _ = _carried(path)
    packed = io.BytesIO(packed) if packed else path
    if not zipfile.is_zipfile(packed):
        raise InputError(
            f"task: {path} is neither a folder nor a whole zip file, nor a PNG that an edit made"
        )
    files = {}
    with archives.opened(packed, str(path)) as archive:
        for info in archive.infolist():
            *folders, name = Path(info.filename).parts or ("",)
            hidden = any(folder.startswith((".", "__MACOSX")) for folder in folders)
            if name not in MEMBERS or hidden or len(folders) > 1:
                continue
            if name in files:
                raise InputError(f"{path} holds {name} twice; one zip, one task")
            files[name] = archives.content(archive, info)
    return files


def _carried(path: Path) -> tuple[bytes | None, str | None]:
    """The drag file and the record's json that a PNG carries; None for what it does not carry, or is no PNG."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            chunks = dict(chunk[:2] for chunk in picture.private_chunks)
            return chunks.get(CHUNK), picture.info.get(RECORD)
    except Exception:  # whatever Pillow throws at what is no whole PNG
        return None, None


def provenance(packed: bytes, record: dict) -> PngImagePlugin.PngInfo:
    """What a PNG carries of the edit that made it: the drag file as a zip, and the record as text."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECORD, json.dumps(record, ensure_ascii=False))
    info.add(CHUNK, packed)
    return info


def read_record(path: str | os.PathLike) -> dict:
    """The record in a PNG that an edit made: settings, seed, model and its hash, versions, and where it began."""
    _, record = _carried(Path(path))
    if record is None:
        raise InputError(f"{path} is no PNG that an edit made: it carries no record")
    return parse_json(record.encode(), f"{path}: the record")


def _write_folder(path: Path, task: DragTask) -> None:
    """Put the task in the place of the one in a folder, whose other files are kept."""
    found = disk.recover(path)
    if found == "file":
        raise InputError(f"{path} is a file; a task is saved to a folder or to a name that ends in .zip")
    if found and not _is_drag_folder(path):
        raise InputError(f"{path} is a folder with other things in it; save the task to a new one")
    files, before = task._files(), disk.read_folder(path, MEMBERS) if found else {}
    for name, pixels in ((TASK_IMAGE, task.image), (TASK_MASK, task.mask)):
        if name in before and pixels is not None and _shows(before[name], pixels):
            files[name] = before[name]

    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    disk.replace_folder(path, fill, MEMBERS, ELSEWHERE)


def _is_drag_folder(path: Path) -> bool:
    """Is a folder empty, or a drag file? Another may be replacing it just now."""
    try:
        found = disk.read_folder(path, (TASK_JSON,))
        empty = not found and not any(path.iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        raise InputError(f"{path / TASK_JSON} cannot be read ({error.strerror}); {ELSEWHERE}") from error
    try:
        return empty or bool(found and parse_task_json(found[TASK_JSON]))
    except InputError:
        return False


def is_drag_zip(path: Path) -> bool:
    """Is a file a zip with a drag file in it, and nothing else?"""
    with zipfile.ZipFile(path) as archive:
        names = [Path(name).name for name in archive.namelist() if not name.endswith("/")]
        found = next(name for name in archive.namelist() if Path(name).name == TASK_JSON)
        return set(names) <= set(MEMBERS) and bool(parse_task_json(archive.read(found)))


def _shows(content: bytes, pixels: np.ndarray) -> bool:
    """Does the content of a picture's file, or of a mask's, show exactly these pixels?"""
    try:
        if pixels.dtype == bool:
            return np.array_equal(read_mask(io.BytesIO(content), pixels.shape[::-1]), pixels)
        return np.array_equal(read_image(io.BytesIO(content)), pixels)
    except InputError:
        return False


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
