"""The canvas' benchmark measures what the browser would cause, and leaves ipycanvas as it was."""

import pytest

pytest.importorskip("ipycanvas", reason="ipycanvas is missing: pip install 'dragnb[widgets]'")

from ipycanvas.canvas import _CANVAS_MANAGER

from tools.speed import widgets


def test_every_size_gets_a_line_and_a_move_sends_words_and_no_pixels(capsys):
    send = _CANVAS_MANAGER._send_custom
    assert widgets.main(["--moves", "4", "--repeats", "1"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(widgets.SIZES) and lines[-1].startswith("4000x3000")
    assert all(0 < int(line.split()[-1].replace(",", "")) < 50_000 for line in lines[2:])
    assert _CANVAS_MANAGER._send_custom == send
