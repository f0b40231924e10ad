"""Homes and caches that cannot be written or are not there: an edit is made all the same, in a process of its own.

python -m tools.hard.places FOLDER    one edit, its exports and a figure into FOLDER: what is tried
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .campaign import Row, timed
from .disk import mounts

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("HOME", "XDG_CACHE_HOME", "DRAGNB_CACHE", "MPLCONFIGDIR", "HF_HOME", "USER", "LOGNAME")
# name: what the shell does first, in a world of mounts of its own; {ro} is a folder that nobody can write
PLACES = {
    "read-only home": "export HOME={ro}; ",
    "read-only cache": "export DRAGNB_CACHE={ro}/cache; ",
    "no HOME": "",
    "no HOME, no passwd entry": "mount --bind /dev/null /etc/passwd && ",
}


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for each place."""
    done = None
    for name, before in list(PLACES.items())[: max(1, round(len(PLACES) * min(1, share * 10)))]:
        row = Row(name, "an edit with exports and a figure, in a new process")
        if not mounts() or not shutil.which("unshare"):
            row.skipped = "it needs root and unshare"
        else:
            with timed(row):
                found = tried(before, row)
                done = done or found
                row.expect(found == done, f"{name}: other bits")
                row.count, row.outcome = 1, "done, the same bits"
        yield row


def tried(before: str, row: Row) -> str:
    """The digest that the edit printed; a failure where it ended otherwise, or with a traceback."""
    with tempfile.TemporaryDirectory() as place:
        read_only, out = (Path(place) / name for name in ("ro", "out"))
        for folder in (read_only, out):
            folder.mkdir()
        mount = f"mount -t tmpfs tmpfs {read_only} && mount -o remount,ro {read_only} && "
        python = f"exec {sys.executable} -m tools.hard.places {out}"
        script = mount + before.format(ro=read_only) + python
        env = {name: text for name, text in os.environ.items() if name not in VARIABLES}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
        command = ["unshare", "-m", "sh", "-c", script]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        fine = done.returncode == 0 and "Traceback" not in done.stderr
        row.expect(fine, f"{row.campaign}: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def main(folder: Path) -> None:
    """An edit with the cache where the package puts it, its exports, a figure; prints a digest of the picture."""
    from dragnb import pipeline, viz
    from dragnb.store import __main__ as command
    from dragnb.ui import export

    from . import works

    result = pipeline.edit(works.task(), works.model(), works.SETTINGS)
    result.task.save(folder / "drag")
    export.save_png(folder / "after.png", result)
    viz.save(viz.task_figure(result.task), folder, "figure")
    command.main([])
    print(works.digest(result.image))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
