"""What the page answers, and whom: the list of its routes, and what a request must look like. Everything else is refused.

Pure functions of a request's head; no socket is touched here.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

JSON, BYTES = "application/json", "application/octet-stream"


class Route(NamedTuple):
    """One thing that the page answers."""

    method: str
    takes: tuple[str, ...] = ()
    """Content types of the body; none where there is no body."""


ROUTES: dict[str, Route] = {
    "/": Route("GET"),
    "/page.css": Route("GET"),
    "/page.js": Route("GET"),
    "/settings": Route("GET"),
    "/look": Route("POST", (JSON, BYTES)),
    "/frame": Route("POST", (BYTES,)),
    "/report": Route("POST", (JSON, BYTES)),
    "/swap": Route("POST", (BYTES,)),
}
"""Path -> how it may be asked. This is the whole list: a path that is not here is 404, another method 405."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer. The browser itself then refuses to ask any other computer, and keeps no answer."""

BURST = 6
"""A client may send a sixth of a minute's requests at once."""
REMEMBERED = 4096
"""Addresses whose requests are counted; the one seen longest ago is forgotten first."""


class Refusal(Exception):
    """A request that is not answered: its status, and a line for whoever sent it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Place(NamedTuple):
    """Where the page is served."""

    host: str
    port: int
    origin: str = ""
    """`https://name` under which a proxy offers it; empty without one."""

    def knows(self, name: str) -> bool:
        """Whether a Host header, `name` or `name:port`, means this page.

        A name that anybody could point at this computer (DNS rebinding) does not: on loopback the name must be
        `localhost` or a loopback address, elsewhere an address or the name given as `--host`, and the port must be right.
        """
        if self.origin and name == urlsplit(self.origin).netloc:
            return True
        try:
            parts = urlsplit(f"//{name}")
            given, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self.port or parts.path or parts.username is not None:
            return False
        if is_loopback(self.host):
            return is_loopback(given)
        return given == self.host.strip("[]").lower() or is_loopback(given) or is_address(given)


def is_address(host: str) -> bool:
    """Whether a host is written as an IP address."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check(method: str, path: str, headers: Mapping[str, str], place: Place) -> Route:
    """The route of a request; Refusal for one that the page does not answer.

    Args:
        method: as it came; names are upper case.
        path: without its question mark and what follows.
        headers: lower-case name -> value.
        place: where the page is served.

    """
    if not place.knows(headers.get("host", "")):
        raise Refusal(421, "this page is not served under that name")
    origin = headers.get("origin")
    own = {f"http://{headers['host']}", place.origin}
    if (origin is not None and origin not in own) or headers.get("sec-fetch-site", "none") not in (
        "same-origin",
        "none",
    ):
        raise Refusal(403, "another page may not ask this one")
    route = ROUTES.get(path)
    if route is None:
        raise Refusal(404, "this page has nothing there")
    if method != route.method:
        raise Refusal(405, f"that is asked with {route.method}")
    if route.takes and headers.get("content-type", "").partition(";")[0].strip().lower() not in route.takes:
        raise Refusal(415, f"the body must be {' or '.join(route.takes)}")
    return route


def body_length(route: Route, headers: Mapping[str, str], most: int) -> int:
    """Bytes of the body that a request announces; Refusal where it is too large, or its length is not said."""
    if "transfer-encoding" in headers:
        raise Refusal(411, "say how long the body is (Content-Length)")
    length = headers.get("content-length", "" if route.takes else "0")
    if not (length.isascii() and length.isdigit()):
        raise Refusal(411, "say how long the body is (Content-Length)")
    if not route.takes and int(length[:20]):
        raise Refusal(413, "this is asked without a body")
    if len(length) > 20 or int(length) > most:
        raise Refusal(413, f"larger than {most / 1e6:g} MB")
    return int(length)


class Rate:
    """Token bucket for each address: `rate` requests a minute, a sixth of them at once.

    The address is that of the connection. What a request says of itself (X-Forwarded-For) is not believed.
    """

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
