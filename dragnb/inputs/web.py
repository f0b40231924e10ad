"""A web address that a user has typed, fetched within limits: SECONDS in all, MAX_BYTES, http and https alone.

A redirect is followed to the web and back to the host that was typed, never to another address of this machine or its
network, and never to a file.
"""

import contextlib
import http.client
import ipaddress
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit, urlunsplit

from dragnb.errors import InputError, boundary, one_line

SCHEMES = ("http", "https")
MAX_BYTES = 128 * 2**20
SECONDS = 30  # from the name's look-up to the last byte
PIECE = 2**16
REMEDY = "check the address, or download the file and give its path"


def fetch(url: str) -> bytes:
    """The content at a web address; InputError says why there is none, and after SECONDS that it takes too long.

    The work is done in a thread of its own: a name's look-up, headers that drip, and a proxy heed no other limit.
    """
    work = _Work(url)
    thread = threading.Thread(target=work.run, daemon=True, name="dragnb-fetch")
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        work.stop()
        raise InputError(f"{one_line(url)} cannot be fetched (it takes over {SECONDS} s); {REMEDY}")
    if work.error is not None:
        raise work.error
    return work.content


class _Work:
    """One fetch: its content or its error, once `run` has returned; `stop` ends it from another thread."""

    def __init__(self, url: str):
        self.url, self.content, self.error, self.stopped = url, b"", None, False
        self.connection = self.answer = None

    def run(self) -> None:
        try:
            with boundary(f"{one_line(self.url)} cannot be fetched", REMEDY):
                request = urllib.request.Request(_ascii(self.url), headers={"User-Agent": "dragnb"})
                with _opener(self).open(request, timeout=SECONDS) as self.answer:
                    self.content = b"".join(self._pieces())
        except InputError as error:
            named = str(error).startswith(one_line(self.url))
            self.error = error if named else InputError(f"{one_line(self.url)}: {error}")

    def _pieces(self) -> Iterator[bytes]:
        stated, size = self.answer.headers.get("Content-Length", ""), 0
        while size <= MAX_BYTES and not self.stopped:
            if stated.isdecimal() and int(stated[:20]) > MAX_BYTES:
                break
            piece = self.answer.read1(PIECE)
            if not piece:
                if stated.isdecimal() and size < int(stated):
                    raise OSError(f"{size} of {stated} bytes came")
                return
            size += len(piece)
            yield piece
        raise InputError(f"{one_line(self.url)} is larger than {MAX_BYTES / 2**20:g} MiB; {REMEDY}")

    def connect(self, kind: type) -> Callable[..., http.client.HTTPConnection]:
        """Makes connections of this kind, of which `stop` knows the last."""

        def made(*args, **options):
            self.connection = kind(*args, **options)
            return self.connection

        return made

    def stop(self) -> None:
        self.stopped = True
        # while headers come the connection has the socket, then the answer
        for held in (lambda: self.connection.sock, lambda: self.answer.fp.raw._sock):
            with contextlib.suppress(Exception):
                held().shutdown(socket.SHUT_RDWR)


def _ascii(url: str) -> str:
    """An address as it is sent: its host by IDNA, what is not ASCII elsewhere in per cents."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise InputError(
            f"{one_line(url)} is no address of the web; it begins with http:// or https:// and a host"
        )
    host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    place = host if parts.port is None else f"{host}:{parts.port}"
    path, query = (quote(part, safe="/%:=&?~#+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme.lower(), place, path, query, ""))


def _opener(work: _Work) -> urllib.request.OpenerDirector:
    """urllib's opener with http and https alone: no files, no ftp, no data addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(work),
        _Https(work),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web, and within the host and port that were typed."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        target, typed = urlsplit(newurl), getattr(req, "typed", None) or urlsplit(req.full_url)
        if target.scheme not in SCHEMES or not target.hostname:
            raise InputError(
                f"{typed.geturl()} redirects to {one_line(newurl)}, which is not the web; refused"
            )
        new = super().redirect_request(req, fp, code, msg, headers, _ascii(newurl))
        new.typed, new.guarded = typed, target.netloc != typed.netloc
        if new.guarded:
            for *_, address in socket.getaddrinfo(target.hostname, None, type=socket.SOCK_STREAM):
                _require_public(address[0])
        return new


def _require_public(address: str) -> None:
    """InputError for an address of this machine or its network, also one that is wrapped in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    wrapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if ip.version == 6 and ip in ipaddress.ip_network("64:ff9b::/96"):
        wrapped = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
    reached = wrapped or ip
    if not reached.is_global or reached.is_multicast:
        raise InputError(f"it redirects to {address}, an address of this machine or its network; refused")


class _Guarded:
    """Mixed into a connection: it is given up before a byte is sent where the name has come to mean another address."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._create_connection = _connect_in_public


class _GuardedHttp(_Guarded, http.client.HTTPConnection):
    pass


class _GuardedHttps(_Guarded, http.client.HTTPSConnection):
    pass


def _connect_in_public(*args, **options) -> socket.socket:
    connected = socket.create_connection(*args, **options)
    try:
        _require_public(connected.getpeername()[0])
    except InputError:
        connected.close()
        raise
    return connected


def _is_guarded(request) -> bool:
    """Is this a redirect to another host that no proxy connects to for us?"""
    return getattr(request, "guarded", False) and not request.has_proxy()


class _Held:
    """Mixed into a handler: the work is told of every connection that is opened."""

    def __init__(self, work: _Work):
        super().__init__()
        self.work = work

    def do_open(self, kind, req, **options):
        return super().do_open(self.work.connect(kind), req, **options)


class _Http(_Held, urllib.request.HTTPHandler):
    def http_open(self, req):
        return self.do_open(_GuardedHttp if _is_guarded(req) else http.client.HTTPConnection, req)


class _Https(_Held, urllib.request.HTTPSHandler):
    def https_open(self, req):
        kind = _GuardedHttps if _is_guarded(req) else http.client.HTTPSConnection
        return self.do_open(kind, req, context=self._context)
