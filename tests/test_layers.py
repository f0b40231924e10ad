"""Imports go downwards only, and `import dragnb` stays light. Reads the sources; imports nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dragnb

PACKAGE = Path(dragnb.__file__).parent
LAYERS = {
    "ground": (
        *("errors", "config", "geometry", "ddim", "pictures", "store", "task", "taskfile", "cores"),
        *("unpickle", "archive", "layouts", "dragbench"),
    ),
    "model": ("sd", "sources", "weights", "lean"),
    "method": ("lora", "tuning", "features", "attention", "drag", "lpips", "metrics", "dift"),
    "edit": ("edit", "prepare", "result", "glimpse", "pace", "worker", "session"),
    "bench": ("bench",),
    "picking": ("history", "masks", "picks", "preflight", "exchange", "hand", "window"),
    "top": (
        *("viz", "frames", "easel", "panel", "picker", "parts", "knobs", "panels", "pages", "studio"),
        *("export", "report"),
    ),
    "world": ("clay",),
    "score": ("score", "summary", "baselines"),
}
MAY_IMPORT = {
    "ground": {"ground"},
    "model": {"ground", "model"},
    "method": {"ground", "model", "method"},
    "edit": {"ground", "model", "method", "edit"},
    "bench": {"ground", "model", "method", "edit", "world", "score", "bench"},
    "picking": {"ground", "picking"},  # what a click or a stroke means, without a widget
    "top": {"ground", "model", "method", "edit", "score", "bench", "picking", "top"},
    "world": {"ground", "model", "method", "edit", "world"},
    "score": {"ground", "model", "method", "edit", "world", "score"},  # what is judged by the truth
}
LIBRARIES = {  # who may know the libraries that change most, or belong to what people see
    "diffusers": {"model", "method", "world"},
    "transformers": {"model", "world"},
    "peft": {"method"},
    "matplotlib": {"top", "world"},
    "ipywidgets": {"top"},
    "ipycanvas": {"top"},
    "IPython": {"top"},
    "torchvision": set(),
    "lpips": set(),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The room a file belongs to: its own name, or that of the folder it is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def layer(name):
    return next((layer for layer, rooms in LAYERS.items() if name in rooms), None)


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


def rooms_imported(path):
    """The package's rooms that a file imports, without its own."""
    names = (name.split(".") for name in imports(path))
    found = {parts[1] for parts in names if parts[0] == "dragnb" and len(parts) > 1}
    return {name for name in found if layer(name)} - {room(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_layer_and_those_below(path):
    if path == PACKAGE / "__init__.py":
        assert not rooms_imported(path), "the package itself imports no room before it is asked for"
        return
    own = layer(room(path))
    assert own, f"{room(path)} has no place in the house: give it one in LAYERS"

    wrong = {name for name in rooms_imported(path) if layer(name) not in MAY_IMPORT[own]}
    foreign = {name.split(".")[0] for name in imports(path)} & set(LIBRARIES)

    assert not wrong, f"{room(path)} ({own}) reaches up to {wrong}"
    assert not {lib for lib in foreign if own not in LIBRARIES[lib]}, (
        f"{room(path)} ({own}) may not know these"
    )


def test_no_two_rooms_import_each_other():
    needs = {}
    for path in FILES:
        needs.setdefault(room(path), set()).update(rooms_imported(path))
    left = dict(needs)
    while left:
        free = [name for name, wants in left.items() if not wants & set(left)]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for name in free:
            del left[name]


def test_every_listed_room_is_offered_by_the_package_and_only_those():
    placed = {name for rooms in LAYERS.values() for name in rooms}

    assert set(dragnb.ROOMS) <= placed
    with pytest.raises(AttributeError, match="no attribute 'draag'; its rooms are errors, config"):
        dragnb.draag  # noqa: B018


def test_importing_the_package_is_light_and_a_room_comes_when_it_is_named():
    code = "import sys, dragnb; assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules); dragnb.errors"

    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
