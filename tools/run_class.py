"""Run one notebook over every drag file of a folder, as for a class, and write a page of what came out; `make class`.

    python tools/run_class.py tasks
    python tools/run_class.py tasks -p model sd15 -p profile fast

Each drag file (a folder, a zip, or a PNG that the studio saved) gets its executed notebook in outputs/class/NAME/. One
that fails is told on the page with the reason, and the rest go on. A page that is there is made anew.
"""

import argparse
import html
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import run_notebooks
from PIL import Image
from run_notebooks import ROOT, Failed

from dragnb.errors import InputError
from dragnb.store.files import SIGNATURE, renew_own, replacing, require_apart, require_ours, signed
from dragnb.store.names import safe_stem
from dragnb.task import TASK_JSON, DragTask

PAGE = "index.html"
THUMB = 240  # pixels, the longer side
STYLE = """body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem }
td, th { padding: .4rem 1rem .4rem 0; text-align: left }
td { border-top: 1px solid #ccc; vertical-align: top } .failed { color: #a03000; max-width: 34rem }"""


@dataclass
class Entry:
    """A drag file and what became of it: pictures by their names beside the page, and an error if there was one.

    folder  its own beside the page, by name
    """

    name: str
    path: Path
    folder: str
    before: str = ""
    after: str = ""
    notebook: str = ""
    prompt: str = ""
    seconds: float = 0.0
    error: str = ""


def main(argv=None) -> int:
    args = parse(argv)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        book, *more = run_notebooks.select(args.notebooks, [args.only])
        if more:
            raise Failed("--only: name one notebook")
        require_apart(args.tasks, args.out, "the drag files and --out")
        require_ours(args.out / PAGE, is_page)
        entries = found(args.tasks, args.out)
        parameters = run_notebooks.check_parameters([book], args)[book]
        for entry in entries:
            work(entry, book, parameters, args)
            write(entries, args.out, args.tasks.name)
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
        task = DragTask.load(entry.path)
        entry.prompt = task.prompt
        entry.before = thumbnail(Image.fromarray(task.image), folder / "before.jpg", args.out)
    except InputError as error:
        entry.error = str(error).replace(f"{args.tasks}/", "")
        return print("FAILED", flush=True)
    own = {"task": str(entry.path), "out": run_notebooks.seen_from(args.notebooks, folder)}
    job = argparse.Namespace(**{**vars(args), "out": folder})
    try:
        run_notebooks.run(book, parameters | own, job)
    except Failed as error:
        entry.error = str(error).split("\nThe executed copy")[0].replace(f"{args.tasks}/", "")
    entry.seconds = time.monotonic() - began
    if (folder / book.name).exists():
        entry.notebook = (folder / book.name).relative_to(args.out).as_posix()
    for after in sorted(folder.rglob("after.png"))[:1]:
        with Image.open(after) as picture:
            entry.after = thumbnail(picture, folder / "after.jpg", args.out)


def thumbnail(image: Image.Image, path: Path, out: Path) -> str:
    """A small copy at `path`; its place as seen from `out`."""
    small = image.convert("RGB")
    small.thumbnail((THUMB, THUMB))
    with replacing(path) as temp:
        small.save(temp, "JPEG", quality=88)
    return path.relative_to(out).as_posix()


def write(entries: list[Entry], out: Path, title: str) -> None:
    """The page index.html, as far as the work has come."""
    rows = "\n".join(map(row, entries))
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
    heads = "<tr><th>drag</th><th>before</th><th>after</th><th></th></tr>"
    body = f"<h1>{html.escape(title)}</h1><table>{heads}\n{rows}\n</table>"
    page = f"{head}<style>{STYLE}</style>{body}</html>\n<!-- {SIGNATURE} -->\n"
    with replacing(out / PAGE, ours=is_page) as temp:
        temp.write_text(page, encoding="utf-8")


def is_page(path: Path) -> bool:
    """Is this a page of an earlier run?"""
    return signed(path)


def row(entry: Entry) -> str:
    def picture(place, what):
        alt = html.escape(f"{entry.name}, {what}", quote=True)
        return f"<img src='{quote(place)}' alt='{alt}'>" if place else ""

    link = f"<a href='{quote(entry.notebook)}'>notebook</a>" if entry.notebook else ""
    said = f"{entry.seconds:.0f} s" if entry.seconds else ""
    if entry.error:
        said = f"<span class='failed'>{html.escape(entry.error).replace(chr(10), '<br>')}</span>"
    name = f"<b>{html.escape(entry.name)}</b><br>{html.escape(entry.prompt)}"
    shown = f"<td>{picture(entry.before, 'before')}</td><td>{picture(entry.after, 'after')}</td>"
    return f"<tr><td>{name}</td>{shown}<td>{link}<br>{said}</td></tr>"


if __name__ == "__main__":
    sys.exit(main())
