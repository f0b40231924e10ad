"""A run as a page for people: notebook 07, executed on it."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import dragnb
from dragnb import sweep
from dragnb.errors import InputError
from dragnb.metrics import judge
from dragnb.store.files import SIGNATURE, replacing, signed
from dragnb.sweep import grids
from dragnb.sweep.records import about, begins_with, read, write_table

EXECUTED = "report.ipynb"
NOTEBOOK = Path("notebooks") / "07_benchmark.ipynb"  # beside the package, where it lies in its repository
ASIDE = {"lesson", "colab"}  # tags of cells that teach, or prepare Colab
# numbers of chapters of which some are left out, and questions to a class
TAUGHT = re.compile(r"(?<=^## )\d+\. |\s*\*Guess first:[^*]*\*", re.MULTILINE)
START = 300  # seconds that a kernel may take to start on a busy machine


def report(out: str | os.PathLike, data: str = "clay") -> Path:
    """Write report.html, notebook 07 executed on a run, with the notebook itself, and summary.csv; gives the page.

    data  what the run is of, as `grids.samples` takes it: the pictures before the edits come from there

    The page has the notebook's headings, figures and tables, without its code and lessons; report.ipynb beside it has
    the code, and summary.csv the figures with their intervals. InputError where there is
    nothing to show, where the notebook or what executes it is missing, and for what the notebook refuses.
    """
    out = Path(out).resolve()
    notebook = Path(dragnb.__file__).resolve().parents[1] / NOTEBOOK
    rows = [sweep.row(record) for record in read(out)]
    if not rows:
        raise InputError(f"{out} has no record yet; run it first")
    summary = judge.summarise(rows)
    if not summary:
        raise InputError(f"{out}: no figures that a report knows; score the run by `judge.Judge`")
    if not notebook.is_file():
        raise InputError(
            f"report: {notebook} is not there; run it in the repository, where the notebooks are"
        )
    page, book = _page(
        out, notebook, _head(out, rows), data if data in grids.CLAY else str(Path(data).resolve())
    )
    with replacing(out / "report.html", ours=signed) as temp, replacing(out / EXECUTED, ours=signed) as code:
        temp.write_text(f"{page.rstrip()}\n<!-- {SIGNATURE} -->\n", encoding="utf-8")
        code.write_text(book, encoding="utf-8")
        columns = [*summary[0]]
        write_table(out / "summary.csv", summary, columns, lambda path: begins_with(path, columns[:3]))
    return out / "report.html"


def _head(out: Path, rows: list[dict]) -> str:
    """The top of the page, in Markdown: what the run is."""
    run, failed = about(out), sum(bool(row["error"]) for row in rows)
    lines = [
        run["data"],
        f"{len({row['sample'] for row in rows})} samples, {len(rows)} trials, {failed} failed",
        f"model {run['model']['name']} ({run['model']['hash'][:12]})",
        f"judge: {_words(run['judge'])}",
        ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    ]
    lines.append(f"[the notebook behind this page, with its code]({EXECUTED})")
    return "\n".join([f"# {out.name}", "", *(f"- {line}" for line in lines if line)])


def _words(value) -> str:
    """Plain values as a reader wants them: "matcher clay, t 81"; nothing of None, nor of versions, told elsewhere."""
    if isinstance(value, dict):
        said = {name: one for name, one in value.items() if one is not None and name != "versions"}
        return ", ".join(f"{name} {_words(one)}".removeprefix("name ") for name, one in said.items())
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    if isinstance(value, (list, tuple)):
        return " and ".join(map(_words, value))
    return "none" if value is None else str(value)


def _page(out: Path, notebook: Path, head: str, data: str) -> tuple[str, str]:
    """The notebook without its lessons, executed on the run: as HTML without code, and as the notebook that it is."""
    try:
        import nbformat
        import papermill
        from jupyter_client.kernelspec import NoSuchKernel
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise InputError(f'report: {error.name} is not installed; pip install "dragnb[notebooks]"') from None
    book = nbformat.read(notebook, 4)
    kept = [cell for cell in book.cells if not ASIDE & set(cell.metadata.get("tags", []))]
    for cell in kept:
        if cell.cell_type == "markdown":
            cell.source = TAUGHT.sub("", cell.source)
    book.cells = [nbformat.v4.new_markdown_cell(head), *kept]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = str(Path(folder) / "report.ipynb")
        nbformat.write(book, path)
        options = dict(kernel_name="python3", cwd=folder, progress_bar=False, start_timeout=START)
        options["extra_arguments"] = ["--log-level=50"]  # else a warning of the kernel's, once
        try:
            papermill.execute_notebook(path, path, {"sweep_folder": str(out), "data": data}, **options)
        except papermill.PapermillExecutionError as error:
            raise InputError(
                f"report: {notebook.name} fails on {out}: {error.ename}: {error.evalue}"
            ) from error
        except NoSuchKernel:
            raise InputError('report: ipykernel is not installed; pip install "dragnb[notebooks]"') from None
        exporter = HTMLExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
        made = nbformat.read(path, 4)
        page = exporter.from_notebook_node(made, {"metadata": {"name": out.name}})[0]
        made.metadata = {"kernelspec": made.metadata.kernelspec, "dragnb": SIGNATURE}
        for cell in made.cells:
            cell.metadata.pop("papermill", None)
        places = {str(out): ".", folder: "."} | ({} if data in grids.CLAY else {data: Path(data).name})
        return page, _without(nbformat.writes(made), places)


def _without(text: str, places: dict[str, str]) -> str:
    """JSON in which this machine's folders, the longest first, have other names."""
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], places[place])
    return text
