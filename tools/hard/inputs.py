"""Damaged inputs at every boundary, as a campaign: the cases of `fuzz`."""

from collections.abc import Iterator

from . import fuzz
from .campaign import Row, part_of

CASES = 100_000


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for each boundary."""
    for tally in fuzz.run(part_of(share, CASES, 1000), seed):
        row = Row(
            f"damaged inputs: {tally.boundary}", "bits, cuts, repeats, odd values", tally.read + tally.refused
        )
        row.count, row.seconds, row.failures = row.count + len(tally.failures), tally.seconds, tally.failures
        row.outcome = f"{tally.read:,} read, {tally.refused:,} refused in one line"
        yield row
