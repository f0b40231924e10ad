"""Take the outputs of an executed notebook back into its source, without what belongs to one machine or run."""

import os
import re
from pathlib import Path

import nbformat

from dragnb.store.files import replacing

STILL = "dragnb-still"  # the class of a picture that JupyterLab shows once a widget's kernel has ended
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def commit(executed: Path, source: Path, root: Path) -> None:
    """Replace the notebook `source` by its executed copy, cleaned; all of it or nothing.

    Raises ValueError when the copy is not a whole run of the source as it stands now.
    """
    book, now = nbformat.read(executed, 4), nbformat.read(source, 4)
    clean(book, root)
    if "title" in now.metadata:  # what the page of an app is called
        book.metadata["title"] = now.metadata["title"]
    if [c.source for c in book.cells] != [c.source for c in now.cells]:
        raise ValueError(f"{source.name} has changed since {executed} was run; run it again")
    for cell, original in zip(book.cells, now.cells, strict=True):
        cell["id"], cell["metadata"] = original["id"], original["metadata"]
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise ValueError(f"{executed} was not run to its end: {cell.source.splitlines()[0]}")
    replace(book, source)


def replace(book, path: Path) -> None:
    """Write a notebook beside its old self, then rename: whole or not at all."""
    with replacing(path) as temp:
        nbformat.write(book, temp)


def clean(book, root: Path) -> None:
    """Strip, in place: papermill's cells and metadata, widgets and their state, versions, machine paths."""
    book.cells = [c for c in book.cells if not papermills_own(c)]
    book.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in book.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [scrub(shown, root) for shown in map(without_widget, cell.outputs) if shown]


def papermills_own(cell) -> bool:
    tags = cell.metadata.get("tags", [])
    return any(tag.startswith(("injected-parameters", "papermill-error")) for tag in tags)


def without_widget(output):
    """The output with a widget's picture in the widget's place; None where it has none, or is of running pages only."""
    data = output.get("data", {})
    if STILL in data.get("text/html", "") or (WIDGET in data and "image/png" not in data):
        return None
    data.pop(WIDGET, None)
    return output


def scrub(value, root: Path):
    """The same output with this machine's folders replaced in every text: the repository's by nothing, ~ for home."""
    if isinstance(value, str):
        value = re.sub(r"/\S*/ipykernel_\d+/\d+\.py", "<cell>", value)
        value = value.replace(f"{root}{os.sep}", "").replace(str(root), ".")
        home = os.path.expanduser("~")
        return value.replace(home + os.sep, "~/") if home not in ("/", "~") else value
    if isinstance(value, dict):
        images = {k: v for k, v in value.items() if k.startswith("image/") and k != "image/svg+xml"}
        return nbformat.from_dict({k: scrub(v, root) for k, v in value.items() if k not in images} | images)
    if isinstance(value, list):
        return [scrub(item, root) for item in value]
    return value
