"""Files that once ended in a traceback, each with its right answer."""

import shutil
from pathlib import Path

import pytest

from dragnb.errors import InputError
from dragnb.inputs.pictures import read_image
from dragnb.sweep import datasets
from dragnb.task import DragTask

FILES = Path(__file__).resolve().parents[1] / "data" / "inputs"


def test_a_damaged_avif_and_a_damaged_zip_of_lzma_are_one_clear_error():
    with pytest.raises(InputError, match="image: .*avif cannot be read as a picture .*save it as a PNG"):
        read_image(FILES / "fuzz_RuntimeError_AvifImagePlugin_129.avif")
    with pytest.raises(InputError, match=r"zip_lzma_damaged\.zip cannot be unpacked .*write the zip again"):
        DragTask.load(FILES / "zip_lzma_damaged.zip")


def test_points_of_400_digits_are_one_problem_and_the_rest_is_read(tmp_path):
    from hard import seeds

    for name in ("bad", "good"):
        (tmp_path / "a" / name).mkdir(parents=True)
        for file, content in seeds.instructed().items():
            (tmp_path / "a" / name / file).write_bytes(content)
    shutil.copy(FILES / "points_400_digits.json", tmp_path / "a" / "bad" / "drag_instruction.json")

    found = datasets.read(tmp_path)

    assert [sample.name for sample in found.samples] == ["a/good"]
    (problem,) = found.problems
    assert problem == "a/bad: drag_instruction.json: points[0] is not [x, y]"
