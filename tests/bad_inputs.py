"""A hundred bad inputs by name: how each is made, which field its one-line error names, and the line's key words.

`made` is a Python expression over the small functions below; `tests/test_bad_inputs.py` makes each and checks its line.
`python tests/bad_inputs.py` writes the table with its lines to tests/data/inputs/bad_inputs.md.
"""

# ruff: noqa: F401, E501
import io
import json
import os
import pickle
import re
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import parameters
from hard import seeds

from dragnb import config, lora, sd
from dragnb.errors import InputError
from dragnb.inputs import pictures, web
from dragnb.sweep import datasets, pickles
from dragnb.task import DragTask, pair_up
from dragnb.ui import files

PAGE = Path(__file__).parent / "data" / "inputs" / "bad_inputs.md"
W, H = 40, 30


class Bad(NamedTuple):
    """One bad input."""

    name: str
    made: str
    field: str
    words: str


def png(image=None, kind="PNG", **options) -> bytes:
    return seeds.file_of(seeds.image() if image is None else image, kind, **options)


def chunks(*parts, width=W, height=H, depth=8, kind=2) -> bytes:
    """A PNG written by hand."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in [(b"IHDR", head), *parts, (b"IEND", b"")]:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def read(content: bytes, name: str = "p.png"):
    return files.read_bytes(name, content)


def mask(content: bytes):
    return pictures.read_mask(io.BytesIO(content), (W, H), "mask.png")


def packed(method=zipfile.ZIP_DEFLATED, **members) -> bytes:
    """A drag file's zip with some members changed (None: left out); `__` stands for a dot."""
    whole = seeds.task()._files() | {name.replace("__", "."): data for name, data in members.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in whole.items():
            if data is not None:
                archive.writestr(name, data)
    return file.getvalue()


def drag(content: bytes):
    return files.read_bytes("t.zip", content)


def text(**changes):
    """A drag file whose task.json has some fields changed (None: left out)."""
    data = json.loads(seeds.task()._files()["task.json"]) | changes
    data = {name: value for name, value in data.items() if value is not None}
    return drag(packed(task__json=json.dumps(data).encode()))


def pairs(*ends):
    return text(pairs=[{"handle": handle, "target": target} for handle, target in ends])


def task(**changes):
    fields = {"image": seeds.image(), "handles": [[1, 2]], "targets": [[3, 4]], "mask": None} | changes
    return DragTask(**fields)


def sample(**members):
    """The one problem of a benchmark whose other sample is sound."""
    bad = seeds.instructed() | {name.replace("__", "."): data for name, data in members.items()}
    all_ = {f"a/bad/{k}": v for k, v in bad.items() if v is not None}
    all_ |= {f"a/good/{k}": v for k, v in seeds.instructed().items()}
    with zipfile.ZipFile("b.zip", "w") as archive:
        for name, data in all_.items():
            archive.writestr(name, data)
    found = datasets.read("b.zip")
    assert [s.name for s in found.samples] == ["a/good"], "the rest is read"
    (problem,) = found.problems
    raise InputError(problem)


def benchmark(**members):
    with zipfile.ZipFile("b.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return datasets.read("b.zip")


def points(*xys):
    return sample(drag_instruction__json=json.dumps({"prompt": "", "points": xys}).encode())


def pickled(content) -> dict:
    return pickles.read(content if isinstance(content, bytes) else pickle.dumps(content), "meta_data.pkl")


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.called = function, args

    def __reduce__(self):
        return self.called


def weights(content=None, metadata=None, **tensors):
    import torch
    from safetensors.torch import save

    whole = {f"unet.to_q.lora.{k}.weight": torch.ones(*v) for k, v in tensors.items()}
    Path("l.safetensors").write_bytes(save(whole, metadata) if content is None else content)
    return lora.load("l.safetensors")


def model(name: str, content: bytes | None = None, at: str = ""):
    """A model by its name, or a folder or file of some content."""
    if content is not None:
        (Path(name) / at).parent.mkdir(parents=True, exist_ok=True)
        (Path(name) / at).write_bytes(content)
    return sd.load(name, device="cpu")


def from_web(content: bytes):
    with seeds.answering(content) as url:
        return web.fetch(url)


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


def setting(**changes):
    return config.profile("clay", **changes)


def line(bad: Bad) -> str:
    """The one line that a bad input is met with; AssertionError where it is met with none."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            eval(bad.made, dict(globals()))
        except (InputError, ValueError) as error:
            if not isinstance(error, InputError) and not bad.made.startswith("parameters."):
                raise
            return str(error).replace(os.path.realpath(folder) + "/", "").replace(folder + "/", "")
        finally:
            os.chdir(before)
    raise AssertionError(f"{bad.name}: nothing was said")


TABLE = [
    # pictures
    Bad("a text named png", 'read(b"not a picture")', "image", "no raster format"),
    Bad("nothing", 'read(b"")', "p.png", "is empty"),
    Bad("PostScript named png", 'read(b"%!PS-Adobe-3.0 EPSF-3.0\\n%%BoundingBox: 0 0 9 9\\n")', "image", "no raster format"),
    Bad("a PDF", 'read(b"%PDF-1.7\\n")', "image", "no raster format"),
    Bad("an SVG", "read(b'<svg xmlns=\"http://www.w3.org/2000/svg\"/>')", "image", "no raster format"),
    Bad("a PNG cut in half", "read(png()[:1500])", "image", "truncated"),
    Bad("a JPEG cut in half", 'read(png(kind="JPEG")[:900])', "image", "truncated"),
    Bad("a WebP cut in half", 'read(png(kind="WEBP")[:300])', "image", "cannot be read"),
    Bad("an AVIF cut in half", 'read(png(kind="AVIF")[:400])', "image", "cannot be read"),
    Bad("a TIFF cut in half", 'read(png(kind="TIFF")[:300])', "image", "cannot be read"),
    Bad("a BMP cut in half", 'read(png(kind="BMP")[:300])', "image", "truncated"),
    Bad("a PNG of a wrong checksum", "read(png()[:60] + b'xxxx' + png()[64:])", "image", "cannot be read"),
    Bad("a PNG without pixels", "read(chunks())", "image", "cannot be read"),
    Bad("a PNG of no width", "read(chunks(width=0))", "image", "cannot be read"),
    Bad("a PNG of 10 gigapixels", "read(chunks(width=100_000, height=100_000))", "image", "scale it down to 64 Mpx"),
    Bad("a PNG of 81 megapixels", "read(chunks(width=9_000, height=9_000))", "image", "scale it down to 64 Mpx"),
    Bad("one pixel", "read(png(seeds.image()[:1, :1]))", "image", "16 or more"),
    Bad("a strip", "read(png(seeds.image()[:15]))", "image", "40×15 pixels"),
    Bad("a GIF that moves", 'read(png(kind="GIF", save_all=True, append_images=[Image.new("RGB", (W, H))]))', "image", "2 frames"),
    Bad("a PNG that moves", "read(png(save_all=True, append_images=[Image.new('RGB', (W, H))]))", "image", "2 frames"),
    Bad("a TIFF of two pages", 'read(png(kind="TIFF", save_all=True, append_images=[Image.new("RGB", (W, H))]))', "image", "2 frames"),
    Bad("a WebP that moves", 'read(png(kind="WEBP", save_all=True, append_images=[Image.new("RGB", (W, H))]))', "image", "2 frames"),
    Bad("floats", 'read(png(Image.new("F", (W, H)), "TIFF"))', "image", "floating-point"),
    Bad("grey of 32 bits", 'read(png(Image.new("I", (W, H), 70_000), "TIFF"))', "image", "32 bits"),
    Bad("colours of 12 bits in 16", 'read(chunks((b"IDAT", zlib.compress((b"\\0" + b"\\x0f\\xff" * 120) * 30)), depth=16))', "image", "fills 12 of them"),
    Bad("text of a gigabyte in a PNG", 'read(chunks((b"zTXt", b"a\\0\\0" + zlib.compress(bytes(2**26))), (b"IDAT", zlib.compress(bytes(3630)))))', "image", "too large"),
    Bad("a picture that is a folder", 'files.read_place("/")', "task.json", "does not exist"),
    Bad("a picture that is not there", 'pictures.read_image("no.png")', "image", "does not exist"),
    Bad("a picture that is a device", 'pictures.read_image("/dev/zero")', "image", "a device or a pipe"),
    Bad("a name with a null byte", 'pictures.read_image("a\\0b.png")', "image", "null byte"),
    # masks
    Bad("a mask of another size", "mask(png(seeds.image()[1:]))", "mask.png", "40×29, the picture 40×30"),
    Bad("a mask that is none", 'mask(b"no")', "mask.png", "no raster format"),
    Bad("a mask of no numbers", 'task(mask=np.full((H, W), "x"))', "mask", "give booleans"),
    Bad("a mask of NaN", "task(mask=np.full((H, W), np.nan))", "mask", "no number"),
    Bad("a mask of three channels", "task(mask=np.ones((H, W, 3)))", "mask", "of shape (30, 40, 3)"),
    Bad("a mask with ragged rows", "task(mask=[[1], [1, 2]])", "mask", "no array of numbers"),
    # drag files
    Bad("a zip that is none", 'drag(b"PK no zip")', "t.zip", "neither a folder nor a whole zip"),
    Bad("a zip cut in half", "drag(packed()[:900])", "t.zip", "neither a folder nor a whole zip"),
    Bad("a zip of a wrong checksum", "drag(packed(0).replace(b'IDAT', b'IDAX', 1))", "t.zip", "Bad CRC"),
    Bad("a zip of LZMA, damaged", "drag((lambda z: z[:200] + bytes(80) + z[280:])(packed(14)))", "t.zip", "cannot be unpacked"),
    Bad("a zip of bzip2, damaged", "drag((lambda z: z[:50] + bytes(80) + z[130:])(packed(12)))", "t.zip", "cannot be unpacked"),
    Bad("a zip packed by an unknown method", "drag(packed().replace(b'\\x08\\0', b'\\x63\\0'))", "t.zip", "cannot be unpacked"),
    Bad("a zip with a password", "drag(packed().replace(b'PK\\x03\\x04\\x14\\0\\0', b'PK\\x03\\x04\\x14\\0\\1').replace(b'PK\\x01\\x02\\x14\\x03\\x14\\0\\0', b'PK\\x01\\x02\\x14\\x03\\x14\\0\\1'))", "t.zip", "encrypted"),
    Bad("a zip without a picture", "drag(packed(image__png=None))", "image.png", "does not exist"),
    Bad("a zip bomb", "drag(packed(mask__png=bytes(120 * 2**20)))", "t.zip", "a bomb"),
    Bad("a part of a drag file", 'files.read_bytes("task.json", b"{}")', "task.json", "give the whole"),
    Bad("half a character in the prompt", 'text(prompt="\\ud800")', "prompt", "half a character"),
    Bad("a prompt that is a number", "text(prompt=7)", "prompt", "is not text"),
    Bad("a name that is a list", 'text(name=["a"])', "name", "is not text"),
    Bad("a size that is a number", "text(size=40)", "size", "is not [width, height]"),
    Bad("another picture's size", "text(size=[41, 30])", "size", "41×30"),
    Bad("a later format", "text(schema=2)", "schema", "this version reads 1"),
    Bad("no format", "text(schema=None)", "schema", "is missing"),
    Bad("an unknown field", 'text(promt="a cat")', "promt", "did you mean 'prompt'"),
    Bad("no pairs", "text(pairs=[])", "pairs", "there are none"),
    Bad("pairs that are text", 'text(pairs="1 2 3 4")', "pairs", "is not a list"),
    Bad("a pair without a target", 'text(pairs=[{"handle": [1, 2]}])', "pairs[0].target", "is not [x, y]"),
    Bad("a point outside", "pairs(([1, 2], [53, 12]))", "pairs[0].target", "outside the 40×30 image"),
    Bad("a point before zero", "pairs(([-1, 2], [3, 4]))", "pairs[0].handle", "outside the 40×30 image"),
    Bad("a point of NaN", 'pairs(([float("nan"), 2], [3, 4]))', "pairs[0].handle", "is not [x, y]"),
    Bad("a point without an end", 'pairs(([1, 2], [float("inf"), 4]))', "pairs[0].target", "is not [x, y]"),
    Bad("a point of 400 digits", "pairs(([10**400, 2], [3, 4]))", "pairs[0].handle", "is not [x, y]"),
    Bad("a point that is true", "pairs(([True, 2], [3, 4]))", "pairs[0].handle", "is not [x, y]"),
    Bad("a point of three numbers", "pairs(([1, 2, 3], [3, 4]))", "pairs[0].handle", "is not [x, y]"),
    Bad("a handle on its target", "pairs(([1, 2], [1, 2]))", "pairs[0]", "nothing to drag"),
    Bad("an odd number of clicks", "pair_up([[1, 2], [3, 4], [5, 6]])", "points", "odd number"),
    Bad("clicks of 400 digits", "pair_up([[10**400, 2], [3, 4]])", "points", "are not points"),
    Bad("JSON that is none", 'drag(packed(task__json=b"{oops"))', "task.json", "cannot be read"),
    Bad("JSON of 100,000 brackets", 'drag(packed(task__json=b"[" * 100_000))', "task.json", "nested too deeply"),
    Bad("JSON of 5,000 digits", 'drag(packed(task__json=b"1" * 5_000))', "task.json", "cannot be read"),
    Bad("JSON in UTF-16", 'drag(packed(task__json="{}".encode("utf-16")))', "task.json", "UTF-8"),
    Bad("JSON that is a list", 'drag(packed(task__json=b"[1]"))', "task.json", "holds a list"),
    # benchmarks
    Bad("a sample of 400 digits", "points([10**400, 1], [3, 4])", "points[0]", "is not [x, y]"),
    Bad("a sample with half a pair", "points([1, 2])", "points", "odd number"),
    Bad("a sample outside its picture", "points([1, 2], [53, 4])", "pairs[0].target", "outside the 40×30 image"),
    Bad("a sample without a mask", "sample(mask__png=None)", "mask.png", "is missing"),
    Bad("a sample whose picture is none", 'sample(original_image__png=b"<html>404")', "original_image.png", "no raster format"),
    Bad("a sample that leaves the zip", 'benchmark(**{"../evil/points.json": b"{}"}).problems[0] and sample(original_image__png=None)', "original_image.png", "is missing"),
    Bad("a benchmark that is none", 'benchmark(readme=b"hello")', "b.zip", "holds no samples"),
    Bad("a benchmark that is not there", 'datasets.read("nowhere")', "nowhere", "does not exist"),
    # pickles
    Bad("a pickle that calls a program", 'pickled({"mask": Call(os.system, "true")})', "meta_data.pkl", "which is no data"),
    Bad("a pickle that evaluates", 'pickled({"mask": Call(eval, "1")})', "meta_data.pkl", "which is no data"),
    Bad("a pickle of objects", 'pickled({"mask": np.array([{}], object)})', "meta_data.pkl", "not plain numbers"),
    Bad("a pickle that is a list", "pickled([1])", "meta_data.pkl", "holds a list"),
    Bad("a pickle cut in half", 'pickled(pickle.dumps({"a": [1] * 99})[:50])', "meta_data.pkl", "damaged or no pickle"),
    Bad("a pickle of 20,000 lists in lists", 'pickled(b"]" * 20_000 + b"a" * 19_999 + b".")', "meta_data.pkl", "holds a list"),
    # LoRA and models
    Bad("a LoRA that is none", 'weights(b"no")', "LoRA", "cannot be read"),
    Bad("a LoRA without its half", "weights(down=(2, 8))", "LoRA", "1 of 1 weights"),
    Bad("a LoRA that is no LoRA", 'weights(metadata={"a": "b"})', "LoRA", "no U-Net weights"),
    Bad("a LoRA whose header is a list", 'weights(metadata={"lora_adapter_metadata": "[1]"}, down=(2, 8), up=(8, 2))', "LoRA", "holds no settings by name"),
    Bad("a pickled model", 'model("m.ckpt", b"x")', "model", "pickle"),
    Bad("a model that is a LoRA", 'weights(down=(2, 8), up=(8, 2)) and model("l.safetensors")', "model", "whole Stable Diffusion checkpoint"),
    Bad("a folder that is no model", 'model("folder", b"x", "a.txt")', "model", "model_index.json"),
    Bad("a model whose index is a list", 'model("folder", b"[1]", "model_index.json")', "model", "holds no settings by name"),
    # the web, parameters, settings
    Bad("an address that is not the web", 'web.fetch("file:///etc/hostname")', "file:///etc/hostname", "no address of the web"),
    Bad("an address without a host", 'web.fetch("http://")', "http://", "no address of the web"),
    Bad("a redirect to a file", 'from_web(redirect("file:///etc/hostname"))', "http://", "not allowed"),
    Bad("a redirect into the network", 'from_web(redirect("http://10.0.0.1/"))', "10.0.0.1", "address of this machine or its network"),
    Bad("an answer that breaks off", 'from_web(b"HTTP/1.1 200 OK\\r\\nContent-Length: 99\\r\\n\\r\\nabc")', "http://", "3 of 99 bytes"),
    Bad("an answer that is none", 'from_web(b"hello")', "http://", "cannot be fetched"),
    Bad("quotes that a shell ate", 'parameters.typed("settings", "{lora_lr:0.1}", {})', "settings", "a shell has eaten its quotes"),
    Bad("a number that is a word", 'parameters.typed("side", "large", 0)', "side", "is not a number"),
    Bad("a setting out of range", "setting(strength=2)", "strength", "above 0 and at most 1"),
    Bad("a setting that is text", 'setting(lam="0.1")', "lam", "is not a number"),
    Bad("an unknown setting", "setting(lamda=1)", "lamda", "did you mean 'lam'"),
]  # fmt: skip


def page() -> str:
    """The table as Markdown, each with the line that it is met with."""
    head = "# Bad inputs\n\nEach is met with one line, the last column; `tests/bad_inputs.py` makes and tries them.\n\n"
    rows = [f"| {bad.name} | {_cell(bad.made)} | {_plain(line(bad))} |" for bad in TABLE]
    return (
        head + "\n".join(["| input | how it is made | what is said |", "| --- | --- | --- |", *rows]) + "\n"
    )


def _cell(made: str) -> str:
    return f"`` {made} ``".replace("|", r"\|")


def _plain(text: str) -> str:
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://…", text)
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
