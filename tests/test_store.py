"""The cache keeps whole things, whoever else writes them, and never costs the work."""

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from platformdirs.unix import Unix

from dragnb import store
from dragnb.config import profile
from dragnb.errors import InputError
from dragnb.store import Store

FORK = multiprocessing.get_context("fork")
Z = {"z": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache")


def test_what_is_kept_is_there_the_next_time(cache):
    key = cache.key(picture="cat")
    assert cache.get("latents", key) is None

    assert cache.put("latents", key, Z)

    assert torch.equal(Store(cache.root).get("latents", key)["z"], Z["z"])
    assert cache.path("latents", key).is_file()
    assert cache.get("features", key) is None, "of one kind only"


def test_a_large_value_stays_in_memory_until_the_next_such_and_on_the_disk_for_a_new_process(
    cache, monkeypatch
):
    monkeypatch.setattr(store, "LARGE", 20)
    assert cache.put("latents", "a", Z) and cache.path("latents", "a").is_file()
    assert Store(cache.root).get("latents", "a")["z"] is Z["z"], "for every store of this process"
    assert cache.get("features", "a") is None, "of one kind only"

    cache.put("latents", "small", {"z": Z["z"][:1]})
    assert cache.get("latents", "a")["z"] is Z["z"], "small ones do not push it out"
    cache.put("latents", "b", Z)
    store.forget()
    for key in "ab":
        assert torch.equal(cache.get("latents", key)["z"], Z["z"])


@pytest.mark.parametrize("less", ["disk", "limit"])
def test_where_there_is_no_room_a_large_value_is_in_memory_alone(tmp_path, monkeypatch, less):
    monkeypatch.setattr(store, "LARGE", 20)
    size = Z["z"].nbytes
    free = size / store.SHARE + (-1 if less == "disk" else 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free))
    cache = Store(tmp_path / "not" / "there yet", limit=size - 1 if less == "limit" else None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.put("latents", "a", Z)
    assert not cache.path("latents", "a").exists() and cache.get("latents", "a")["z"] is Z["z"]
    store.forget()
    assert cache.get("latents", "a") is None

    free = size / store.SHARE + 1
    assert Store(tmp_path).put("latents", "a", Z) and Store(tmp_path).path("latents", "a").is_file()


def test_every_dtype_comes_back_as_it_went_detached_and_on_the_cpu(cache):
    weights = torch.randn(3, 4, requires_grad=True).to(torch.bfloat16)
    tensors = {
        "a": weights,
        "view of a": weights.T,
        "n": torch.tensor(7),
        "b": torch.ones(2, dtype=torch.bool),
    }

    cache.put("t", "k", tensors)

    back = cache.get("t", "k")
    assert not back["a"].requires_grad
    assert all(torch.equal(back[n], tensors[n]) and back[n].dtype == tensors[n].dtype for n in tensors)


def test_keys_do_not_depend_on_order_or_on_where_an_array_lives(cache):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)

    assert cache.key(a=1, b="x", c=image) == cache.key(c=torch.from_numpy(image.copy()), b="x", a=np.int64(1))
    assert cache.key(s=profile("fast")) == cache.key(s=profile("fast"))
    assert cache.key(s=profile("fast", lora_stop=0).deciding("finetune")) == cache.key(
        s=profile("paper").deciding("finetune")
    )
    assert cache.key(a=image[:, ::2]) == cache.key(a=image[:, ::2].copy())
    assert cache.key(a=image.astype("<i4")) == cache.key(a=image.astype(">i4"))
    assert cache.key(a={"x": 1, "y": {3, 1, 2}}) == cache.key(a={"y": {1, 2, 3}, "x": 1})


def test_a_key_is_the_same_on_every_machine(cache):
    assert cache.key(steps=50, prompt="a cat", lam=0.1).startswith("4c8c"), "raise FORMAT if this must change"


@dataclasses.dataclass
class Pair:
    left: int
    right: int


@dataclasses.dataclass
class Twin:
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
        (Pair(1, 2), Twin(1, 2)),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": 1}, {b"a": 1}),
        ({1, 2}, [1, 2]),
        (b"a", ["bytes", "61"]),
        (Path("a"), "a"),
        (0.1 + 0.2, 0.3),
        (0.0, -0.0),
        (np.float32(0.1), 0.1),
        ("\ud83d\ude00", "\U0001f600"),
        (profile("fast"), profile("fast", lam=0.2)),
    ],
)
def test_different_values_have_different_keys(cache, one, other):
    assert cache.key(value=one) != cache.key(value=other)


def test_a_value_without_lasting_content_is_refused_by_name(cache):
    with pytest.raises(InputError, match=r"key\.model\[1\] is a function"):
        cache.key(model=[1, profile])


def test_a_truncated_file_counts_as_none_with_a_warning_and_can_be_made_anew(cache):
    path = cache.path("z", "k")
    cache.put("z", "k", Z)
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.warns(UserWarning, match=r"k\.safetensors is damaged .*; it is made anew"):
        assert cache.get("z", "k") is None

    assert cache.put("z", "k", Z) and torch.equal(cache.get("z", "k")["z"], Z["z"])


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_rubbish_in_place_of_a_file_counts_as_none(cache, content):
    cache.path("z", "k").parent.mkdir(parents=True)
    cache.path("z", "k").write_bytes(content)

    with pytest.warns(UserWarning, match="damaged"):
        assert cache.get("z", "k") is None


def test_a_cache_that_cannot_be_made_is_said_once_and_the_work_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Store(tmp_path / "file" / "cache")

    with pytest.warns(
        UserWarning, match=r"cannot be written .*set DRAGNB_CACHE to a folder with room"
    ) as caught:
        for _ in range(3):
            assert not cache.put("z", "k", Z)
            assert cache.get("z", "k") is None

    assert len(caught) == 1


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_a_warning_and_leaves_no_scraps(cache, monkeypatch, reason):
    def refuse(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(store.Path, "write_bytes", refuse)

    with pytest.warns(UserWarning, match=os.strerror(reason)):
        assert not cache.put("z", "k", Z)

    assert cache.get("z", "k") is None
    assert list(cache.root.rglob("*.tmp")) == []


def put_often(root, value, times=40):
    """How many of many puts under one key were kept."""
    cache = Store(root)
    return sum(cache.put("z", "k", {"z": torch.full((1000,), float(value))}) for _ in range(times))


def put_often_from_two_threads(root, values):
    with ThreadPoolExecutor(2) as pool:
        kept = sum(pool.map(lambda value: put_often(root, value), values))
    os._exit(0 if kept == 80 else 1)


def test_threads_and_processes_that_write_one_key_do_not_disturb_each_other(cache):
    put_often(cache.root, 0, times=1)
    pairs = [(1, 2), (3, 4)]
    processes = [FORK.Process(target=put_often_from_two_threads, args=(cache.root, pair)) for pair in pairs]
    for process in processes:
        process.start()

    while any(process.is_alive() for process in processes):
        z = cache.get("z", "k")["z"]
        assert (z == z[0]).all() and z.shape == (1000,), "whole, of one writer"
        time.sleep(0.01)

    assert [process.exitcode for process in processes] == [0, 0], "every put was kept"
    assert list(cache.root.rglob("*.tmp")) == []


def killed_while_writing(root, ready):
    def stall(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        Path(ready).touch()
        time.sleep(60)

    store.Path.write_bytes = stall
    Store(root).put("z", "k", Z)


def test_a_process_killed_while_writing_leaves_no_torn_file_and_its_scraps_are_swept_up(tmp_path):
    cache, ready = Store(tmp_path / "cache"), tmp_path / "ready"
    process = FORK.Process(target=killed_while_writing, args=(cache.root, ready))
    process.start()
    while not ready.exists() and process.is_alive():
        time.sleep(0.01)

    assert cache.put("z", "another", Z)
    (scrap,) = cache.root.rglob("*.tmp")  # the process lives, so this may still become its file
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    elsewhere = scrap.with_name(scrap.name.replace(store.HOST, store.HOST + "_2"))
    elsewhere.touch()

    assert cache.get("z", "k") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.put("z", "k", Z)
    assert list(cache.root.rglob("*.tmp")) == [elsewhere], "nobody here knows whether its process lives"


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with store.replacing(path) as temp:
        temp.write_text("one")
    with pytest.raises(KeyboardInterrupt), store.replacing(path) as temp:
        temp.write_text("half of tw")
        raise KeyboardInterrupt

    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_two_may_write_one_file_at_once_and_the_last_one_counts(tmp_path):
    with store.replacing(tmp_path / "file.txt") as one, store.replacing(tmp_path / "file.txt") as other:
        one.write_text("one")
        other.write_text("other")

    assert one.parent == other.parent == tmp_path
    assert (tmp_path / "file.txt").read_text() == "one", "its block ended last"
    assert list(tmp_path.iterdir()) == [tmp_path / "file.txt"]


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "folder"
    for text in ("one", "two"):
        with store.replacing(path) as temp:
            temp.mkdir()
            (temp / text).touch()
    with pytest.raises(KeyboardInterrupt), store.replacing(path) as temp:
        temp.mkdir()
        raise KeyboardInterrupt

    assert list(tmp_path.rglob("*")) == [path, path / "two"]


def test_the_cache_lives_where_the_user_says_else_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DRAGNB_CACHE", str(tmp_path / "mine"))
    assert Store().root == tmp_path / "mine"

    monkeypatch.delenv("DRAGNB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    assert Store().root == tmp_path / "xdg" / "dragnb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store().root == tmp_path / "home" / ".cache" / "dragnb"
    assert list(tmp_path.iterdir()) == [], "nothing is made before it is needed"


def test_without_a_home_the_cache_lives_among_the_temporary_files(monkeypatch, tmp_path):
    for name in ("DRAGNB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    monkeypatch.setattr(store.tempfile, "gettempdir", lambda: str(tmp_path))
    assert Store().root == tmp_path / "dragnb"
