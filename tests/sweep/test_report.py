"""The page of a run is notebook 07 on it: it says what was measured, what failed, and stands alone."""

import csv
import sys

import pytest
import sweep_stand_ins as stand

from dragnb import sweep
from dragnb.errors import InputError
from dragnb.metrics import judge
from dragnb.sweep import __main__ as command
from dragnb.sweep import grids, report


def figures(image, task, name, truth, truth_image):
    """A judgement as `judge.Judge` gives it, of made-up numbers; nothing was moved in no edit."""
    still = bool((image == task.image).all())
    mark = 2 * (len(name) + int(name[-1]))
    return dict.fromkeys(judge.METRICS) | {
        **{"md": float(20 + mark if still else 4 + mark), "pairs": 1, "md_pairs": [float(mark)], "m_md": 3.0},
        **{"if": 1.0 if still else 0.9, "rest_psnr": 99.0 if still else 30.0},
    }


@pytest.fixture(scope="module")
def out(smoke, tmp_path_factory):
    """A run with pictures and a failure, and its page."""
    out = tmp_path_factory.mktemp("runs") / "out"
    settings = {"floor": stand.floor, "bright & more": stand.brighter, "flaky": stand.Flaky("/nowhere")}
    samples = [stand.Sample(f"s/{k:02}", "even" if k % 2 == 0 else "odd") for k in range(8)]
    list(sweep.run(samples, settings, out, smoke, figures, keep=True))
    report.report(out)
    return out


def test_the_page_holds_figures_with_intervals_pictures_and_failures(out):
    page = (out / "report.html").read_text()

    for heading in (
        "The plane of distance",
        "What each part is worth",
        "For whom it works",
        "Best and worst",
    ):
        assert heading in page
    assert "8 samples, 24 trials, 1 failed" in page and "test_report.figures" in page
    assert "s/01 / flaky: RuntimeError: no luck today" in page
    assert "bright &amp; more" in page and page.count('src="data:image/png;base64,') == 1 + 1 + 2 + 1, (
        "plane, differences, categories of one setting and of all, pictures"
    )
    assert "score.Judge(" not in page and "Try it" not in page, "no code, no lesson"
    book = (out / "report.ipynb").read_text()
    assert 'href="report.ipynb"' in page and "judge.Judge(" in book and 'sweep_folder = \\".\\"' in book
    assert str(out.parent) not in page + book, "they name no folder of this machine"
    assert "Guess first" not in page and ">The plane of distance" in page, (
        "no question to a class, no chapter"
    )
    assert "{&#39;" not in page and "{&quot;" not in page, "no Python, no JSON"
    assert 'img src="http' not in page and "<link" not in page, "pictures and style are in it"
    rows = list(csv.DictReader((out / "summary.csv").open()))
    (row,) = [r for r in rows if (r["setting"], r["metric"], r["kind"]) == ("floor", "md", "per-image")]
    assert float(row["low"]) < float(row["value"]) < float(row["high"]) and row["n"] == "8"
    assert {r["n"] for r in rows if r["setting"] == "flaky" and r["metric"] == "md"} == {"7"}


def test_a_run_of_drag_files_with_one_setting_and_no_pictures_has_a_page(smoke, tmp_path, capsys):
    for name in ("a1", "b2"):
        stand.Sample(name).task().save(tmp_path / "drags" / name)
    samples, _, told = grids.samples(str(tmp_path / "drags"))
    list(sweep.run(samples, {"floor": stand.floor}, tmp_path / "o", smoke, figures, data=told))

    assert command.main(["report", str(tmp_path / "o"), "--data", str(tmp_path / "drags")]) == 0

    assert capsys.readouterr().out == f"written: {tmp_path / 'o' / 'report.html'}\n"
    assert "a sweep keeps them with --keep" in (tmp_path / "o" / "report.html").read_text()


def test_a_run_scored_by_something_else_is_said_to_have_no_known_figures(smoke, tmp_path):
    list(sweep.run(stand.samples(1), {"floor": stand.floor}, tmp_path / "o", smoke, stand.judge))

    with pytest.raises(InputError, match="score the run by `judge.Judge`"):
        report.report(tmp_path / "o")


def test_a_folder_without_records_is_named(tmp_path, smoke, capsys):
    with pytest.raises(InputError, match="holds no run"):
        report.report(tmp_path)
    list(sweep.run([], {"floor": stand.floor}, tmp_path / "o", smoke))

    assert command.main(["report", str(tmp_path / "o")]) == 2
    assert "has no record yet; run it first" in capsys.readouterr().err


def test_what_is_missing_or_goes_wrong_is_said_with_the_remedy(out, tmp_path, monkeypatch):
    page = (out / "report.html").read_bytes()
    with pytest.raises(InputError, match="07_benchmark.ipynb fails on .*: InputError: .*nowhere"):
        report.report(out, data=str(tmp_path / "nowhere"))
    with monkeypatch.context() as patch:
        patch.setattr(report, "NOTEBOOK", report.Path("nothing.ipynb"))
        with pytest.raises(InputError, match="nothing.ipynb is not there; run it in the repository"):
            report.report(out)
    monkeypatch.setitem(sys.modules, "papermill", None)
    with pytest.raises(InputError, match=r'papermill is not installed; pip install "dragnb\[notebooks\]"'):
        report.report(out)
    assert (out / "report.html").read_bytes() == page, "the page that was there is kept"
