"""The page keeps nothing and asks nowhere: tried on the running command, from outside."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.web.guard import ROUTES

ROOT = Path(__file__).parent.parent
GRADIO = [
    "/assets/{path:path}",
    "/config",
    "/favicon.ico",
    "/gradio_api/api/{api_name}",
    "/gradio_api/app_id",
    "/gradio_api/call/v2/{api_name}",
    "/gradio_api/call/v2/{api_name}/{event_id}",
    "/gradio_api/call/{api_name}",
    "/gradio_api/call/{api_name}/{event_id}",
    "/gradio_api/cancel",
    "/gradio_api/component_server",
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    "/gradio_api/deep_link",
    "/gradio_api/dev/reload",
    "/gradio_api/file/{path:path}",
    "/gradio_api/file={path_or_url:path}",
    "/gradio_api/heartbeat/{session_hash}",
    "/gradio_api/info",
    "/gradio_api/login_check",
    "/gradio_api/openapi.json",
    "/gradio_api/process_recording",
    "/gradio_api/proxy={url_path:path}",
    "/gradio_api/queue/data",
    "/gradio_api/queue/join",
    "/gradio_api/queue/status",
    "/gradio_api/reset",
    "/gradio_api/run-history/buckets",
    "/gradio_api/run-history/connect",
    "/gradio_api/run-history/records",
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}",
    "/gradio_api/run/{api_name}",
    "/gradio_api/runs",
    "/gradio_api/startup-events",
    "/gradio_api/stream/{event_id}",
    "/gradio_api/stream/{event_id}/close",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
    "/gradio_api/theme.css",
    "/gradio_api/token",
    "/gradio_api/undo-vibe-edit",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
    "/gradio_api/user",
    "/gradio_api/vibe-code",
    "/gradio_api/vibe-edit",
    "/gradio_api/vibe-starter-queries",
    "/login",
    "/logout",
    "/manifest.json",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/{key}",
    "/openapi.json",
    "/pwa_icon",
    "/pwa_icon/{size}",
    "/robots.txt",
    "/static/{path:path}",
    "/svelte/{path:path}",
    "/theme.css",
]
"""Every path of Gradio 6.31, whose page this one replaced: what a page of a library would answer besides."""
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE")


class Page:
    """`mien serve` in a process of its own, with a temporary folder and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.temporary, self.home = folder / "tmp", folder / "home"
        self.temporary.mkdir()
        self.home.mkdir()
        env = {
            **os.environ, "TMPDIR": str(self.temporary), "HOME": str(self.home), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        words = [sys.executable, "-m", "mien", "serve", "--faces", "none", "--port", "0", "--rate", "100000"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env, cwd=folder)
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+) ", line)[1])

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        link.request(method, path, body, named)
        answer = link.getresponse()
        found = answer.status, answer.read()
        link.close()
        return found

    def look(self, photo: bytes, path: str = "/look") -> tuple[int, bytes]:
        return self.ask("POST", path, photo, Content_Type="application/octet-stream")

    def files(self) -> set[str]:
        kept = {str(path) for folder in (self.temporary, self.home) for path in folder.rglob("*") if path.is_file()}
        kept = {
            path for path in kept if "fontlist" not in path
        }  # matplotlib's names of fonts, written with the first report
        links = Path(f"/proc/{self.process.pid}/fd")
        opened = {os.readlink(link) for link in links.iterdir()} if links.is_dir() else set()
        return kept | {name for name in opened if name.startswith("/") and "deleted" in name}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    served = Page(tmp_path_factory.mktemp("page"))
    yield served
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=20) == 0


@pytest.fixture(scope="module")
def asked_addresses():
    """A server on loopback that notes every connection."""
    seen: list[tuple] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server, seen), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/photo.jpg", seen


def accept(server: socket.socket, seen: list[tuple]) -> None:
    while True:
        try:
            link, address = server.accept()
        except OSError:
            return
        seen.append(address)
        link.close()


def photo(seed: int, kind: str) -> tuple[bytes, np.ndarray]:
    """An encoded picture of noise, whose bytes are found nowhere else, and its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return buffer.getvalue(), np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def pieces(encoded: bytes, pixels: np.ndarray) -> list[bytes]:
    """64 bytes each from many places of a file and of its decoded rows."""
    found = [encoded[at : at + 64] for at in np.linspace(1000, len(encoded) - 100, 8).astype(int)]
    return found + [pixels[row, 10:32].tobytes()[:64] for row in range(5, 235, 50)]


def memory_of(process: int):
    """The readable memory of a process, region by region."""
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", 0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if not rights.startswith("rw") or line.rstrip().endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except (OSError, ValueError):
                continue


def flood(page: Page, paths: list[str], address: str) -> list[int]:
    """Every path by every method; the statuses. Places in a path are filled with an address, as an open proxy takes it."""
    file = json.dumps(
        {"data": [{"path": address, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"}
    )
    found = []
    for number, path in enumerate(paths):
        filled = re.sub(r"\{[^}]*\}", urllib.parse.quote(address, safe=":/"), path)
        for method in METHODS if number % 7 == 0 else ("GET", "POST"):
            body = file.encode() if method == "POST" else None
            found.append(page.ask(method, filled, body, Content_Type="application/json")[0])
    return found


def test_no_route_but_those_of_the_list_answers_and_nothing_is_kept_or_asked(page, asked_addresses):
    address, seen = asked_addresses
    before = page.files()
    first = flood(page, GRADIO, address)
    assert len(first) > 100
    assert set(first) <= {404, 405}
    sent = [photo(seed, kind) for seed, kind in enumerate(("PNG", "JPEG", "JPEG", "WEBP"))]
    for encoded, _ in sent:
        status, answer = page.look(encoded)
        assert status == 200, answer
        assert b"data:image/jpeg" in answer
    assert page.look(sent[1][0], "/report")[1].startswith(b"%PDF")
    assert page.look(sent[1][0], "/frame")[0] == 200
    assert page.look(sent[2][0][:4000])[0] == 422
    assert set(flood(page, GRADIO, address)) <= {404, 405}
    assert page.ask("POST", "/look?method=" + address, json.dumps({"units": {}, "person": address}).encode(),
                    Content_Type="application/json")[0] == 422  # fmt: skip
    assert page.files() == before
    assert seen == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read as Linux offers it")
def test_no_photo_outlives_its_answer_in_the_memory(page):
    sent = [photo(seed, kind) for seed, kind in ((11, "PNG"), (12, "JPEG"), (13, "BMP"))]
    for encoded, _ in sent:
        assert page.look(encoded)[0] == 200
        assert page.look(encoded, "/frame")[0] == 200
    needles = [piece for encoded, pixels in sent for piece in pieces(encoded, pixels)]
    try:
        hits = sum(piece in region for region in memory_of(page.process.pid) for piece in needles)
    except PermissionError:
        pytest.skip("this system lets nobody read another process's memory")
    assert hits == 0


def test_the_needles_would_be_found(page):
    """The page's own script lies in no memory unless it was just asked for; the name of its module does."""
    assert any(b"forget_freed_memory" in region for region in memory_of(page.process.pid))


def test_only_its_own_name_and_its_own_pages_may_ask(page):
    own, encoded = f"127.0.0.1:{page.port}", photo(1, "JPEG")[0]
    kind = {"Content_Type": "application/octet-stream"}
    assert page.ask("GET", "/", Host=own)[0] == 200
    assert page.ask("GET", "/", Host=f"localhost:{page.port}")[0] == 200
    for name in ("evil.example", f"evil.example:{page.port}", "127.0.0.1:1", f"127.0.0.1.evil.example:{page.port}", ""):
        assert page.ask("GET", "/", Host=name)[0] == 421, name
        assert page.ask("POST", "/look", encoded, Host=name, **kind)[0] == 421, name
    assert page.ask("POST", "/look", encoded, Origin="http://evil.example", **kind)[0] == 403
    assert page.ask("POST", "/look", encoded, Origin="null", **kind)[0] == 403
    assert page.ask("GET", "/settings", Sec_Fetch_Site="cross-site")[0] == 403
    assert page.ask("POST", "/look", encoded, Content_Type="text/plain")[0] == 415
    assert page.ask("POST", "/look", encoded, Origin=f"http://{own}", **kind)[0] == 200


def test_every_answer_forbids_the_browser_to_ask_others_and_to_keep(page):
    for path, route in ROUTES.items():
        link = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
        link.request(route.method, path)
        headers = link.getresponse().headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "http" not in headers["Content-Security-Policy"]
        assert "Set-Cookie" not in headers
        link.close()


def test_nothing_of_the_page_names_another_computer(page):
    for path in ("/", "/page.css", "/page.js", "/settings"):
        text = page.ask("GET", path)[1].decode()
        assert not re.search(r"https?://|//[a-z]+\.", text.replace("://evil", "")), path


@pytest.mark.slow
def test_every_route_of_the_installed_gradio(page, asked_addresses):
    gradio = pytest.importorskip("gradio")
    from gradio.routes import App

    with gradio.Blocks() as blocks:
        gradio.Image()

    def walk(routes, prefix=""):
        for route in routes:
            path = prefix + getattr(route, "path", "")
            inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
            yield from walk(inner, path) if inner else [path]

    paths = sorted(set(walk(App.create_app(blocks).routes)) - {"", "/"})
    assert len(paths) > 40
    assert set(flood(page, paths, asked_addresses[0])) <= {404, 405}
    assert asked_addresses[1] == []
