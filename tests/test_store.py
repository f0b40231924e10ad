"""The cache keeps whole things and never costs the work."""

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

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def tensors():
    return {"z": torch.arange(6.0).reshape(2, 3)}


def test_what_was_put_is_there_for_every_store_of_the_folder(cache, tensors):
    key = cache.key(picture="cat")
    assert cache.get("latents", key) is None and not cache.has("latents", key)

    assert cache.put("latents", key, tensors)

    assert torch.equal(Store(cache.root).get("latents", key)["z"], tensors["z"])
    assert cache.has("latents", key) and cache.path("latents", key).is_file()
    assert cache.get("weights", key) is None, "kinds are apart"


def test_every_dtype_comes_back_as_it_went_detached_and_on_the_cpu(cache):
    weights = torch.randn(3, 4, requires_grad=True).to(torch.bfloat16)
    tensors = {
        "a": weights,
        "a again": weights,
        "view of a": weights.T,
        "n": torch.tensor(7),
        "b": torch.ones(2, dtype=torch.bool),
    }

    cache.put("t", "k", tensors)
    back = cache.get("t", "k")

    assert back.keys() == tensors.keys() and not back["a"].requires_grad
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
        cache.key(model=[1, lambda: None])


def test_a_truncated_file_is_none_with_a_warning_and_may_be_put_again(cache, tensors):
    path = cache.path("z", "k")
    cache.put("z", "k", tensors)
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.warns(UserWarning, match=r"k\.safetensors is damaged .*; it is made anew"):
        assert cache.get("z", "k") is None

    assert cache.put("z", "k", tensors)
    assert torch.equal(cache.get("z", "k")["z"], tensors["z"])


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_rubbish_in_place_of_a_file_is_none_with_a_warning(cache, content):
    cache.path("z", "k").parent.mkdir(parents=True)
    cache.path("z", "k").write_bytes(content)

    with pytest.warns(UserWarning, match="damaged"):
        assert cache.get("z", "k") is None


def test_a_cache_that_cannot_be_made_is_said_once_and_the_work_goes_on(tmp_path, tensors):
    (tmp_path / "file").write_text("in the way")
    cache = Store(tmp_path / "file" / "cache")

    with pytest.warns(
        UserWarning, match=r"cannot be written .*set DRAGNB_CACHE to a folder with room"
    ) as said:
        for _ in range(3):
            assert not cache.put("z", "k", tensors)
            assert cache.get("z", "k") is None

    assert len(said) == 1


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_raises_nothing_and_leaves_no_scraps(cache, tensors, monkeypatch, reason):
    def refuse(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(store.Path, "write_bytes", refuse)

    with pytest.warns(UserWarning, match=os.strerror(reason)):
        assert not cache.put("z", "k", tensors)

    assert not cache.has("z", "k")
    assert list(cache.root.rglob("*.tmp")) == []


def killed_while_writing(root, ready, tensors):
    def stall(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        Path(ready).touch()
        time.sleep(60)

    store.Path.write_bytes = stall
    Store(root).put("z", "k", tensors)


def test_a_process_killed_while_writing_leaves_no_torn_file_and_the_next_one_sweeps_up(tmp_path, tensors):
    cache, ready = Store(tmp_path / "cache"), tmp_path / "ready"
    process = FORK.Process(target=killed_while_writing, args=(cache.root, ready, tensors))
    process.start()
    while not ready.exists() and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)

    assert ready.exists() and not cache.has("z", "k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.put("z", "k", tensors)
    assert list(cache.root.rglob("*.tmp")) == [], "the scraps of the killed process are swept up"


def written_over_and_over(root, number):
    cache = Store(root)
    for _ in range(50):
        cache.put("z", "k", {"z": torch.full((1000,), float(number))})


def test_two_processes_that_write_one_key_leave_it_whole_at_every_moment(tmp_path):
    cache = Store(tmp_path / "cache")
    both = [FORK.Process(target=written_over_and_over, args=(cache.root, n)) for n in range(2)]
    for process in both:
        process.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(process.is_alive() for process in both):
            tensors = cache.get("z", "k")
            assert tensors is None or len(tensors["z"].unique()) == 1
    for process in both:
        process.join(30)

    assert [process.exitcode for process in both] == [0, 0] and cache.has("z", "k")


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
