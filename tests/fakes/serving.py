"""What both fakes share: how they start and stop, HTTP with JSON, and the shape of a JWT. Knows no provider.

Nothing is logged: neither requests nor values. What goes wrong in a fake itself is printed on stderr.
"""

import argparse
import base64
import binascii
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client sent. `path` is percent-decoded; a query parameter given twice counts once, with its last value."""

    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ValueError if it is none. An empty body is an empty object."""
        value = json.loads(self.body or b"{}")
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value

    def form(self) -> dict[str, str]:
        """The body as a form, or as JSON if it says so; ValueError if it is neither."""
        if "json" in (self.headers.get("Content-Type") or ""):
            return {name: str(value) for name, value in self.json().items()}
        return dict(urllib.parse.parse_qsl(self.body.decode(), keep_blank_values=True))

    def bearer(self) -> str | None:
        """The token of its Authorization header."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a client gets: a JSON value, text, or nothing."""

    status: int
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every fake has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0: a free one (default)")
    return parser


def names(text: str) -> frozenset[str]:
    """A comma-separated list."""
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def serve(port: int, answer: Callable[[Request], Reply], tls: Any = None) -> None:
    """Serves on loopback until SIGTERM, or until stdin closes because the parent died."""
    server = _Server(("127.0.0.1", port), _handler(answer))
    if tls:
        # The handshake happens at the first read, in the connection's own thread: a slow client delays nobody.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _end())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()


def jwt(token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Header and claims of what looks like a signed JWT. The signature is not checked."""
    parts = token.split(".")
    try:
        header, claims = (json.loads(unpadded(part, strict=True)) for part in parts[:2])
    except (ValueError, binascii.Error):
        return None
    well_formed = len(parts) == 3 and parts[2] and isinstance(header, dict) and isinstance(claims, dict)
    return (header, claims) if well_formed else None


def in_time(claims: dict[str, Any], leeway: int = 60) -> bool:
    """Whether a JWT with these claims is valid now: `exp` is required, `iat` and `nbf` are respected."""
    numbers = [claims.get(name, 0) for name in ("exp", "iat", "nbf")]
    if not all(isinstance(number, (int, float)) for number in numbers):
        return False
    exp, iat, nbf = numbers
    return max(iat, nbf) - leeway <= time.time() < exp


def audiences(claims: dict[str, Any]) -> list[str]:
    """Whom a JWT with these claims is for."""
    aud = claims.get("aud", [])
    return aud if isinstance(aud, list) else [aud]


def unpadded(text: str, strict: bool = False) -> bytes:
    """Base64, with or without padding; in the URL alphabet, or unless `strict` in the standard one too."""
    text = text if strict else text.replace("+", "-").replace("/", "_")
    return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    _end()


def _end() -> None:
    # At once: there is nothing to tidy up, and other threads may be in the middle of something.
    os._exit(0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that hang up or distrust the certificate are part of the tests.
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


def _handler(answer: Callable[[Request], Reply]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "fake"
        # An answer leaves in one piece.
        wbufsize = -1
        # A client that stops talking must not hold its thread for ever.
        timeout = 120

        def setup(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().setup()

        def do(self) -> None:
            # Always read the body: the next request of the connection starts behind it.
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
            path = urllib.parse.unquote(url.path)
            request = Request(self.command, self.headers.get("Host", ""), path, query, self.headers, body)
            if "Transfer-Encoding" in self.headers:
                self.close_connection = True
                return self.reply(Reply(411, "send Content-Length"))
            try:
                reply = answer(request)
            except Exception:
                traceback.print_exc()
                reply = Reply(500, {"error": {"code": 500, "status": "INTERNAL", "message": "a bug in the fake"}})
            self.reply(reply)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do

        def reply(self, reply: Reply) -> None:
            text = isinstance(reply.body, str)
            body = reply.body.encode() if text else b"" if reply.body is None else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            if body:
                kind = "text/html" if text else "application/json"
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
            if reply.status != 204:
                self.send_header("Content-Length", str(len(body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
