"""A web address is fetched within a time and a size, over http alone, and leads to no place that was not typed."""

import http.server
import threading
import time

import pytest

from dragnb.errors import InputError
from dragnb.inputs import web
from dragnb.ui import files


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path
        if path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", path[4:])
            return self.end_headers()
        if path == "/slow-head":
            return self.drip()
        self.send_response(200)
        if path == "/short":
            self.send_header("Content-Length", "99")
        if path == "/claims":
            self.send_header("Content-Length", str(2**40))
        self.end_headers()
        if path == "/slow":
            return self.drip()
        self.wfile.write(b"content of " + path.encode())

    def drip(self):
        for _ in range(72_000):
            self.wfile.write(b"x")
            self.wfile.flush()
            if self.server.stopping.wait(0.05):
                return

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """The address of a server on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stopping, server.daemon_threads = threading.Event(), True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.stopping.set()
    server.shutdown()
    server.server_close()


def test_what_a_user_types_is_fetched_from_anywhere_and_in_any_script(server):
    assert web.fetch(server + "/a") == b"content of /a"
    assert web.fetch(server + "/ä 猫.png?q=ü") == b"content of /%C3%A4%20%E7%8C%AB.png?q=%C3%BC"
    assert web.fetch(server + "/a%20b") == b"content of /a%20b", "what is encoded stays so"


@pytest.mark.parametrize("path", ["/slow", "/slow-head"])
def test_a_slow_address_ends_after_a_time_in_all_and_its_thread_too(server, monkeypatch, path):
    monkeypatch.setattr(web, "SECONDS", 0.3)

    with pytest.raises(
        InputError, match=f"{path} cannot be fetched .*it takes over 0.3 s.*download the file"
    ):
        files.read_place(server + path)

    deadline = time.monotonic() + 60  # the server itself would go on for an hour
    while time.monotonic() < deadline and any(t.name == "dragnb-fetch" for t in threading.enumerate()):
        time.sleep(0.05)
    assert not any(t.name == "dragnb-fetch" for t in threading.enumerate())


def test_content_over_the_limit_is_refused_and_content_cut_short_too(server, monkeypatch):
    with pytest.raises(InputError, match="/claims is larger than 128 MiB"):
        web.fetch(server + "/claims")
    with pytest.raises(InputError, match="/short cannot be fetched .*17 of 99 bytes came"):
        web.fetch(server + "/short")
    monkeypatch.setattr(web, "MAX_BYTES", 5)
    with pytest.raises(InputError, match="/a is larger than"):
        web.fetch(server + "/a")


def test_a_redirect_within_the_typed_host_is_followed(server):
    assert web.fetch(server + "/to?/b") == b"content of /b"


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/hostname",
        "ftp://example.org/a",
        "data:text/plain,a",
        "http://localhost:1/",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://0.0.0.0/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://2130706433/",
    ],
)
def test_a_redirect_to_a_file_or_into_this_machine_or_its_network_is_refused(server, target):
    with pytest.raises(InputError, match="redirects to .*; refused|is not allowed"):
        web.fetch(f"{server}/to?{target}")


def test_a_name_that_comes_to_mean_a_local_address_after_the_look_is_given_up_before_a_byte(
    server, monkeypatch
):
    monkeypatch.setattr(web, "_require_public", checks := iter_checks(web._require_public))
    port = server.rpartition(":")[2]

    with pytest.raises(InputError, match="redirects to 127.0.0.1, an address of this machine"):
        web.fetch(f"{server}/to?http://localhost:{port}/secret")
    assert checks.calls > 1


def iter_checks(check):
    """A check that lets the look-up of the redirect pass, as a name server may that changes its answer."""

    def checked(address):
        checked.calls += 1
        if threading.current_thread().name == "dragnb-fetch" and _connecting():
            check(address)

    checked.calls = 0
    return checked


def _connecting():
    import sys

    frame = sys._getframe()
    while frame:
        if frame.f_code.co_name == "_connect_in_public":
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize(
    "url", ["http://", "http:///a", "https://[::1", "http://a:99999/", "http://\x00/", "http://ä..b/"]
)
def test_an_address_that_is_none_is_one_error(url):
    with pytest.raises(
        InputError, match="is no address of the web|cannot be fetched|is no web address"
    ) as caught:
        files.read_place(url)
    assert "\n" not in str(caught.value)
