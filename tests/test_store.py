"""The cache keeps whole things, makes each once, and never costs the work."""

import dataclasses
import errno
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dragnb import store
from dragnb.config import profile
from dragnb.errors import InputError
from dragnb.store import Store

SPAWN = multiprocessing.get_context("fork")


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache")


def made_once(calls):
    def make():
        calls.append("made")
        return {"z": torch.arange(6.0).reshape(2, 3)}

    return make


def never():
    raise AssertionError("made again although the cache has it")


def test_what_was_made_once_is_read_the_second_time(cache):
    calls, key = [], cache.key(picture="cat")

    first = cache.fetch("latents", key, made_once(calls))
    second = Store(cache.root).fetch("latents", key, never)

    assert calls == ["made"]
    assert torch.equal(first["z"], second["z"])
    assert cache.has("latents", key) and cache.path("latents", key).is_file()


def test_every_dtype_comes_back_as_it_went_detached_and_on_the_cpu(cache):
    weights = torch.randn(3, 4, requires_grad=True).to(torch.bfloat16)
    tensors = {
        "a": weights,
        "view of a": weights.T,
        "n": torch.tensor(7),
        "b": torch.ones(2, dtype=torch.bool),
    }

    for back in (cache.fetch("t", "k", lambda: tensors), cache.fetch("t", "k", never)):
        assert not back["a"].requires_grad
        assert all(torch.equal(back[n], tensors[n]) and back[n].dtype == tensors[n].dtype for n in tensors)


def test_keys_do_not_depend_on_order_or_on_where_an_array_lives(cache):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)

    assert cache.key(a=1, b="x", c=image) == cache.key(c=torch.from_numpy(image.copy()), b="x", a=np.int64(1))
    assert cache.key(s=profile("fast")) == cache.key(s=profile("fast"))
    assert cache.key(s=profile("fast", lora_stop=0).stage_key("lora")) == cache.key(
        s=profile("paper").stage_key("lora")
    )
    assert cache.key(a=image[:, ::2]) == cache.key(a=image[:, ::2].copy())


def test_a_key_is_the_same_on_every_machine(cache):
    assert cache.key(steps=50, prompt="a cat", lam=0.1).startswith("488d"), "raise FORMAT if this must change"


@dataclasses.dataclass
class Pair:
    left: int
    right: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (1, "1"),
        (b"a", "a"),
        (None, "None"),
        (["ab", "c"], ["a", "bc"]),
        ([[1], 2], [1, [2]]),
        (np.zeros(4, np.float32), np.zeros((2, 2), np.float32)),
        (np.zeros(4, np.int32), np.zeros(4, np.float32)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
        (Pair(1, 2), Pair(2, 1)),
        (Pair(1, 2), {"left": 1, "right": 2}),
        (profile("fast"), profile("fast", lam=0.2)),
    ],
)
def test_different_values_have_different_keys(cache, one, other):
    assert cache.key(value=one) != cache.key(value=other)


def test_a_value_without_lasting_content_is_refused_by_name(cache):
    with pytest.raises(InputError, match=r"key\.model\[1\] is a function"):
        cache.key(model=[1, never])


def test_a_truncated_file_is_made_anew_with_a_warning(cache):
    calls = []
    path = cache.path("z", "k")
    cache.fetch("z", "k", made_once(calls))
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.warns(UserWarning, match=r"k\.safetensors is damaged .*; it is made anew"):
        again = cache.fetch("z", "k", made_once(calls))

    assert calls == ["made", "made"]
    assert torch.equal(again["z"], cache.fetch("z", "k", never)["z"])


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_rubbish_in_place_of_a_file_is_made_anew(cache, content):
    cache.path("z", "k").parent.mkdir(parents=True)
    cache.path("z", "k").write_bytes(content)

    with pytest.warns(UserWarning, match="damaged"):
        assert "z" in cache.fetch("z", "k", made_once([]))


def test_a_cache_that_cannot_be_made_is_said_once_and_the_work_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache, calls = Store(tmp_path / "file" / "cache"), []

    with pytest.warns(
        UserWarning, match=r"cannot be written .*set DRAGNB_CACHE to a folder with room"
    ) as said:
        for _ in range(3):
            assert "z" in cache.fetch("z", "k", made_once(calls))

    assert calls == ["made"] * 3
    assert len(said) == 1


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_keeps_the_result_and_leaves_no_scraps(cache, monkeypatch, reason):
    def refuse(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(store.Path, "write_bytes", refuse)

    with pytest.warns(UserWarning, match=os.strerror(reason)):
        assert "z" in cache.fetch("z", "k", made_once([]))

    assert not cache.has("z", "k")
    assert list(cache.root.rglob("*.tmp")) == []


def test_a_failed_making_keeps_nothing_and_lets_the_next_one_try(cache):
    with pytest.raises(ZeroDivisionError):
        cache.fetch("z", "k", lambda: 1 / 0)

    assert not cache.has("z", "k")
    assert "z" in cache.fetch("z", "k", made_once([]))


def slow_fetch(root, log, seconds):
    def make():
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(seconds)
        return {"z": torch.ones(3)}

    os._exit(0 if torch.equal(Store(root).fetch("z", "k", make)["z"], torch.ones(3)) else 1)


def test_two_processes_on_one_key_do_the_work_once(tmp_path):
    args = (tmp_path / "cache", tmp_path / "log", 0.1)
    both = [SPAWN.Process(target=slow_fetch, args=args) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)

    assert [p.exitcode for p in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def killed_while_writing(root, ready):
    def stall(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        Path(ready).touch()
        time.sleep(60)

    store.Path.write_bytes = stall
    Store(root).fetch("z", "k", made_once([]))


def test_a_process_killed_while_writing_leaves_neither_a_torn_file_nor_a_lock(tmp_path):
    cache, ready = Store(tmp_path / "cache"), tmp_path / "ready"
    process = SPAWN.Process(target=killed_while_writing, args=(cache.root, ready))
    process.start()
    while not ready.exists() and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)

    assert not cache.has("z", "k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "z" in cache.fetch("z", "k", made_once([]))
    assert list(cache.root.rglob("*.tmp")) == [], "the scraps of the killed process are swept up"


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with store.replacing(path) as temp:
        temp.write_text("one")
    with pytest.raises(KeyboardInterrupt), store.replacing(path) as temp:
        temp.write_text("half of tw")
        raise KeyboardInterrupt

    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_the_cache_lives_where_the_user_says_else_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DRAGNB_CACHE", str(tmp_path / "mine"))
    assert Store().root == tmp_path / "mine"

    monkeypatch.delenv("DRAGNB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(store.sys, "platform", "linux")
    assert Store().root == tmp_path / "xdg" / "dragnb"
    assert not Store().root.exists(), "nothing is made before it is needed"
