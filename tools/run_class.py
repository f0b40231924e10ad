"""Run one notebook over every drag file of a folder, as for a class, and write a page of what came out; `make class`.

    python tools/run_class.py tasks
    python tools/run_class.py tasks -p model sd15 -p profile fast

Each drag file (a folder, a zip, or a PNG that the studio saved) gets its executed notebook in outputs/class/NAME/, and
beside it the same as a page to read. One that fails is told on the page with the reason, and the rest go on. A page
that is there is made anew.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import class_page
import nbformat
import run_notebooks
from class_page import PAGE, Entry
from nbconvert import HTMLExporter
from notebook_outputs import scrub
from PIL import Image
from run_notebooks import ROOT, Failed

from dragnb import clay
from dragnb.errors import InputError
from dragnb.store.files import SIGNATURE, renew_own, replacing, require_apart, require_ours, signed
from dragnb.store.names import safe_stem
from dragnb.task import TASK_JSON, DragTask
from dragnb.ui import frames

THUMB = 256  # pixels, the longer side
SCORES = "scores.json"  # what notebook 00 writes beside after.png


def main(argv=None) -> int:
    args = parse(argv)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        book, *more = run_notebooks.select(args.notebooks, [args.only])
        if more:
            raise Failed("--only: name one notebook")
        require_apart(args.tasks, args.out, "the drag files and --out")
        require_ours(args.out / PAGE, signed)
        entries = found(args.tasks, args.out)
        parameters = run_notebooks.check_parameters([book], args)[book]
        if "figures" not in dict(args.parameters):  # those of the README, which no drag of a class is for
            parameters |= {"figures": ""} if "figures" in parameters else {}
        for entry in entries:
            work(entry, book, parameters, args)
            class_page.write(entries, args.out, args.tasks.name)
    except (Failed, InputError) as error:
        print(error, file=sys.stderr)
        return 1
    failed = [entry for entry in entries if entry.error]
    print(f"{len(entries) - len(failed)} of {len(entries)} done: {args.out / PAGE}")
    return 1 if failed else 0


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("tasks", type=Path, help="a folder of drag files")
    add("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    add("--only", default="00", metavar="NAME", help="which notebook; it has the parameters `task` and `out`")
    add("--out", type=Path, default=ROOT / "outputs" / "class")
    add("--notebooks", type=Path, default=ROOT / "notebooks")
    add("--timeout", type=int, default=1800, help="seconds a cell may take")
    args = run_notebooks.parsed(parser, argv)
    args.tasks, args.out, args.notebooks = (p.resolve() for p in (args.tasks, args.out, args.notebooks))
    args.commit_outputs = False
    return args


def found(folder: Path, out: Path) -> list[Entry]:
    """The drag files of a folder by name; what looks like none is passed over."""
    if not folder.is_dir():
        raise Failed(f"{folder} is no folder; give one with drag files")
    paths = [path for path in sorted(folder.iterdir()) if is_drag(path) and not out.is_relative_to(path)]
    if not paths:
        raise Failed(f"{folder} holds no drag file: a folder with {TASK_JSON}, or a zip")
    names, entries = {}, []
    for path in paths:
        if path.stem in names:
            raise Failed(f"{path.name} and {names[path.stem]} have one name; rename one")
        names[path.stem] = path.name
        taken = [PAGE, *(entry.folder for entry in entries)]
        entries.append(Entry(path.stem, path, safe_stem(path.stem, taken=taken)))
    return entries


def is_drag(path: Path) -> bool:
    if path.name.startswith(".") or path.name.startswith("__"):
        return False
    return (path / TASK_JSON).exists() if path.is_dir() else path.suffix.lower() in (".zip", ".png")


def work(entry: Entry, book: Path, parameters: dict, args) -> None:
    """Run the notebook on one drag file and note what came out; whatever goes wrong is the entry's error."""
    print(f"{entry.name[:24]:<25}", end="", flush=True)
    folder, began = args.out / entry.folder, time.monotonic()
    try:
        renew_own(folder)
        ask(entry, DragTask.load(entry.path), folder)
    except InputError as error:
        entry.error = str(error).replace(f"{args.tasks}/", "")
        return print("FAILED", flush=True)
    places = {"task": entry.path, "out": folder}
    own = {name: run_notebooks.seen_from(args.notebooks, place) for name, place in places.items()}
    job = argparse.Namespace(**{**vars(args), "out": folder})
    try:
        run_notebooks.run(book, parameters | own, job)
    except Failed as error:
        entry.error = str(error).split("\nThe executed copy")[0].replace(f"{args.tasks}/", "")
    entry.seconds = time.monotonic() - began
    if (folder / book.name).exists():
        entry.notebook = f"{entry.folder}/{book.name}"
        entry.rendered = f"{entry.folder}/{render(folder / book.name, entry.name).name}"
    for after in sorted(folder.rglob("after.png"))[:1]:
        with Image.open(after) as picture:
            entry.after = thumbnail(picture, folder / "after.jpg")
        entry.scores = read_scores(after.with_name(SCORES))


def ask(entry: Entry, task: DragTask, folder: Path) -> None:
    """What was asked for: the prompt, the picture with its arrows, and the true picture where it is known."""
    entry.prompt = task.prompt
    drawn = frames.arrows(task.image, task.handles, task.targets)
    entry.before = thumbnail(Image.fromarray(drawn), folder / "before.jpg")
    truth = clay.known(task)
    if truth is not None:
        entry.truth = thumbnail(Image.fromarray(truth.picture_after), folder / "truth.jpg")


def thumbnail(image: Image.Image, path: Path) -> str:
    """A small copy at `path`; its place as seen from the page."""
    small = image.convert("RGB")
    small.thumbnail((THUMB, THUMB))
    with replacing(path) as temp:
        small.save(temp, "JPEG", quality=88)
    return f"{path.parent.name}/{path.name}"


def read_scores(path: Path) -> dict[str, float]:
    """What a notebook has measured, by name; empty where it has not."""
    try:
        said = json.loads(path.read_bytes())
        return {name: float(value) for name, value in said.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def render(executed: Path, title: str) -> Path:
    """An executed notebook as a page beside it, without this machine's folders."""
    book = nbformat.read(executed, 4)
    book.metadata["title"] = title
    book.cells = [cell for cell in book.cells if "colab" not in cell.metadata.get("tags", [])]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [scrub(output, ROOT) for output in cell.outputs]
    page, _ = HTMLExporter().from_notebook_node(book)
    with replacing(executed.with_suffix(".html"), ours=signed) as temp:
        temp.write_text(f"{page.rstrip()}\n<!-- {SIGNATURE} -->\n", encoding="utf-8")
    return executed.with_suffix(".html")


if __name__ == "__main__":
    sys.exit(main())
