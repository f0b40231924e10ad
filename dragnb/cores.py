"""How many threads the arithmetic gets where a container may use fewer cores than it sees."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # Linux, cgroup 2: "200000 100000" is two cores, "max 100000" no limit
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def allowed(quota: Path = QUOTA) -> int | None:
    """Whole cores that the container's quota is worth, at least one; None where there is no quota."""
    try:
        share, period = quota.read_text().split()
        return max(1, math.ceil(int(share) / int(period)))
    except (OSError, ValueError):
        return None


def fit_threads(quota: Path = QUOTA) -> int:
    """Lower torch's threads to the quota, unless the environment chose them; returns how many there are now.

    torch counts the machine's cores. In a container with a share of them its threads wait for each other: more of
    them than the quota pays for make every product slower.
    """
    limit = allowed(quota)
    if limit is not None and limit < torch.get_num_threads() and not any(map(os.environ.get, CHOSEN_BY)):
        torch.set_num_threads(limit)
    return torch.get_num_threads()
