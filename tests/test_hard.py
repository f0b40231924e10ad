"""The campaigns of `make hard`: a fast share of them holds, and they see what they are there to see."""

import sys
import time
import types

import numpy as np
import pytest
from hard import __main__ as command
from hard import campaign, clock, disk, endurance, kills, network, scripts, together, works

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills, mounts and limits as Linux has them")
QUICK = {
    "kill": lambda row: kills.killed(works.WORKS["cache writes"], 5, np.random.default_rng(0), row),
    "kill in a fine-tune": lambda row: kills.killed(
        works.WORKS["fine-tune"], 1, np.random.default_rng(1), row
    ),
    "full disk": lambda row: disk.starved(works.WORKS["cache writes"], 3, row),
    "full disk in a fine-tune": lambda row: disk.starved(works.WORKS["fine-tune"], 2, row),
    "two at once": lambda row: together.doubled(works.WORKS["cache writes"], 3, row),
    "clock back": lambda row: clock.stepped(works.WORKS["cache writes"], 2, row),
    "clock back, the command": clock.shown,
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    works.model()


@pytest.mark.parametrize("name", QUICK)
def test_a_share_of_a_campaign_holds(name):
    row = campaign.Row(name, "")
    with campaign.timed(row):
        QUICK[name](row)

    assert not row.failures, "\n".join(row.failures)


@pytest.mark.parametrize("name", ["network", "scripts"])
def test_a_share_of_these_holds_whole(name, monkeypatch):
    monkeypatch.setattr(network, "HUB_CUTS", 0)
    monkeypatch.setattr(network, "part_of", lambda share, count, least=0: round(share * count))
    rows = list({"network": network, "scripts": scripts}[name].run(0.1, 3))

    assert sum(row.count for row in rows) >= 3
    assert not (failures := [line for row in rows for line in row.failures]), "\n".join(failures)


@pytest.mark.slow
def test_a_fiftieth_of_all_campaigns_holds():
    rows = list(command.rows(0.02, 7))

    assert not (failures := [line for row in rows for line in row.failures]), "\n".join(failures)


# what the campaigns see


def half_written(folder):
    (folder / "result").write_text("half")
    time.sleep(0.5)
    (folder / "result").write_text("whole")


def kept(folder):
    if not (folder / "result").exists():
        return {}
    text = (folder / "result").read_text()
    assert text == "whole", text
    return {"result": text}


def test_a_work_that_writes_in_place_is_found_out():
    row = campaign.Row("kill", "")
    kills.killed(works.Work("careless", half_written, kept), 5, np.random.default_rng(0), row)

    assert "left something by halves" in row.failures[0]


def test_a_work_that_overlooks_a_full_disk_is_found_out():
    def careless(folder):
        try:
            (folder / "result").write_bytes(bytes(20_000))
        except OSError:
            pass

    def sized(folder):
        size = (folder / "result").stat().st_size if (folder / "result").exists() else 0
        assert size in (0, 20_000), size
        return {"result": "whole"} if size else {}

    row = campaign.Row("disk", "")
    disk.starved(works.Work("careless", careless, sized), 3, row)

    assert any("something is there by halves" in failure for failure in row.failures)


def test_memory_and_files_that_grow_are_found_out():
    kept = []
    with pytest.raises(RuntimeError, match=r"memory \+\d+.*open files \+6"):
        endurance.level(lambda k: kept.append((bytearray(8 * 2**20), open(__file__))), 11)
    for _, file in kept:
        file.close()


def test_the_table_has_a_row_each_and_the_command_fails_where_one_does(monkeypatch, capsys):
    good = campaign.Row("good", "much", 1000, "held", 1.4)
    bad = campaign.Row("bad", "more", 2, failures=["it broke"])
    skipped = campaign.Row("third", "nothing", skipped="it needs root")
    found = types.SimpleNamespace(run=lambda share, seed: iter([good, bad, skipped]))
    monkeypatch.setattr(command, "CAMPAIGNS", ("one",))
    monkeypatch.setattr(command.importlib, "import_module", lambda name, package: found)

    assert command.main(["--share", "0.5"]) == 1
    out, err = capsys.readouterr()
    assert "| good | much | 1,000 | held | 1 |" in out and "| bad | more | 2 | **1 failed** | 0 |" in out
    assert "| third | nothing | 0 | not tried: it needs root | 0 |" in out and "it broke" in err
    found.run = lambda share, seed: iter([good])
    assert command.main([]) == 0
    with pytest.raises(SystemExit):
        command.main(["--share", "2"])
