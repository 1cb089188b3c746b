"""A reward server in this process that misbehaves on purpose: for tests of rewards over HTTP, and for their record."""

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Body = dict[str, Any]


class Handler(BaseHTTPRequestHandler):
    server: "FaultServer"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append(body)
            self.server.headers.append(dict(self.headers))
        self.server.behave(self, body, number)

    def do_GET(self) -> None:  # a redirect that was followed ends here
        self.do_POST()

    def answer(self, body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


Behaviour = Callable[[Handler, Body, int], None]


class FaultServer(ThreadingHTTPServer):
    """Scores an answer by its length unless `behave` does otherwise. `asked` holds the requests in order."""

    daemon_threads = True
    request_queue_size = 64  # with the 5 of the standard library, every ninth connection waits a second

    def __init__(self, behave: Behaviour | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behave = behave or well
        self.asked: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/score"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None: ...  # the client went away


def scores(*values: object) -> bytes:
    return json.dumps({"scores": values}).encode()


def well(handler: Handler, body: Body, number: int) -> None:
    handler.answer(scores(*(float(len(response)) for response in body["responses"])))


@dataclass(frozen=True)
class Fault:
    """What a server does to every request for two answers, the reason to be told, and how often it is asked."""

    act: Callable[[Handler], None]
    reason: str
    tries: int = 1

    def __call__(self, handler: Handler, body: Body, number: int) -> None:
        self.act(handler)


def _never(handler: Handler) -> None:
    handler.server.ended.wait()


def _reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def _raw(handler: Handler, text: bytes) -> None:
    handler.wfile.write(text)
    handler.close_connection = True


def _drip(handler: Handler, head: bytes, byte: bytes) -> None:
    """A byte every 50 ms: no single read ever times out."""
    handler.wfile.write(head)
    while not handler.server.ended.wait(0.05):
        handler.wfile.write(byte)


def _endless(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while not handler.server.ended.is_set():
        handler.wfile.write(b" " * 65536)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HTML = b"<!doctype html><title>Sign in</title>"
FAULTS: dict[str, Fault] = {
    "no answer": Fault(_never, r"no answer within [\d.]+ s \(reward\.timeout\)"),
    "slow drip of the body": Fault(
        lambda h: _drip(h, HEAD + b"Content-Length: 9999\r\n\r\n", b" "), r"no answer within [\d.]+ s"
    ),
    "slow drip of the head": Fault(lambda h: _drip(h, HEAD + b"X-Slow: ", b"x"), r"no answer within [\d.]+ s"),
    "408": Fault(lambda h: h.answer(b"", 408), r"HTTP 408, 3 tries", 3),
    "429": Fault(lambda h: h.answer(b"", 429), r"HTTP 429, 3 tries", 3),
    "429, come back in an hour": Fault(
        lambda h: h.answer(b"", 429, Retry_After="3600"), r"HTTP 429 \(retry after 3600 s\)"
    ),
    "500": Fault(lambda h: h.answer(b"", 500), r"HTTP 500, 3 tries", 3),
    "503 as a page": Fault(lambda h: h.answer(HTML, 503, "text/html"), r"HTTP 503, 3 tries", 3),
    "reset": Fault(_reset, r"the connection broke, or spoke no HTTP \(\w+\), 3 tries", 3),
    "not HTTP": Fault(lambda h: _raw(h, b"SSH-2.0-OpenSSH_9.6\r\n"), r"the connection broke, or spoke no HTTP", 3),
    "body cut short": Fault(
        lambda h: _raw(h, HEAD + b'Content-Length: 99\r\n\r\n{"scores": [1'), r"the connection broke", 3
    ),
    "401": Fault(lambda h: h.answer(b"{}", 401), r"HTTP 401$"),
    "404": Fault(lambda h: h.answer(HTML, 404, "text/html"), r"HTTP 404$"),
    "201": Fault(lambda h: h.answer(scores(1, 2), 201), r"HTTP 201$"),
    "redirect to another host": Fault(
        lambda h: h.answer(b"", 307, Location="http://169.254.169.254/latest"),
        r"HTTP 307 redirects to 169\.254\.169\.254, which is not followed",
    ),
    "redirect to itself": Fault(
        lambda h: h.answer(b"", 302, Location="/score"), r"HTTP 302 redirects to 127\.0\.0\.1, which is not followed"
    ),
    "login page": Fault(lambda h: h.answer(HTML, 200, "text/html; charset=utf-8"), r"text/html, not application/json"),
    "JSON as plain text": Fault(lambda h: h.answer(scores(1, 2), 200, "text/plain"), r"text/plain, not application"),
    "no content type": Fault(lambda h: h.answer(scores(1, 2), 200, ""), r"of no content type, not application/json"),
    "login page that claims to be JSON": Fault(lambda h: h.answer(HTML), r"the response \(37 bytes\) is not JSON"),
    "empty body": Fault(lambda h: h.answer(b""), r"the response is empty"),
    "truncated JSON": Fault(lambda h: h.answer(b'{"scores": [1.0, '), r"the response \(17 bytes\) is not JSON"),
    "nested too deep": Fault(lambda h: h.answer(b"[" * 100_000), r"is not JSON"),
    "compressed": Fault(lambda h: h.answer(b"\x1f\x8b", Content_Encoding="gzip"), r"the response is compressed"),
    "endless body": Fault(_endless, r"the response is longer than 1048576 bytes"),
    "a list": Fault(lambda h: h.answer(b"[1, 2]"), r'the response has no list "scores"'),
    "another key": Fault(lambda h: h.answer(b'{"rewards": [1, 2]}'), r'the response has no list "scores"'),
    "too few scores": Fault(lambda h: h.answer(scores(1)), r"1 scores for 2 answers"),
    "too many scores": Fault(lambda h: h.answer(scores(1, 2, 3)), r"3 scores for 2 answers"),
    "NaN": Fault(lambda h: h.answer(b'{"scores": [NaN, NaN]}'), r"NaN or beyond ±1e\+09 for a score"),
    "infinity": Fault(lambda h: h.answer(b'{"scores": [Infinity, -Infinity]}'), r"NaN or beyond ±1e\+09"),
    "huge": Fault(lambda h: h.answer(b'{"scores": [1e300, -1e10]}'), r"NaN or beyond ±1e\+09"),
    "an integer of 400 digits": Fault(
        lambda h: h.answer(b'{"scores": [' + b"9" * 400 + b", 1e999]}"), r"NaN or beyond ±1e\+09"
    ),
    "words": Fault(lambda h: h.answer(scores("good", "bad")), r"a str for a score"),
    "booleans": Fault(lambda h: h.answer(scores(True, False)), r"a bool for a score"),
    "null": Fault(lambda h: h.answer(scores(None, None)), r"null for a score"),
}
