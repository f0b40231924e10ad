"""The layouts of a sample: what the files of one folder of a benchmark say, whichever way they say it.

    meta_data.pkl           original_image.png               DragBench as published; the mask is in the pickle
    drag_instruction.json   original_image.png   mask.png    DragBench without pickles
    points.json             original.jpg         mask.png    Drag100 (GoodDrag), which has no prompts
    task.json               image.png            mask.png    a drag file of ours; its mask may be absent

All but the last give points as one flat list of [x, y]: handle, target, handle, target, ...
"""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dragnb import unpickle
from dragnb.errors import InputError
from dragnb.sweep import archive
from dragnb.task import (
    TASK_IMAGE,
    TASK_JSON,
    is_xy,
    pair_up,
    parse_json,
    parse_task_json,
    read_image,
    read_mask,
    require_inside,
)

PICKLE, INSTRUCTION, DRAG100 = "meta_data.pkl", "drag_instruction.json", "points.json"
MASK = "mask.png"
PICTURES = {  # instruction file -> its picture; where a folder has two of these, the first counts
    PICKLE: "original_image.png",
    INSTRUCTION: "original_image.png",
    DRAG100: "original.jpg",
    TASK_JSON: TASK_IMAGE,
}
KNOWN = {*PICTURES, *PICTURES.values(), MASK, "user_drag.png"}  # a folder with any of these is a sample


class Content(NamedTuple):
    """What the files of a sample say; all pairs as they were labelled."""

    image: np.ndarray
    handles: np.ndarray
    targets: np.ndarray
    mask: np.ndarray | None
    prompt: str
    digest: str  # of the picture and the points


def read(path: Path, members: dict[str, str]) -> Content:
    """What a sample's files say, for `members` as `archive.scan` found them.

    Raises InputError, naming the file and the value, where one is missing, damaged, or at odds with the picture.
    Pairs of no length pass; whether the mask fits is left to DragTask where it comes from a pickle.
    """
    source = source_of(members)
    if source is None:
        raise InputError(f"there is {', '.join(sorted(members))} but none of {', '.join(PICTURES)}")
    picture = PICTURES[source]
    needed = (source, picture) if source in (PICKLE, TASK_JSON) else (source, picture, MASK)
    for name in needed:
        if name not in members:
            raise InputError(f"{name} is missing")
    painted = source != PICKLE and MASK in members
    files = archive.read(path, {name: members[name] for name in {*needed, *([MASK] if painted else [])}})
    fields = _fields(source, files[source])
    image = read_image(io.BytesIO(files[picture]), picture)
    size = (image.shape[1], image.shape[0])
    if source == TASK_JSON and tuple(fields["size"]) != size:
        raise InputError(f"{source}: size = {fields['size']}, but {picture} is {size[0]}×{size[1]}")
    handles, targets = _pairs(fields, source)
    require_inside(handles, targets, size)
    mask = read_mask(io.BytesIO(files[MASK]), size, MASK) if painted else fields.get("mask")
    digest = hashlib.sha256(files[picture] + handles.tobytes() + targets.tobytes()).hexdigest()
    return Content(image, handles, targets, mask, fields.get("prompt", ""), digest)


def source_of(members: dict[str, str]) -> str | None:
    """The instruction file that counts, which tells the layout; None where there is none."""
    return next((name for name in PICTURES if name in members), None)


def _fields(source: str, data: bytes) -> dict:
    """prompt, points, mask and size, as far as an instruction file has them; kinds are checked, not the sense."""
    if source == TASK_JSON:
        fields = parse_task_json(data)
        points = [pair[end] for pair in fields["pairs"] for end in ("handle", "target")]
        fields = {name: fields[name] for name in ("prompt", "size") if name in fields} | {"points": points}
    elif source == PICKLE:
        fields = unpickle.loads(data, source)
    else:
        fields = parse_json(data, source)
    if not isinstance(fields, dict) or "points" not in fields:
        raise InputError(f"{source}: points are missing")
    if not isinstance(fields.get("prompt", ""), str):
        raise InputError(f"{source}: prompt is a {type(fields['prompt']).__name__}, not text")
    if source == PICKLE and not isinstance(fields.get("mask"), np.ndarray):
        raise InputError(f"{source}: mask is a {type(fields.get('mask')).__name__}, not an array")
    return fields


def _pairs(fields: dict, source: str) -> tuple[np.ndarray, np.ndarray]:
    points = fields["points"]
    if not isinstance(points, (list, tuple)) or not points:
        raise InputError(f"{source}: points are not a list of [x, y]")
    for k, point in enumerate(points):
        if not is_xy(point):
            raise InputError(f"{source}: points[{k}] is not [x, y]")
    return pair_up(points)


def disagreement(content: Content, path: Path, members: dict[str, str]) -> list[str]:
    """How a second instruction file differs from the pickle, which counts."""
    try:
        fields = _fields(INSTRUCTION, archive.read(path, {INSTRUCTION: members[INSTRUCTION]})[INSTRUCTION])
        same = np.array_equal(_pairs(fields, INSTRUCTION), (content.handles, content.targets))
        same = same and fields.get("prompt", "") == content.prompt
        return [] if same else [f"{INSTRUCTION} differs from {PICKLE}, which counts"]
    except InputError as error:
        return [f"{error}; {PICKLE} counts"]
