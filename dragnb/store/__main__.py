"""Show the stage cache and empty it: `python -m dragnb.store`, `python -m dragnb.store empty [KIND ...]`.

    python -m dragnb.store                     where it lies, what it takes, what it may take
    python -m dragnb.store empty               remove all that can be made again
    python -m dragnb.store empty finetune      of these kinds alone
    python -m dragnb.store empty --days 30     what was not used for so long

What is being read stays, and so does every file that the cache did not write. LPIPS's weights, which were fetched, go
only where their kind is named: `empty lpips`.
"""

import argparse
import sys
from itertools import groupby
from pathlib import Path

from dragnb.errors import InputError
from dragnb.store import VARIABLE, cache_dir, limit


def main(argv=None) -> int:
    """The command line: 0, or 2 where what was asked for cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m dragnb.store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", type=Path, help=f"the cache's folder; default: ${VARIABLE}, else the user's"
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("show", help="the default")
    empty = commands.add_parser("empty", help="remove entries")
    empty.add_argument("kinds", nargs="*", metavar="KIND", help="stages, as `show` lists them; default: all")
    empty.add_argument("--days", type=float, default=0, help="only what was not used for so many days")
    args = parser.parse_args(argv)
    root = args.root or cache_dir()
    try:
        lines = _emptied(root, args.kinds, args.days) if args.command == "empty" else _shown(root)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _own(root: Path) -> list[limit.Entry]:
    return [entry for entry in limit.entries(root) if limit.is_entry(entry.path)]


def _shown(root: Path) -> list[str]:
    own = sorted(_own(root), key=lambda entry: entry.kind)
    total = limit.text_of(sum(entry.size for entry in own))
    lines = [f"{root}: {total} of {limit.text_of(limit.allowed())} (${limit.VARIABLE})"]
    for kind, group in groupby(own, key=lambda entry: entry.kind):
        of = list(group)
        days = max(entry.age for entry in of) / 86400
        size = limit.text_of(sum(entry.size for entry in of))
        lines.append(f"{kind:<12} {len(of):>6} entries {size:>10}   the oldest last used {days:.0f} days ago")
    return lines


def _emptied(root: Path, kinds: list[str], days: float) -> list[str]:
    own = _own(root)
    if unknown := sorted(set(kinds) - {entry.kind for entry in own}):
        raise InputError(f"{unknown[0]}: no such kind is in {root}; `show` lists them")
    going = [e for e in own if e.kind in kinds or (not kinds and e.kind not in limit.KEPT)]
    gone = [entry for entry in going if entry.age >= days * 86400 and limit.remove(entry)]
    return [f"{root}: {len(gone)} entries removed, {limit.text_of(sum(entry.size for entry in gone))}"]


if __name__ == "__main__":
    sys.exit(main())
