"""The page of a run says what was measured, what failed, and stands alone."""

import csv

import pytest
import sweep_stand_ins as stand

from dragnb import sweep
from dragnb.errors import InputError
from dragnb.metrics import judge
from dragnb.sweep import report


def figures(image, task, name, truth, truth_image):
    """A judgement as `score.Judge` gives it, of made-up numbers; nothing was moved in no edit."""
    still = bool((image == task.image).all())
    mark = 2 * (len(name) + int(name[-1]))
    return dict.fromkeys(judge.METRICS) | {
        **{"md": float(20 + mark if still else 4 + mark), "pairs": 1, "md_pairs": [float(mark)], "m_md": 3.0},
        **{"if": 1.0 if still else 0.9, "rest_psnr": 99.0 if still else 30.0},
    }


@pytest.fixture
def out(smoke, tmp_path):
    settings = {"floor": stand.floor, "bright & more": stand.brighter, "flaky": stand.Flaky("/nowhere")}
    samples = [stand.Sample(f"s/{k:02}", "even" if k % 2 == 0 else "odd") for k in range(8)]
    list(sweep.run(samples, settings, tmp_path / "out", smoke, figures, keep=True))
    return tmp_path / "out"


def test_the_page_holds_figures_with_intervals_pictures_and_failures(out):
    page = report.write(out).read_text()

    for heading in ("Figures", "Settings in the plane", "Categories", "Best and worst", "Failed"):
        assert f"<h2>{heading}</h2>" in page
    assert "8 samples, 24 trials, 1 failed" in page and "judge test_report.figures" in page
    assert "s/01 / flaky: RuntimeError: no luck today" in page
    assert "bright &amp; more" in page and page.count("data:image/png;base64,") == 2 + 1 + 6, (
        "planes, categories, pictures"
    )
    assert "http" not in page and str(out.parent) not in page, "it needs and names nothing else"
    rows = list(csv.DictReader((out / "summary.csv").open()))
    (row,) = [r for r in rows if (r["setting"], r["metric"], r["kind"]) == ("floor", "md", "per-image")]
    assert float(row["low"]) < float(row["value"]) < float(row["high"]) and row["n"] == "8"
    assert {r["n"] for r in rows if r["setting"] == "flaky" and r["metric"] == "md"} == {"7"}


def test_a_run_is_followed_in_one_line(smoke, tmp_path, monkeypatch):
    lines = []

    class Line:
        def update(self, data, raw):
            lines.append(data["text/plain"])

    monkeypatch.setattr("IPython.display.display", lambda *_, **__: Line())
    run = lambda: sweep.run(stand.samples(2), {"floor": stand.floor}, tmp_path / "run", smoke)  # noqa: E731

    assert report.follow(run()) == 2
    assert lines[0].startswith("1 of 2, 0:00:00") and lines[-1] == "2 trials done now"
    assert report.follow(run()) == 0 and lines[-1] == "0 trials done now", "what is done stays done"


def test_a_run_scored_by_something_else_is_said_to_have_no_known_figures(smoke, tmp_path):
    list(sweep.run(stand.samples(1), {"floor": stand.floor}, tmp_path / "o", smoke, stand.judge))

    assert "the run was not scored by `score.Judge`" in report.write(tmp_path / "o").read_text()


def test_a_folder_without_records_is_named(tmp_path, smoke, capsys):
    with pytest.raises(InputError, match="holds no run"):
        report.write(tmp_path)
    list(sweep.run([], {"floor": stand.floor}, tmp_path / "o", smoke))

    assert report.main([str(tmp_path / "o")]) == 2
    assert "has no record yet; run it first" in capsys.readouterr().err
