"""The small table of a run that is committed: a csv of figures, and a json beside it that says where they come from."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
from pathlib import Path

from dragnb.errors import InputError
from dragnb.store import replacing
from dragnb.sweep.records import about, read

DIGITS = 5  # significant ones: far below any difference that means something


def export(out: str | os.PathLike, path: str | os.PathLike) -> tuple[Path, Path]:
    """Write `path` (.csv: sample, category, setting, figures, seconds) and its .json of provenance; gives both paths.

    Rows are sorted by sample and setting, numbers rounded to DIGITS, trials that failed left out and named in the json.
    Two runs of the same figures give the same csv but for its seconds. InputError where the run has no records.
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise InputError(f"{path}: the table's name must end in .csv")
    records = sorted(read(out), key=lambda record: (record["sample"], record["setting"]))
    rows = [_row(record) for record in records if not record["error"]]
    if not rows:
        raise InputError(f"{out} has no record without an error; run it first")
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temp, open(temp, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    beside = path.with_suffix(".json")
    with replacing(beside) as temp:
        text = json.dumps(_provenance(out, records, rows), indent=1, ensure_ascii=False)
        temp.write_text(text + "\n", encoding="utf-8")
    return path, beside


def _row(record: dict) -> dict:
    figures = record["metrics"] | record["drag"] | {"seconds": record["measured"].get("seconds")}
    head = {name: record[name] for name in ("sample", "category", "setting")}
    return head | {name: _cell(value) for name, value in figures.items()}


def _cell(value):
    if isinstance(value, list):
        return " ".join(str(_cell(v)) for v in value)
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _provenance(out, records: list[dict], rows: list[dict]) -> dict:
    digests = sorted({(r["sample"], r["sample_digest"]) for r in records if r["sample_digest"]})
    return about(out) | {
        "samples": len({row["sample"] for row in rows}),
        "samples_digest": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        "trials": len(rows),
        "failed": {f"{r['sample']} / {r['setting']}": r["error"] for r in records if r["error"]},
        "hours": round(sum(row["seconds"] or 0 for row in rows) / 3600, 2),
        "devices": sorted({r["measured"]["device"] for r in records if "device" in r["measured"]}),
        "threads": sorted({r["measured"]["threads"] for r in records if "threads" in r["measured"]}),
        "processor": processor(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor by its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
