"""A built package, in a fresh folder, brings the bundled model, the notebooks' data and the configs of single files."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dragnb

ROOT = Path(dragnb.__file__).parent.parent
LOOK = """
import dragnb, numpy as np
from dragnb import checkpoints, sd
from dragnb.checkpoints import originals
assert "site" in dragnb.__file__, dragnb.__file__
model = sd.load("clay", device="cpu")
print(checkpoints.clay_folder(), model.hash)
print(*(checkpoints.data_file(f"results/{name}.csv") for name in ("claybench", "ablations")))
assert len(originals.bundled_tokenizer()) == 49408
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The unpacked wheel, built from a copy of what git would hold."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("dragnb", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(place),
        ".",
    ]
    subprocess.run(build, cwd=source, check=True)
    with zipfile.ZipFile(next(place.glob("dragnb-*.whl"))) as wheel:
        names = wheel.namelist()
        wheel.extractall(place / "site")
    assert len(names) == len(set(names)) and not any(n.startswith("data/") for n in names)
    return place / "site"


def test_the_wheel_finds_clay_and_its_data_in_a_fresh_folder(site, tmp_path):
    env = {k: v for k, v in os.environ.items() if k not in ("DRAGNB_MODELS", "PYTHONPATH")}
    env |= {"PYTHONPATH": str(site), "DRAGNB_CACHE": str(tmp_path / "cache")}
    told = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count(str(site)) == 3

    ran = [
        sys.executable,
        "-m",
        "dragnb.sweep",
        "run",
        "--data",
        "clay",
        "--settings",
        "no_edit",
        "--limit",
        "1",
    ]
    done = subprocess.run(
        [*ran, "--out", "o"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "1 records in o, 0 failed" in done.stdout + done.stderr, done.stderr
