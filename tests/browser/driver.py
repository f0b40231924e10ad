"""What drives the browser: servers of their own, and a page with a notebook whose kernel can be asked."""

import contextlib
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from dragnb.ui.canvas import CHOSEN, DENSITY, HANDLE, TARGET

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "outputs" / "browser"
PATIENCE = 600  # seconds for anything that a busy machine may be slow with
START = 300  # seconds for the server to answer for the first time
RARE = (HANDLE, TARGET, CHOSEN, "white", "black")  # colours of few pixels that a GIF must not lose
FOLDERS = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR", "DRAGNB_CACHE",
)  # fmt: skip

OPEN = """async ([path, run]) => {
  const app = window.jupyterapp; await app.started;
  const panel = await app.commands.execute('docmanager:open', {path});
  await panel.context.ready; await panel.sessionContext.ready; await panel.sessionContext.session.kernel.info;
  app.shell.activateById(panel.id);
  if (run) await app.commands.execute('notebook:run-all-cells');
  return panel.content.widgets.filter(c => c.model.type === 'code').flatMap(c => c.model.outputs.toJSON())
    .filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue);
}"""
ASK = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false}); let out = '';
  future.onIOPub = m => {
    if (m.header.msg_type === 'stream') out += m.content.text;
    if (m.header.msg_type === 'error') out += m.content.ename + ': ' + m.content.evalue;
  };
  await future.done; return out;
}"""
PIXEL = "(c, [x, y]) => Array.from(c.getContext('2d').getImageData(x, y, 1, 1).data)"


class Page:
    """A notebook open in the browser: its page, its first canvas, and its kernel."""

    def __init__(self, page, lab, name):
        self.page, self.lab, self.name, self.errors = page, lab, name, []
        self._session = None
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, run: bool = True, scroll: bool = True) -> None:
        self.page.goto(f"{self.lab['url']}/lab?reset&token={self.lab['token']}")
        self.page.wait_for_function("() => window.jupyterapp")
        assert not self.page.evaluate(OPEN, [self.name, run])
        self.canvas = self.page.locator(".jp-OutputArea canvas").first
        self.canvas.wait_for()
        if scroll:
            self.canvas.scroll_into_view_if_needed()
        self.until(lambda: self.pixel(5, 5)[3] == 255)  # the picture is drawn

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def ask(self, expression: str):
        """The value of an expression in the kernel."""
        answer = self.page.evaluate(ASK, f"import json; print(json.dumps({expression}))")
        try:
            return json.loads(answer)
        except ValueError:
            raise AssertionError(f"{expression}: {answer}") from None

    def busy(self, seconds: float) -> None:
        """Have the kernel do something else for so long, from now on."""
        self.page.evaluate(
            "code => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code}); }",
            f"import time; time.sleep({seconds})",
        )

    def until(self, right) -> None:
        """Wait until `right()` is true; events take their time to the kernel and back."""
        end = time.monotonic() + PATIENCE
        while not right():
            assert time.monotonic() < end, f"this never became true; the page says {self.says()}"
            self.page.wait_for_timeout(100)

    def says(self) -> list[str]:
        """What the widgets say, each in its line."""
        return self.page.locator("[role=status]").all_inner_texts()

    def pixel(self, x: int, y: int) -> list[int]:
        """Red, green, blue and alpha at a place of the canvas."""
        return self.canvas.evaluate(PIXEL, [int(x * DENSITY), int(y * DENSITY)])

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where in the page a place of the canvas is."""
        box, size = self.canvas.bounding_box(), self.size()
        return box["x"] + x * box["width"] / size[0], box["y"] + y * box["height"] / size[1]

    def size(self) -> list[float]:
        """The canvas' width and height in the pixels that places on it are given in."""
        return [n / DENSITY for n in self.canvas.evaluate("c => [c.width, c.height]")]

    def drag(self, start, end, steps: int = 25, touch: bool = False, pen: bool = False) -> None:
        if pen:
            for kind, place in (("Pressed", start), ("Moved", end), ("Released", end)):
                self._pen(f"mouse{kind}", place)
            return
        if not touch:
            self.page.mouse.move(*self.at(*start))
            self.page.mouse.down()
            self.page.mouse.move(*self.at(*end), steps=steps)
            self.page.mouse.up()
            return
        for k in range(steps + 1):
            place = [a + (b - a) * k / steps for a, b in zip(start, end, strict=True)]
            self.fingers("touchMove" if k else "touchStart", place)
        self.fingers("touchEnd")

    def fingers(self, kind: str, *places) -> None:
        """A touch event with fingers at these places of the canvas."""
        points = [dict(zip("xy", self.at(*place), strict=True)) for place in places]
        self._send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def _pen(self, kind: str, place) -> None:
        x, y = self.at(*place)
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        self._send("Input.dispatchMouseEvent", event | {"pointerType": "pen"})

    def _send(self, method: str, params: dict) -> None:
        self._session = self._session or self.page.context.new_cdp_session(self.page)  # one holds all fingers
        self._session.send(method, params)

    def tap(self, x: float, y: float, touch: bool = False) -> None:
        (self.page.touchscreen.tap if touch else self.page.mouse.click)(*self.at(x, y))

    def button(self, name: str, which: int = 0) -> None:
        buttons = self.page.locator(".jp-OutputArea").get_by_role("button", name=name, exact=True)
        buttons.nth(which).click()

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(".jp-OutputArea .widget-upload").click()
        chooser.value.set_files(path)

    def key(self, name: str) -> None:
        self.canvas.evaluate("c => c.focus()")
        self.page.keyboard.press(name)

    def portrait(self) -> Image.Image:
        """The widget alone."""
        shown = self.page.locator(".jp-OutputArea-output").filter(has=self.page.locator("canvas")).first
        return Image.open(io.BytesIO(shown.screenshot())).convert("RGB")

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")


def keep(name: str, *pictures: Image.Image, seconds: float = 1.0) -> None:
    """Pictures for a README: one as a PNG, several as a GIF of the first one's size, the last held."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    if len(pictures) == 1:  # with fewer colours the points would lose theirs
        pictures[0].save(SHOTS / f"{name}.png", optimize=True)
        return
    small = [Image.new("RGB", pictures[0].size, "white") for _ in pictures]
    for sheet, picture in zip(small, pictures, strict=True):
        sheet.paste(picture)
        sheet.thumbnail((720, 720))
    bands = [Image.new("RGB", (small[0].width, 12), color) for color in RARE]
    colors = Image.fromarray(np.vstack([small[0], small[-1], *bands])).quantize()
    first, *others = [picture.quantize(palette=colors, dither=Image.Dither.NONE) for picture in small]
    durations = [1000 * seconds] * len(others) + [3000 * seconds]
    first.save(SHOTS / f"{name}.gif", save_all=True, append_images=others, duration=durations, loop=0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def served(command: list[str], url: str, home: Path):
    """A server, by its command, from when it answers at `url` until the block ends.

    Settings, cache and log lie in `home`, so that nothing of the user's gets in.
    """
    env = os.environ | {name: str(home / name.lower()) for name in FOLDERS}
    env["PYTHONFAULTHANDLER"] = "1"  # the log says where a kernel was that died
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log, end = home / "server.log", time.monotonic() + START
    with log.open("w") as out:
        server = subprocess.Popen(command, env=env, cwd=home, stdout=out, stderr=out)
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=10)
                break
            except urllib.error.HTTPError:  # it answers
                break
            except OSError as error:
                if server.poll() is not None or time.monotonic() > end:
                    raise AssertionError(f"{command[0]} does not answer: {log.read_text()}") from error
                time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # it waits for its kernels; those end by themselves once it is gone
            server.kill()
            server.wait()
