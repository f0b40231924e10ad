"""A class of drag files: each gets its notebook, what fails is told, and the page shows all."""

import re
from dataclasses import replace
from urllib.parse import unquote

import class_page
import nbformat
import numpy as np
import pytest
import run_class
import sweep_stand_ins as stand
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from dragnb import clay

BOOK = """from pathlib import Path
from PIL import Image
from dragnb.task import DragTask
import json
drag = DragTask.load(task)
assert drag.prompt != "fails", "this one fails"
folder = drag.save(Path(out) / "quickstart" / drag.name)
Image.fromarray(255 - drag.image).save(folder / "after.png")
print(Path(task).resolve(), {"a": 1}["a"])
scores = {"tracker_px": 0.5, "rest_psnr": 30.0, "moved": 0.5, "left_px": float(len(drag.name))}
scores["success"] = int(drag.name.startswith("anna"))
(folder / "scores.json").write_text(json.dumps(scores))"""


@pytest.fixture
def place(tmp_path):
    """A drag file in a folder, one in a zip, one that fails in the notebook, a broken one, and what is none."""
    parameters = new_code_cell('task = ""\nout = ""\nsteps = 1', metadata={"tags": ["parameters"]})
    book = new_notebook(cells=[parameters, new_code_cell(BOOK)])
    book.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "books").mkdir()
    nbformat.write(book, tmp_path / "books" / "00_small.ipynb")
    drags = tmp_path / "drags"
    stand.Sample("a").task().save(drags / "anna & ben")
    stand.Sample("b").task().save(drags / "cleo.zip")
    replace(stand.Sample("c").task(), prompt="fails").save(drags / "dora")
    stand.Sample("d").task().save(drags / "emil")
    (drags / "emil" / "image.png").write_bytes(b"no picture")
    (drags / "notes.txt").write_text("none")
    (drags / ".DS_Store").write_bytes(b"none")
    return tmp_path


def make_class(place, *arguments):
    out = ["--out", str(place / "class"), "--notebooks", str(place / "books")]
    return run_class.main([str(place / "drags"), *out, *arguments])


def test_every_drag_file_has_a_row_with_pictures_a_notebook_or_the_reason(place, capfd):
    assert make_class(place) == 1

    said = capfd.readouterr()
    assert said.out.count("FAILED") == 2 and f"2 of 4 done: {place / 'class' / 'index.html'}" in said.out
    page = (place / "class" / "index.html").read_text()
    assert page.count("<article>") == 4 and "notes" not in page and "DS_Store" not in page
    assert "<h3>anna &amp; ben</h3><p>a cat</p>" in page
    assert "in cell [3]: from pathlib" in page and "AssertionError: this one fails" in page
    assert re.search(r'<h3>emil</h3>.*class="failed">.*image.png: it cannot be read as a picture', page)
    for link in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert (place / "class" / unquote(link)).exists(), link
    assert page.count("after.jpg") == 2 and page.count("before.jpg") == 3 and page.count(">notebook<") == 3
    assert (
        page.count("in truth it went 50% of the way") == 2 and page.count("the tracker believes 0.5 px") == 2
    )
    assert page.count("a success by the truth") == page.count("no success by the truth") == 1
    assert "2 of 4 drags done, 2 failed. Of 2 whose truth is known 1 succeed." in page
    read = (place / "class" / "cleo" / "00_small.html").read_text()
    assert "<title>cleo</title>" in read and "assert drag.prompt" in re.sub("<[^>]*>", "", read)
    assert str(place) not in page, "a page for others names no folder of this machine"
    with Image.open(place / "class" / "cleo" / "before.jpg") as before:
        assert max(before.size) <= run_class.THUMB


def test_a_drag_of_the_clay_world_has_its_truth_beside_it_and_its_arrow_is_drawn(tmp_path):
    sample = clay.task(831_003, "rabbit", "stretch")
    (tmp_path / "own").mkdir()
    entry = class_page.Entry("own", tmp_path / "own", "own")

    run_class.ask(entry, sample.task, tmp_path / "own")

    with Image.open(tmp_path / entry.before) as before, Image.open(tmp_path / entry.truth) as truth:
        assert np.abs(np.asarray(truth).astype(int) - sample.picture_after).mean() < 6
        assert np.abs(np.asarray(before).astype(int) - sample.task.image).max() > 100, "an arrow is on it"
    assert 'alt="own, what would be right"' in class_page.card(entry)


def test_best_and_worst_stand_first_with_all_that_belongs_to_them():
    def entry(name, **scores):
        return class_page.Entry(
            name, None, name, f"{name}/before.jpg", f"{name}/after.jpg", f"{name}/truth.jpg",
            f"{name}/n.ipynb", f"{name}/n.html", scores=scores,
        )  # fmt: skip

    entries = [entry(f"d{k}", tracker_px=9.0, left_px=float(k)) for k in (3, 1, 4, 0, 2)]
    entries += [
        entry("e", tracker_px=5.0),
        entry("none"),
        replace(entry("f", left_px=99.0), error="it fails"),
    ]

    shown = class_page.extremes(entries)

    assert re.findall("<h3>(.*?)</h3>", shown) == ["d0", "d1", "e", "d4"]
    for part in ("before.jpg", "after.jpg", "truth.jpg", "n.html", "n.ipynb"):
        assert f'"d4/{part}"' in shown
    assert "in truth 4.0 px are left" in shown
    assert class_page.extremes(entries[:4]) == "", "of four all are seen at once"
    entries[2].scores["success"], entries[3].scores["success"] = 1, 0
    shown = class_page.extremes(entries)
    assert re.findall("<h3>(.*?)</h3>", shown)[0] == "d4", "a ruin may be at the place, too"


def test_what_a_notebook_did_not_measure_is_left_out(tmp_path):
    (tmp_path / "scores.json").write_text('{"moved": "far"}')

    assert run_class.read_scores(tmp_path / "scores.json") == {} == run_class.read_scores(tmp_path / "none")


def test_parameters_reach_the_notebooks_and_unknown_ones_are_an_error(place, capfd):
    assert make_class(place, "-p", "stepz", "3") == 1
    assert "-p stepz: no notebook has this parameter; did you mean steps?" in capfd.readouterr().err
    assert not (place / "class").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda drags: drags.rename(drags.parent / "away"), "drags is no folder; give one with drag files"),
        (
            lambda drags: [drags.rename(drags.parent / "x"), drags.mkdir()],
            "drags holds no drag file: a folder with",
        ),
        (lambda drags: (drags / "dora.zip").touch(), "dora.zip and dora have one name; rename one"),
    ],
)
def test_a_folder_that_cannot_be_a_class_is_named(place, capfd, spoil, message):
    spoil(place / "drags")

    assert make_class(place) == 1
    assert message in capfd.readouterr().err
