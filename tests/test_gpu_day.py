"""The script for whoever has a card: it runs here at toy size, resumes, keeps to its time, and ends with one table."""

import json
import sys

import pytest

from tools import gpu_day


def test_a_step_runs_in_a_process_of_its_own_and_is_not_repeated(tmp_path, capsys):
    words = ["--toy", "--only", "sd15-512", "--out", str(tmp_path)]
    assert gpu_day.main(words) == 0
    record = json.loads((tmp_path / "sd15-512.json").read_text())
    assert record["ok"] and record["toy"] and record["second drag s"] > 0 and "reference" in record["kept"]
    assert "| sd15-512 | ok (toy) |" in (tmp_path / "gpu_day.md").read_text()
    assert "| notebooks | not run |" in (tmp_path / "gpu_day.md").read_text()

    capsys.readouterr()
    assert gpu_day.main(words) == 0
    assert "sd15-512: done before" in capsys.readouterr().out


def test_what_fails_or_takes_too_long_is_a_row_and_the_next_step_is_told_its_time(
    tmp_path, monkeypatch, capsys
):
    script = tmp_path / "step.py"
    script.write_text(
        "import sys, time\ntime.sleep(600 * ('compile' in sys.argv))\nraise ValueError('no card')"
    )
    monkeypatch.setattr(gpu_day, "COMMAND", [sys.executable, str(script)])
    out = tmp_path / "out"
    assert gpu_day.main(["--only", "compare", "--out", str(out)]) == 1
    words = ["--only", "compile", "notebooks", "--seconds", "1", "--least", ".5", "--out", str(out)]
    assert gpu_day.main(words) == 1

    steps = json.loads((out / "gpu_day.json").read_text())["steps"]
    assert steps["compare"]["error"] == "ValueError: no card" and not steps["compare"]["ok"]
    assert steps["compile"]["error"] == "stopped after 1 s" and steps["notebooks"] == {}
    assert "notebooks: left out, 0 s are left" in capsys.readouterr().out


def test_a_file_that_is_not_its_own_stays(tmp_path):
    (tmp_path / "gpu_day.md").write_text("mine")
    with pytest.raises(gpu_day.dragnb.errors.InputError, match="gpu_day.md is there already"):
        gpu_day.main(["--only", "compile", "--seconds", "0", "--out", str(tmp_path)])
    assert (tmp_path / "gpu_day.md").read_text() == "mine"


def test_every_word_of_the_golden_bound_is_a_step():
    assert [f"edit-{dtype}" for dtype in ("fp16", "bf16", "fp32")] == list(gpu_day.STEPS)[:3]
    assert set(gpu_day.LEAST_DB) == {"fp16", "bf16", "fp32"}
