"""The runner of the notebooks tells the truth, and what goes back into them belongs to no machine; the model's card."""

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import colab
import model_card
import nbformat
import notebook_outputs
import numpy as np
import parameters
import pytest
import run_notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from dragnb import checkpoints, sd, sweep

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = 'out = "outputs"  # where results go\nsteps = 2  # how many\nword = "cat"'


def write(folder, name, *sources):
    """A notebook with a title, a cell of parameters and the given code cells."""
    folder.mkdir(exist_ok=True)
    cells = [new_markdown_cell("# A title"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    book = new_notebook(cells=[*cells, *map(new_code_cell, sources)], metadata=KERNEL)
    nbformat.write(book, folder / name)
    return folder / name


@pytest.fixture
def books(tmp_path):
    write(tmp_path / "books", "00_good.ipynb", "print(out, steps)")
    return tmp_path / "books"


def make_notebooks(books, *arguments):
    return run_notebooks.main(["--notebooks", str(books), "--out", str(books.parent / "outputs"), *arguments])


# running


def test_each_notebook_gets_a_line_the_outputs_folder_and_what_was_asked_for(books, capfd):
    write(books, "01_next.ipynb", "import os\nassert os.path.samefile('.', '../books')")

    assert make_notebooks(books, "-p", "steps", "7") == 0

    seen = capfd.readouterr()
    assert [line.split()[0] for line in seen.out.splitlines()] == ["00_good", "01_next"]
    assert all(line.endswith("ok") and " s " in line for line in seen.out.splitlines())
    assert seen.err == "", "no kernel's noise"
    ran = nbformat.read(books.parent / "outputs" / "00_good.ipynb", 4)
    assert ran.cells[-1].outputs[0].text == "../outputs 7\n"


def test_the_notebook_and_cell_that_failed_are_named_and_later_ones_not_run(books, capfd):
    write(books, "01_bad.ipynb", "x = 1", "y = x / 0  # here\n")
    write(books, "02_never.ipynb")

    assert make_notebooks(books, "--only", "01", "02") == 1

    seen = capfd.readouterr()
    assert "01_bad" in seen.out and "FAILED" in seen.out and "02_never" not in seen.out
    assert (
        "01_bad.ipynb failed in cell [4]: y = x / 0  # here\nZeroDivisionError: division by zero" in seen.err
    )


@pytest.mark.parametrize(
    ("source", "reason", "seconds"),
    [("import time; time.sleep(600)", "timed out", "5"), ("import os; os._exit(9)", "Kernel died", "300")],
)
def test_a_cell_that_takes_too_long_or_kills_its_kernel_is_named(books, capfd, source, reason, seconds):
    write(books, "01_bad.ipynb", source, "x = 1")

    assert make_notebooks(books, "--only", "01", "--timeout", seconds) == 1

    message = capfd.readouterr().err
    assert f"01_bad.ipynb failed in cell [3]: {source}" in message and reason in message


def test_an_unknown_parameter_is_an_error_before_anything_runs(books, capfd):
    assert make_notebooks(books, "-p", "step", "7") == 1

    seen = capfd.readouterr()
    assert "-p step: no notebook has this parameter; did you mean steps?" in seen.err
    assert seen.out == ""


def test_a_name_that_matches_no_notebook_or_an_empty_folder_is_an_error(books, tmp_path, capfd):
    assert make_notebooks(books, "--only", "07") == 1
    assert "--only 07: no such notebook; there are 00_good" in capfd.readouterr().err
    assert make_notebooks(tmp_path) == 1
    assert "holds no notebook named like 00_name.ipynb" in capfd.readouterr().err


def test_a_file_that_is_no_notebook_is_named(books, capfd):
    (books / "01_broken.ipynb").write_text("{")

    assert make_notebooks(books) == 1
    assert "01_broken.ipynb cannot be read as a notebook" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("own", "text", "value"),
    [
        ("", "1984", "1984"),
        ("clay", "2024", "2024"),
        ("", "True", "True"),
        ("", "None", "None"),
        ("", "[1, 2]", "[1, 2]"),
        ("", '"1984"', "1984"),
        ("", "a 'b' c", "a 'b' c"),
        ("", "007", "007"),
        (3, "7", 7),
        (3, "0.5", 0.5),
        (0.5, "2", 2.0),
        (0.5, "1e-3", 1e-3),
        (3, "None", None),
        (True, "false", False),
        (True, "0", False),
        ([], "[1, [2, 3]]", [1, [2, 3]]),
        ({}, '{"lora_steps": 4, "reference": false}', {"lora_steps": 4, "reference": False}),
        (None, "3", 3),
        (None, "sd15", "sd15"),
        (parameters.NONE, "a/b c", "a/b c"),
    ],
)
def test_a_parameter_keeps_the_kind_of_the_notebooks_own_value(own, text, value):
    found = parameters.typed("name", text, own)

    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("own", "text", "sentence"),
    [
        (3, "many", "-p x many: is not a number, as the notebook's own 3 is"),
        (3, "True", "-p x True: is not a number"),
        (True, "maybe", "-p x maybe: is not True or False"),
        ({}, "{lr:0.1}", """a shell has eaten its quotes, so write -p x '{"lr":0.1}'"""),
        ({}, "{a: [1e-3, yes], b: true}", """write -p x '{"a": [1e-3, "yes"], "b": true}'"""),
        ([], "[cat, dog]", """write -p x '["cat", "dog"]'"""),
        (None, "{lr:0.1}", """write -p x '{"lr":0.1}'"""),
        ({}, "{lr:", "keep a shell from its quotes"),
        ({}, "[1]", "-p x [1]: is not a dict, as the notebook's own {} is"),
    ],
)
def test_a_value_of_another_kind_is_met_with_one_sentence_that_shows_the_right_quoting(own, text, sentence):
    with pytest.raises(ValueError) as caught:
        parameters.typed("x", text, own)

    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_text_that_looks_like_a_number_reaches_the_notebook_as_text(books, capfd):
    write(books, "01_typed.ipynb", "print(repr(word), repr(steps))")

    assert make_notebooks(books, "--only", "01", "-p", "word", "1984", "-p", "steps", "7") == 0
    ran = nbformat.read(books.parent / "outputs" / "01_typed.ipynb", 4)
    assert ran.cells[-1].outputs[0].text == "'1984' 7\n"
    assert make_notebooks(books, "--only", "01", "-p", "steps", "{lr:0.1}") == 1
    assert "-p steps {lr:0.1}: is not a number" in capfd.readouterr().err


def test_paths_are_the_callers_wherever_the_notebooks_run(books, tmp_path, monkeypatch):
    source = f'{PARAMETERS}\ntask = ""\nmodel = "clay"\nloading = {{}}'
    cells = [new_code_cell(source, metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), books / "01_paths.ipynb")
    here = tmp_path / "elsewhere"
    (here / "outputs" / "picked" / "drag").mkdir(parents=True)
    (here / "style.safetensors").touch()
    monkeypatch.chdir(here)
    given = [["task", "outputs/picked/drag"], ["model", "sd15"]]
    given += [["loading", '{"lora": "style.safetensors", "vae": "owner/name", "dtype": "fp16"}']]

    args = SimpleNamespace(parameters=given, notebooks=books, out=tmp_path / "out", commit_outputs=False)
    (values,) = run_notebooks.check_parameters([books / "01_paths.ipynb"], args).values()

    assert (books / values["task"]).resolve() == here / "outputs" / "picked" / "drag"
    assert (books / values["loading"].pop("lora")).resolve() == here / "style.safetensors"
    assert values["loading"] == {"vae": "owner/name", "dtype": "fp16"} and values["model"] == "sd15"


def test_words_that_a_shell_has_split_are_told_to_need_quotes(books, capsys):
    with pytest.raises(SystemExit):
        make_notebooks(books, "-p", "out", "a", "cat")

    assert (
        "unrecognized arguments: cat; a value with spaces, or braces, needs quotes" in capsys.readouterr().err
    )


# outputs that go back


def test_outputs_go_back_without_papermills_traces_and_the_source_is_unchanged(books):
    before = nbformat.read(books / "00_good.ipynb", 4)

    assert make_notebooks(books, "--commit-outputs") == 0

    after = nbformat.read(books / "00_good.ipynb", 4)
    assert [(c.id, c.source, c.metadata) for c in after.cells] == [
        (c.id, c.source, c.metadata) for c in before.cells
    ]
    assert after.cells[-1].outputs[0].text == "../outputs 2\n"
    text = (books / "00_good.ipynb").read_text()
    assert "papermill" not in text and "injected" not in text and str(books.parent) not in text
    assert list(books.iterdir()) == [books / "00_good.ipynb"]


def test_outputs_of_changed_parameters_are_not_committed(books, capsys):
    with pytest.raises(SystemExit):
        make_notebooks(books, "--commit-outputs", "-p", "steps", "7")

    assert "committed outputs come from the notebooks' own values" in capsys.readouterr().err


def test_a_notebook_changed_since_its_run_keeps_what_it_has(books):
    assert make_notebooks(books) == 0
    write(books, "00_good.ipynb", "print('edited meanwhile')")
    before = (books / "00_good.ipynb").read_text()

    with pytest.raises(ValueError, match=r"00_good\.ipynb has changed since .* was run; run it again"):
        notebook_outputs.commit(books.parent / "outputs" / "00_good.ipynb", books / "00_good.ipynb", books)
    assert (books / "00_good.ipynb").read_text() == before


def test_widgets_and_this_machines_folders_do_not_go_into_the_repository(tmp_path):
    png = "aGVsbG8="
    widget = new_output("display_data", {"text/plain": "HBox()", notebook_outputs.WIDGET: {"model_id": "1"}})
    picture = new_output(
        "display_data", {"image/png": png, "text/plain": f"<{Path.home()}/x {tmp_path}/data>"}
    )
    stream = new_output("stream", text=f"{tmp_path}/outputs/a.png\n/tmp/ipykernel_12/345.py:1: Warning\n")
    book = new_notebook(cells=[new_code_cell("x", outputs=[widget, picture, stream])], metadata=KERNEL)
    book.metadata["widgets"] = {"state": 1}

    notebook_outputs.clean(book, tmp_path)

    picture, stream = book.cells[0].outputs
    assert picture.data == {"image/png": png, "text/plain": "<~/x data>"}
    assert stream.text == "outputs/a.png\n<cell>:1: Warning\n"
    assert set(book.metadata) == {"kernelspec", "language_info"}


# Colab


@pytest.fixture
def pyproject(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\n[project.urls]\nRepository = "https://github.com/some/where.git"\n')
    return path


def write_colab(books, pyproject, *arguments):
    return colab.main(["--notebooks", str(books), "--pyproject", str(pyproject), *arguments])


def test_with_an_address_every_notebook_gets_a_badge_and_a_first_cell(books, pyproject):
    assert write_colab(books, pyproject) == 0

    title, first, parameters = nbformat.read(books / "00_good.ipynb", 4).cells[:3]
    link = "https://colab.research.google.com/github/some/where/blob/main/notebooks/00_good.ipynb"
    assert title.source.startswith("# A title\n\n[![Open in Colab]") and title.source.endswith(f"({link})")
    assert '"https://github.com/some/where"' in first.source and "clone" in first.source
    assert parameters.source == PARAMETERS


def test_without_an_address_there_is_no_badge_and_the_first_cell_takes_an_upload(books, pyproject):
    write_colab(books, pyproject)
    pyproject.write_text("[project]\n[project.urls]\n")
    write_colab(books, pyproject)

    title, first, parameters = nbformat.read(books / "00_good.ipynb", 4).cells[:3]
    assert title.source == "# A title"
    assert "dragnb.zip" in first.source and "git" not in first.source
    assert parameters.source == PARAMETERS


def test_writing_twice_changes_nothing_and_check_tells_what_is_stale(books, pyproject, capsys):
    assert write_colab(books, pyproject, "--check") == 1
    assert "Out of date, run tools/colab.py: 00_good.ipynb" in capsys.readouterr().out
    write_colab(books, pyproject)
    once = (books / "00_good.ipynb").read_text()

    assert write_colab(books, pyproject, "--check") == 0
    write_colab(books, pyproject)
    assert (books / "00_good.ipynb").read_text() == once
    assert json.loads(once)["nbformat"] == 4


@pytest.mark.parametrize("url", [None, "https://github.com/some/where"])
def test_the_first_cell_does_nothing_here(url, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)

    exec(colab.bootstrap(url), {})


@pytest.mark.parametrize(
    ("url", "fetch"),
    [
        (None, "unzip -q /content/dragnb.zip -d /content"),
        ("https://host/a/b", "git clone -q --depth 1 https://host/a/b /content/dragnb"),
    ],
)
def test_on_colab_it_fetches_installs_and_spares_what_colab_has(url, fetch, monkeypatch):
    said = []
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: said.append("widgets on"))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(output=output))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "executable", "python")
    monkeypatch.setattr(subprocess, "run", lambda command, check: said.append(" ".join(command)))
    monkeypatch.setattr("os.chdir", said.append)

    exec(colab.bootstrap(url), {})

    install = "python -m pip install -q /content/dragnb[widgets]"
    assert said == [fetch, install, "/content/dragnb/notebooks", "widgets on"]
    assert sys.path[0] == "/content/dragnb"


@pytest.mark.parametrize("url", [None, "https://github.com/some-long-name-of-an-owner/and-of-a-repository"])
def test_the_first_cell_passes_the_projects_own_lint(url):
    for command in (["check", "--ignore", "E402"], ["format", "--check"]):
        ruff = [
            sys.executable,
            "-m",
            "ruff",
            *command,
            "--line-length",
            "110",
            "--stdin-filename",
            "cell.py",
            "-",
        ]
        subprocess.run(ruff, input=colab.bootstrap(url) + "\n", text=True, check=True)


def test_the_notebooks_have_the_first_cell_and_badges_that_the_address_asks_for():
    assert colab.main(["--check"]) == 0


# the model's card

SHIPPED = Path(__file__).parents[1] / "data" / "models" / "clay"


def test_the_cards_figures_and_pictures_come_from_one_sweep(smoke_folder, quick, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(smoke_folder, folder)

    found = model_card.measure(folder, tmp_path / "sweep", quick, count=2, pictures=2, jobs=1)

    (place,) = (tmp_path / "sweep").iterdir()
    records = {(r["sample"], r["setting"]): r for r in sweep.read(place)}
    assert len(records) == 6 and not any(r["error"] for r in records.values())
    assert [row["sample"] for row in found["edits"]] == ["cat-turn-810000", "dog-nod-810001"]
    moved = [records[row["sample"], "full"]["metrics"]["moved"] for row in found["edits"]]
    assert found["summary"]["moved"] == pytest.approx(np.median(moved), abs=0.01)
    assert found["summary"].keys() >= {*model_card.BARS, "figure_psnr", "mean_way", "by_family"}
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(json.dumps(found))
    assert Image.open(folder / "edits.png").size == Image.open(folder / "edits_paper.png").size
    assert found["success"].keys() == {"warp_inpaint", "full"}
    history = json.loads((SHIPPED / "training.json").read_text())
    card = model_card.text(history, found, "a machine", sd.load(str(folder)))
    assert (
        "median over 2 held-out clay tasks" in card
        and f"figures {found['summary']['figure_psnr']} dB" in card
    )


def test_a_sweep_for_the_card_with_a_failure_is_no_card(smoke_folder, quick, tmp_path, monkeypatch):
    shutil.copytree(smoke_folder, tmp_path / "model")
    monkeypatch.setattr(model_card, "PLACE", (81, 9))

    with pytest.raises(SystemExit, match="cat-turn-810000 / full: InputError: block = 9"):
        model_card.measure(tmp_path / "model", tmp_path / "sweep", quick, count=1, pictures=1, jobs=1)
    assert not (tmp_path / "model" / "evaluation.json").exists()


@pytest.mark.parametrize("name", checkpoints.BUNDLED)
def test_the_shipped_cards_are_what_the_tool_writes(name):
    folder = SHIPPED.with_name(name)
    history, found = (
        json.loads((folder / f"{part}.json").read_text()) for part in ("training", "evaluation")
    )

    card = model_card.text(history, found, model_card.hardware_of(history), sd.load(name))

    assert (folder / "README.md").read_text() == card and model_card.is_card(folder / "README.md")
    assert found.get("world", 1) == model_card.world_of(history)


def test_a_readme_of_ones_own_is_no_card(tmp_path):
    (tmp_path / "README.md").write_text("\n# The clay modelling course\n")
    assert not model_card.is_card(tmp_path / "README.md")
