"""What leaves the studio: a picture that carries its drag and its record, and a notebook that repeats the drag.

Every file is written beside its place and then renamed, so it is there as a whole or not at all. A file that is there
already is replaced where it was exported before, and refused where it is another.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from PIL import Image

from dragnb import sd
from dragnb.config import nearest_profile
from dragnb.errors import InputError
from dragnb.pipeline import Result
from dragnb.store.files import SIGNATURE, Ours, signed
from dragnb.task import is_drag_zip, provenance, read_record
from dragnb.ui.frames import writing

QUICKSTART = Path(__file__).resolve().parents[2] / "notebooks" / "00_quickstart.ipynb"


def _exported(path: Path) -> bool:
    """Is a PNG one of these?"""
    return bool(read_record(path))


def save_png(path: str | os.PathLike, result: Result, ours: Ours = _exported) -> Path:
    """The edited picture as a PNG that carries its drag file and its record.

    ours  may the file that is there be replaced? `DragTask.load(path)` reads the drag back, `task.read_record(path)`
          settings, seed, model, versions.
    """
    with writing(path, ours) as temp:
        info = provenance(result.task.packed(), result.record)
        Image.fromarray(result.image).save(temp, "PNG", pnginfo=info)
    return Path(path)


def save_zip(path: str | os.PathLike, result: Result, ours: Ours = is_drag_zip) -> Path:
    """The drag file alone."""
    with writing(path, ours) as temp:
        temp.write_bytes(result.task.packed())
    return Path(path)


def save_notebook(
    path: str | os.PathLike,
    result: Result,
    model: str | sd.Wanted | sd.Model = "clay",
    ours: Ours | None = None,
) -> Path:
    """Notebook 00 with this drag as its parameters, ready for Jupyter and papermill; its drag file lies beside it.

    A drag that began at a step of another one, or at the latents of a picture that the model made, is repeated from
    the picture: a notebook's parameters hold no latent.
    """
    path = Path(path)
    if not QUICKSTART.exists():
        raise InputError(f"{QUICKSTART} is missing; work from a clone of the repository")
    book = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    task = path.with_suffix(".zip")
    profile, changes = nearest_profile(result.settings)
    name = model if isinstance(model, str) else model.name
    values = {
        "task": str(task.resolve()),
        "model": name,
        "loading": _loading(model),
        "profile": profile,
        "settings": changes,
    }
    values |= {"side": result.record["side"], "out": str(path.resolve().parent)}
    values["keep_outside"] = changes.pop("keep_outside", False)
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = _with_values("".join(cell["source"]), values)
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    book["metadata"]["dragnb"] = SIGNATURE
    with writing(path, ours or signed) as temp:
        temp.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        save_zip(task, result, ours or is_drag_zip)
    return path


def _loading(model) -> dict:
    """How a model is loaded where that is not the usual way, as the notebook's parameter says it."""
    if not isinstance(model, sd.Wanted):
        return {}
    asked, usual = dataclasses.asdict(model), dataclasses.asdict(sd.Wanted(model.model))
    return {name: value for name, value in asked.items() if value != usual[name]}


def _with_values(source: str, values: dict) -> str:
    """A cell of `name = value  # what it is` with some values replaced."""
    lines = []
    for line in source.split("\n"):
        name = line.partition(" = ")[0]
        comment = line.partition("  # ")[2]
        lines.append(f"{name} = {values[name]!r}  # {comment}" if name in values else line)
    return "\n".join(lines)
