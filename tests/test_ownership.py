"""Nothing of the user's is removed or overwritten, nothing half-written replaces a whole file, and a kill is mended."""

import ast
import errno
import json
import multiprocessing
import os
import shutil
import signal
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import dragnb
from dragnb.errors import InputError, WriteError
from dragnb.store import Store, files, limit
from dragnb.store import __main__ as command
from dragnb.store.names import LONGEST, safe_stem
from dragnb.task import DragTask

FORK = multiprocessing.get_context("fork")
ROOT = Path(dragnb.__file__).parents[1]
SOURCES = [p for top in ("dragnb", "tools") for p in sorted((ROOT / top).rglob("*.py"))]
OWNER = ROOT / "dragnb" / "store" / "files.py"
REMOVING = {"rmtree", "unlink", "rmdir", "removedirs", "renames"}
KNOWN = {"dataclasses", "notebook_outputs"}  # whose `replace` is of something else


def removals(tree):
    """Calls that remove or rename a file: by name, and `os.remove`, `os.replace`, `shutil.move`, `Path.replace`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        of = getattr(getattr(node.func, "value", None), "id", "")
        plain = len(node.args) == 1 and not isinstance(node.args[0], (ast.Dict, ast.DictComp))
        unknown = of not in KNOWN and not node.keywords
        known = {"os": {"remove", "rename", "replace"}, "shutil": {"move"}}.get(of, ())
        if name in REMOVING or name in known or (name in {"rename", "replace"} and plain and unknown):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_only_one_module_removes_and_renames(path):
    found = [node.lineno for node in removals(ast.parse(path.read_text(encoding="utf-8")))]

    assert bool(found) == (path == OWNER), f"{path.name}: lines {found}; let dragnb.store.files do it"


WRITING = {
    "write_text",
    "write_bytes",
    "savefig",
    "save_file",
    "savez",
    "savez_compressed",
    "savetxt",
    "to_csv",
}
SAFE = {"replacing", "replace_folder", "writing", "TemporaryDirectory"}
# they write into what their callers replace, into a caller's temporary folder, or tell the kernel something
ELSEWHERE = {"fill", "own_folder", "_download", "_reset_peaks", "_restart", "png"}
ELSEWHERE |= {"drag_file", "dataset_zip", "lora_file", "model_folder"}  # of the fuzz
ELSEWHERE |= {"fresh"}  # of the campaigns, into a temporary folder


def writers(tree):
    """Functions that write a file, and whether `replacing` or a temporary folder stands round it."""
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
        names = {getattr(c.func, "attr", getattr(c.func, "id", "")) for c in calls}
        opened = any(
            getattr(c.func, "id", "") == "open"
            and any(isinstance(a, ast.Constant) and set(str(a.value)) & set("wax") for a in c.args[1:2])
            for c in calls
        )
        if names & WRITING or opened:
            yield function.name, bool(names & SAFE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_file_is_written_beside_its_place_first(path):
    bare = [name for name, safe in writers(ast.parse(path.read_text(encoding="utf-8"))) if not safe]

    assert not set(bare) - ELSEWHERE, f"{path.name}: {bare} write in place; use store.files.replacing"


# what is ours


def test_a_folder_of_the_users_is_neither_taken_nor_removed(tmp_path):
    mine, link = tmp_path / "work", tmp_path / "link"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    own = files.own_folder(tmp_path / "own")
    link.symlink_to(own)

    for act in (files.own_folder, files.renew_own):
        with pytest.raises(InputError, match="holds other things, which would be lost"):
            act(mine)
    assert not files.remove_own(mine) and not files.remove_own(link)
    assert (mine / "thesis.txt").read_text() == "years" and own.is_dir()
    (own / "scrap").write_text("made again at any time")
    assert files.remove_own(own) and not own.exists()


def test_a_file_that_says_nothing_of_us_is_refused_and_stays(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("the user's")
    with pytest.raises(InputError, match="was not made by dragnb; move it away"):
        with files.replacing(path, ours=files.signed) as temp:
            Image.new("RGB", (2, 2)).save(temp, "PNG")
    assert path.read_text() == "the user's" and os.listdir(tmp_path) == ["figure.png"]


def test_of_two_that_export_one_new_name_the_second_is_refused(tmp_path):
    path = tmp_path / "film.txt"
    with pytest.raises(InputError, match="there already"):
        with files.replacing(path, ours=files.signed) as one:
            one.write_text("one")
            path.write_text("another came first")
    assert path.read_text() == "another came first"


def test_input_and_output_are_one_place_also_by_a_link_and_by_dots(tmp_path):
    place = tmp_path / "nb"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    for other in (place, tmp_path / "link", place / ".." / "nb"):
        with pytest.raises(InputError, match="are one place"):
            files.require_apart(place, other, "--notebooks and --out")
    files.require_apart(place, tmp_path / "new", "--notebooks and --out")


# full disks, broken writers


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writers_of(drag_task, tmp_path):
    """Every format that the package writes: name -> (file, a writer of it)."""
    from dragnb import lora, viz
    from dragnb.clay.training import loop
    from dragnb.ui import frames

    film = [drag_task.image] * 3
    module, folder = {"m": torch.nn.Linear(2, 2)}, tmp_path / "out"
    return {
        "folder": (folder / "task" / "task.json", lambda: drag_task.save(folder / "task")),
        "zip": (folder / "task.zip", lambda: drag_task.save(folder / "task.zip")),
        "gif": (folder / "a.gif", lambda: frames.save_gif(folder / "a.gif", film)),
        "mp4": (folder / "a.mp4", lambda: frames.save_mp4(folder / "a.mp4", film)),
        "figure": (folder / "f.png", lambda: viz.save(viz.task_figure(drag_task), folder, "f")),
        "lora": (
            folder / "l.safetensors",
            lambda: lora.save(folder / "l.safetensors", {"a": torch.ones(2, 2)}),
        ),
        "checkpoint": (
            folder / "c.pt",
            lambda: loop.checkpoint(folder / "c.pt", 1, [], 0.0, module, module, {}),
        ),
    }


@pytest.mark.parametrize("kind", ["folder", "zip", "gif", "mp4", "figure", "lora", "checkpoint"])
def test_a_full_disk_is_one_error_with_the_file_and_the_remedy_and_the_old_file_stays(
    kind, drag_task, tmp_path, monkeypatch
):
    path, write = writers_of(drag_task, tmp_path)[kind]
    write()
    before = path.read_bytes()
    write()  # over a file of its own

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        WriteError, match=r"cannot be written \(No space left on device\); .*make room"
    ) as caught:
        write()

    assert (path.parent if kind == "folder" else path).name in str(caught.value)
    assert path.read_bytes()[:20] == before[:20] and not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.parametrize("suffix", [".png", ".json", ".zip", ".safetensors", ".npy", ".gif", ".pt"])
def test_what_cannot_be_read_back_replaces_nothing(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"the old good one")
    with pytest.raises(WriteError, match="what was written cannot be read back"):
        with files.replacing(path) as temp:
            temp.write_bytes(b"half of")
    assert path.read_bytes() == b"the old good one"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "change its permissions"),
        (errno.ENOLCK, "has no locks; give a folder on a local disk"),
        (errno.ENOENT, "something else removes files there; try again"),
        (errno.ENAMETOOLONG, "shorter name"),
    ],
)
def test_a_remedy_is_that_of_the_error(tmp_path, number, remedy):
    with pytest.raises(WriteError, match=remedy):
        with files.replacing(tmp_path / "a") as _:
            raise OSError(number, os.strerror(number))


# several at once, and kills


def test_a_kill_between_two_renames_gives_the_task_back_at_the_next_load(drag_task, tmp_path):
    path = drag_task.save(tmp_path / "task")

    def killed():
        replace = os.replace

        def stop(source, target):
            if Path(target) == path:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = stop
        drag_task.save(path)

    child = FORK.Process(target=killed)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and not path.exists()

    assert DragTask.load(path).handles.tolist() == drag_task.handles.tolist()
    drag_task.save(path)
    assert os.listdir(tmp_path) == ["task"], "and what was left is gone"


def test_readers_beside_writers_of_a_folder_see_the_old_or_the_new_one(tmp_path):
    pictures = [np.full((20, 20, 3), value, np.uint8) for value in (10, 200)]
    tasks = [DragTask(image, [[1, 1]], [[2 + k, 5]]) for k, image in enumerate(pictures)]
    path, stop, wrong = tasks[0].save(tmp_path / "task"), threading.Event(), []
    (path / "after.png").write_bytes(b"the user's own")

    def write(k):
        while not stop.is_set():
            try:
                tasks[k].save(path)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in (0, 1)]
    child = FORK.Process(target=lambda: [tasks[k % 2].save(path) for k in range(30)])
    for one in (child, *threads):
        one.start()
    for _ in range(60):
        task = DragTask.load(path)
        if (task.targets[0, 0] == 3) != (task.image[0, 0, 0] == 200):
            wrong.append(task)
    stop.set()
    for one in (*threads, child):
        one.join(60)

    assert not wrong and child.exitcode == 0
    assert sorted(os.listdir(path)) == ["after.png", "image.png", "task.json"]
    assert os.listdir(tmp_path) == ["task"]


def test_what_the_user_puts_into_a_folder_at_the_last_moment_is_kept(tmp_path, drag_task, monkeypatch):
    path, place = drag_task.save(tmp_path / "task"), files._place
    (path / "notes").mkdir()
    for name in ("old.txt", "notes/old.txt", "notes/gone.txt"):
        (path / name).write_text("old")

    def late(temp, to, *rest):
        for name in ("new.txt", "old.txt", "notes/new.txt", "notes/old.txt"):
            (path / name).write_text("late")
        place(temp, to, *rest)

    monkeypatch.setattr(files, "_place", late)
    drag_task.save(path)

    found = {str(f.relative_to(path)): f.read_text() for f in path.rglob("*.txt")}
    late = dict.fromkeys(("new.txt", "old.txt", "notes/new.txt", "notes/old.txt"), "late")
    assert found == late | {"notes/gone.txt": "old"}
    assert os.listdir(tmp_path) == ["task"]


def test_a_writer_that_twice_looks_while_the_folder_is_aside_keeps_what_is_in_it(
    tmp_path, drag_task, monkeypatch
):
    path = drag_task.save(tmp_path / "task")
    (path / "after.png").write_bytes(b"the user's own")
    monkeypatch.setattr(files, "_stamp", lambda place: None)
    files.replace_folder(path, lambda temp: (temp / "a").write_text("new"), ("a",))

    assert sorted(os.listdir(path)) == ["a", "after.png", "image.png", "mask.png", "task.json"]
    assert os.listdir(tmp_path) == ["task"]


def test_what_is_brought_over_makes_the_folder_that_the_new_one_lacks(tmp_path):
    old, new = tmp_path / "aside" / "notes" / "a.txt", tmp_path / "task" / "notes" / "a.txt"
    old.parent.mkdir(parents=True)
    old.write_text("the user's own")

    files._bring(old, new)

    assert new.read_text() == "the user's own" and not old.exists()


def test_a_folder_that_steps_aside_for_a_moment_is_always_seen_as_one(tmp_path):
    path = tmp_path / "task"
    path.mkdir()
    aside, stop = path.with_name(files._temporary(path)).with_suffix(".old"), threading.Event()

    def write():
        while not stop.is_set():
            os.replace(path, aside)
            os.replace(aside, path)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {files.recover(path) for _ in range(3000)}
    stop.set()
    writer.join(60)

    assert seen == {"folder"}
    assert files.recover(tmp_path / "none") is None and files.recover("a\0b") is None
    assert files.recover(__file__) == "file"


def test_scraps_of_the_living_and_files_of_the_user_are_not_cleaned(tmp_path):
    mine, living = tmp_path / ".notes.tmp", tmp_path / f".{files.HOST}-{os.getpid()}-1-1-ab12.tmp"
    dead = tmp_path / f".{files.HOST}-4194999-1-1-ab12.tmp"
    for path in (mine, living, dead):
        path.write_text("x")
    files.clean(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, living])


# the cache's size


def a_value(k):
    return {"z": torch.full((1000,), float(k))}


def test_what_was_used_least_recently_goes_first(tmp_path):
    cache = Store(tmp_path, limit=3 * 4200)
    for k in range(3):
        cache.put("z", f"k{k}", a_value(k))
        os.utime(cache.path("z", f"k{k}"), (k, k))
    cache.get("z", "k0")
    cache.put("z", "k3", a_value(3))

    assert sorted(p.stem for p in tmp_path.rglob("*.safetensors")) == ["k0", "k2", "k3"]
    with pytest.warns(UserWarning, match="over its limit; going on without it, raise DRAGNB_CACHE_SIZE"):
        assert not Store(tmp_path, limit="1 kB").put("z", "large", a_value(0))


def test_making_room_takes_no_file_of_the_users_none_that_is_read_and_none_that_was_fetched(tmp_path):
    cache = Store(tmp_path, limit=5000)
    safetensors.torch.save_file(a_value(0), tmp_path / "mine.safetensors")
    (tmp_path / "loras").mkdir()
    safetensors.torch.save_file(a_value(0), tmp_path / "loras" / "cat.safetensors")
    cache.put("lpips", "weights", a_value(0))
    cache.put("z", "read", a_value(1))
    os.utime(cache.path("z", "read"), (1, 1))
    with open(cache.path("z", "read"), "rb") as file, limit._locked(file, shared=True):
        cache.put("z", "new", a_value(2))
        assert cache.path("z", "read").exists()
    cache.put("z", "newer", a_value(3))

    names = sorted(p.stem for p in tmp_path.rglob("*.safetensors"))
    assert names == ["cat", "mine", "newer", "weights"]


def test_the_limit_comes_from_the_environment_and_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv(limit.VARIABLE, "1.5 GiB")
    assert Store(tmp_path).limit == 1.5 * 2**30 and limit.text_of(1.5e9) == "1.5 GB"
    monkeypatch.setenv(limit.VARIABLE, "plenty")
    with pytest.raises(InputError, match="DRAGNB_CACHE_SIZE = 'plenty' is no size; write it like"):
        Store(tmp_path)


def test_a_command_shows_the_cache_and_empties_it(tmp_path, capsys):
    cache = Store(tmp_path)
    for kind in ("invert", "finetune", "lpips"):
        cache.put(kind, "k", a_value(0))
    (tmp_path / "invert" / "thesis.txt").write_text("years")
    at = ["--root", str(tmp_path)]

    assert command.main(at) == 0
    assert "finetune          1 entries" in capsys.readouterr().out
    assert command.main([*at, "empty", "drag"]) == 2 and "no such kind" in capsys.readouterr().err
    assert command.main([*at, "empty", "--days", "1"]) == 0 and "0 entries" in capsys.readouterr().out
    assert command.main([*at, "empty"]) == 0
    left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["k.safetensors", "thesis.txt"] and cache.get("lpips", "k")


def put_many(root, times):
    cache = Store(root)
    os._exit(0 if all(cache.put("z", "k", a_value(k)) for k in range(times)) else 1)


def test_four_processes_and_four_threads_on_one_key_lose_no_put(tmp_path):
    processes = [FORK.Process(target=put_many, args=(tmp_path, 100)) for _ in range(4)]
    for process in processes:
        process.start()
    kept = []
    threads = [
        threading.Thread(
            target=lambda: kept.extend(Store(tmp_path).put("z", "k", a_value(k)) for k in range(100))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for one in (*threads, *processes):
        one.join(120)
    assert [p.exitcode for p in processes] == [0] * 4 and sum(kept) == 400


# names


@pytest.mark.parametrize(
    "text",
    [
        *(
            "../../../../x",
            "a/b",
            "a\\b",
            "",
            ".",
            "..",
            "...",
            "/",
            "C:\\x",
            "CON",
            "nul.txt",
            "com1",
            "a\x00b",
        ),
        *(
            "a" * 500,
            "猫" * 200,
            ".hidden",
            "-rf",
            "~root",
            " a ",
            "a.",
            "a\nb",
            "\u202egnp",
            "\ud800",
            "?*<>|",
            "a:b",
        ),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_a_name_from_a_file_is_never_a_path(text, plain, tmp_path):
    stem = safe_stem(text, plain=plain)

    assert Path(stem).name == stem and stem not in ("", ".", "..") and len(stem.encode()) <= LONGEST
    assert stem.split(".")[0].lower() not in ("con", "nul", "com1") and stem[0] not in ".-~ "
    (tmp_path / stem).mkdir()
    assert (tmp_path / stem).resolve().parent == tmp_path.resolve()


def test_names_of_every_script_stay_and_two_texts_never_have_one_name():
    for text in ("猫", "größer", "кот", "قطة", "बिल्ली", "แมว", "a b, c (2).v1", "👩‍🚀"):
        assert safe_stem(text) == text
    assert len({safe_stem(t) for t in ("a/b", "a:b", "a\\b", "a_b", "a//b")}) == 5
    assert safe_stem("Cat", taken=["cat", "cat-2"]) == "Cat-3" and safe_stem("", fallback="drag") != "drag/"
    assert safe_stem("cat & co", plain=True, taken=()) == "cat_co"


def test_a_drag_files_name_stays_in_the_output_folder(drag_task, tmp_path):
    case = {
        "schema": 1,
        "size": [150, 90],
        "pairs": [{"handle": [1, 1], "target": [5, 5]}],
        "name": "../../../../x",
    }
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(case))
    Image.fromarray(drag_task.image).save(folder / "image.png")

    task = DragTask.load(folder)

    assert task.save(tmp_path / "out" / task.stem).parent == tmp_path / "out"
    assert DragTask.load(tmp_path / "out" / task.stem).name == task.name, "what it is called stays"


# drag files of the user's


def test_a_zip_of_other_things_is_not_overwritten_and_a_picture_keeps_its_bytes(drag_task, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"a photo")
    with pytest.raises(InputError, match="was not made by dragnb"):
        drag_task.save(tmp_path / "photos.zip")
    assert zipfile.ZipFile(tmp_path / "photos.zip").namelist() == ["a.jpg"]

    path = drag_task.save(tmp_path / "task")
    Image.fromarray(drag_task.image).save(path / "image.png", compress_level=0, dpi=(300, 300))
    before = (path / "image.png").read_bytes()
    DragTask.load(path).save(path)
    assert (path / "image.png").read_bytes() == before


def test_a_folder_with_a_task_json_of_another_program_is_not_a_drag_file(drag_task, tmp_path):
    (tmp_path / "task.json").write_text('{"tasks": []}')
    (tmp_path / "image.png").write_bytes(b"the user's")
    with pytest.raises(InputError, match="is a folder with other things in it"):
        drag_task.save(tmp_path)
    assert (tmp_path / "image.png").read_bytes() == b"the user's"


def test_copying_stops_where_the_folder_vanishes_for_good(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    files.replace_folder(path, lambda folder: (folder / "a").write_text("1"), ("a",))
    tried = []
    monkeypatch.setattr(shutil, "copytree", lambda *given, **how: (tried.append(given), full()))
    with pytest.raises(WriteError):
        files.replace_folder(path, lambda folder: None, ("a",))
    assert (path / "a").read_text() == "1" and len(tried) == 1
