"""Measure the canvas: `python -m tools.speed.widgets [--moves 100] [--repeats 5]`; no browser, no model.

What a stroke of the brush costs the kernel, from the browser's message to the words that are sent back, for pictures
of several sizes; the wanted bound for a hundred moves is 100 ms in all. What the browser adds is measured by the
browser tests (`tests/browser/test_picker_browser.py`), which print it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time

import numpy as np

SIZES = ((256, 256), (512, 512), (2048, 1365), (4000, 3000))
BOUND = 0.1  # seconds for a hundred moves
FORTH_AND_BACK = 0.6  # of the canvas' sides


def stroke(picker, moves: int) -> tuple[float, float, float]:
    """Seconds for the press, for all moves, and for the lift, as `time.thread_time` has them."""
    sheet = picker.canvas.widget
    x = np.linspace(0.2, 0.2 + FORTH_AND_BACK, moves + 1) * sheet.width
    y = np.linspace(0.2, 0.2 + FORTH_AND_BACK, moves + 1) * sheet.height
    marks = [time.thread_time()]
    send(picker, "mouse_down", x[0], y[0])
    marks.append(time.thread_time())
    for k in range(1, moves + 1):
        send(picker, "mouse_move", x[k], y[k])
    marks.append(time.thread_time())
    send(picker, "mouse_up", x[-1], y[-1])
    marks.append(time.thread_time())
    return tuple(np.diff(marks).tolist())


def send(picker, kind: str, x: float, y: float) -> None:
    """A message as the browser sends it."""
    picker.canvas.widget[2]._handle_frontend_event(None, {"event": kind, "x": x, "y": y}, [])


@contextlib.contextmanager
def listening():
    """Count what ipycanvas sends; without a page it would be dropped before it is put into words."""
    from ipycanvas.canvas import _CANVAS_MANAGER

    counted = {"messages": 0, "bytes": 0}

    def count(commands, buffers=()):
        counted["messages"] += 1
        counted["bytes"] += len(json.dumps(commands)) + sum(map(len, buffers))

    _CANVAS_MANAGER._send_custom = count  # on the object: its class's own is left as it is
    try:
        yield counted
    finally:
        del _CANVAS_MANAGER._send_custom


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    with listening() as counted:
        measure(args.moves, args.repeats, counted)
    return 0


def measure(moves: int, repeats: int, counted: dict[str, int]) -> None:
    """Write the table."""
    from dragnb.ui import Picker

    out = sys.stdout.write
    out(f"a stroke of {moves} moves, medians of {repeats}; ms of the kernel's time\n")
    out("picture      press  moves   lift  all moves of the bound   bytes sent\n")
    for width, height in SIZES:
        picker = Picker(np.zeros((height, width, 3), np.uint8))
        picker.mode.value = "brush"
        stroke(picker, moves)  # the first one warms up
        before = counted["bytes"]
        costs = [stroke(picker, moves) for _ in range(repeats)]
        press, between, lift = (statistics.median(column) for column in zip(*costs, strict=True))
        part, sent = between / (BOUND * moves / 100), (counted["bytes"] - before) // repeats
        size = f"{width}x{height}"
        out(f"{size:<11}{1e3 * press:7.1f}{1e3 * between:7.1f}{1e3 * lift:7.1f}{part:15.0%}{sent:20,}\n")


if __name__ == "__main__":
    sys.exit(main())
