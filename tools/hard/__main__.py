"""Everything that may befall a work, tried: `make hard`. One table; it fails if any campaign does.

    python -m tools.hard                     all, an hour on two quiet cores
    python -m tools.hard --share .05         a twentieth of the tries
    python -m tools.hard --only kills --seed 3

What a row says it tried is done in throw-away folders; nothing else is touched.
"""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from .campaign import Row

CAMPAIGNS = ("kills", "disk", "places", "together", "endurance", "network", "clock", "scripts", "inputs")


def rows(share: float, seed: int, only: str | None = None) -> Iterator[Row]:
    """All campaigns' rows, as they come; each campaign is a file beside this one with `run(share, seed)`."""
    for name in CAMPAIGNS:
        if only in (None, name):
            yield from importlib.import_module(f".{name}", __package__).run(share, seed)


def line(row: Row) -> str:
    """A row as one of a Markdown table."""
    ended = f"**{len(row.failures)} failed**" if row.failures else row.outcome
    ended = f"not tried: {row.skipped}" if row.skipped else ended
    return f"| {row.campaign} | {row.tried} | {row.count:,} | {ended} | {row.seconds:.0f} |"


def main(argv=None) -> int:
    """The command line: 1 where a campaign fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.hard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the tries, above 0 to 1")
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--only", choices=CAMPAIGNS)
    args = parser.parse_args(argv)
    if not 0 < args.share <= 1:
        parser.error(f"--share {args.share:g} is not above 0 and at most 1")
    print(f"share {args.share:g}, seed {args.seed}, process {os.getpid()}\n")
    print("| campaign | what was tried | how many | outcome | s |\n|---|---|---|---|---|", flush=True)
    failures = 0
    for row in rows(args.share, args.seed, args.only):
        print(line(row), flush=True)
        failures += len(row.failures)
        for failure in row.failures:
            print(failure, file=sys.stderr, flush=True)
    print(f"\n{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sys.exit(main())
