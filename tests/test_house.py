"""The house: imports go downwards only, folders stay small, and `import dragnb` stays light. Reads the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dragnb

PACKAGE = Path(dragnb.__file__).parent
ROOT = "root"
MAY_IMPORT = {  # folder -> what it may import beside itself; all of them the store
    ROOT: {"checkpoints", "inputs"},
    "checkpoints": {ROOT},
    "inputs": {ROOT},
    "store": {ROOT},
    "methods": {ROOT},
    "pipeline": {ROOT, "methods", "checkpoints"},
    "metrics": {ROOT, "checkpoints"},
    "clay": {ROOT},
    "clay/training": {ROOT, "clay", "metrics"},
    "sweep": {ROOT, "inputs", "methods", "metrics", "clay", "pipeline"},
    "ui": {ROOT, "checkpoints", "inputs", "pipeline", "metrics", "clay", "ui/panels"},
    "ui/panels": {ROOT, "ui", "inputs", "pipeline", "checkpoints"},
}
LIBRARIES = {  # who may know the libraries that change most, or belong to what people see
    "diffusers": {"checkpoints", "sd", "features", "attention", "lora", "clay/training"},
    "transformers": {"checkpoints", "sd", "clay/training"},
    "peft": {"lora", "checkpoints"},
    "matplotlib": {"viz", "ui/frames"},
    "ipywidgets": {"ui", "ui/panels"},
    "ipycanvas": {"ui"},
    "IPython": {"ui"},
    "torchvision": set(),
    "lpips": set(),
}
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})


def name_of(path):
    """A file's name below the package, like "ui/picker"; a folder's `__init__` goes by the folder's."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")


def folder_of(path):
    return path.parent.relative_to(PACKAGE).as_posix().replace(".", ROOT)


def imports(path):
    """Every module a file imports, anywhere in it, by its absolute name."""
    here = ("dragnb", *path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files_imported(path):
    """The package's files that a file imports."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "dragnb":
            for k in range(len(parts), 1, -1):
                base = PACKAGE.joinpath(*parts[1:k])
                for file in (base.with_suffix(".py"), base / "__init__.py"):
                    if file.exists() and file != path:
                        yield file
                        break
                else:
                    continue
                break


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_its_own_folder_and_those_below(path):
    if path == PACKAGE / "__init__.py":
        assert not list(files_imported(path)), "the package itself imports nothing before it is asked for"
        return
    own = folder_of(path)
    assert own in MAY_IMPORT, f"{own}/ has no place in the house: give it one in MAY_IMPORT"

    allowed = {own, "store"} | MAY_IMPORT[own]
    wrong = {name_of(file) for file in files_imported(path) if folder_of(file) not in allowed}

    assert not wrong, f"{name_of(path)} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libraries_that_change_are_known_to_few_files(path):
    known = {name.split(".")[0] for name in imports(path)} & set(LIBRARIES)

    assert not {lib for lib in known if not {name_of(path), folder_of(path)} & LIBRARIES[lib]}


def test_no_two_files_import_each_other():
    needs = {path: {f for f in files_imported(path) if f.name != "__init__.py"} - {path} for path in FILES}
    while needs:
        free = [path for path, wants in needs.items() if not wants & set(needs)]
        assert free, f"these import each other in a circle: {sorted(map(name_of, needs))}"
        for path in free:
            del needs[path]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_a_folder_has_fifteen_files_at_most(folder):
    assert len(list(folder.glob("*.py"))) <= 15


def test_importing_the_package_is_light_and_the_rest_comes_when_it_is_named():
    code = "import sys, dragnb; assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules); dragnb.errors"

    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
