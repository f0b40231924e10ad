"""The studio in a real browser: Chromium drives JupyterLab (and voila); what is asserted is the kernel's state."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is missing: pip install 'dragnb[test]'")
pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install 'dragnb[notebooks]'")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is missing: apt install chromium")

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "outputs" / "browser"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 120  # seconds for a drag on the bundled model
STUDIO = """
from dragnb import clay, config
from dragnb.studio import Studio
quick = config.profile("clay", lora_steps=5, steps=10, drag_steps=60, stop=0.0)
task = clay.task(810001, "rabbit", "stretch").task
{name} = Studio(task, "clay", quick, out="exports")
{name}
"""
OPEN = """async path => { const app = window.jupyterapp; await app.started;
  const panel = await app.commands.execute('docmanager:open', {path});
  await panel.context.ready; await panel.sessionContext.ready; await panel.sessionContext.session.kernel.info;
  app.shell.activateById(panel.id); await app.commands.execute('notebook:run-all-cells'); }"""
ASK = """async code => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  let out = ''; const f = k.requestExecute({code, store_history: false});
  f.onIOPub = m => { if (m.header.msg_type === 'stream') out += m.content.text;
    if (m.header.msg_type === 'error') out += m.content.ename + ': ' + m.content.evalue; };
  await f.done; return out; }"""
CLOSE = "async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }"


def until(condition, seconds=PATIENCE):
    """Ask again until it is so; the last answer otherwise."""
    end = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


def served(command, url, folder):
    """Start a server and wait until it answers."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "DRAGNB_CACHE": str(folder / "cache")}
    for name in ("CONFIG_DIR", "RUNTIME_DIR", "DATA_DIR"):
        env[f"JUPYTER_{name}"] = str(folder / name.lower())
    for name in ("SETTINGS", "WORKSPACES"):
        env[f"JUPYTERLAB_{name}_DIR"] = str(folder / name.lower())
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, cwd=folder)

    def answers():
        assert process.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(url, timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return None

    assert until(answers, 60), log.read_text()
    return process


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def studio_browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def studio_lab(tmp_path_factory):
    folder, port, token = tmp_path_factory.mktemp("lab"), free_port(), secrets.token_hex(8)
    news = folder / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    quiet = json.dumps({"fetchNews": "false", "checkForUpdates": False})
    (news / "notification.jupyterlab-settings").write_text(quiet)
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}", "--no-browser"]
    command += ["--allow-root", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"]
    base = f"http://127.0.0.1:{port}"
    process = served(command, f"{base}/api/status?token={token}", folder)
    yield SimpleNamespace(folder=folder, url=f"{base}/lab?reset&token={token}")
    process.terminate()
    process.wait(15)


@pytest.fixture
def open_page(studio_lab, studio_browser):
    """Open a notebook of these cells and run it: the page, with `ask(code)` to the kernel."""
    pages = []

    def go(*sources):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        name = f"studio{len(pages)}-{secrets.token_hex(4)}.ipynb"
        nbformat.write(book, studio_lab.folder / name)
        page = studio_browser.new_context(viewport={"width": 1400, "height": 1300}).new_page()
        pages.append(page)
        page.goto(studio_lab.url)
        page.wait_for_function("() => window.jupyterapp")
        page.evaluate(OPEN, name)
        page.get_by_role("button", name="Run", exact=True).first.wait_for(timeout=60_000)
        return page, lambda code: page.evaluate(ASK, code).strip()

    yield go
    for page in pages:
        page.evaluate(CLOSE)
        page.context.close()


def click(page, name, which=0):
    page.get_by_role("button", name=name, exact=True).nth(which).click()


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def test_run_stop_travel_and_branch(open_page):
    page, ask = open_page(STUDIO.format(name="studio"))
    click(page, "Run")
    assert until(lambda: int(ask("print(getattr(studio.session.progress.get('drag'), 'i', 0))")) > 3)
    shot(page, "studio_running")
    click(page, "Stop")
    assert until(lambda: ask("print(studio.session.busy or 'idle')") == "idle")
    assert ask("print(studio.session.shown.result.interrupted)") == "True"

    page.get_by_role("tab", name="time travel").click()
    page.locator(".noUi-handle, .ui-slider-handle").last.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert until(lambda: ask("print(studio.travel.step.value in studio.session.looks)") == "True")
    shot(page, "studio_travel")
    click(page, "branch from here")
    assert until(lambda: "Run begins at step" in ask("print(studio.begins.value)"))
    click(page, "Run")
    assert until(lambda: ask("print(len(studio.session.snapshots))") == "2")
    assert ask("print(studio.session.shown.began[0] is studio.session.snapshots[0])") == "True"
    assert ask("print(studio.session.problem)") == "None"
    shot(page, "studio_branched")


def test_two_studios_at_once(open_page):
    page, ask = open_page(STUDIO.format(name="one"), STUDIO.format(name="two"))
    assert until(lambda: page.get_by_role("button", name="Run", exact=True).count() == 2)
    click(page, "Run", 0)
    click(page, "Run", 1)
    both = "print(len(one.session.snapshots), len(two.session.snapshots), one.session.problem, two.session.problem)"
    assert until(lambda: ask(both) == "1 1 None None"), ask(both)


def test_voila_serves_the_studio(studio_browser, tmp_path):
    pytest.importorskip("voila", reason="voila is missing: pip install 'dragnb[app]'")
    book = nbformat.read(ROOT / "notebooks" / "10_studio.ipynb", 4)
    book.cells = [cell for cell in book.cells if "lesson" not in cell.metadata.get("tags", [])]
    nbformat.write(book, tmp_path / "app.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}"]
    process = served([*command, "--Voila.ip=127.0.0.1"], f"http://127.0.0.1:{port}/voila/static/", tmp_path)
    try:
        page = studio_browser.new_context(viewport={"width": 1400, "height": 1300}).new_page()
        page.goto(f"http://127.0.0.1:{port}")
        click(page, "Run")
        page.get_by_text("the tracker sees").wait_for(timeout=PATIENCE * 1000)
        shot(page, "studio_voila")
        page.context.close()
    finally:
        process.terminate()
        process.wait(15)
