"""A run survives everything: kills, failures, vanished workers, full disks, other versions; and its numbers hang on
nothing but sample, setting, model and score."""

import contextlib
import errno
import json
import multiprocessing
import multiprocessing.pool
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import sweep_stand_ins as stand
from PIL import Image

import dragnb
from dragnb import config, store, sweep
from dragnb.errors import InputError
from dragnb.metrics import judge
from dragnb.sweep import __main__ as command
from dragnb.sweep import grids, records, trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and limits processes as Linux has it")
FAST = {"floor": stand.floor, "brighter": stand.brighter}
KILLS = 30


@pytest.fixture
def go(smoke, tmp_path):
    """Run to the end with the stand-ins; gives what was yielded."""

    def go(samples, settings=FAST, out=tmp_path / "out", score=stand.judge, model=smoke, **options):
        return list(sweep.run(samples, settings, out, model, score, **options))

    go.out = tmp_path / "out"
    return go


def facts(out):
    return {records.key_of(record): sweep.facts(record) for record in sweep.read(out)}


def files_of(out):
    """The content of every record by its file; each must be whole."""
    found = {path: path.read_bytes() for path in (out / "records").rglob("*.json")}
    for content in found.values():
        assert records.key_of(json.loads(content)) and content.endswith(b"}\n")
    return found


def forked(work, *args):
    """A child process that begins where this one is, models loaded; much faster than a new one."""
    context = multiprocessing.get_context("fork")
    child = context.Process(target=work, args=args)
    child.start()
    return child


# what a record is


def test_a_run_gives_one_record_a_sample_and_setting_and_tells_how_far_it_is(go):
    seen = go(stand.samples(3), keep=True, data="noise")

    assert [p.done for p in seen] == list(range(1, 7)) and {p.total for p in seen} == {6}
    assert seen[-1].left == 0 and seen[0].left > 0
    told = replace(seen[-1], seconds=3725.4, left=59.6)
    assert str(told) == "6 of 6, 1:02:05, 0:01:00 left: s/02 / brighter"
    record = sweep.read(go.out)[0]
    assert (record["sample"], record["category"], record["setting"]) == ("s/00", "noise", "floor")
    assert record["metrics"].keys() == {"mark", "mean", "none"} and record["error"] is None
    assert record["versions"]["torch"] and len(record["model"]) == 64 and len(record["sample_digest"]) == 16
    assert record["judge"] == "sweep_stand_ins.judge"
    assert record["measured"]["peak_mib"] > 50 and record["measured"]["timings"].keys() == {"score"}
    kept = Image.open(sweep.picture_path(go.out, "s/01", "floor"))
    assert (np.array(kept) == stand.Sample("s/01").task().image).all()
    assert sweep.about(go.out)["data"] == "noise"
    assert not (go.out / "work").exists() and not (go.out / "holder.json").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_sample_knows_of_its_outcome_reaches_the_score(go, smoke_folder, jobs):
    samples = [stand.Known("s/00"), stand.Known("s/01"), stand.Sample("s/02")]

    go(samples, model=str(smoke_folder), score=stand.judge_by_truth, jobs=jobs)

    found = {key: record["metrics"] for key, record in facts(go.out).items()}
    bright = float(samples[1].truth_image.mean())
    assert found["s/01", "brighter"] == {"mean": bright, "of": 4, "right": True}
    assert found["s/01", "floor"]["mean"] < bright and not found["s/00", "floor"]["right"]
    assert found["s/02", "floor"] == found["s/02", "brighter"] == {}


def test_settings_that_share_a_fine_tune_have_one_and_the_cache_goes_with_the_sample(go, quick):
    settings = {"a": quick, "other": quick.replace(lora_lr=1e-3), "b": quick.replace(lam=0.5)}

    done = [p.record for p in go(stand.samples(1), settings)]

    assert [r["setting"] for r in done] == ["a", "b", "other"], "those that share follow each other"
    cached = {r["setting"]: set(r["measured"]["from_cache"]) for r in done}
    assert cached["b"] >= {"encode", "finetune", "invert"} and "finetune" not in cached["a"] | cached["other"]
    assert {"finetune", "drag", "score"} <= done[0]["measured"]["timings"].keys()
    assert done[0]["drag"].keys() == {"steps", "reached", "tracker_px", "loss"}
    assert not (go.out / "work").exists()


def test_each_length_of_fine_tune_is_made_anew_and_no_figure_hangs_on_its_neighbours(go, quick, tmp_path):
    settings = {f"{n} steps": quick.replace(lora_steps=n, lora_stop=0) for n in (2, 0, 3, 1)}
    done = [p.record for p in go(stand.samples(1), settings)]
    assert [r["setting"] for r in done] == ["2 steps", "0 steps", "3 steps", "1 steps"]
    assert not any("finetune" in r["measured"]["from_cache"] for r in done)

    for name in settings:
        go(stand.samples(1), {name: settings[name]}, out=tmp_path / "alone" / name)
    alone = {k: fact for name in settings for k, fact in facts(tmp_path / "alone" / name).items()}
    assert alone == facts(go.out)


def test_the_seed_comes_from_the_samples_name(quick):
    assert sweep.seed_of(quick, "a") == sweep.seed_of(quick.replace(lam=9), "a") != sweep.seed_of(quick, "b")
    assert sweep.seed_of(quick, "a") != sweep.seed_of(quick.replace(seed=1), "a")


def test_the_table_is_flat_and_sorted(go):
    go(stand.samples(2)[::-1])

    found = sweep.table(go.out)

    assert (
        list(found["sample"]) == ["s/00", "s/00", "s/01", "s/01"] and "mark" in found and "seconds" in found
    )


# the same bits


@pytest.fixture(scope="module")
def plain(smoke_folder, quick, tmp_path_factory):
    """Two samples under real edits, in one process: (settings, facts)."""
    settings = {"a": quick, "b": quick.replace(lam=0.5), "floor": stand.floor}
    out = tmp_path_factory.mktemp("plain")
    list(sweep.run(stand.samples(2), settings, out, str(smoke_folder), stand.judge))
    return settings, facts(out)


def test_the_order_of_samples_and_settings_changes_no_bit(plain, smoke_folder, go):
    settings, wanted = plain

    go(stand.samples(2)[::-1], dict(reversed(settings.items())), model=str(smoke_folder))

    assert facts(go.out) == wanted


def test_a_run_that_was_broken_off_gives_the_same_bits(plain, smoke_folder, go):
    settings, wanted = plain
    with contextlib.closing(
        sweep.run(stand.samples(2), settings, go.out, str(smoke_folder), stand.judge)
    ) as events:
        next(events), next(events)

    assert len(go(stand.samples(2), settings, model=str(smoke_folder))) == len(wanted) - 2
    assert facts(go.out) == wanted


def test_two_processes_give_the_same_bits(plain, smoke_folder, go):
    settings, wanted = plain

    go(stand.samples(2), settings, model=str(smoke_folder), jobs=2, keep=True)

    assert facts(go.out) == wanted
    assert sweep.picture_path(go.out, "s/01", "a").exists()


# killed


def killed_run(smoke, out, log):
    settings = {"floor": stand.floor, "logged": stand.Logged(str(log))}
    for _ in sweep.run(stand.samples(20), settings, out, smoke, stand.judge):
        pass


def test_thirty_kills_lose_at_most_the_trial_in_work_and_never_leave_half_a_record(smoke, tmp_path):
    began = time.monotonic()
    forked(killed_run, smoke, tmp_path / "whole", tmp_path / "log").join()
    takes, rng, kills, outs = time.monotonic() - began, random.Random(0), 0, []
    while kills < KILLS:
        outs.append(tmp_path / f"out{len(outs)}")
        log, before, here = tmp_path / f"log{len(outs)}", {}, 0
        while kills < KILLS:
            child = forked(killed_run, smoke, outs[-1], log)
            child.join(rng.uniform(0, takes / 2))
            child.kill()
            child.join()
            if child.exitcode == 0:
                break
            kills, here = kills + 1, here + 1
            now = files_of(outs[-1])
            assert before.items() <= now.items(), "what was on record stays, to the byte"
            worked = log.stat().st_size if log.exists() else 0
            assert worked - sum(path.stem == "logged" for path in now) <= here, "a trial a kill, at most"
            before = now
    killed_run(smoke, outs[-1], log)

    wanted = facts(tmp_path / "whole")
    assert len(wanted) == 40 and all(facts(out) == wanted for out in outs)
    assert not [path for out in outs for path in out.rglob("*.tmp")], "what a kill left of a file is gone"


def test_a_record_that_was_damaged_later_is_named_and_done_again_and_the_others_stay(go):
    go(stand.samples(2))
    wanted, whole = facts(go.out), files_of(go.out)
    path = go.out / "records" / "s/00" / "floor.json"
    for damage in (b"", whole[path][:200], whole[path.with_name("brighter.json")], b"[]", b"\xff"):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=r"records/s/00/floor.json are no .*what they held is left out"):
            assert len(sweep.read(go.out)) == 3

        with pytest.warns(UserWarning, match="what they held is done again"):
            assert len(go(stand.samples(2))) == 1

        assert facts(go.out) == wanted
    now = files_of(go.out)
    assert all(now[other] == content for other, content in whole.items() if other != path)


@pytest.mark.slow
def test_a_run_of_several_processes_that_is_killed_leaves_no_process_and_goes_on(smoke_folder, tmp_path, go):
    waits = {"floor": stand.floor, "waits": stand.Waiting(str(tmp_path))}

    def run():
        list(sweep.run(stand.samples(4), waits, go.out, str(smoke_folder), stand.judge, jobs=2))

    parent = multiprocessing.get_context("fork").Process(target=run)
    parent.start()
    workers = wait_for(lambda: len(found := list(tmp_path.glob("began-*"))) == 2 and found)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()

    wait_for(lambda: not any(alive(int(path.name.split("-")[1])) for path in workers))
    (tmp_path / "go").touch()
    assert len(sweep.read(go.out)) == 2
    assert len(go(stand.samples(4), waits)) == 6


def wait_for(condition, seconds=150):
    """The first true value of the condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail("it did not come about in time")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# vanished workers


def test_a_vanished_worker_costs_one_trial_and_only_if_it_vanishes_twice(smoke_folder, tmp_path, go):
    deadly = stand.Deadly("s/01", "s/02", str(tmp_path))

    go(
        stand.samples(4),
        {"floor": stand.floor, "deadly": deadly, "b": stand.brighter},
        model=str(smoke_folder),
        jobs=2,
    )

    records = sweep.read(go.out)
    assert len(records) == 12
    (lost,) = [record for record in records if record["error"]]
    assert (lost["sample"], lost["setting"]) == ("s/01", "deadly")
    assert lost["error"] == "Vanished: the worker was lost 2 times; out of memory is the likely reason"


def test_workers_that_cannot_start_end_the_run_with_a_reason(smoke_folder, go, monkeypatch, capfd):
    def here_only(sample, model, store):
        pass

    here_only.__module__, here_only.__qualname__ = "__main__", "here_only"
    monkeypatch.setattr(sys.modules["__main__"], "here_only", here_only, raising=False)

    with pytest.raises(
        InputError, match="workers cannot start; is there memory for so many.*defined in modules"
    ):
        go(stand.samples(1), {"here": here_only}, model=str(smoke_folder), jobs=2)
    assert multiprocessing.active_children() == []


def test_what_cannot_travel_is_refused_before_anything_runs(smoke_folder, smoke, go):
    with pytest.raises(InputError, match="local cannot go to another process .*; define it in a module"):
        go(stand.samples(2), {"local": lambda *_: None}, model=str(smoke_folder), jobs=2)
    with pytest.raises(InputError, match="model: other processes need it by name or folder"):
        go(stand.samples(2), jobs=2)


# Dask


@pytest.fixture(scope="module")
def dask_client():
    distributed = pytest.importorskip(
        "distributed", reason="distributed is missing: pip install 'dragnb[bench]'"
    )
    options = dict(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, resources={"GPU": 1}
    )
    with mock.patch.dict(os.environ):  # dask leaves OMP_NUM_THREADS=1 there, for all later tests' kernels
        with distributed.LocalCluster(**options) as local, distributed.Client(local) as client:
            yield client


def test_a_dask_cluster_gives_the_same_bits_though_a_worker_is_killed(
    plain, smoke_folder, tmp_path, go, dask_client
):
    settings, wanted = plain
    waits = settings | {"waits": stand.Waiting(str(tmp_path))}
    events = sweep.run(
        *(stand.samples(2), waits, go.out, str(smoke_folder), stand.judge),
        **dict(client=dask_client, resources={"GPU": 1}, keep=True),
    )
    runner = multiprocessing.pool.ThreadPool(1).apply_async(lambda: list(events))
    first = wait_for(lambda: sorted(tmp_path.glob("began-*")))[0]

    os.kill(int(first.name.split("-")[1]), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert len(runner.get(240)) == 8

    found = facts(go.out)
    assert {key: record for key, record in found.items() if key[1] != "waits"} == wanted
    assert not any(record["error"] for record in found.values())
    assert sweep.picture_path(go.out, "s/01", "a").exists()


@pytest.mark.slow
def test_a_task_that_kills_every_dask_worker_it_gets_is_an_error_on_record(
    smoke_folder, tmp_path, go, dask_client
):
    deadly = stand.Deadly("s/01", "", str(tmp_path))

    go(stand.samples(3), {"deadly": deadly}, model=str(smoke_folder), client=dask_client)

    errors = {record["sample"]: record["error"] for record in sweep.read(go.out)}
    assert (
        errors["s/01"].startswith("Vanished: the worker was lost")
        and errors["s/00"] is errors["s/02"] is None
    )


# failures


def test_a_failed_trial_is_a_record_the_rest_go_on_and_it_can_be_tried_again(go, tmp_path):
    settings = {"flaky": stand.Flaky(str(tmp_path / "mended")), "floor": stand.floor}

    seen = go(stand.samples(3), settings)

    (failed,) = [record for record in sweep.read(go.out) if record["error"]]
    assert (failed["sample"], failed["setting"]) == ("s/01", "flaky") and failed["metrics"] == {}
    assert failed["error"].startswith("RuntimeError: no luck today (sweep_stand_ins.py:")
    assert ", 1 failed, " in str(seen[-1])
    assert go(stand.samples(3), settings) == [], "it is not tried again unasked"
    (tmp_path / "mended").touch()
    assert len(go(stand.samples(3), settings, retry_failed=True)) == 1
    assert not any(record["error"] for record in sweep.read(go.out)) and len(sweep.read(go.out)) == 6


def test_a_sample_that_cannot_be_read_fails_in_all_its_settings_and_harms_no_other(go):
    go([*stand.samples(1), stand.Sample("broken"), stand.Sample("z")])

    errors = {key: record["error"] for key, record in facts(go.out).items()}
    assert (
        errors["broken", "floor"]
        == errors["broken", "brighter"]
        == "InputError: broken: image.png is cut off"
    )
    assert sum(error is None for error in errors.values()) == 4


@pytest.mark.parametrize(
    ("setting", "score", "message"),
    [
        (lambda *_: np.zeros(3), stand.judge, "the setting gave float64 (3,); wanted is a uint8 picture (64, 64, 3)"),
        (lambda *_: None, stand.judge, "the setting gave NoneType; wanted is a uint8"),
        (stand.floor, lambda *_: {"psnr": float("inf")}, "the score gave {'psnr': inf}; wanted is a flat dict of"),
        (stand.floor, lambda *_: 3, "the score gave 3; wanted is a flat dict"),
    ],
)  # fmt: skip
def test_what_a_setting_or_a_score_gives_is_checked(go, setting, score, message):
    (seen,) = go(stand.samples(1), {"odd": setting}, score=score)

    assert message in seen.record["error"]


def test_ctrl_c_in_an_edit_ends_the_run_and_leaves_no_record_of_a_half_dragged_picture(
    go, quick, monkeypatch
):
    half = types.SimpleNamespace(data=types.SimpleNamespace(interrupted=True))
    with monkeypatch.context() as patched:
        patched.setattr(trial.pipeline, "run", lambda *_, **__: iter([half]))
        with pytest.raises(KeyboardInterrupt):
            go(stand.samples(1), {"quick": quick})

    assert sweep.read(go.out) == []
    assert len(go(stand.samples(1), {"quick": quick})) == 1


# the folder


def test_two_runners_on_one_folder_the_second_is_refused_and_told_who_has_it(go, smoke, tmp_path):
    child = forked(lambda: go(stand.samples(1), {"waits": stand.Waiting(str(tmp_path))}))
    wait_for(lambda: list(tmp_path.glob("began-*")))

    with pytest.raises(
        InputError, match=f"out is in use: process {child.pid} on .* writes to it; wait for it, or"
    ):
        go(stand.samples(1))
    assert sweep.read(go.out) == [], "but it may be read"
    (tmp_path / "go").touch()
    child.join()
    assert child.exitcode == 0 and len(sweep.read(go.out)) == 1


def test_more_samples_and_settings_may_join_but_none_may_change(go, quick):
    go(stand.samples(1), {"floor": stand.floor})

    assert len(go(stand.samples(2), FAST)) == 3
    with pytest.raises(
        InputError, match="is of another run: setting 'floor' was .*floor.*, now it is .*brighter"
    ):
        go(stand.samples(2), {"floor": stand.brighter})
    assert go(stand.samples(1), {"floor": stand.floor}) == [] and len(sweep.about(go.out)["settings"]) == 2


def test_a_sample_that_changed_under_its_name_is_refused_not_mixed(go):
    go(stand.samples(1), {"floor": stand.floor})
    changed = types.SimpleNamespace(name="s/00", category="noise", task=stand.Sample("other").task)

    (seen,) = go([changed], FAST)

    assert seen.record["error"] == "InputError: s/00 has changed since its first records; give another folder"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(score=None), 'judge was "sweep_stand_ins.judge", now it is null; give another folder, or move'),
        (dict(side=64), "side was null, now it is 64"),
        (dict(data="other"), 'data was "", now it is "other"'),
    ],
)
def test_another_run_in_the_same_folder_is_refused_by_name(go, change, message):
    go(stand.samples(1))
    before = (go.out / "run.json").read_bytes()

    with pytest.raises(InputError, match="out is of another run: ") as error:
        go(stand.samples(1), **change)

    assert message in str(error.value) and (go.out / "run.json").read_bytes() == before


def test_a_changed_number_of_a_setting_is_named(go, quick):
    go([], {"a": quick})

    with pytest.raises(
        InputError, match=r"setting 'a' had lam = 0.1, now 0.5; give it another name, or give"
    ):
        go([], {"a": quick.replace(lam=0.5)})


def test_a_folder_of_another_format_is_refused_plainly(go):
    go(stand.samples(1))
    run = go.out / "run.json"
    run.write_text(run.read_text().replace('"format": 2', '"format": 1', 1))
    for ask in (lambda: sweep.read(go.out), lambda: go(stand.samples(1))):
        with pytest.raises(
            InputError, match="run.json is of format 1, this version reads 2; give another folder"
        ):
            ask()
    run.unlink()
    with pytest.raises(InputError, match="out holds records without run.json: not a whole run"):
        go(stand.samples(1))
    with pytest.raises(InputError, match="holds no run: there is no run.json"):
        sweep.read(go.out)


def test_a_disk_that_fills_up_in_the_middle_of_a_record_leaves_the_whole_ones(go):
    """The kernel itself refuses to let a file grow: it writes the part that fits, then none."""

    def longer(image, task, name, truth, truth_image):
        return {"list": [0.5] * (100 * int(name[-1]))}

    def in_the_child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        with pytest.raises(
            InputError, match=r"out cannot be written \(File too large\); make room and run again"
        ):
            go(stand.samples(9), score=longer)

    child = forked(in_the_child)
    child.join()

    assert child.exitcode == 0
    found = files_of(go.out)
    assert 2 <= len(found) < 18 and not list(go.out.rglob("*.tmp"))
    assert len(go(stand.samples(9), score=longer)) == 18 - len(found)


def test_a_full_disk_is_named_wherever_it_is_met(go, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ((Path, "write_text"), (Image.Image, "save"), (store.os, "fsync"), (store.os, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(*place, full)
            with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); make room"):
                go(stand.samples(1), keep=True)
        assert not files_of(go.out) and not list(go.out.rglob("*.tmp"))
    assert len(go(stand.samples(1), keep=True)) == 2


@pytest.mark.parametrize(
    ("samples", "settings", "message"),
    [
        ([stand.Sample("../a")], FAST, "sample '../a': the name must do as a file name too"),
        ([stand.Sample("")], FAST, "sample '': the name must do"),
        ([stand.Sample("a"), stand.Sample("A")], FAST, "samples: two are called 'a'; rename one"),
        ([], {"a/b": stand.floor}, "setting 'a/b': the name must do as a file name"),
        ([], {"b": stand.floor, "B": stand.floor}, "settings: two are called 'b'; rename one"),
        ([stand.Sample("猫" * 70)], FAST, "the name is longer than 200 bytes"),
        ([], {"a": 3}, r"settings\['a'\] is a int; give Settings or a callable"),
        ([], {}, "settings: there are none"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_folder_is_made(go, samples, settings, message):
    with pytest.raises(InputError, match=message):
        go(samples, settings)
    assert not go.out.exists()


# the command line


@pytest.fixture
def drags(tmp_path):
    """A folder of three drag files, the second with a broken picture."""
    for name in "abc":
        replace(stand.Sample(name).task(), name=name).save(tmp_path / "drags" / name)
    (tmp_path / "drags" / "b" / "image.png").write_bytes(b"no picture")
    return tmp_path / "drags"


@pytest.fixture
def bench_command(smoke_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "Judge", lambda matcher: stand.judge)
    place = ["--model", str(smoke_folder), "--out", str(tmp_path / "out")]
    return lambda *arguments: command.main(["run", *place, *map(str, arguments)])


def test_a_folder_with_a_broken_sample_is_run_without_it(bench_command, drags, tmp_path, capsys):
    assert bench_command("--data", drags, "--settings", "no_edit", "warp") == 0

    said = capsys.readouterr()
    assert "left out: b: image.png" in said.err and re.search(
        r"4 of 4, \d:\d\d:\d\d, 0:00:00 left: ", said.err
    )
    assert said.out == f"4 records in {tmp_path / 'out'}, 0 failed\n"
    assert bench_command("--data", drags, "--settings", "no_edit", "warp") == 0
    assert "nothing was left to do" in capsys.readouterr().out


def test_failed_trials_are_said_and_change_the_exit_status(bench_command, drags, capsys):
    assert bench_command("--data", drags, "--settings", "truth_encoded", "--limit", 1) == 1
    assert (
        "a / truth_encoded: InputError: truth_encoded: a does not know its true picture; samples"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["clya"], "--settings clya: unknown; did you mean 'clay'?"),
        (["grid.json"], "--settings grid.json: there is no such file"),
        ({"a": {"lamm": 1}}, "grid.json: a: settings: unknown setting 'lamm'; did you mean 'lam'?"),
        ({"a": 3}, 'grid.json: wanted is {"name"'),
    ],
)
def test_a_grid_that_is_wrong_is_named(bench_command, drags, tmp_path, capsys, settings, message):
    if isinstance(settings, dict):
        (tmp_path / "grid.json").write_text(json.dumps(settings))
        settings = [tmp_path / "grid.json"]

    assert bench_command("--data", drags, "--settings", *settings) == 2
    assert message in capsys.readouterr().err


def test_a_grid_file_gives_settings_and_baselines_by_name(tmp_path):
    (tmp_path / "grid.json").write_text(
        '{"full": {"profile": "clay", "lam": 0.2}, "none": "no_edit", "p": "paper"}'
    )

    found = command.grid([str(tmp_path / "grid.json"), "warp"])

    assert list(found) == ["full", "none", "p", "warp"]
    assert found["full"].lam == 0.2 and found["none"] is grids.no_edit and found["p"].motion_norm == "sum"


def test_the_papers_grids_go_by_name_with_the_ceiling_only_where_the_truth_is_known():
    both = command.grid(["methods", "ablation"], truth=True)

    assert both == grids.methods(config.profile("clay")) | grids.ablation(config.profile("clay"))
    assert "truth, encoded" not in command.grid(["methods"])
    assert command.grid(["methods"], "sd15")["full"] == config.profile("fast", lora_stop=0)


def test_no_scheduler_is_said_plainly(bench_command, drags, capsys, monkeypatch):
    import distributed

    monkeypatch.setattr(
        distributed, "Client", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("timed out"))
    )
    assert bench_command("--data", drags, "--settings", "no_edit", "--dask", "tcp://nowhere:1") == 2
    assert "--dask tcp://nowhere:1: no scheduler answers there (timed out)" in capsys.readouterr().err


def test_another_run_has_another_folder_and_the_same_the_same(smoke, tmp_path):
    one = {"floor": stand.floor}
    place = sweep.folder(tmp_path, one, smoke, stand.judge, data="noise")

    assert place.parent == tmp_path and not place.exists()
    assert place == sweep.folder(tmp_path, dict(one), smoke, stand.judge, data="noise")
    others = [
        sweep.folder(tmp_path, one | {"more": stand.floor}, smoke, stand.judge, data="noise"),
        sweep.folder(tmp_path, one, smoke, None, data="noise"),
        sweep.folder(tmp_path, one, smoke, stand.judge, side=32, data="noise"),
        sweep.folder(tmp_path, one, smoke, stand.judge, data="clay"),
    ]
    assert len({place, *others}) == 5


def test_other_code_has_another_folder(smoke, tmp_path, monkeypatch):
    before = sweep.folder(tmp_path, FAST, smoke)
    package = tmp_path / "package"
    shutil.copytree(Path(dragnb.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(dragnb, "__file__", str(package / "__init__.py"))
    try:
        records.code.cache_clear()
        assert sweep.folder(tmp_path, FAST, smoke) == before, "the same sources elsewhere are the same code"
        with open(package / "drag.py", "a") as file:
            file.write("# a change\n")
        records.code.cache_clear()
        assert sweep.folder(tmp_path, FAST, smoke) != before
    finally:
        records.code.cache_clear()


def test_the_exported_table_is_sorted_small_and_says_where_it_comes_from(go, tmp_path, capsys):
    go(stand.samples(2)[::-1], {"flaky": stand.Flaky("/nowhere"), "floor": stand.floor}, data="noise")

    assert command.main(["export", str(go.out), str(tmp_path / "small.csv")]) == 0

    lines = (tmp_path / "small.csv").read_text().splitlines()
    assert lines[0] == "sample,category,setting,mark,mean,none,seconds"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["s/00", "noise", "flaky"], ["s/00", "noise", "floor"], ["s/01", "noise", "floor"]
    ]  # fmt: skip
    told = json.loads((tmp_path / "small.json").read_text())
    assert told["data"] == "noise" and told["samples"] == 2 and told["trials"] == 3
    assert (
        list(told["failed"]) == ["s/01 / flaky"] and told["processor"] and len(told["samples_digest"]) == 64
    )
    table = judge.load(tmp_path / "small.csv")
    whole = sorted(
        (r for r in sweep.read(go.out) if not r["error"]), key=lambda r: (r["sample"], r["setting"])
    )
    assert [row["setting"] for row in table] == [r["setting"] for r in whole]
    assert command.main(["export", str(go.out), "small.txt"]) == 2
    assert "must end in .csv" in capsys.readouterr().err
