"""Pictures for the screen: each says what it is to say, at the place where it is."""

import errno
import io
import sys

import numpy as np
import pytest
from PIL import Image

from dragnb.errors import InputError
from dragnb.ui import frames


@pytest.fixture
def pair():
    return np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 200, np.uint8)


def test_a_wipe_goes_from_all_before_to_all_after_with_a_line_between(pair):
    before, after = pair
    assert (frames.wipe(before, after, 0.0) == before).all() and (
        frames.wipe(before, after, 1.0) == after
    ).all()
    half = frames.wipe(before, after, 0.5)
    assert (half[:, :29] == 0).all() and (half[:, 29] == 255).all() and (half[:, 30:] == 200).all()
    assert (before == 0).all(), "the pictures are not changed"


def test_a_difference_is_darkest_where_nothing_changed(pair):
    before, after = pair
    after[:, :30] = 0
    after[:, 45:, 0] = 255
    found = frames.difference(before, after).astype(int).sum(axis=2)
    assert found[0, 0] < found[0, 35] < found[0, 50], "one channel is enough"
    assert len(np.unique(found)) == 3


def test_a_mark_lies_where_its_point_is_on_the_enlarged_picture():
    tracks = np.array([[[10.0, 20.0]], [[20.0, 20.0]], [[30.0, 20.0]]])
    shown = frames.marked(np.full((40, 64, 3), 128, np.uint8), tracks, np.array([[50.0, 20.0]]))

    assert shown.shape == (320, 512, 3)
    place = {
        name: shown[164, round((x + 0.5) * 8)].tolist()
        for name, x in dict(start=10, end=30, target=50).items()
    }
    assert place == {"start": [213, 94, 0], "end": [240, 228, 66], "target": [0, 114, 178]}
    assert (shown[164, 164] == 0).all(), "the way is black"


def test_jpegs_are_no_larger_than_asked_and_take_floats():
    shown = Image.open(io.BytesIO(frames.jpeg(np.full((300, 600, 3), 0.5, np.float32), side=100)))
    assert shown.format == "JPEG" and shown.size == (100, 50)
    assert abs(np.asarray(shown).mean() - 128) < 2


def test_a_small_map_is_enlarged_cell_by_cell():
    cells = np.random.default_rng(0).random((8, 6, 3))
    shown = frames.enlarged(cells, 32)
    assert shown.shape == (32, 24, 3) and (shown[::4, ::4] == cells).all()
    assert frames.enlarged(np.zeros((900, 500, 3)), 512).shape == (900, 500, 3)


def test_a_curve_marks_its_step_and_says_the_value_for_those_who_do_not_see_it():
    svg = frames.curve([3.0, 2.0, 1.0], 1, "loss", width=208, height=100)
    assert 'aria-label="loss: 2 at step 1"' in svg and 'cx="104.0"' in svg
    assert "from 1 to 3" in svg
    assert "nan" not in frames.curve([1.0], 0, "loss"), "a drag of no step has one value"


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (75, 101, 3), dtype=np.uint8) for _ in range(4)]


def test_a_gif_shows_all_frames_again_and_again_and_holds_the_last(pictures, tmp_path):
    with Image.open(frames.save_gif(tmp_path / "way.gif", pictures, fps=5)) as film:
        durations = []
        for k in range(film.n_frames):
            film.seek(k)
            durations.append(film.info["duration"])
        assert film.size == (101, 75) and film.info["loop"] == 0
    assert durations == [200, 200, 200, 1500]


def test_large_frames_are_made_smaller(tmp_path):
    with Image.open(frames.save_gif(tmp_path / "way.gif", [np.zeros((400, 1024, 3), np.uint8)] * 2)) as film:
        assert film.size == (512, 200)


def test_an_mp4_is_one_also_for_odd_sizes(pictures, tmp_path, caplog):
    ffmpeg = pytest.importorskip(
        "imageio_ffmpeg", reason="imageio-ffmpeg is missing: pip install 'dragnb[video]'"
    )
    path = frames.save_mp4(tmp_path / "way.mp4", pictures, fps=10)

    count, seconds = ffmpeg.count_frames_and_secs(str(path))
    assert path.read_bytes()[4:8] == b"ftyp" and count == 4 + 15 and seconds == pytest.approx(1.9, abs=0.2)
    assert "divisible" not in caplog.text, "imageio would stretch them, and warn into the notebook"


@pytest.mark.parametrize("limit", [["-frames:v", "3"], ["-f", "null"]], ids=["part of it", "nothing"])
def test_a_film_that_the_encoder_could_not_write_whole_replaces_none(pictures, tmp_path, monkeypatch, limit):
    """The encoder stops early or writes nothing, as on a full disk, and says so nowhere."""
    ffmpeg = pytest.importorskip(
        "imageio_ffmpeg", reason="imageio-ffmpeg is missing: pip install 'dragnb[video]'"
    )
    path, write = tmp_path / "way.mp4", ffmpeg.write_frames
    path.write_bytes(b"good")

    def limited(*args, output_params, **kwargs):
        return write(*args, output_params=output_params + limit, **kwargs)

    monkeypatch.setattr(ffmpeg, "write_frames", limited)
    with pytest.raises(InputError, match=r"way.mp4 cannot be written \(\d+ of 19 frames"):
        frames.save_mp4(path, pictures)
    assert path.read_bytes() == b"good" and list(tmp_path.iterdir()) == [path]


def test_an_encoder_that_closes_its_pipe_is_one_line_too(pictures, tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip(
        "imageio_ffmpeg", reason="imageio-ffmpeg is missing: pip install 'dragnb[video]'"
    )

    def ends(*args, **kwargs):
        yield
        yield
        raise OSError(errno.EPIPE, "FFMPEG COMMAND:\nand more")

    monkeypatch.setattr(ffmpeg, "write_frames", ends)
    with pytest.raises(InputError, match=r"way.mp4 cannot be written \(0 of 19 frames") as said:
        frames.save_mp4(tmp_path / "way.mp4", pictures)
    assert "FFMPEG" not in str(said.value) and not list(tmp_path.iterdir())


def test_the_marks_keep_their_colours_in_a_gif(tmp_path):
    """They are few pixels of a colourful picture, of which a palette of the commonest colours knows nothing."""
    x, y = np.meshgrid(np.linspace(0, 255, 256), np.linspace(0, 255, 256))
    picture = np.stack([x / 3, y, (x + y) / 4], axis=2).astype(np.uint8)
    tracks, target = np.array([[[60.0, 80.0]], [[100.0, 80.0]], [[140.0, 80.0]]]), np.array([[200.0, 180.0]])
    film = [frames.marked(picture, tracks[: k + 1], target) for k in range(3)]
    with Image.open(frames.save_gif(tmp_path / "way.gif", film)) as gif:
        for k in range(3):
            gif.seek(k)
            shown = np.asarray(gif.convert("RGB")).astype(int)
            for xy in (tracks[0, 0], tracks[k, 0], target[0]):
                at = tuple((np.round((xy + 0.5) * 2)).astype(int)[::-1])
                assert np.abs(shown[at] - film[k][at]).max() <= 40
            assert np.abs(shown - film[k]).mean() < 8, "and the picture its own"


def test_a_missing_encoder_says_what_to_install(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'dragnb\[video\]'; or save a GIF"):
        frames.save_mp4(tmp_path / "way.mp4", pictures)


def test_what_goes_on_is_followed_in_one_line_with_no_value_behind_it(monkeypatch):
    lines = []

    class Line:
        def update(self, data, raw):
            lines.append(data["text/plain"])

    monkeypatch.setattr("IPython.display.display", lambda *_, **__: Line())

    assert frames.follow(iter(["1 of 2", "2 of 2"])) is None, "a cell that ends with it shows the line alone"
    assert lines == ["1 of 2", "2 of 2", "2 trials done now"]
    frames.follow(iter([]))
    assert lines[-1] == "0 trials done now"
