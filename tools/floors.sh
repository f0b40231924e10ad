#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml promises into a folder of their own, and runs the loading tests,
# notebook 00 and the picker's tests on them:  bash tools/floors.sh [FOLDER]   (about 4 GB, since torch brings CUDA)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath -m "${1:-outputs/floors}")
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -r tools/floors.txt ipykernel ipywidgets==7.7.1 nbformat papermill pytest
export PYTHONPATH=$PWD DRAGNB_CACHE="$venv/cache" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/test_checkpoints.py tests/test_sd.py tests/test_lora.py tests/ui/test_picker.py
cd notebooks
"$venv/bin/python" -m papermill --kernel python3 00_quickstart.ipynb "$venv/00.ipynb"
