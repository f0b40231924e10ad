"""What a picture and a mask mean: colours, bits, orientation, edges; and what is no picture is one clear error."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from dragnb.errors import InputError
from dragnb.inputs import pictures
from dragnb.inputs.pictures import check_mask, read_image, read_mask
from dragnb.task import DragTask

FILES = Path(__file__).resolve().parents[1] / "data" / "inputs"
W, H = 40, 30


def picture(seed=0, width=W, height=H):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(image, kind="PNG", **options):
    """The picture's file, open, as a format."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return io.BytesIO(file.getvalue())


# colours


def by_hand(values):
    """wide_gamut.png's values in sRGB, by the primaries and the gamma (2.19921875) that its profile states."""
    own = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    linear = (values / 255) ** 2.19921875 @ (np.linalg.inv(srgb) @ own).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_colour_profile_is_converted_to_srgb():
    with Image.open(FILES / "wide_gamut.png") as stored:
        expected = by_hand(np.array(stored, float))

    found = read_image(FILES / "wide_gamut.png")

    assert np.abs(found - expected).mean() < 1
    assert np.abs(found - np.array(stored.convert("RGB"), float)).max() > 50, "the profile matters here"


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_a_profile_counts_in_pictures_with_opacity_and_palettes_too(mode):
    with Image.open(FILES / "wide_gamut.png") as stored:
        profile, plain = stored.info["icc_profile"], stored.convert("RGB")
    if mode == "LA":
        profile = grey_profile()
    source = plain.quantize(200) if mode == "P" else plain.convert(mode)

    found = read_image(file_of(source, icc_profile=profile))
    same = read_image(file_of(source.convert("L" if mode == "LA" else "RGB"), icc_profile=profile))

    assert np.array_equal(found, same)


def grey_profile():
    """A grey profile of gamma 1, as bytes: the shortest that lcms reads."""
    curve = b"curv\0\0\0\0\0\0\0\0"
    white = b"XYZ \0\0\0\0" + b"\x00\x00\xf6\xd6\x00\x01\x00\x00\x00\x00\xd3\x2d"
    text = b"desc\0\0\0\0\0\0\0\x02g\0" + bytes(78)
    parts = [(b"desc", text), (b"wtpt", white), (b"kTRC", curve)]
    table, body, place = b"", b"", 128 + 4 + 12 * len(parts)
    for name, content in parts:
        content += bytes(-len(content) % 4)
        table += name + place.to_bytes(4, "big") + len(content).to_bytes(4, "big")
        place, body = place + len(content), body + content
    head = bytearray(128)
    head[0:4], head[8:12] = place.to_bytes(4, "big"), b"\x02\x10\0\0"
    head[12:24], head[36:40] = b"mntrGRAYXYZ ", b"acsp"
    head[68:80] = b"\x00\x00\xf6\xd6\x00\x01\x00\x00\x00\x00\xd3\x2d"
    return bytes(head) + len(parts).to_bytes(4, "big") + table + body


def test_a_grey_profile_of_linear_light_is_converted():
    grey = np.full((H, W), 55, np.uint8)  # 0.2158 of the light, which sRGB writes as 128

    found = read_image(file_of(grey, icc_profile=grey_profile()))

    assert abs(int(found[0, 0, 0]) - 128) <= 2


def test_srgbs_own_profile_changes_no_bit():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert np.array_equal(read_image(file_of(picture(), icc_profile=profile)), picture())


def test_a_profile_that_is_none_or_does_not_fit_is_left_out_and_said():
    for profile in (b"no profile", grey_profile()):
        with pytest.warns(UserWarning, match="image: its colour profile does not fit it and is left out"):
            assert np.array_equal(read_image(file_of(picture(), icc_profile=profile)), picture())


# bits


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_16_are_scaled_by_what_they_hold_and_said(bits):
    values = np.linspace(0, 2**bits - 1, W * H).astype(np.uint16).reshape(H, W)

    with pytest.warns(UserWarning, match=f"image stores {bits} bits in 16: it is scaled by what it holds"):
        found = read_image(file_of(values))

    assert np.abs(found[..., 0] - values / (2**bits - 1) * 255).max() <= 0.5


def test_the_grey_picture_of_12_bits_in_16_is_not_dark():
    with pytest.warns(UserWarning, match="12 bits in 16"):
        assert 110 < read_image(FILES / "grey_12_in_16_bits.png").mean() < 140


def test_all_16_bits_are_read_without_a_word():
    values = np.linspace(0, 65535, W * H).astype(np.uint16).reshape(H, W)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(file_of(values))

    assert np.abs(found[..., 0] - values / 257).max() <= 0.5


def test_colours_of_12_bits_in_16_are_refused_since_their_lower_bits_are_lost():
    import struct
    import zlib

    values = (picture().astype(np.uint16) << 4).astype(">u2").tobytes()
    rows = b"".join(b"\0" + values[k * W * 6 : (k + 1) * W * 6] for k in range(H))
    head = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        png += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    with pytest.raises(InputError, match="image has 16 bits a channel and fills 12 of them; save it with 8"):
        read_image(io.BytesIO(png))


# upright


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


def turned():
    return np.repeat(np.repeat(picture(1, 5, 4), 16, 0), 16, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_exifs_orientation_is_read_in_every_format_that_has_it(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} | ({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {})

    found = read_image(file_of(np.rot90(turned()), kind, **options))

    assert found.shape == turned().shape and np.abs(found.astype(int) - turned()).mean() < 12


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_xmps_orientation_is_read_where_exif_has_none(kind):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    options = {"pnginfo": info} if kind == "PNG" else {"xmp": XMP, "quality": 95}

    found = read_image(file_of(np.rot90(turned()), kind, **options))

    assert found.shape == turned().shape and np.abs(found.astype(int) - turned()).mean() < 12


def test_a_mask_is_turned_like_its_picture():
    mask = np.zeros((H, W), np.uint8)
    mask[3:9, 4:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6

    assert np.array_equal(read_mask(file_of(np.rot90(mask), exif=exif), (W, H)), mask > 0)


# masks


def test_a_lossy_mask_is_read_as_it_looks():
    assert read_mask(FILES / "mask_d2.jpg", (96, 64)).mean() == pytest.approx(0.0977, abs=1e-4)


@pytest.mark.parametrize("largest", [1, 128, 255, 65535])
def test_a_mask_counts_above_half_of_its_largest_value(largest):
    ramp = np.tile(np.linspace(0, largest, W), (H, 1)).astype(np.uint16 if largest > 255 else np.uint8)

    for mask in (read_mask(file_of(ramp), (W, H)), check_mask(ramp, (W, H)), check_mask(ramp / 3, (W, H))):
        assert np.array_equal(mask, ramp > largest / 2)


def test_soft_edges_of_opacity_count_by_half_too():
    rgba = np.full((H, W, 4), 255, np.uint8)
    rgba[..., 3] = np.linspace(0, 90, W)

    assert np.array_equal(read_mask(file_of(rgba), (W, H)), rgba[..., 3] > 45)


def test_a_lossy_file_of_nothing_but_noise_is_an_empty_mask():
    noise = np.random.default_rng(0).integers(0, 9, (H, W), dtype=np.uint8)

    assert not read_mask(file_of(noise, "JPEG", quality=50), (W, H)).any()
    assert read_mask(file_of(noise), (W, H)).any(), "a file without loss says what it says"


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full((H, W), np.nan), "mask holds values that are no number"),
        (np.full((H, W), "x"), "mask holds <U1 values; give booleans, or numbers"),
        ([[1], [1, 2]], "mask is no array of numbers"),
        (np.ones((H, W, 3)), r"mask is of shape \(30, 40, 3\), the picture 40×30"),
    ],
)
def test_an_array_that_is_no_mask_is_named(mask, words):
    with pytest.raises(InputError, match=words):
        DragTask(picture(), [[1, 2]], [[3, 4]], mask)


# what is none


def test_a_postscript_file_named_png_starts_no_program(monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail(f"a program was started: {a}"))
    monkeypatch.setattr("os.system", lambda *a: pytest.fail(f"a program was started: {a}"))

    with pytest.raises(InputError, match=r"image\.png: it cannot be read as a picture \(of no raster format"):
        DragTask.load(FILES / "eps_named_png.zip")


def test_only_raster_formats_of_the_list_are_opened():
    assert not {"EPS", "WMF", "PSD", "FITS", "HDF5", "GRIB", "BUFR"} & set(pictures.FORMATS)


@pytest.mark.parametrize(
    "error", [TypeError, OverflowError, RuntimeError, KeyError, MemoryError, RecursionError]
)
def test_whatever_the_decoder_throws_is_one_error_with_field_value_and_remedy(tmp_path, monkeypatch, error):
    Image.fromarray(picture()).save(tmp_path / "p.png")

    def load(self):
        raise error("boom\nbang")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load, raising=False)
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "p.png", "mask.png")

    assert str(caught.value).startswith(f"mask.png: {tmp_path}/p.png cannot be read as a picture (")
    assert str(caught.value).endswith("; save it as a PNG") and "\n" not in str(caught.value)


def test_half_a_picture_is_refused_though_a_program_told_pillow_to_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = file_of(picture(), kind).getvalue()
        with pytest.raises(InputError, match="cannot be read as a picture"):
            read_image(io.BytesIO(whole[: len(whole) // 2]))
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "the program's own choice stands"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_an_animation_of_any_format_is_refused_with_its_number_of_frames(kind):
    more = [Image.fromarray(picture(k)) for k in (1, 2)]

    with pytest.raises(InputError, match="image: it holds 3 frames; save one of them as a PNG"):
        read_image(file_of(picture(), kind, save_all=True, append_images=more))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a device or a pipe, not a picture"):
        read_image(tmp_path / "pipe")
    with pytest.raises(InputError, match="image: /dev/zero is a device or a pipe"):
        read_image("/dev/zero")
