"""Damaged inputs at every boundary are read or refused by one line; the seed is printed where one is not."""

import os

import pytest
from hard import fuzz

SEED = int(os.environ.get("DRAGNB_FUZZ_SEED", 12))


@pytest.mark.parametrize("boundary", fuzz.BOUNDARIES)
def test_a_damaged_input_is_read_or_is_one_input_error(boundary):
    (tally,) = fuzz.run(500, SEED, boundary)

    assert not tally.failures, "\n".join(tally.failures)
    assert tally.refused, "the damage reaches the boundary"


@pytest.mark.slow
def test_a_hundred_thousand_damaged_inputs_are_read_or_refused():
    tallies = list(fuzz.run(100_000, SEED))

    assert not (failures := [line for tally in tallies for line in tally.failures]), "\n".join(failures[:50])


def test_the_same_seed_gives_the_same_cases():
    one, other = (next(fuzz.run(100, 3, "picture")) for _ in range(2))

    assert (one.read, one.refused) == (other.read, other.refused) and one.read and one.refused
