"""Two whole edits of the bundled model give the pictures that they gave before: a change of the code that should not
change numbers does not. After one that should, or new weights: `python -m tests.test_golden --write`, and say so.
"""

import platform
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dragnb
from dragnb.store import Store
from tools.gpu_day import GOLDEN, GOLDEN_SETTINGS

TASKS = {"rabbit": (810_001, "rabbit", "stretch", 1), "cat": (810_004, "cat", "turn", 3)}
ELSEWHERE = (
    1.0  # grey levels of 255 in the mean: another processor rounds differently, and 80 steps multiply it
)


def edited(name, folder):
    """The picture of an edit by the paper's method on one thread, as a card's is compared with it, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        task = dragnb.clay.task(*TASKS[name]).task
        model = dragnb.load_model("clay", device="cpu")
        return dragnb.edit(task, model, GOLDEN_SETTINGS, store=Store(folder)).image
    finally:
        torch.set_num_threads(threads)


def processor():
    """What decides the last bits: torch, and what it may ask of which processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = [line for line in lines if line.startswith(("model name", "CPU part"))][:1]
    return f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {platform.machine()} {model}"


@pytest.mark.parametrize("name", TASKS)
def test_an_edit_gives_the_picture_that_it_gave_before(name, tmp_path):
    with np.load(GOLDEN) as golden:
        before, where = golden[name], str(golden["processor"])
    after = edited(name, tmp_path)

    if where == processor():
        np.testing.assert_array_equal(after, before)
    assert np.abs(after.astype(int) - before).mean() <= ELSEWHERE


if __name__ == "__main__" and "--write" in sys.argv:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pictures = {name: edited(name, folder) for name in TASKS}
    np.savez_compressed(GOLDEN, processor=processor(), **pictures)
