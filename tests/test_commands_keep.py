"""No command deletes or overwrites what the user made: the cases that once did."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import nbformat
import pytest
import run_class
import run_notebooks
import sweep_stand_ins as stand
from nbformat.v4 import new_code_cell, new_notebook

import dragnb
from dragnb import lora, sweep, viz
from dragnb.clay.training import parts
from dragnb.errors import InputError
from dragnb.sweep import datasets, records

ROOT = Path(dragnb.__file__).parents[1]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def books(tmp_path):
    parameters = new_code_cell('task = ""\nout = ""', metadata={"tags": ["parameters"]})
    (tmp_path / "nb").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[parameters], metadata=kernel), tmp_path / "nb" / "00_small.ipynb")
    return tmp_path / "nb"


@pytest.mark.parametrize("name", ["work", "pictures", ".lock", "holder.json", "records", "run.json"])
def test_a_sweep_in_a_folder_of_the_users_keeps_what_is_there(tmp_path, name):
    place = tmp_path / "mine"
    (place / name).parent.mkdir(parents=True)
    if name in ("work", "pictures", "records"):
        (place / name).mkdir()
        (place / name / "thesis.txt").write_text("years")
    else:
        (place / name).write_text('{"the user": 1}')
    before = contents(place)

    with pytest.raises(InputError, match=f"{name}|{place}"):
        [*sweep.run(stand.samples(1), {"a": stand.floor}, place, "clay")]

    assert before.items() <= contents(place).items()


def test_a_sweep_beside_other_things_of_the_users_leaves_them(tmp_path):
    (tmp_path / ".notes.tmp").write_text("the user's own")
    with records.held(tmp_path, {"settings": {}}):
        pass
    assert (tmp_path / ".notes.tmp").read_text() == "the user's own"


@pytest.mark.parametrize("way", ["nb", "link", "nb/../nb"])
def test_a_notebook_is_never_its_own_output(books, capfd, way):
    (books.parent / "link").symlink_to(books)
    before = contents(books)

    assert run_notebooks.main(["--notebooks", str(books), "--out", str(books.parent / way)]) == 1

    assert "are one place" in capfd.readouterr().err and contents(books) == before


def test_a_notebook_of_the_users_in_the_output_folder_is_refused(books, capfd):
    out = books.parent / "out"
    shutil.copytree(books, out)
    before = contents(out)

    assert run_notebooks.main(["--notebooks", str(books), "--out", str(out)]) == 1

    assert "was not made by dragnb" in capfd.readouterr().err and contents(out) == before


def test_a_class_never_writes_into_its_drag_files_or_a_folder_of_the_users(books, tmp_path, capfd):
    drags, out = tmp_path / "drags", tmp_path / "class"
    stand.Sample("a").task().save(drags / "anna")
    (out / "anna").mkdir(parents=True)
    (out / "anna" / "thesis.txt").write_text("years")
    before = contents(drags) | contents(out)

    assert run_class.main([str(drags), "--out", str(drags), "--notebooks", str(books)]) == 1
    assert "are one place" in capfd.readouterr().err
    assert run_class.main([str(drags), "--out", str(out), "--notebooks", str(books)]) == 1

    assert "holds other things, which would be lost" in (out / "index.html").read_text()
    (out / "index.html").write_text("the user's page")
    assert run_class.main([str(drags), "--out", str(out), "--notebooks", str(books)]) == 1
    assert (out / "index.html").read_text() == "the user's page"
    assert before.items() <= (contents(drags) | contents(out)).items()


def test_a_drag_file_called_as_the_page_has_a_folder_of_another_name(tmp_path):
    stand.Sample("a").task().save(tmp_path / "drags" / "index.html.zip")

    (entry,) = run_class.found(tmp_path / "drags", tmp_path / "class")

    assert entry.folder.casefold() != run_class.PAGE


def test_exports_and_tables_of_one_stem_do_not_replace_the_users(tmp_path, drag_task):
    for name in ("figure.png", "a.safetensors", "claybench.csv", "claybench.json"):
        (tmp_path / name).write_text("the user's")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.jpg", b"the user's")
    before = contents(tmp_path)

    for write in (
        lambda: viz.save(viz.task_figure(drag_task), tmp_path, "figure"),
        lambda: lora.save(tmp_path / "a.safetensors", {}),
        lambda: drag_task.save(tmp_path / "a.zip"),
        lambda: parts.save_folder(parts.build("smoke"), tmp_path),
    ):
        with pytest.raises(InputError, match="not made by dragnb|did not make it"):
            write()
    assert contents(tmp_path) == before


def test_sample_names_from_files_do_as_names_of_files(tmp_path, drag_task):
    for name in ("CON", "a:b", " cat", "x" * 100):
        drag_task.save(tmp_path / "set" / name)

    samples, problems = datasets.read(tmp_path / "set")

    assert len(samples) == 4 and not problems
    sweep._require_names("sample", [sample.name for sample in samples], depth=4)


@pytest.fixture
def clone(tmp_path):
    """The Makefile with what a user made beside it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for place in (
        "dragnb/__pycache__",
        "tests",
        "tools",
        "notebooks",
        "outputs/picked/cat",
        "build/mine",
        "mine",
    ):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    for place in ("outputs/picked/cat", "build/mine", "mine"):
        (tmp_path / place / "thesis.txt").write_text("years")
    return tmp_path


def test_make_clean_keeps_what_was_made_by_hand(clone):
    subprocess.run(["make", "clean"], cwd=clone, check=True, capture_output=True)

    assert not (clone / "dragnb" / "__pycache__").exists()
    assert len([*clone.rglob("thesis.txt")]) == 3


def test_make_takes_no_folder_of_the_users_for_its_environment(clone):
    done = subprocess.run(["make", "setup", "VENV=mine"], cwd=clone, capture_output=True, text=True)

    assert done.returncode and "mine holds other things, which would be lost" in done.stdout
    assert os.listdir(clone / "mine") == ["thesis.txt"]
