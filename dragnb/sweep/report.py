"""A run of `dragnb.sweep` as a page: `python -m dragnb.sweep.report FOLDER` writes summary.csv and report.html into it.

The page stands alone: every setting's figures with their intervals, settings in the plane of distance and fidelity,
categories, best and worst pictures where the run kept them, and what failed.
"""

from __future__ import annotations

import argparse
import base64
import csv
import html
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dragnb import sweep, viz
from dragnb.errors import InputError
from dragnb.metrics import judge
from dragnb.store import replacing

COLUMNS = ("setting", "metric", "kind", "value", "low", "high", "n")
SHOWN = 3  # how many of the best and of the worst
STYLE = """body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left }
tr:nth-child(even) { background: #f3f3f3 } td { white-space: nowrap } small { color: #555 }
img { max-width: 100% }"""


def write(out: str | os.PathLike) -> Path:
    """Write summary.csv and report.html into a run's folder, return the page; InputError where there is no record."""
    out = Path(out)
    rows = [sweep.row(record) for record in sweep.read(out)]
    if not rows:
        raise InputError(f"{out} has no record yet; run it first")
    summary = judge.summarise(rows)
    with replacing(out / "summary.csv") as temp, open(temp, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(summary)
    parts = [
        _head(out, rows),
        _table(summary),
        _plane(summary),
        _categories(rows),
        _extremes(out, rows),
        _failed(rows),
    ]
    page = "<!doctype html><html lang='en'><meta charset='utf-8'>"
    page += f"<title>{html.escape(out.name)}</title><style>{STYLE}</style>\n" + "\n".join(filter(None, parts))
    with replacing(out / "report.html") as temp:
        temp.write_text(page + "</html>\n", encoding="utf-8")
    return out / "report.html"


def follow(run) -> int:
    """Do a run, `sweep.run(...)`, and show in a notebook how far it is, in one line; how many trials were done."""
    from IPython.display import display

    done, line = 0, display({"text/plain": "beginning"}, raw=True, display_id=True)
    for done, progress in enumerate(run, 1):  # noqa: B007
        line.update({"text/plain": str(progress)}, raw=True)
    line.update({"text/plain": f"{done} trials done now"}, raw=True)
    return done


def of_metric(summary: list[dict], metric: str, kind: str = "per-image") -> dict[str, dict]:
    """The rows of `judge.summarise` that tell one metric, by setting."""
    return {row["setting"]: row for row in summary if (row["metric"], row["kind"]) == (metric, kind)}


def plane_figure(summary: list[dict], x: str = "md", y: str = "if", ax=None):
    """Settings as points with their intervals in the plane of two metrics (DragDiffusion, Fig. 8); None without any."""
    across, up = of_metric(summary, x), of_metric(summary, y)
    points = {
        setting: tuple((row["value"], row["low"], row["high"]) for row in (across[setting], up[setting]))
        for setting in across
        if setting in up
    }
    if not points:
        return None
    return viz.plane(points, _label(x), _label(y), "means over pictures, 95 % intervals", ax)


def _label(metric: str) -> str:
    known = judge.METRICS[metric]
    arrow = {1: ", more is better", -1: ", less is better", 0: ""}[known.better]
    return metric + (f" ({known.unit})" if known.unit else "") + arrow


def _head(out: Path, rows: list[dict]) -> str:
    told = sweep.about(out)
    failed = sum(bool(row["error"]) for row in rows)
    count = f"{len({row['sample'] for row in rows})} samples, {len(rows)} trials, {failed} failed"
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    model = f"model {told['model']['name']} ({told['model']['hash'][:12]})"
    lines = [told["data"], count, model, f"judge {told['judge']}", versions]
    return f"<h1>{html.escape(out.name)}</h1><p><small>{'<br>'.join(html.escape(x) for x in lines if x)}</small></p>"


def _table(summary: list[dict]) -> str:
    """Settings in rows, metrics in columns; a mean and its interval in each cell."""
    heads = list(dict.fromkeys((row["metric"], row["kind"]) for row in summary))
    cells = {(row["setting"], row["metric"], row["kind"]): row for row in summary}
    if not heads:
        return "<p>No figures that a report knows: the run was not scored by `score.Judge`.</p>"

    def cell(setting, head):
        row = cells.get((setting, *head))
        if row is None:
            return "<td>–</td>"
        return f"<td>{row['value']:.3g}<br><small>{row['low']:.3g} … {row['high']:.3g}<br>n {row['n']}</small></td>"

    top = "".join(f"<th>{html.escape(m)}<br><small>{kind}</small></th>" for m, kind in heads)
    lines = [
        f"<tr><td>{html.escape(setting)}</td>{''.join(cell(setting, head) for head in heads)}</tr>"
        for setting in dict.fromkeys(row["setting"] for row in summary)
    ]
    notes = "; ".join(f"{m}: {judge.METRICS[m].meaning}" for m in dict.fromkeys(m for m, _ in heads))
    return (
        f"<h2>Figures</h2><div style='overflow-x:auto'><table><tr><th>setting</th>{top}</tr>{''.join(lines)}</table>"
        f"</div><p><small>{html.escape(notes)}</small></p>"
    )


def _plane(summary: list[dict]) -> str:
    figures = [
        plane_figure(summary, *axes) for axes in (("md", "if"), ("md", "rest_psnr"), ("moved", "truth_psnr"))
    ]
    shown = [_image(viz.png(fig), "settings in the plane of two metrics") for fig in figures if fig]
    return f"<h2>Settings in the plane</h2>{''.join(shown)}" if shown else ""


def _categories(rows: list[dict]) -> str:
    metric = next((m for m in ("moved", "md") if any(isinstance(row.get(m), float) for row in rows)), None)
    categories = sorted({row["category"] for row in rows})
    if metric is None or len(categories) < 2:
        return ""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    found = {(s, c): [] for s in settings for c in categories}
    for row in rows:
        if isinstance(row.get(metric), float):
            found[row["setting"], row["category"]].append(row[metric])
    means = [[np.mean(found[s, c]) if found[s, c] else np.nan for c in categories] for s in settings]
    fig = viz.heat(means, settings, categories, title=f"{metric}, mean by category", label=_label(metric))
    return f"<h2>Categories</h2>{_image(viz.png(fig), f'{metric} by category')}"


def _extremes(out: Path, rows: list[dict]) -> str:
    """The pictures of the samples on which the settings together did best and worst, as far as the run kept them."""
    distances: dict[str, list[float]] = {}
    for row in rows:
        if isinstance(row.get("md"), float):
            distances.setdefault(row["sample"], []).append(row["md"])
    order = sorted(distances, key=lambda sample: np.mean(distances[sample]))
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    parts = []
    for title, samples in (
        ("Smallest distance", order[:SHOWN]),
        ("Largest distance", order[SHOWN:][-SHOWN:][::-1]),
    ):
        for sample in samples:
            paths = {name: sweep.picture_path(out, sample, name) for name in settings}
            kept = {name: np.array(Image.open(path)) for name, path in paths.items() if path.is_file()}
            if kept:
                fig = viz.pictures(
                    kept.values(), kept.keys(), columns=5, size=2.0, suptitle=f"{title}: {sample}"
                )
                parts.append(_image(viz.png(fig), f"{sample} under each setting"))
    return f"<h2>Best and worst</h2>{''.join(parts)}" if parts else ""


def _failed(rows: list[dict]) -> str:
    lines = [f"{row['sample']} / {row['setting']}: {row['error']}" for row in rows if row["error"]]
    return f"<h2>Failed</h2><ul>{''.join(f'<li>{html.escape(x)}</li>' for x in lines)}</ul>" if lines else ""


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f"<p><img alt='{html.escape(alt, quote=True)}' src='data:image/png;base64,{data}'></p>"


def main(argv=None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m dragnb.sweep.report", description="A run's figures as a page."
    )
    p.add_argument("out", help="the run's folder")
    try:
        sys.stdout.write(f"written: {write(p.parse_args(argv).out)}\n")
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
