"""Threads follow a container's quota, downwards only, and never against the environment."""

import pytest
import torch

from dragnb import cores


@pytest.fixture
def four(monkeypatch):
    """torch has four threads, and the environment says nothing."""
    for name in cores.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    chosen = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)


@pytest.mark.parametrize(
    ("said", "threads"),
    [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("800000 100000", 4), ("max 100000", 4)],
)
def test_a_quota_lowers_the_threads(four, tmp_path, said, threads):
    (tmp_path / "cpu.max").write_text(said + "\n")
    assert cores.fit_threads(tmp_path / "cpu.max") == threads


def test_no_quota_and_a_choice_of_ones_own_leave_them_alone(four, tmp_path, monkeypatch):
    assert cores.fit_threads(tmp_path / "missing") == 4
    (tmp_path / "cpu.max").write_text("100000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert cores.fit_threads(tmp_path / "cpu.max") == 4
