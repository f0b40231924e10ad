"""Run a sweep from the command line: `python -m dragnb.sweep run`, `report` it as a page, `export` its table.

    python -m dragnb.sweep run --data clay --settings methods ablation --out outputs/sweep --jobs 2
    python -m dragnb.sweep run --data drag_bench_data.zip --settings grid.json --model sd15 --out sweep --dask tcp://head:8786
    python -m dragnb.sweep export outputs/sweep outputs/sweep.csv
    python -m dragnb.sweep report outputs/sweep    # report.html and summary.csv in it; notebook 07 on the sweep

The same command goes on where a killed one was. grid.json maps names to {"profile": "clay", "lam": 0.2}; "methods",
"ablation" and "rivals" are the comparisons of `sweep.grids`, from the profile that suits the model.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from dragnb import sd, sweep
from dragnb.config import profile, profile_names, suited
from dragnb.errors import InputError, did_you_mean
from dragnb.geometry import FITS
from dragnb.metrics.judge import Judge, default_matcher
from dragnb.sweep import grids, options, records, report
from dragnb.task import parse_json

COMPARISONS = ("methods", "ablation", "rivals")
QUIET = 30  # seconds between lines where no terminal shows a line that is rewritten


def main(argv=None) -> int:
    """The command line: 0, or 1 where trials failed, or 2 where the run cannot be."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "export":
            _say(f"written: {' '.join(map(str, records.export(args.out, args.csv)))}")
            return 0
        if args.command == "report":
            _say(f"written: {report.report(args.out, args.data)}")
            return 0
        return _run(args)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command goes on from here\n")
        return 130


def grid(names: list[str], model: str = "clay", truth: bool = False) -> dict:
    """Settings by name: profiles, the comparisons and baselines of `grids`, json files of {name: {"profile": ...}}.

    truth  the samples' is known, so that its ceiling may join
    """
    base, settings = profile(suited(model).paper), {}
    for name in names:
        if name == "methods":
            settings |= grids.methods(base, truth)
        elif name == "ablation":
            settings |= grids.ablation(base)
        elif name == "rivals":
            settings |= grids.rivals(base)
        elif name in grids.BASELINES:
            settings[name] = grids.BASELINES[name]
        elif name in profile_names():
            settings[name] = profile(name)
        elif Path(name).suffix == ".json":
            settings |= _read_grid(Path(name))
        else:
            raise InputError(
                f"--settings {name}: unknown{did_you_mean(name, [*COMPARISONS, *profile_names(), *grids.BASELINES])}"
            )
    return settings


def _read_grid(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"--settings {path}: there is no such file")
    data = parse_json(path.read_bytes(), str(path))
    if not isinstance(data, dict) or not all(isinstance(v, (dict, str)) for v in data.values()):
        raise InputError(
            f'{path}: wanted is {{"name": {{"profile": "clay", "lam": 0.2}}, "floor": "no_edit"}}'
        )
    settings = {}
    for name, value in data.items():
        try:
            if isinstance(value, str):
                (settings[name],) = grid([value]).values()
            else:
                settings[name] = profile(value.pop("profile", "fast"), **value)
        except (InputError, TypeError) as error:
            raise InputError(f"{path}: {name}: {error}") from None
    return settings


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m dragnb.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(dest="command", required=True)
    add = commands.add_parser("run", help="do what is still to be done").add_argument
    add(
        "--data",
        required=True,
        help='"clay" or "clay-v2" (ClayBench), or a folder or zip of DragBench, Drag100 or drag files',
    )
    add(
        "--settings",
        nargs="+",
        required=True,
        help=f"{', '.join([*COMPARISONS, *profile_names(), *grids.BASELINES])}, or grid.json",
    )
    add("--out", required=True, help="the run's folder")
    add("--model", default="clay")
    options.add_options(add)
    add("--matcher", help='whose features measure MD; default "clay" with the bundled model, else "sd21"')
    add("--jobs", type=int, default=1, help="processes")
    add("--threads", type=int, default=1, help="of torch in each; the bits may hang on it")
    add("--dask", metavar="ADDRESS", help="a cluster's scheduler, like tcp://head:8786")
    add(
        "--gpus",
        type=float,
        default=0,
        metavar="N",
        help='what each task takes of a Dask worker\'s resource "GPU"',
    )
    add("--store", help="a cache to keep; by default a sample's is deleted with its last trial")
    add("--side", type=int, help="side of the canvas in pixels: of its longer side, or what --fit says")
    add(
        "--fit",
        choices=FITS,
        help='what --side is of the picture; default: "width" on DragBench, else the settings\' own',
    )
    add("--limit", type=int, help="only the first samples")
    add("--keep", action="store_true", help="keep the pictures")
    add("--retry-failed", action="store_true")
    add = commands.add_parser(
        "export", help="write the small table that is committed, and where it comes from"
    ).add_argument
    add("out")
    add("csv")
    add = commands.add_parser(
        "report", help="write report.html and summary.csv into the run's folder"
    ).add_argument
    add("out", help="the run's folder")
    add(
        "--data",
        default="clay",
        help="what was run, as for `run`: the pictures before the edits; default: clay",
    )
    return p


def _run(args) -> int:
    samples, problems, title = grids.samples(args.data, args.limit)
    for problem in problems:
        sys.stderr.write(f"left out: {problem}\n")
    judge = Judge(args.matcher or default_matcher(args.model))
    model = sd.wanted(args.model, **options.loading(args))
    with contextlib.ExitStack() as stack:
        client = None
        if args.dask:
            client = stack.enter_context(_client(args.dask))
        progress = None
        line = _Line()
        settings = grid(args.settings, args.model, args.data in grids.CLAY)
        for progress in sweep.run(
            samples, grids.fitted(settings, samples, args.fit), args.out, model, judge,
            jobs=args.jobs, client=client, resources={"GPU": args.gpus} if args.gpus else None,
            store=args.store, side=args.side, threads=args.threads, keep=args.keep,
            retry_failed=args.retry_failed, data=title,
        ):  # fmt: skip
            line(progress)
    failed = [record for record in sweep.read(args.out) if record["error"]]
    _say(
        f"{len(sweep.read(args.out))} records in {args.out}, {len(failed)} failed"
        + ("" if progress else "; nothing was left to do")
    )
    for record in failed[:10]:
        _say(f"  {record['sample']} / {record['setting']}: {record['error']}")
    return 1 if failed else 0


def _client(address: str):
    try:
        from distributed import Client
    except ImportError:
        raise InputError('--dask: distributed is not installed; pip install "dragnb[bench]"') from None
    try:
        return Client(address, timeout="20s")
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--dask {address}: no scheduler answers there ({error})") from None


class _Line:
    """Progress: one line rewritten in a terminal, else a line now and then."""

    def __init__(self):
        self.tty, self.last, self.width = sys.stderr.isatty(), 0.0, 0

    def __call__(self, progress) -> None:
        if self.tty:
            text = str(progress)
            sys.stderr.write(
                "\r" + text.ljust(self.width) + ("\n" if progress.done == progress.total else "")
            )
            self.width = len(text)
        elif (
            time.monotonic() - self.last >= QUIET
            or progress.done == progress.total
            or progress.record["error"]
        ):
            sys.stderr.write(f"{progress}\n")
            self.last = time.monotonic()
        sys.stderr.flush()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
