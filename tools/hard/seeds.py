"""Sound inputs, as small as they can be, for `fuzz` to damage."""

import contextlib
import functools
import io
import json
import pickle
import socket
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

SIZE = (40, 30)
TASK_JSON = json.dumps(
    {
        "schema": 1,
        "size": [64, 48],
        "pairs": [{"handle": [10, 12], "target": [20, 12.5]}],
        "prompt": "a cat",
        "name": "c",
    }
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)


def file_of(pixels, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


@functools.cache
def pictures() -> dict[str, bytes]:
    """A file of every format and kind of pixels that is read."""
    rgb, exif = Image.fromarray(image()), Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {"PNG plain": file_of(rgb, "PNG", exif=exif, icc_profile=profile)}
    for mode in ("L", "LA", "P", "1", "RGBA"):
        files[f"PNG {mode}"] = file_of(rgb.convert(mode), "PNG")
    files["PNG 16"] = file_of(image()[..., 0].astype(np.uint16) * 257, "PNG")
    files["PNG animated"] = file_of(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    for kind in ("JPEG", "WEBP", "AVIF", "TIFF"):
        files[kind] = file_of(rgb, kind, exif=exif, icc_profile=profile)
    for kind in ("GIF", "BMP", "PPM", "JPEG2000", "MPO"):
        files[kind] = file_of(rgb, kind)
    for packing in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"):
        files[f"TIFF {packing}"] = file_of(rgb, "TIFF", compression=packing)
    for mode in ("CMYK", "LAB", "F"):
        picture = (
            rgb.convert("L").convert("F") if mode == "F" else rgb if mode == "LAB" else rgb.convert(mode)
        )
        if mode == "LAB":
            lab = ImageCms.createProfile("LAB")
            picture = ImageCms.profileToProfile(rgb, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
        files[f"TIFF {mode}"] = file_of(picture, "TIFF")
    files["JPEG CMYK"] = file_of(rgb.convert("CMYK"), "JPEG")
    return files


def task():
    from dragnb.task import DragTask

    mask = np.zeros(SIZE[::-1], bool)
    mask[5:20, 5:30] = True
    return DragTask(image(), [[10, 12]], [[20, 12]], mask, "a cat", "cat")


@functools.cache
def drag_files() -> dict[str, bytes]:
    """Drag files as zips of every packing, and in a PNG."""
    from dragnb.task import provenance

    files, members = {"plain.zip": task().packed()}, task()._files()
    for name in ("ZIP_STORED", "ZIP_LZMA", "ZIP_BZIP2"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", getattr(zipfile, name)) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        files[f"{name.lower()}.zip"] = packed.getvalue()
    files["edit.png"] = file_of(image(), "PNG", pnginfo=provenance(files["plain.zip"], {"seed": 1}))
    return files


def sample() -> dict:
    """DragBench's fields."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[5:20, 5:30] = 1
    return {"prompt": "a cat", "points": [[10, 12], [20, 12]], "mask": mask}


@functools.cache
def _instructed() -> dict[str, bytes]:
    fields = sample()
    mask = fields.pop("mask")
    return {
        "drag_instruction.json": json.dumps(fields).encode(),
        "original_image.png": file_of(image(), "PNG"),
        "mask.png": file_of(mask * 255, "PNG"),
    }


def instructed() -> dict[str, bytes]:
    return dict(_instructed())


def published() -> dict[str, bytes]:
    return {"meta_data.pkl": pickle.dumps(sample()), "original_image.png": instructed()["original_image.png"]}


@functools.cache
def dataset_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, files in (("a/one", instructed()), ("a/two", published())):
            for member, content in files.items():
                archive.writestr(f"{name}/{member}", content)
    return packed.getvalue()


def safetensors(rng, damage) -> bytes:
    """A LoRA file: now its bytes are damaged, now its tensors and its header are odd."""
    import torch
    from safetensors.torch import save

    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weights = {f"{layer}.lora.down.weight": torch.ones(2, 8), f"{layer}.lora.up.weight": torch.ones(8, 2)}
    header = {"lora_alpha": 4, "r": 2}
    if rng.random() < 0.5:
        named = json.dumps({f"unet.{k}": v for k, v in header.items()})
        return damage(save(weights, {"lora_adapter_metadata": named}), rng)
    odd = [
        torch.ones(3),
        torch.tensor(2),
        torch.ones(0, 2),
        torch.full((2, 2), float("nan")),
        torch.ones(1, 1, 1, 1, 1),
    ]
    names = [
        *weights,
        f"{layer}.alpha",
        "lora_unet_x.alpha",
        "x",
        f"{layer}.lora_A.weight",
        f"{layer}.lora_B.weight",
    ]
    weights[names[rng.integers(len(names))]] = odd[rng.integers(len(odd))]
    values = [None, "4", [], {"a": 1}, {"to_q": "x"}, {"[": 1}, True, -1, 0]
    header[["lora_alpha", "alpha_pattern", "use_dora", "r"][rng.integers(4)]] = values[
        rng.integers(len(values))
    ]
    text = json.dumps({f"unet.{k}": v for k, v in header.items()} if rng.random() < 0.9 else [1])
    return save({k: v.clone() for k, v in weights.items()}, {"lora_adapter_metadata": text})


@functools.cache
def model_folder() -> Path:
    """A random model of Stable Diffusion 1's layout, as small as can be; gone with the process."""
    from dragnb.clay.training import parts

    _kept.append(tempfile.TemporaryDirectory())
    return parts.save_folder(parts.build("smoke"), Path(_kept[-1].name) / "smoke")


_kept: list[tempfile.TemporaryDirectory] = []


@contextlib.contextmanager
def answering(content: bytes):
    """The address of a server on this machine that gives one answer, byte for byte."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(5)

        def answer():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
