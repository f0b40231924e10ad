"""Write into every notebook what Google Colab needs: a badge in its title cell, and a first cell that installs.

    python tools/colab.py            write them
    python tools/colab.py --check    exit 1 if a notebook lacks them

The address comes from [project.urls] Repository in pyproject.toml. While that is unset there are no badges,
and the first cell unpacks a dragnb.zip (of the folder `dragnb`, the repository) that the user has uploaded.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import nbformat
from notebook_outputs import replace

ROOT = Path(__file__).resolve().parent.parent
TAG = "colab"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"

BOOTSTRAP = """\
import sys

if "google.colab" in sys.modules:  # only on Colab, whose own torch, numpy and ipywidgets stay as they are
    import os
    import subprocess

    from google.colab import output

    here, source = "/content/dragnb", "{source}"
    if not os.path.isdir(here):
        subprocess.run({fetch}, check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", here + "[widgets]"], check=True)
    sys.path.insert(0, here)
    os.chdir(here + "/notebooks")
    output.enable_custom_widget_manager()"""
UPLOAD = "/content/dragnb.zip"
CLONE = '["git", "clone", "-q", "--depth", "1", source, here]'
UNPACK = '["unzip", "-q", source, "-d", "/content"]'


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if something would change"
    )
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--pyproject", type=Path, default=ROOT / "pyproject.toml")
    args = parser.parse_args(argv)
    url, stale = repository(args.pyproject), []
    for path in sorted(args.notebooks.glob("[0-9][0-9]_*.ipynb")):
        book = nbformat.read(path, 4)
        before = nbformat.writes(book)
        apply(book, path.name, url)
        if nbformat.writes(book) != before:
            stale.append(path.name)
            if not args.check:
                replace(book, path)
    if stale:
        print(f"{'Out of date, run tools/colab.py' if args.check else 'Written'}: {', '.join(stale)}")
    return 1 if args.check and stale else 0


def repository(pyproject: Path) -> str | None:
    """The public address, https://host/owner/name, or None while it is unset."""
    urls = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"].get("urls", {})
    return (urls.get("Repository") or "").strip().rstrip("/").removesuffix(".git") or None


def bootstrap(url: str | None) -> str:
    """The source of the first cell. It does nothing anywhere but on Colab."""
    return BOOTSTRAP.format(source=url or UPLOAD, fetch=CLONE if url else UNPACK)


def badge(name: str, url: str | None) -> str | None:
    """The line that opens a notebook on Colab; None while there is no address, or it is not one Colab reads."""
    parts = urlparse(url or "")
    if parts.netloc != "github.com":
        return None
    return f"{BADGE}(https://colab.research.google.com/github{parts.path}/blob/main/notebooks/{name})"


def apply(book, name: str, url: str | None) -> None:
    """Bring a notebook's badge line and tagged first code cell up to date, in place; the rest is not touched."""
    title = book.cells[0]
    lines = [line for line in title.source.split("\n") if not line.startswith(BADGE)]
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    line = badge(name, url)
    title.source = "\n".join([*lines, "", line] if line else lines)
    cell = next((c for c in book.cells if TAG in c.metadata.get("tags", [])), None)
    if cell is None:
        cell = nbformat.v4.new_code_cell(metadata={"tags": [TAG]})
        cell.id = "colab"
        book.cells.insert(1, cell)
    cell.source = bootstrap(url)


if __name__ == "__main__":
    sys.exit(main())
