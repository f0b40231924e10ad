"""DragBench and its like, as people have them: a folder or zip of samples, each read into a drag task.

    samples, problems = datasets.read("drag_bench_data.zip")

A sample is a folder in one of four layouts, which the name of its instruction file tells:

    meta_data.pkl           original_image.png               DragBench as published; the mask is in the pickle
    drag_instruction.json   original_image.png   mask.png    DragBench without pickles
    points.json             original.jpg         mask.png    Drag100 (GoodDrag), which has no prompts
    task.json               image.png            mask.png    a drag file of ours; its mask may be absent

All but the last give points as one flat list of [x, y]: handle, target, handle, target, ... Nothing of a zip is
unpacked to disk, and nothing that a pickle names is called.
"""

import io
import os
import re
import stat
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dragnb import task as drag_file
from dragnb.errors import InputError, boundary
from dragnb.inputs import archives
from dragnb.store import Store
from dragnb.store.names import safe_stem
from dragnb.sweep import pickles
from dragnb.task import TASK_IMAGE, TASK_JSON, DragTask, is_xy

PICKLE, INSTRUCTION, DRAG100, MASK = "meta_data.pkl", "drag_instruction.json", "points.json", "mask.png"
PICTURES = {  # instruction file -> its picture; where a folder has two of these, the first counts
    PICKLE: "original_image.png",
    INSTRUCTION: "original_image.png",
    DRAG100: "original.jpg",
    TASK_JSON: TASK_IMAGE,
}
KNOWN = {*PICTURES, *PICTURES.values(), MASK, "user_drag.png"}  # a folder with any of these is a sample
MAX_BYTES = 64 * 2**20  # of one file

Members = dict[str, str]  # name of a sample's file -> its name in the whole folder or zip


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture of a benchmark with its pairs, as labelled; pixels are read when `task` is called.

    name      category/folder, or the folder alone where there are no categories; no other sample's
    handles   float (n, 2), x and y in picture pixels; all that were labelled, with pairs of no length
    targets   float (n, 2)
    size      (width, height) of the picture
    notes     what is odd about it, a sentence each
    """

    name: str
    category: str
    prompt: str
    handles: np.ndarray
    targets: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...]
    path: Path = field(repr=False)
    members: Members = field(repr=False)

    @property
    def of_dragbench(self) -> bool:
        """Is this laid out as DragBench is? Its pictures are dragged at a width of 512 by the public code."""
        return _source(self.members) in (PICKLE, INSTRUCTION)

    def task(self) -> DragTask:
        """The drag task. Pairs of no length are left out: DragDiffusion's loss skips a point at its target too.

        Raises InputError with the sample's name where no pair is left, or the files have changed since `read`.
        """
        try:
            return _task(self.name, _read(self.path, self.members))
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from None


class Found(NamedTuple):
    """The samples of a benchmark, and what kept others from being one, a sentence each."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def read(path: str | os.PathLike) -> Found:
    """The samples of a benchmark's folder or zip in the order of their names, and the problems of the others.

    Every sample is read and checked once, pixels too, so that what is wrong is known before a long run; no pixels
    are kept. A sample with a problem is left out and does no harm to the rest. The path may also lead to one
    category or one sample. Raises InputError where nothing there looks like a sample.
    """
    path = Path(path).resolve()
    folders, refused = _folders(path)
    if not folders and not refused:
        raise InputError(f"{path} holds no samples; one is a folder with {', '.join(PICTURES)}")
    problems = [f"{folder or path.name}: {reason}" for folder, reason in sorted(refused.items())]
    samples, names, seen = [], {}, {}
    for folder, members in sorted(folders.items()):
        name, category = _name(path, folder, members)
        try:
            if name in names:
                raise InputError(f"the folder {names[name]} has the same name; rename one")
            names[name] = folder
            with boundary("it cannot be read", "get it again"):
                samples.append(_sample(name, category, path, members, seen))
        except InputError as error:
            problems.append(f"{name}: {error}")
    return Found(tuple(sorted(samples, key=lambda sample: sample.name)), tuple(problems))


def _name(path: Path, folder: str, members: Members) -> tuple[str, str]:
    """(name, category) of a sample: the same for a zip and its folder, from wherever in them it is read.

    What does not do as a file name is cleaned: records and pictures are filed under it.
    """
    root = path.parts[1:] if path.is_dir() else (path.stem,)
    parts = [safe_stem(part) for part in (*root, *filter(None, folder.split("/")))]
    if len(parts) == 1 or _source(members) in (DRAG100, TASK_JSON):
        return parts[-1], ""
    return "/".join(parts[-2:]), parts[-2]


def _sample(name: str, category: str, path: Path, members: Members, seen: dict[str, str]) -> Sample:
    """The sample, checked; `seen` maps what earlier ones held to their names and is added to."""
    fields = _read(path, members)
    image, handles, targets, prompt = (fields[key] for key in ("image", "handles", "targets", "prompt"))
    size = (image.shape[1], image.shape[0])
    notes = [
        f"pairs[{k}] has no length: handle and target are both {handles[k].tolist()}; task() leaves it out"
        for k in np.flatnonzero((handles == targets).all(1))
    ]
    if len(notes) < len(handles):
        _task(name, fields)
    if any(side % 8 for side in size):
        notes.append(f"the picture is {size[0]}×{size[1]}: not a multiple of 8")
    if not prompt.strip() and _source(members) in (PICKLE, INSTRUCTION):
        notes.append("the prompt is empty")
    if {PICKLE, INSTRUCTION} <= set(members):
        notes += _disagreement(fields, path, members)
    first = seen.setdefault(Store.key(image=image, handles=handles, targets=targets), name)
    if first != name:
        notes.append(f"it has the picture and the pairs of {first}")
    return Sample(name, category, prompt, handles, targets, size, tuple(notes), path, members)


def _task(name: str, fields: dict) -> DragTask:
    """The task without the pairs of no length."""
    kept = (fields["handles"] != fields["targets"]).any(1)
    return DragTask(**fields | {key: fields[key][kept] for key in ("handles", "targets")}, name=name)


def _source(members: Members) -> str | None:
    """The instruction file that counts, which tells the layout; None where there is none."""
    return next((name for name in PICTURES if name in members), None)


def _read(path: Path, members: Members) -> dict:
    """A sample's image, handles, targets, mask and prompt, with pairs of no length.

    InputError names the file and the value that is missing, damaged or at odds with the picture. Whether the mask of
    a pickle fits is left to DragTask.
    """
    source = _source(members)
    if source is None:
        raise InputError(f"there is {', '.join(sorted(members))} but none of {', '.join(PICTURES)}")
    picture = PICTURES[source]
    for name in (source, picture) if source in (PICKLE, TASK_JSON) else (source, picture, MASK):
        if name not in members:
            raise InputError(f"{name} is missing")
    fields = _fields(source, _bytes(path, members, source))
    image = drag_file.read_image(io.BytesIO(_bytes(path, members, picture)), picture)
    size = (image.shape[1], image.shape[0])
    if source == TASK_JSON and tuple(fields["size"]) != size:
        raise InputError(f"{source}: size = {fields['size']}, but {picture} is {size[0]}×{size[1]}")
    handles, targets = _pairs(fields, source)
    drag_file.require_inside(handles, targets, size)
    mask = fields.get("mask")
    if source != PICKLE and MASK in members:
        mask = drag_file.read_mask(io.BytesIO(_bytes(path, members, MASK)), size, MASK)
    prompt = fields.get("prompt", "")
    return {"image": image, "handles": handles, "targets": targets, "mask": mask, "prompt": prompt}


def _fields(source: str, data: bytes) -> dict:
    """prompt, points, mask and size, as far as an instruction file has them; kinds are checked, not the sense."""
    if source == TASK_JSON:
        fields = drag_file.parse_task_json(data)
        points = [pair[end] for pair in fields["pairs"] for end in ("handle", "target")]
        fields = {name: fields[name] for name in ("prompt", "size") if name in fields} | {"points": points}
    elif source == PICKLE:
        fields = pickles.read(data, source)
    else:
        fields = drag_file.parse_json(data, source)
    if not isinstance(fields, dict) or "points" not in fields:
        raise InputError(f"{source}: points are missing")
    drag_file.check_text(fields.get("prompt", ""), f"{source}: prompt")
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
    return drag_file.pair_up(points)


def _disagreement(fields: dict, path: Path, members: Members) -> list[str]:
    """How a second instruction file differs from the pickle, which counts."""
    try:
        others = _fields(INSTRUCTION, _bytes(path, members, INSTRUCTION))
        same = np.array_equal(_pairs(others, INSTRUCTION), (fields["handles"], fields["targets"]))
        same = same and others.get("prompt", "") == fields["prompt"]
        return [] if same else [f"{INSTRUCTION} differs from {PICKLE}, which counts"]
    except InputError as error:
        return [f"{error}; {PICKLE} counts"]


def _folders(path: Path) -> tuple[dict[str, Members], dict[str, str]]:
    """The files of samples by their folder ("" is the top); and folders refused, each with the reason.

    Hidden files and folders and macOS's own are passed over. InputError where `path` is neither a folder nor a zip.
    """
    folders, refused = {}, {}
    for member, fault in _files(path):
        *above, name = [part for part in re.split(r"[\\/]+", member) if part != "."] or [""]
        if any(part.startswith(".") and part != ".." or part == "__MACOSX" for part in (*above, name)):
            continue
        members = folders.setdefault("/".join(above), {})
        if fault or name in members:
            reason = f"{member} {fault or 'is there twice'}; refused, pack the set anew without it"
            refused.setdefault("/".join(above), reason)
        elif name in KNOWN:
            members[name] = member
    return {k: members for k, members in folders.items() if members and k not in refused}, refused


def _files(path: Path) -> list[tuple[str, str]]:
    """(name, what is wrong with it) of every file in a folder or zip."""
    if path.is_dir():
        errors: list[OSError] = []
        walk = os.walk(path, onerror=errors.append)
        names = [(Path(root, name), "") for root, _, names in walk for name in names]
        names += [(Path(error.filename) / "-", f"cannot be listed ({error.strerror})") for error in errors]
        return [(name.relative_to(path).as_posix(), fault) for name, fault in names]
    if not path.exists():
        raise InputError(f"{path} does not exist")
    with boundary(f"{path} is neither a folder nor a whole zip file", "get it again"):
        if not zipfile.is_zipfile(path):
            raise OSError("it is no zip")
    with archives.opened(path, str(path)) as archive:
        return [(info.filename, _fault(info)) for info in archive.infolist()]


def _fault(info: zipfile.ZipInfo) -> str:
    """Why a member of a zip is refused; empty where it is not, or is never read."""
    *above, name = re.split(r"[\\/]", info.filename)
    if re.match(r"[\\/]|\w:", info.filename):
        return "has an absolute name"
    if ".." in (*above, name):
        return "has a name that leaves the zip"
    if name not in KNOWN:
        return ""
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate"
    return f"is larger than {MAX_BYTES // 2**20} MiB" if info.file_size > MAX_BYTES else ""


def _bytes(path: Path, members: Members, name: str) -> bytes:
    """The content of a sample's file; InputError for one that is gone, damaged, or larger than MAX_BYTES."""
    with boundary(f"{name} cannot be read", "get it again"):
        if path.is_dir():
            with (path / members[name]).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        else:
            with zipfile.ZipFile(path) as archive:
                data = archives.content(archive, archive.getinfo(members[name]), MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MiB; save it smaller")
    return data
