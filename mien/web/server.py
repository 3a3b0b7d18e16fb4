"""The server of the page: the standard library's sockets and threads, one request a connection, one question at a time.

A request has DEADLINE seconds to arrive, whatever it sends in between. Bodies are held in memory, filled with zeros after the
answer, and never written. Nothing is logged.
"""

from __future__ import annotations

import ctypes
import http.client
import io
import json
import platform
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from mien.web.guard import HEADERS, Place, Rate, Refusal, body_length, check

DEADLINE = 30.0
"""Seconds that a whole request may take to arrive, and an answer to be taken."""
HEAD = 32_768
"""Longest head of a request, bytes."""
CONNECTIONS, PER_ADDRESS = 96, 40
"""Open at once, in all and of one address; further ones are closed."""
WAITING = 32
"""Questions that wait for the one that is answered."""
BODIES = 8
"""Largest bodies that may lie in memory at once."""
CHUNK = 65_536
DECISIVE = ("host", "origin", "content-length", "content-type", "transfer-encoding")
"""Headers that the guard looks at."""
PIECE = b"\xa5" * 16
PERTURB = -6
"""`M_PERTURB` of mallopt(3)."""


class Question(NamedTuple):
    """A request that passed the guard."""

    path: str
    fields: Mapping[str, str]
    """What stands behind the question mark."""
    kind: str
    """Content type of the body."""
    body: bytearray


class Answer(NamedTuple):
    """What is sent back."""

    kind: str
    body: bytes
    status: int = 200


class Heap:
    """Bytes of bodies that are held at once; a thread takes before it holds more."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.lock = most, 0, threading.Lock()

    def take(self, count: int) -> bool:
        """Whether `count` more bytes may be held; a negative count gives back."""
        with self.lock:
            if count > 0 and self.held + count > self.most:
                return False
            self.held += count
            return True


class Server(socketserver.ThreadingTCPServer):
    """Listens at a place until `close`; `answer` is called by one thread that stays the same."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, answer: Callable[[Question], Answer], max_bytes: int, rate: int, origin: str = ""
    ) -> None:
        family = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0][0]
        self.address_family = family
        super().__init__((host.strip("[]"), port), Connection)
        self.place = Place(host, self.server_address[1], origin)
        self.answer, self.max_bytes, self.rate = answer, max_bytes, Rate(rate)
        self.heap, self.waiting = Heap(BODIES * max_bytes), threading.BoundedSemaphore(WAITING)
        self.open: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.worker = ThreadPoolExecutor(1, "answers")
        self.thread = threading.Thread(target=self.serve_forever, name="page", daemon=True)

    @property
    def url(self) -> str:
        """Address for a browser on this computer."""
        host = self.place.host.strip("[]")
        return f"http://{f'[{host}]' if ':' in host else host}:{self.place.port}"

    def start(self) -> Server:
        """Answer in a thread of its own."""
        self.thread.start()
        return self

    def close(self) -> None:
        """Stop listening; what is being answered is dropped."""
        self.shutdown()
        self.server_close()
        self.worker.shutdown(wait=False, cancel_futures=True)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether one more connection of this address may be open."""
        with self.lock:
            if self.open.total() >= CONNECTIONS or self.open[client_address[0]] >= PER_ADDRESS:
                return False
            self.open[client_address[0]] += 1
            return True

    def answered(self, question: Question) -> Answer:
        """The answer; what its thread has freed on the way is overwritten."""
        try:
            return self.answer(question)
        finally:
            scrub()

    def left(self, address: str) -> None:
        """A connection has ended."""
        with self.lock:
            self.open[address] -= 1
            if not self.open[address]:
                del self.open[address]

    def allowed(self, address: str) -> bool:
        """Whether an address may ask now."""
        with self.lock:
            return self.rate.allow(address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; nothing is printed of others either, for it might name a visitor's file."""


class Connection(socketserver.BaseRequestHandler):
    """One request and its answer."""

    server: Server

    def handle(self) -> None:
        """Read, check, answer, close."""
        self.until = time.monotonic() + DEADLINE
        address, body = str(self.client_address[0]), bytearray()
        try:
            question = self.question(address, body)
            self.send(self.answered(question))
        except Refusal as refusal:
            with suppress(OSError):
                self.send(Answer("text/plain; charset=utf-8", refusal.reason.encode(), refusal.status))
        except OSError:  # too slow, or gone
            pass
        finally:
            wipe(body)
            scrub()
            self.server.left(address)

    def question(self, address: str, body: bytearray) -> Question:
        """The request of this connection, its body read into `body`; Refusal where the page does not answer it."""
        head, rest = self.head()
        method, target, headers = parsed(head)
        path, fields = urlsplit(target).path, {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        route = check(method, path, headers, self.server.place)
        if method == "POST" and not self.server.allowed(address):
            raise Refusal(429, "too many requests; wait a little")
        length = body_length(route, headers, self.server.max_bytes)
        if headers.get("expect", "").lower() == "100-continue":
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.read_body(body, rest, length)
        return Question(path, fields, headers.get("content-type", "").partition(";")[0].strip().lower(), body)

    def wait(self) -> None:
        """Let the next call take what is left of the deadline."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.request.settimeout(left)

    def head(self) -> tuple[bytes, bytes]:
        """Head of the request, and what came of the body with it."""
        held = b""
        while b"\r\n\r\n" not in held:
            if len(held) > HEAD:
                raise Refusal(431, "the head of the request is too long")
            self.wait()
            came = self.request.recv(8192)
            if not came:
                raise ConnectionResetError
            held += came
        head, _, rest = held.partition(b"\r\n\r\n")
        return head, rest

    def read_body(self, body: bytearray, rest: bytes, length: int) -> None:
        """Let `body` grow as it comes, so that memory is taken only for what has come."""
        body += rest[:length]
        taken, chunk = 0, bytearray(CHUNK)
        try:
            while len(body) < length:
                if len(body) > taken:
                    if not self.server.heap.take(len(body) - taken):
                        raise Refusal(503, "too many large requests at once; try again in a moment")
                    taken = len(body)
                self.wait()
                count = self.request.recv_into(chunk, min(CHUNK, length - len(body)))
                if not count:
                    raise ConnectionResetError
                body += memoryview(chunk)[:count]
        finally:
            self.server.heap.take(-taken)

    def answered(self, question: Question) -> Answer:
        """The answer, computed by the one thread that answers."""
        if not self.server.waiting.acquire(blocking=False):
            raise Refusal(503, "too many questions at once; try again in a moment")
        try:
            return self.server.worker.submit(self.server.answered, question).result()
        except RuntimeError as error:  # the page is being closed
            raise Refusal(503, "the page is closing") from error
        finally:
            self.server.waiting.release()

    def send(self, answer: Answer) -> None:
        """Send an answer with the headers of every answer."""
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in HEADERS.items()]
        lines += [f"Content-Type: {answer.kind}", f"Content-Length: {len(answer.body)}", "Connection: close"]
        lines += ["Retry-After: 10"] if answer.status in (429, 503) else []
        self.request.settimeout(DEADLINE)
        self.request.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
        with suppress(OSError):  # what a refused client still sends is taken, or it would not see the answer
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(0.5)
            for _ in range(64):
                if not self.request.recv(65536):
                    break


def parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers (lower-case names) of a request's head; Refusal for what is no HTTP."""
    line, _, rest = head.partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise Refusal(400, "this is no request that the page understands")
    try:
        found = http.client.parse_headers(io.BytesIO(rest + b"\r\n\r\n"))
    except http.client.HTTPException as error:
        raise Refusal(431, "the head of the request is too long") from error
    if any(len(found.get_all(name, [])) > 1 for name in DECISIVE):
        raise Refusal(400, "a header that decides is given twice")
    return words[0], words[1], {name.lower(): value.strip() for name, value in found.items()}


def wipe(body: bytearray) -> None:
    """Fill what a visitor sent with zeros, in place."""
    with memoryview(body) as view:
        for start in range(0, len(body), CHUNK):
            view[start : start + CHUNK] = bytes(min(CHUNK, len(body) - start))


def scrub() -> None:
    """Overwrite small pieces of memory that this thread has freed: they are kept for its next use, and not by `PERTURB`."""
    held = [PIECE * (size // 16) for size in range(16, 1056, 16) for _ in range(48)]
    held.clear()


def as_json(values: Mapping[str, Any], status: int = 200) -> Answer:
    """A mapping as an answer."""
    return Answer("application/json", json.dumps(values, ensure_ascii=False).encode(), status)


def forget_freed_memory() -> None:
    """Make the C library overwrite memory that is freed (glibc's M_PERTURB), so that no photo outlives its answer there.

    Elsewhere than with glibc nothing is changed. Core dumps, which would hold a photo, are switched off, too.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if platform.libc_ver()[0] == "glibc":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(PERTURB, 0xA5)
