"""Picks as files, addresses and text: what is right comes through, what is wrong is named."""

import base64
import http.server
import io
import json
import shlex
import threading
import zipfile

import pytest
from PIL import Image

from dragnb.errors import InputError
from dragnb.task import DragTask, provenance
from dragnb.ui import files
from dragnb.ui.picks import Picks


@pytest.fixture
def task(drag_task):
    return drag_task


def png(size=(40, 30), mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(task, folder) -> bytes:
    return task.save(folder / "made.zip").read_bytes()


def test_an_uploaded_picture_and_an_uploaded_drag_file_are_told_apart(task, tmp_path):
    assert files.read_bytes("a.png", png()).shape == (30, 40, 3)

    again = files.read_bytes("some.zip", zipped(task, tmp_path))

    assert (again.image == task.image).all() and (again.mask == task.mask).all() and again.name == "some"


def without(member, data: bytes, put=None) -> bytes:
    """A zip less one member, or with that member's text changed."""
    old, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
            elif put:
                new.writestr(name, json.dumps(json.loads(old.read(name)) | put))
    return out.getvalue()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("notes.txt", lambda z: b"hello", r"image: notes.txt cannot be read as a picture"),
        ("a.png", lambda z: b"", "a.png is empty"),
        ("a.png", lambda z: png()[:60], "image: a.png cannot be read as a picture"),
        (
            "big.png",
            lambda z: png((10_000, 10_000), "1"),
            "image is 10000×10000 pixels; scale it down to 64 Mpx",
        ),
        ("task.json", lambda z: b"{}", "task.json is one part of a drag file"),
        ("a.zip", lambda z: b"PK nothing", "a.zip is neither a folder nor a whole zip file"),
        ("a.zip", lambda z: z[: len(z) // 2], "a.zip is neither a folder nor a whole zip file"),
        ("a.zip", lambda z: without("task.json", z), "does not exist"),
        ("a.zip", lambda z: without("image.png", z), "image.png: .* does not exist"),
        ("a.zip", lambda z: without("task.json", z, {"size": [9, 9]}), "size is 9×9, image.png is 150×90"),
        ("../../a.png", lambda z: b"x", "image: a.png cannot be read"),
        ("猫" * 100 + ".txt", lambda z: b"x", r"猫.txt cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(task, tmp_path, name, content, said):
    with pytest.raises(InputError, match=said) as error:
        files.read_bytes(name, content(zipped(task, tmp_path)))

    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_uploads_are_read_as_ipywidgets_7_and_8_give_them():
    eight = ({"name": "a.png", "type": "image/png", "size": 3, "content": memoryview(b"abc")},)
    seven = {"a.png": {"metadata": {"name": "a.png", "size": 3}, "content": b"abc"}}

    assert files.uploads(eight) == files.uploads(seven) == [("a.png", b"abc")]
    assert files.uploads(()) == files.uploads({}) == []


def test_a_path_may_be_a_picture_a_folder_or_a_zip(task, tmp_path):
    (tmp_path / "a.png").write_bytes(png())

    picture, drag = files.read_place(f" {tmp_path}/a.png ")
    assert picture.shape == (30, 40, 3) and drag is None
    for name in ("folder", "file.zip"):
        assert isinstance(files.read_place(str(task.save(tmp_path / name)))[0], DragTask)


@pytest.fixture
def web():
    """A server that has a picture at /a b.png and nothing else; yields its address and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path == "/a%20b.png" else 404)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_and_a_wrong_one_said(web, monkeypatch):
    url, asked = web
    picture, drag = files.read_place(url + "/a%20b.png")
    assert picture.shape == (30, 40, 3) and drag is None and asked == ["/a%20b.png"]

    with pytest.raises(InputError, match="nothing.png cannot be fetched .*Not Found"):
        files.read_place(url + "/nothing.png")
    with pytest.raises(InputError, match="is no address of the web"):
        files.read_place("http://")
    monkeypatch.setattr(files.web, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="is larger than"):
        files.read_place(url + "/a%20b.png")


def test_the_drag_that_a_picture_carries_comes_with_it_from_a_path_and_from_the_web(
    task, tmp_path, monkeypatch
):
    buffer = io.BytesIO()
    task.save(tmp_path / "drag.zip")
    Image.new("RGB", (40, 30)).save(
        buffer, "PNG", pnginfo=provenance((tmp_path / "drag.zip").read_bytes(), {"seed": 1})
    )
    (tmp_path / "b.png").write_bytes(buffer.getvalue())
    monkeypatch.setattr(files.web, "fetch", lambda place: buffer.getvalue())
    for place in (str(tmp_path / "b.png"), "https://example.org/b.png?size=1"):
        picture, drag = files.read_place(place)
        assert picture.shape == (30, 40, 3) and drag.handles.tolist() == task.handles.tolist()
    assert files.carried("b.txt", buffer.getvalue()) is None and files.carried("b.png", b"no picture") is None


def test_only_web_addresses_are_fetched():
    for place in ("file:///etc/hostname", "no such file"):
        with pytest.raises(InputError, match="does not exist"):
            files.read_place(place)
    with pytest.raises(InputError, match="type a path or a web address"):
        files.read_place("  ")


def test_saving_asks_for_a_path_and_for_whole_pairs(task, tmp_path):
    picks = Picks.of(task)
    saved = files.save(picks, f" {tmp_path}/new/drag.zip ")
    assert DragTask.load(saved).handles.tolist() == task.handles.tolist()

    for place in ("", "https://example.org/drag"):
        with pytest.raises(InputError, match="type the path"):
            files.save(picks, place)
    picks.add(1, 1)
    with pytest.raises(InputError, match="odd number"):
        files.save(picks, str(tmp_path / "odd"))


POINTS = [(103.0, 133.0), (81.0, 133.5), (153.01002700992515, 44.0), (7.0, 8.0), (5.0, 6.0)]


def test_the_table_says_every_pair_and_gives_the_points_back_to_the_last_digit():
    text = files.table(POINTS)

    assert text == "103 133 → 81 133.5\n153 44 → 7 8\n5 6"
    assert files.parse_table(text, POINTS) == POINTS
    assert files.parse_table(text) == [*POINTS[:2], (153, 44), *POINTS[3:]]
    assert files.table([]) == "" and files.parse_table(" \n") == []


@pytest.mark.parametrize("line", ["1 2 -> 3 4", "1,2,3,4", "[[1, 2], [3, 4]]", "(1; 2): (3; 4)", "1 2 3.0 4"])
def test_pairs_may_be_typed_in_many_ways(line):
    assert files.parse_table(line) == [(1, 2), (3, 4)]


@pytest.mark.parametrize("text", ["1 2 3", "1 2\n3 4 5 6", "a 1 2 3 4", "1e3 2 3 4", "1 2 3 4 5 6", "x"])
def test_a_line_that_is_no_pair_is_named(text):
    with pytest.raises(InputError, match=r"line 1: .* is not a pair; write x y → x y"):
        files.parse_table(text)


def test_the_parameters_run_as_python_and_pass_through_a_shell_to_yaml(task):
    picks = Picks(task.image, [(10, 20), (30, 40.5)], prompt='the cat\'s "ä"')
    text = files.parameters(picks)
    lines, command = text.split("\n\n")
    given = {}
    exec(lines, given)

    assert (given["points"], given["prompt"]) == ([[10, 20], [30, 40.5]], 'the cat\'s "ä"')
    assert json.loads(shlex.split(command)[-1]) == {"points": given["points"], "prompt": given["prompt"]}
    assert "mask" not in text
    picks.invert()
    assert "the mask is not in here" in files.parameters(picks)


def test_a_dropped_file_that_is_no_picture_is_refused_by_what_it_is_and_one_cut_short_as_that():
    with pytest.raises(InputError, match="notes.txt cannot be read as a picture"):
        files.read_dropped("notes.txt", base64.b64encode(b"hello").decode())
    with pytest.raises(InputError, match="a.png did not arrive whole"):
        files.read_dropped("a.png", "abc")
