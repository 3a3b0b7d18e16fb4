"""What keeps a page from being flooded or from calling other computers: an ASGI wrapper around the whole application."""

from __future__ import annotations

import base64
import io
import json
import time
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np

from mien.draw import rgb
from mien.errors import PictureError
from mien.faces.pictures import load_picture
from mien.schema import ByteArray

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

BURST = 6
"""A client may send a sixth of a minute's requests at once."""
REMEMBERED = 4096
"""Addresses whose requests are counted; the one seen longest ago is forgotten first."""
MEGAPIXELS = 50
QUESTIONS = "/gradio_api/queue/join"
"""The only path that takes a POST: what else Gradio offers writes files, or is of no use to the page."""
LONGEST = 1600
"""Longer side, pixels, to which a photo is made smaller before faces are looked for."""

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; connect-src 'self' blob: data:; "
        "media-src 'self' blob: data:; form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""The browser itself then refuses to ask any other computer, whatever the page's libraries want."""


class Rate:
    """Token bucket for each address: `rate` requests a minute, a sixth of them at once."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self.most = max(1.0, rate / BURST)
        self.seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, address: str) -> bool:
        """Take a token for an address; False where it has none left."""
        now = self.clock()
        tokens, before = self.seen.pop(address, (self.most, now))
        tokens = min(self.most, tokens + (now - before) * self.rate / 60)
        allowed = tokens >= 1
        self.seen[address] = (tokens - allowed, now)
        while len(self.seen) > REMEMBERED:
            self.seen.popitem(last=False)
        return allowed


class Limits:
    """ASGI middleware: requests that change something are counted, measured and looked at; every answer gets HEADERS."""

    def __init__(self, app: Application, max_bytes: int, rate: int) -> None:
        self.app, self.max_bytes, self.rate = app, max_bytes, Rate(rate)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer 429, 403, 413 or 400, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        if scope["method"] != "POST":
            await self.app(scope, receive, sent)
            return
        address = (scope.get("client") or ("unknown",))[0]
        if not self.rate.allow(str(address)):
            await refuse(sent, 429, "too many requests; wait a little")
            return
        if not scope["path"].rstrip("/").endswith(QUESTIONS):
            await refuse(sent, 403, "this page takes questions only, no files")
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        body = None
        if length.isdigit() and int(length) <= self.max_bytes:
            body = await collected(receive, self.max_bytes)
        if body is None:
            await refuse(sent, 413, f"the request is larger than {self.max_bytes / 1e6:g} MB")
        elif not is_question(body):
            await refuse(sent, 400, "a question of this page is a list of numbers and texts")
        else:
            await self.app(scope, again(body, receive), sent)


async def collected(receive: Receive, most: int) -> bytes | None:
    """Body of a request; None where it grows beyond `most` bytes."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        more = message.get("more_body", False)
    return bytes(body)


def again(body: bytes, receive: Receive) -> Receive:
    """A body that was collected as it would have come, then what comes further."""
    waiting = [body]

    async def received() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return received


def is_question(body: bytes) -> bool:
    """Whether a body is JSON with a flat list `data`. Gradio takes an object in it for a file, and fetches it from its address."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return False
    data = asked.get("data") if isinstance(asked, dict) else None
    return isinstance(data, list) and not any(isinstance(value, dict | list) for value in data)


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer in one line."""
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", b"10")] if status == 429 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def request_bytes(photo: int) -> int:
    """Largest request for a largest photo: base64 takes four bytes for three, and the settings travel with it."""
    return photo * 4 // 3 + 65536


def read_photo(photo: object) -> ByteArray:
    """RGB pixels of a photo as a data URL (`data:image/jpeg;base64,...`), upright by its EXIF note, made smaller where it is large.

    Raises:
        PictureError: damaged, no picture, or more than MEGAPIXELS; told from the header, before it is decoded.

    """
    from PIL import Image

    if not isinstance(photo, str):
        raise PictureError("what the browser sent is no file")
    try:
        data = base64.b64decode(photo.partition("base64,")[2], validate=True)
    except ValueError:
        raise PictureError("what the browser sent is no file") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                pixels = opened.width * opened.height
    except Exception:  # load_picture says what is wrong with it
        pixels = 0
    if pixels > MEGAPIXELS * 1e6:
        raise PictureError(f"{pixels / 1e6:.0f} megapixels are too many; {MEGAPIXELS} are allowed")
    return smaller(rgb(load_picture(data)))


def smaller(image: ByteArray) -> ByteArray:
    """A picture whose longer side is at most LONGEST."""
    import cv2

    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
