"""A real JupyterLab in a real Chromium. Without them these tests are skipped, and say what is missing."""

import json
import secrets
import shutil
import sys

import nbformat
import pytest
from driver import Page, free_port, served

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")  # not longer: Playwright keeps an event loop running that others cannot share
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
    quiet = home / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    (quiet / "notification.jupyterlab-settings").write_text(json.dumps(news))
    token, port = secrets.token_hex(8), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        "--no-browser", "--allow-root", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with served(command, f"{url}/api/status?token={token}", home):
        yield {"url": url, "token": token, "root": root}


@pytest.fixture
def notebook(chromium, lab):
    """notebook(*sources, **context): a notebook of these cells, opened and run."""
    opened = []

    def make(*sources: str, name: str = "test.ipynb", scroll: bool = True, **context) -> Page:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, lab["root"] / name)
        view = chromium.new_context(**{"viewport": {"width": 1280, "height": 1100}} | context)
        opened.append(Page(view.new_page(), lab, name))
        opened[-1].open(scroll=scroll)
        return opened[-1]

    yield make
    for page in opened:
        page.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.page.context.close()
