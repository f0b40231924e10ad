"""`make app` ends the kernels of closed pages, and none that is at work."""

import contextlib
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"
QUIET, LONG = 4, 14  # seconds after which a kernel is ended, and that a run takes
WORK = """import threading, time
def run():
    for k in range({steps}):
        time.sleep(0.5)
        print(k, flush=True)
    open({done!r}, "w").close()
threading.Thread(target=run).start()"""


def options() -> list[str]:
    """What the Makefile gives voila to end idle kernels."""
    text = MAKEFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.search(r"^CULL := (.*)$", text, re.M)[1].split()


def test_the_app_is_started_with_bounds():
    text = MAKEFILE.read_text(encoding="utf-8")
    named = dict(option.removeprefix("--MappingKernelManager.").split("=") for option in options())

    assert re.search(r"-m voila .*\$\(CULL\)", text) and "websocket_max_message_size" in text
    assert named == {
        "cull_idle_timeout": "600",
        "cull_interval": "60",
        "cull_connected": "False",
        "cull_busy": "False",
    }


@pytest.mark.slow
def test_kernels_of_closed_pages_are_ended_but_not_one_whose_run_goes_on(tmp_path):
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, source in (("idle", "1"), ("busy", WORK.format(steps=2 * LONG, done=str(tmp_path / "done")))):
        book = new_notebook(cells=[new_code_cell(source)], metadata={"kernelspec": kernelspec})
        nbformat.write(book, tmp_path / f"{name}.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    short = [re.sub("=600$", f"={QUIET}", re.sub("=60$", "=1", option)) for option in options()]
    command = [sys.executable, "-m", "voila", str(tmp_path), "--no-browser", f"--port={port}", *short]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for name in ("idle", "idle", "busy"):
                _page(f"http://127.0.0.1:{port}/voila/render/{name}.ipynb")
            assert _until(lambda: len(_kernels(server)) == 1, QUIET * 4), (
                "two pages were closed, two kernels go"
            )
            assert not (tmp_path / "done").exists(), "and the run was still at work then"
            assert _until((tmp_path / "done").exists, LONG * 2), "which comes to its end"
            assert _until(lambda: not _kernels(server), QUIET * 4), "and then goes too"
        finally:
            left = _kernels(server)
            server.kill()
            for kernel in left:
                kernel.kill()


def _page(url: str) -> None:
    def there() -> bool:
        try:
            return urllib.request.urlopen(url, timeout=60).status == 200
        except OSError:
            return False

    assert _until(there, 60)


def _until(true, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.3)
    return True


def _kernels(server) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            if "ipykernel" in " ".join(process.cmdline()):
                found.append(process)
    return found
