"""What all campaigns share: the row each gives, and works done in a process of their own that may be killed."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

FORK = multiprocessing.get_context("fork")
PATIENCE = 600.0  # seconds that no work may take
GONE = 15.0  # seconds in which helpers of a killed process end by themselves


@dataclass
class Row:
    """A row of the table: what was tried, how often, what came of it. A campaign fails where `failures` is not empty.

    outcome  in words, what held; skipped: why it was not tried
    """

    campaign: str
    tried: str
    count: int = 0
    outcome: str = ""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    skipped: str = ""

    def expect(self, holds: bool, otherwise: str) -> bool:
        """Note a failure where something does not hold; gives what was asked."""
        if not holds:
            self.failures.append(otherwise)
        return holds


@contextlib.contextmanager
def timed(row: Row) -> Iterator[Row]:
    """Take the time of a campaign; what it throws is one more failure, so that the others are still tried."""
    began = time.monotonic()
    try:
        yield row
    except Exception:
        row.failures.append(traceback.format_exc())
    row.seconds = time.monotonic() - began


class Child:
    """Work in a forked process, a session of its own, whose output goes to a file beside its folder.

    Where this process is warm (libraries imported, model loaded), it begins at once.
    """

    def __init__(self, work: Callable, *args, log: Path):
        self.log = log
        self.process = FORK.Process(target=self._run, args=(work, *args))
        self.process.start()

    def _run(self, work, *args) -> None:
        os.setsid()
        out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        try:
            torch.set_num_threads(1)  # the threads of the process that this one was forked of are not here
            work(*args)
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
            os._exit(1)
        os._exit(0)

    def kill_after(self, seconds: float) -> bool:
        """Kill it (-9) after so many seconds; False where it had ended by then."""
        self.process.join(seconds)
        alive = self.process.exitcode is None
        self.process.kill()
        self.process.join()
        return alive

    def end(self) -> str:
        """Wait for its end: "" where all was well, else the last line of what it said, or how it ended."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.kill_group()
            return f"it took over {PATIENCE:.0f} s"
        if self.process.exitcode == 0:
            return ""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if self.process.exitcode > 0 and lines else f"exit status {self.process.exitcode}"

    def left_behind(self) -> list[str]:
        """Processes that it began and that do not end by themselves; they are ended here."""
        end = time.monotonic() + GONE
        while (found := self.group()) and time.monotonic() < end:
            time.sleep(0.1)
        names = [f"{process.pid} {' '.join(process.cmdline()[:4])}" for process in found]
        self.kill_group()
        return names

    def group(self) -> list[psutil.Process]:
        """The processes that it began, and theirs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                mine = os.getsid(process.pid) == self.process.pid and process.pid != self.process.pid
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill_group(self) -> None:
        for process in self.group():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.process.kill()
        self.process.join()


def part_of(share: float, count: int, least: int = 1) -> int:
    """How many of `count` tries a share of a campaign is; at least `least`."""
    return max(least, round(count * share))
