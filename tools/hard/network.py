"""A network that goes in the middle of a download: one clear error, nothing half-kept; when it is back, the whole.

python -m tools.hard.network FOLDER    load a model from the hub that HF_ENDPOINT names: what is tried
"""

import hashlib
import http.server
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dragnb import sd
from dragnb.errors import InputError
from dragnb.inputs import web

from . import seeds
from .campaign import Row, part_of, timed
from .places import ROOT

CUTS = 60
HUB_CUTS = 3
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SO_LINGER_NOW = struct.pack("ii", 1, 0)  # close with a reset instead of a farewell


def run(share: float, seed: int) -> Iterator[Row]:
    """A row for web addresses and one for the hub."""
    rng = np.random.default_rng(seed)
    row = Row(
        "network gone: a picture's address",
        "the connection ends after some of the bytes, by farewell or reset",
    )
    with timed(row), Server() as server:
        for _ in range(part_of(share, CUTS, 6)):
            cut_off(server, rng, row)
    row.outcome = "one line each; whole once the network is back"
    yield row
    row = Row("network gone: a model of the hub", "in the middle of its weights; then the network is back")
    with timed(row), Server() as server:
        for _ in range(part_of(share, HUB_CUTS)):
            halfway(server, row)
    row.outcome = "one line, and then the model, with the hash of its files"
    yield row


class Server(http.server.ThreadingHTTPServer):
    """A web server and a hub of one model on this machine; `left` bytes go over the line before it breaks, or all."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads, self.left, self.reset, self.chunked = True, None, False, False
        self.content = next(iter(seeds.pictures().values()))

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients that go are no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers of a plain server below /file, and of the hub elsewhere, as far as `snapshot_download` asks."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer()

    def answer(self, head: bool = False) -> None:
        if self.path.startswith("/file"):
            return self.send(self.server.content, {}, head)
        root = seeds.model_folder()
        if self.path.startswith("/api/"):
            return self.send(
                json.dumps(self.listed(root)).encode(), {"Content-Type": "application/json"}, head
            )
        content = (root / re.sub(r"^/a/b/resolve/\w+/", "", self.path)).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self.send(content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, head)

    def listed(self, root: Path) -> dict | list:
        """The model's files, as newer hubs' libraries ask for them (a tree) and as older ones do (siblings)."""
        files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        if "/tree/" in self.path:
            hashed = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            return [
                {"type": "file", "path": name, "size": len(content), "oid": hashed[name]}
                for name, content in files.items()
            ]
        return {"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}

    def send(self, content: bytes, headers: dict, head: bool) -> None:
        begin = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        chunked = self.server.chunked and not head
        length = (
            ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(content) - begin))
        )
        for name, value in [*headers.items(), length, ("Accept-Ranges", "bytes")]:
            self.send_header(name, value)
        self.end_headers()
        if not head:
            body = content[begin:]
            self.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)

    def write(self, body: bytes) -> None:
        """The body, as far as the network lasts."""
        left = self.server.left
        if left is None or left >= len(body):
            self.wfile.write(body)
            return
        self.wfile.write(body[:left])
        self.wfile.flush()
        if self.server.reset:
            import socket

            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SO_LINGER_NOW)
        self.close_connection = True

    def log_message(self, *_):
        pass


def cut_off(server: Server, rng: np.random.Generator, row: Row) -> None:
    """One broken fetch, and one when the network is back."""
    server.reset, server.chunked = bool(rng.integers(2)), bool(rng.integers(2))
    server.left = int(rng.integers(len(server.content)))
    where = f"{server.left} of {len(server.content)} bytes, reset {server.reset}, chunked {server.chunked}"
    try:
        web.fetch(f"{server.address}/file.png")
        row.failures.append(f"{where}: half a file passed for a whole one")
    except InputError as error:
        row.expect("\n" not in str(error) and server.address in str(error), f"{where}: {error}")
    server.left = None
    row.expect(web.fetch(f"{server.address}/file.png") == server.content, f"{where}: not whole afterwards")
    row.count += 1


def halfway(server: Server, row: Row) -> None:
    """Load from a hub whose line breaks within the weights, then from a whole one, with one cache."""
    with tempfile.TemporaryDirectory() as place:
        env = os.environ | {"HF_ENDPOINT": server.address, "HF_HOME": place, "HF_HUB_DISABLE_XET": "1"}
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "tools.hard.network", place]
        server.left = 50_000  # configs are smaller, weights are not
        said = []
        for _ in range(2):
            done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
            said.append(done.stdout.strip())
            row.expect(done.returncode == 0, f"it ended with {done.returncode}: {done.stderr[-1500:]}")
            server.left = None
        broken, back = said
        row.expect(
            "connect to the network" in broken and "\n" not in broken, f"without a network: {broken!r}"
        )
        row.expect(back == sd.hash_of(str(seeds.model_folder())), f"when it is back: {back!r}")
        row.count += 1


def main() -> None:
    """Print the hash of the hub's model, or the error in a line."""
    try:
        print(sd.load("a/b", device="cpu").given)
    except InputError as error:
        print(error)


if __name__ == "__main__":
    main()
