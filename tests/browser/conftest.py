"""A real JupyterLab in a real Chromium. Without them these tests are skipped, and say what is missing."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "outputs" / "browser"
PATIENCE = 120  # seconds for anything that a busy machine may be slow with
START = 300  # seconds for the server to answer for the first time
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
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
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, run: bool = True) -> None:
        self.page.goto(f"{self.lab['url']}/lab?reset&token={self.lab['token']}")
        self.page.wait_for_function("() => window.jupyterapp")
        assert not self.page.evaluate(OPEN, [self.name, run])
        self.canvas = self.page.locator(".jp-OutputArea canvas").first
        self.canvas.wait_for()
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

    def until(self, right) -> None:
        """Wait until `right()` is true; events take their time to the kernel and back."""
        end = time.monotonic() + PATIENCE
        while not right():
            assert time.monotonic() < end, "this never became true"
            self.page.wait_for_timeout(100)

    def pixel(self, x: int, y: int) -> list[int]:
        """Red, green, blue and alpha at a place of the canvas, in its own pixels."""
        return self.canvas.evaluate(PIXEL, [int(x), int(y)])

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where in the page a place of the canvas is."""
        box, size = self.canvas.bounding_box(), self.canvas.evaluate("c => [c.width, c.height]")
        return box["x"] + x * box["width"] / size[0], box["y"] + y * box["height"] / size[1]

    def drag(self, start, end, steps: int = 25, touch: bool = False) -> None:
        if not touch:
            self.page.mouse.move(*self.at(*start))
            self.page.mouse.down()
            self.page.mouse.move(*self.at(*end), steps=steps)
            self.page.mouse.up()
            return
        finger = self.page.context.new_cdp_session(self.page)
        for k in range(steps + 1):
            place = [a + (b - a) * k / steps for a, b in zip(start, end, strict=True)]
            kind, points = (
                ("touchMove" if k else "touchStart"),
                [dict(zip("xy", self.at(*place), strict=True))],
            )
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def tap(self, x: float, y: float, touch: bool = False) -> None:
        (self.page.touchscreen.tap if touch else self.page.mouse.click)(*self.at(x, y))

    def button(self, name: str) -> None:
        self.page.locator(".jp-OutputArea").get_by_role("button", name=name, exact=True).first.click()

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(".jp-OutputArea .widget-upload").click()
        chooser.value.set_files(path)

    def key(self, name: str) -> None:
        self.canvas.evaluate("c => c.focus()")
        self.page.keyboard.press(name)

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")


@pytest.fixture(
    scope="module"
)  # not longer: Playwright keeps an event loop running, which others cannot share
def chromium():
    """A Chromium, by way of Playwright."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install playwright"
    )
    pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install 'dragnb[notebooks]'")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(
            f"no browser: none of {', '.join(CHROMIUM)} is on the path (Debian: apt install chromium)"
        )
    with sync_api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=path, args=FLAGS)
        except sync_api.Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """A JupyterLab of its own, that no user's settings reach: its address, its token and its folder."""
    root, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    (quiet / "notification.jupyterlab-settings").write_text(json.dumps(news))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, url = secrets.token_hex(8), f"http://127.0.0.1:{port}"
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    env = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        "--no-browser", "--allow-root", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with open(home / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        end = time.monotonic() + START
        while True:
            try:
                urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=10)
                break
            except OSError as error:
                if server.poll() is not None or time.monotonic() > end:
                    log_text = (home / "lab.log").read_text()
                    raise AssertionError(f"JupyterLab does not answer: {log_text}") from error
                time.sleep(0.2)
        yield {"url": url, "token": token, "root": root}
    finally:
        server.terminate()
        server.wait(15)


@pytest.fixture
def notebook(chromium, lab):
    """notebook(source, **context): a notebook of one cell, opened and run."""
    opened = []

    def make(source: str, name: str = "test.ipynb", **context) -> Page:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, lab["root"] / name)
        view = chromium.new_context(viewport={"width": 1280, "height": 1100}, **context)
        opened.append(Page(view.new_page(), lab, name))
        opened[-1].open()
        return opened[-1]

    yield make
    for page in opened:
        page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.page.context.close()
