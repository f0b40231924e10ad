#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml promises into a folder of their own, and runs the loading tests,
# notebook 00 and the picker's tests on them:  bash tools/floors.sh [FOLDER]   (about 5 GB, since torch brings CUDA)
#     bash tools/floors.sh --quick [FOLDER]   over the versions of .venv only those that Colab's users meet: diffusers,
#                                             transformers, peft, accelerate, ipycanvas, and ipywidgets 7; CI runs this
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(tests/test_checkpoints.py tests/test_sd.py tests/test_lora.py tests/ui/test_picker.py)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
if [[ "${1:-}" == --quick ]]; then
    place=$(realpath -m "${2:-outputs/floors-quick}")
    python="${PYTHON:-.venv/bin/python}"
    grep -E '^(diffusers|transformers|peft|accelerate|ipycanvas)==' tools/floors.txt \
        | xargs "$python" -m pip install --quiet --no-deps --upgrade --target "$place" \
            ipywidgets==7.7.1 ipython-genutils 'tokenizers<=0.23.0' 'huggingface-hub<2'  # as that transformers asks
    export PYTHONPATH=$place:$PWD DRAGNB_CACHE="$place/cache"
    tests=(tests/test_checkpoints.py tests/test_lora.py tests/ui/test_picker.py)
else
    place=$(realpath -m "${1:-outputs/floors}")
    python="$place/bin/python"
    "${PYTHON:-python3}" -m venv "$place"
    "$python" -m pip install --quiet -r tools/floors.txt ipykernel ipywidgets==7.7.1 nbformat papermill pytest
    export PYTHONPATH=$PWD DRAGNB_CACHE="$place/cache"
fi
python=$(realpath -s "$python")
"$python" -m pytest -q -W ignore -p no:cacheprovider "${tests[@]}"
cd notebooks
"$python" -m papermill --kernel python3 00_quickstart.ipynb "$place/00.ipynb"
