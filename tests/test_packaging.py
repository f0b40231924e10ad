"""What stands in several places says the same in all of them."""

import argparse
import ast
import dataclasses
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import dragnb
from dragnb import sd
from dragnb.sweep import __main__ as sweep_command
from dragnb.sweep import options
from tools.speed import __main__ as speed_command

ROOT = Path(dragnb.__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
COLAB = {  # what Google Colab had installed on 2026-08-19, with Python 3.13
    "torch": "2.11.0",
    "numpy": "2.1.3",
    "pillow": "11.3.0",
    "safetensors": "0.8.0",
    "diffusers": "0.39.0",
    "transformers": "5.15.0",
    "peft": "0.20.0",
    "accelerate": "1.14.0",
    "scikit-learn": "1.6.1",
    "matplotlib": "3.10.0",
}


def needs(*extras):
    lists = [PROJECT["dependencies"], *(EXTRAS[name] for name in extras)]
    return {r.name: r for r in map(Requirement, sum(lists, []))}


def test_torch_as_make_installs_it_lies_in_the_packages_range():
    version = re.search(r"^TORCH \?= torch==(\S+)$", MAKEFILE, re.M)[1]

    assert version in needs()["torch"].specifier


@pytest.mark.parametrize("name", COLAB)
def test_colabs_own_version_satisfies_the_range_so_nothing_there_is_replaced(name):
    assert COLAB[name] in needs()[name].specifier


def test_colab_is_asked_for_nothing_of_jupyters_own():
    assert {r.name for r in map(Requirement, EXTRAS["widgets"])} == {"ipycanvas"}
    assert "3.13.15" in SpecifierSet(PROJECT["requires-python"])
    assert not any("<" in str(r.specifier) for r in needs("widgets").values()), "no upper caps there"


def test_torchvision_is_needed_nowhere():
    assert "torchvision" not in needs(*EXTRAS)


def test_the_conda_environment_and_make_install_extras_that_exist():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))

    assert environment["name"] == PROJECT["name"]
    assert "python" + PROJECT["requires-python"] in environment["dependencies"]
    for text in (*pip, MAKEFILE):
        extras = ",".join(re.findall(r"\.\[([\w,]+)\]", text)).split(",")
        assert set(extras) <= set(EXTRAS), f"no such extra in pyproject.toml: {extras}"


def test_the_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())

    assert citation["version"] == dragnb.__version__
    assert f"## {dragnb.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2306.14435"


def test_make_knows_every_target_it_promises():
    for target in ("setup", "notebooks", "class", "test", "lab", "app", "slow", "clean"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_app_is_the_studio_without_the_lesson():
    """What `make app` leaves of notebook 10 has the cells that the studio needs, and no other code."""
    book = json.loads((ROOT / "notebooks" / "10_studio.ipynb").read_text())
    left = [c for c in book["cells"] if "lesson" not in c["metadata"].get("tags", [])]
    code = ["".join(c["source"]) for c in left if c["cell_type"] == "code"]

    assert "remove_cell_tags=lesson notebooks/10_studio.ipynb" in MAKEFILE
    assert len(code) == 4 and code[-1].endswith("\nstudio")
    names = {node.id for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert {"studio", "drag_task", "chosen", "task"} <= names


def test_the_ci_script_is_sound_and_runs_both_commands():
    script = ROOT / ".ci" / "run"

    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111, "it must be executable"
    assert {"make test", "make notebooks"} <= set(script.read_text().splitlines())


def test_the_floors_that_are_run_are_those_that_are_promised():
    lines = (ROOT / "tools" / "floors.txt").read_text().splitlines()
    floors = {r.name: r for r in map(Requirement, (line for line in lines if not line.startswith("#")))}

    assert floors.keys() == needs("widgets").keys()
    for name, promised in needs("widgets").items():
        low = next(s.version for s in promised.specifier if s.operator == ">=")
        assert (
            next(iter(floors[name].specifier)).version.removesuffix(".0").startswith(low.removesuffix(".0"))
        )


# How a model is loaded

WORDS = ("--device cpu --dtype bf16 --config c --low-memory --lora l --vae v --clip-skip 1").split()
GIVEN = dict(device="cpu", dtype="bf16", config="c", low_memory=True, lora="l", vae="v", clip_skip=1)
LOADERS = {"load", "load_model", "wanted", "run", "edit", "prepare", "generate"}


def test_the_options_of_command_lines_are_the_words_of_loading():
    assert options.NAMES == tuple(f.name for f in dataclasses.fields(sd.Wanted))[1:]
    parser = argparse.ArgumentParser()
    options.add_options(parser.add_argument)
    assert sd.wanted("clay", **options.loading(parser.parse_args([]))) == sd.wanted("clay")


@pytest.mark.parametrize(
    ("main", "words", "asked"),
    [
        (sweep_command.main, "run --data clay --settings no_edit --limit 1 --out o", "wanted"),
        (speed_command.main, "--side 64", "load"),
    ],
    ids=["dragnb.sweep", "tools.speed"],
)
def test_every_word_of_loading_reaches_the_model_from_a_command_line(
    main, words, asked, monkeypatch, tmp_path
):
    seen = []

    def stop(model, **loading):
        seen.append(loading)
        raise LookupError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sd, asked, stop)
    with pytest.raises(LookupError):
        main([*words.split(), *WORDS])
    assert seen == [GIVEN]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda p: p.stem[:2])
def test_a_notebook_that_takes_a_model_takes_how_it_is_loaded_and_says_so_wherever_it_loads(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    code = [ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", "".join(cell["source"]))) for cell in cells]
    nodes = [node for tree in code for node in ast.walk(tree)]
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if "model" not in names:
        assert path.name.startswith("04_"), "only the picker needs none"
        return
    calls = [
        call
        for call in nodes
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", "") in LOADERS
        and any(isinstance(arg, ast.Name) and arg.id in ("model", "checkpoint") for arg in call.args)
    ]
    assert "loading" in names and calls
    for call in calls:
        handed_on = [k.value.id for k in call.keywords if k.arg is None and isinstance(k.value, ast.Name)]
        assert "loading" in handed_on, ast.unparse(call)
