"""The drag file: a picture, pairs of handle and target points, a mask, a prompt; the only file format.

A folder or a zip with task.json, image.png and, where there is a mask, mask.png:

    {"schema": 1, "size": [512, 384], "pairs": [{"handle": [x, y], "target": [x, y]}], "prompt": "a cat"}

Points are in pixels of the upright picture, the centre of its top left pixel at (0, 0).
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dragnb import taskfile
from dragnb.errors import InputError
from dragnb.pictures import read_image, read_mask, require_size
from dragnb.store import replacing

__all__ = ["DragTask", "pair_up", "read_image", "read_mask"]

PROMPT_WORDS = 60  # about what fits CLIP's 77 tokens


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
            if not isinstance(getattr(self, field), str):
                raise InputError(f"{field} = {getattr(self, field)!r} is not text")
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
    def free(self) -> bool:
        """Is the whole picture free to change, because nothing is masked?"""
        return self.mask is None or not self.mask.any()

    def warnings(self) -> list[str]:
        """What is allowed but may not be meant, a sentence each; empty when all is well."""
        said = []
        if self.free:
            said.append("the mask is empty: the whole picture is free to change")
        else:
            if self.mask.all():
                said.append("the mask is full: nothing is held in place")
            x, y = np.floor(self.handles + 0.5).astype(int).T
            for k in np.flatnonzero(~self.mask[y, x]):
                where = f"pairs[{k}].handle = {_point(self.handles[k])}"
                said.append(f"{where} lies outside the mask: it is held in place")
        words = len(self.prompt.split())
        if words > PROMPT_WORDS:
            said.append(f"the prompt has {words} words; what goes beyond the model's 77 tokens is cut off")
        return said

    @classmethod
    def load(cls, path: str | os.PathLike) -> "DragTask":
        """The task in a folder, a zip, or a PNG that the studio saved, checked; InputError names file and field."""
        path = Path(path)
        with taskfile.opened(path) as folder:
            data = taskfile.read(folder / taskfile.JSON)
            image = read_image(folder / taskfile.IMAGE, taskfile.IMAGE)
            size = (image.shape[1], image.shape[0])
            if tuple(data["size"]) != size:
                want = "×".join(map(str, data["size"]))
                raise InputError(f"task.json: size is {want}, {taskfile.IMAGE} is {size[0]}×{size[1]}")
            painted = (folder / taskfile.MASK).exists()
            mask = read_mask(folder / taskfile.MASK, size, taskfile.MASK) if painted else None
        handles, targets = ([pair[end] for pair in data["pairs"]] for end in ("handle", "target"))
        try:
            return cls(image, handles, targets, mask, data.get("prompt", ""), data.get("name") or path.stem)
        except InputError as error:
            raise InputError(f"task.json: {error}") from None

    def save(self, path: str | os.PathLike) -> Path:
        """Write the task to a folder, or to a zip where `path` ends so; whole or not at all.

        A task already there is replaced, other files in its folder are kept. A folder that holds something
        else is refused.
        """
        path = Path(path)
        try:
            if path.suffix.lower() == ".zip":
                with replacing(path) as temp:
                    temp.write_bytes(self.packed())
            else:
                with taskfile.replacing_folder(path) as temp:
                    self._write(temp)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path} cannot be written ({reason}); save the task elsewhere") from error
        return path

    def packed(self) -> bytes:
        """The task as the bytes of a zip."""
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder))
            return taskfile.pack(Path(folder))

    def _write(self, folder: Path) -> None:
        pairs = [
            {"handle": _point(handle), "target": _point(target)}
            for handle, target in zip(self.handles, self.targets, strict=True)
        ]
        data = {"schema": taskfile.SCHEMA, "size": list(self.size), "pairs": pairs, "prompt": self.prompt}
        Image.fromarray(self.image).save(folder / taskfile.IMAGE)
        if self.mask is not None:
            Image.fromarray(self.mask.astype(np.uint8) * 255).save(folder / taskfile.MASK)
        taskfile.write(folder / taskfile.JSON, data | ({"name": self.name} if self.name else {}))


def pair_up(points) -> tuple[np.ndarray, np.ndarray]:
    """A flat list of clicks, handle and target in turn -> handles (n, 2) and targets (n, 2)."""
    points = _float_points("points", points)
    if len(points) % 2:
        raise InputError(f"points: {len(points)} points are an odd number; every handle needs its target")
    return points[0::2], points[1::2]


def check_image(image) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        is_array = isinstance(image, np.ndarray)
        have = f"{image.dtype} of shape {image.shape}" if is_array else type(image).__name__
        raise InputError(f"image is {have}, not a uint8 array (height, width, 3); read_image(path) makes one")
    require_size(image.shape[1], image.shape[0], "image")


def check_mask(mask, size: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape != (size[1], size[0]):
        have = f"{mask.shape[1]}×{mask.shape[0]}" if mask.ndim == 2 else f"of shape {mask.shape}"
        raise InputError(
            f"mask is {have}, the picture {size[0]}×{size[1]}; paint the mask on the picture itself"
        )
    return np.array(mask != 0)


def _float_points(field: str, points) -> np.ndarray:
    try:
        array = np.array(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{field} = {points!r} are not points [x, y]") from None
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
    for k, (handle, target) in enumerate(zip(handles, targets, strict=True)):
        if (handle == target).all():
            raise InputError(
                f"pairs[{k}]: handle and target are both {_point(handle)}; there is nothing to drag"
            )
    return handles, targets


def require_inside(handles, targets, size: tuple[int, int]) -> None:
    """InputError names the first of the points (n, 2) that lies outside a picture of `size` = (width, height)."""
    last = np.array(size) - 1
    for k, ends in enumerate(zip(handles, targets, strict=True)):
        for end, point in zip(("handle", "target"), ends, strict=True):
            if not ((point >= 0) & (point <= last)).all():  # NaN is outside too
                raise InputError(
                    f"pairs[{k}].{end} = {_point(point)} lies outside the {size[0]}×{size[1]} image: "
                    f"x goes from 0 to {last[0]}, y from 0 to {last[1]}"
                )


def _point(xy) -> list[int | float]:
    return [int(v) if float(v).is_integer() else float(v) for v in xy]
