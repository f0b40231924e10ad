"""What SECURITY.md says, sentence by sentence, as far as it can be tried; other sentences have tests of their own."""

import ast
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import parameters
import pytest
from hard import seeds

from dragnb import checkpoints, lora, sd
from dragnb.errors import InputError
from dragnb.inputs import archives, pictures, web
from dragnb.sweep import datasets
from dragnb.task import DragTask
from dragnb.ui import files

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
SOURCES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "dragnb").rglob("*.py")}


def calls(name):
    """The sources that call a function of this last name."""
    return {
        path.relative_to(ROOT / "dragnb").as_posix()
        for path, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and name in (getattr(node.func, "attr", None), getattr(node.func, "id", None))
    }


def test_the_limits_are_those_of_the_code():
    limits = re.sub(r"[\s|]+", " ", TEXT)
    for text in (
        f"{pictures.MAX_PIXELS // 10**6} million pixels, {pictures.MIN_SIDE} a side",
        f"an upload {files.MAX_BYTES // 2**20} MiB",
        f"{web.SECONDS} s in all, {web.MAX_BYTES // 2**20} MiB",
        f"{archives.MAX_MEMBERS:,} files; {archives.MAX_TABLE // 2**20} MiB of its list",
        f"{archives.MAX_BYTES // 2**20} MiB a file ({datasets.MAX_BYTES // 2**20} MiB in a dataset)",
        f"unpacked {archives.RATIO} times its size and {archives.FREE // 2**20} MiB",
    ):
        assert text in limits


def test_parameters_are_read_and_never_evaluated(tmp_path):
    text = f"__import__('os').mkdir({str(tmp_path / 'x')!r})"

    assert parameters.typed("name", text) == text and parameters.typed("name", text, "own") == text
    assert not (tmp_path / "x").exists()
    built_in = r"(?<![\w.])(eval|exec)\("
    assert not [path for path, text in SOURCES.items() if re.search(built_in, text)]


def test_the_one_reader_of_pickles_is_the_allow_list_and_that_of_lpips():
    assert calls("_Reader") | calls("_Arrays") == {"sweep/pickles.py", "metrics/lpips.py"}
    for text in SOURCES.values():
        assert not re.search(r"pickle\.loads?\(|read_pickle|allow_pickle=True|weights_only=False", text)
        bare = r"(?<!safetensors\.)\btorch\.load\((?![^\n]*weights_only=True)"
        assert not re.search(bare, text), "torch.load reads any pickle"


def test_pictures_are_opened_by_the_list_of_formats_alone():
    for path, text in SOURCES.items():
        for call in re.findall(r"Image\.open\([^\n]*", text):
            assert "formats=" in call, f"{path}: {call}"


def test_only_what_a_user_types_is_fetched():
    assert calls("urlopen") == set()
    assert calls("fetch") <= {"ui/files.py", "metrics/__main__.py", "metrics/lpips.py"}


class Touch:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", checkpoints.places.PICKLES)
def test_a_pickled_model_is_refused_by_its_name(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "made")))

    with pytest.raises(InputError, match="is a pickle and is refused"):
        sd.load(str(path))
    assert not (tmp_path / "made").exists()


def test_a_pickle_named_safetensors_is_no_lora(tmp_path):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "made")))

    with pytest.raises(InputError, match="LoRA"):
        lora.load(path)
    assert not (tmp_path / "made").exists()


def test_code_in_a_model_folder_is_never_run(tmp_path, smoke_folder):
    import shutil

    folder = shutil.copytree(smoke_folder, tmp_path / "model")
    mark = tmp_path / "ran"
    for part in ("", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for name in ("pipeline.py", "modeling.py", "tokenizer.py", "__init__.py", "configuration.py"):
            (folder / part / name).write_text(f"open({str(mark)!r}, 'w').close()")
    for config in folder.rglob("*config.json"):
        value = json.loads(config.read_text())
        value["auto_map"] = {"AutoModel": "modeling.Model", "AutoTokenizer": ["tokenizer.T", None]}
        config.write_text(json.dumps(value))

    sd.load(str(folder), device="cpu")

    assert not mark.exists()
    assert not any("trust_remote_code=True" in text for text in SOURCES.values())


def test_of_a_drag_file_only_its_three_files_are_read_and_no_link_is_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(seeds.pictures()["PNG L"])
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in seeds.task()._files().items():
            if name != "mask.png":
                archive.writestr(name, content)
        link = zipfile.ZipInfo("mask.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(secret))
        archive.writestr("../../outside.png", b"x")

    with pytest.raises(InputError, match="mask.png is a link; pack the file itself"):
        DragTask.load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.png", "t.zip"]


def bomb(path, members, size):
    """A zip of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(members):
            archive.writestr(f"{k}/mask.png", bytes(size))
    return path


def test_a_zip_that_unpacks_to_far_more_than_it_is_is_refused_before_it_is_unpacked(tmp_path):
    path = bomb(tmp_path / "b.zip", 5, 20 * 2**20)

    for read in (DragTask.load, datasets.read):
        with pytest.raises(
            InputError, match="b.zip would unpack to 100 MiB, over 200 times its size: a bomb"
        ):
            read(path)


def test_a_long_list_of_files_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = bomb(tmp_path / "b.zip", 50, 1)
    monkeypatch.setattr(archives, "MAX_TABLE", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda self: pytest.fail("the list was read"))

    with pytest.raises(InputError, match="b.zip holds a list of files of over 0 MiB"):
        datasets.read(path)


def test_an_upload_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 10)

    with pytest.raises(InputError, match="a.png is larger than 0 MiB"):
        files.read_bytes("a.png", bytes(11))
