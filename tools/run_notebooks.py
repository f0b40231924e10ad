"""Run the notebooks in order, each alone, and say how each went; `make notebooks` is this.

    python tools/run_notebooks.py
    python tools/run_notebooks.py --only 00 -p model sd15 -p out /tmp/sd15
    python tools/run_notebooks.py --commit-outputs

Executed copies go to outputs/. A notebook that has a parameter `out` is given that folder, one that has
`figures` the folder for the pictures of the README.
"""

import argparse
import difflib
import json
import logging
import os
import re
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a debugger's advice, once per kernel

import nbformat
import papermill
import parameters
from notebook_outputs import commit

from dragnb.errors import InputError
from dragnb.store.files import replacing, require_apart, require_ours

ROOT = Path(__file__).resolve().parent.parent
# parameters that may be paths; of these the PLACES are written to
PLACES = ("out", "figures")
PATHS = ("task", "picture", "mask", "model", "data", *PLACES)
# of the parameter `loading`, those that may be paths
LAID_OVER = ("lora", "vae", "config")
QUIET_KERNEL = ["--log-level=50"]  # else "Kernel is running over TCP without encryption", once per kernel


class Failed(Exception):
    """One clear message; the exit status is 1."""


def main(argv=None) -> int:
    args = parse(argv)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        require_apart(args.notebooks, args.out, "--notebooks and --out")
        notebooks = select(args.notebooks, args.only)
        given = check_parameters(notebooks, args)
        for path in notebooks:
            run(path, given[path], args)
        if args.commit_outputs:
            commit_all(notebooks, args.out)
            print(f"outputs of {len(notebooks)} notebooks written back to {args.notebooks}")
    except (Failed, InputError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def parse(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    add("--only", nargs="+", metavar="NAME", help="some notebooks, by the beginning of their names")
    add("--out", type=Path, default=ROOT / "outputs", help="where executed copies and results go")
    add("--notebooks", type=Path, default=ROOT / "notebooks")
    add("--timeout", type=int, default=1800, help="seconds a cell may take")
    add("--commit-outputs", action="store_true", help="write the outputs back into the notebooks")
    args = parsed(parser, argv)
    args.out, args.notebooks = args.out.resolve(), args.notebooks.resolve()
    if args.commit_outputs and args.parameters:
        parser.error("--commit-outputs takes no -p: committed outputs come from the notebooks' own values")
    return args


def parsed(parser: argparse.ArgumentParser, argv) -> argparse.Namespace:
    """The arguments; what is left over is told to be a value that needs quotes."""
    args, left = parser.parse_known_args(argv)
    if left:
        example = "-p prompt 'a cat', -p settings '{\"lora_steps\": 40, \"lam\": 0.2}'"
        parser.error(
            f"unrecognized arguments: {' '.join(left)}; a value with spaces, or braces, needs quotes: {example}"
        )
    return args


def select(folder: Path, only: list[str] | None) -> list[Path]:
    """The notebooks NN_name.ipynb of a folder, in order; all, or those whose names begin as asked."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise Failed(f"{folder} holds no notebook named like 00_name.ipynb")
    for name in only or []:
        if not any(path.name.startswith(name) for path in found):
            raise Failed(f"--only {name}: no such notebook; there are {', '.join(p.stem for p in found)}")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def check_parameters(notebooks: list[Path], args) -> dict[Path, dict]:
    """What each notebook is given. A name that none of them knows is an error (papermill only logs it)."""
    has = {path: parameters_of(path) for path in notebooks}
    known = sorted(set().union(*has.values()))
    given = dict(args.parameters)
    for name in [name for name in given if name in PATHS]:
        given[name] = of_the_caller(given[name], args.notebooks, name in PLACES)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
            raise Failed(f"-p {name}: no notebook has this parameter; {hint}")
    figures = ROOT / "figures" if args.commit_outputs else args.out / "figures"
    own = {"out": seen_from(args.notebooks, args.out), "figures": seen_from(args.notebooks, figures)}
    made = {path: {n: own[n] for n in own if n in has[path]} | typed(given, has[path]) for path in notebooks}
    for values in made.values():
        if isinstance(loading := values.get("loading"), dict):
            laid_over = {
                n: of_the_caller(loading[n], args.notebooks, False) for n in LAID_OVER if n in loading
            }
            values["loading"] = loading | laid_over
    return made


def typed(given: dict[str, str], has: dict[str, str]) -> dict:
    """What was given of a notebook's parameters, each as the kind of value that the notebook has."""
    try:
        return {n: parameters.typed(n, v, parameters.own_value(has[n])) for n, v in given.items() if n in has}
    except ValueError as error:
        raise Failed(str(error)) from None


def parameters_of(path: Path) -> dict[str, str]:
    """The names of a notebook's parameters and the source of their values."""
    try:
        return {name: p["default"] for name, p in papermill.inspect_notebook(str(path)).items()}
    except Exception as error:  # whatever is wrong with a file somebody edited by hand
        raise Failed(f"{path.name} cannot be read as a notebook: {error}") from error


def of_the_caller(value, notebooks: Path, place: bool):
    """A path as the caller means it, from where the notebooks run; what is no path there (a name, text) stays as it is.

    place  it need not exist yet
    """
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = Path(value).expanduser()
    return seen_from(notebooks, path.resolve()) if place or path.exists() else value


def seen_from(folder: Path, path: Path) -> str:
    """`path` relative to where the notebook runs, so that no machine's paths get into it."""
    return Path(os.path.relpath(path, folder)).as_posix()


def run(path: Path, parameters: dict, args) -> None:
    """Execute one notebook beside the others; print its one line; raise Failed, naming the cell, if it fails."""
    copy, begin = args.out / path.name, time.monotonic()
    try:
        require_apart(path, copy, "a notebook and its executed copy")
        require_ours(copy, is_executed)
    except InputError as error:
        raise Failed(str(error)) from error
    print(f"{path.stem:<32}", end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        try:
            execute(path, made, parameters, args)
        except KeyboardInterrupt:
            print(f"{time.monotonic() - begin:8.1f} s  stopped", flush=True)
            keep(made, copy)
            raise Failed(f"{path.name} was stopped; what ran is in {copy}") from None
        except Exception as error:
            print(f"{time.monotonic() - begin:8.1f} s  FAILED", flush=True)
            reason = where(error, made)
            if keep(made, copy):
                reason += f"\nThe executed copy: {copy}"
            raise Failed(f"{path.name} failed {reason}") from error
        keep(made, copy)
    print(f"{time.monotonic() - begin:8.1f} s  ok", flush=True)


def execute(path: Path, made: Path, parameters: dict, args) -> None:
    """Run a notebook, beside the others, into a file `made`."""
    papermill.execute_notebook(
        str(path),
        str(made),
        parameters,
        kernel_name="python3",
        cwd=str(path.parent),
        progress_bar=False,
        execution_timeout=args.timeout,
        extra_arguments=QUIET_KERNEL,
    )


def keep(made: Path, copy: Path) -> bool:
    """Put what was executed in its place, over nothing but an older such copy; False where there is nothing."""
    if not made.exists():
        return False
    try:
        book = nbformat.read(made, 4)
        book.metadata.get("papermill", {})["output_path"] = str(copy)
        with replacing(copy, ours=is_executed) as temp:
            nbformat.write(book, temp)
    except InputError as error:
        raise Failed(str(error)) from error
    return True


def is_executed(path: Path) -> bool:
    """Is this a notebook that papermill executed?"""
    return "papermill" in json.loads(path.read_bytes())["metadata"]


def where(error: Exception, copy: Path) -> str:
    """The cell that failed, by its number in the executed copy and its first line, and what happened."""
    if isinstance(error, papermill.PapermillExecutionError):
        return f"in cell [{error.exec_count}]: {first_line(error.source)}\n{error.ename}: {error.evalue}"
    what = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().split("\n")[0] or type(error).__name__
    cells = nbformat.read(copy, 4).cells if copy.exists() else []
    begun = [c for c in cells if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")]
    if begun:  # too slow, or its kernel died; papermill says "completed", but begins none after it
        return f"in cell [{begun[-1].execution_count or len(begun)}]: {first_line(begun[-1].source)}\n{what}"
    return f"\n{what}"


def commit_all(notebooks: list[Path], out: Path) -> None:
    for path in notebooks:
        try:
            commit(out / path.name, path, ROOT)
        except (ValueError, OSError) as error:
            raise Failed(f"outputs not committed: {error}") from error


def first_line(source: str) -> str:
    lines = [line for line in source.splitlines() if line.strip()]
    return lines[0] if lines else "(empty)"


if __name__ == "__main__":
    sys.exit(main())
