"""The page in a real browser: what it shows at two widths, what it asks for, and what it leaves behind."""

import http.client
import io
import json
import shutil
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tiny
from PIL import Image
from predict_parts import find, picture

import mien
from mien.training.loop import fit

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_BYTES = 400_000
CALLED: list[str] = []


def remember_calls(event: str, arguments: tuple) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        CALLED.append(str(arguments[1][0]))
    elif event == "socket.getaddrinfo":
        CALLED.append(str(arguments[0]))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(tmp_path_factory, temporary):
    """A page on a free port of this computer."""
    pytest.importorskip("gradio")
    from mien.web import page

    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(tiny.store(tmp_path_factory.mktemp("data") / "store").path, optim={"epochs": 1}), out)
    model = mien.load(out, faces=find)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(temporary))
    patch.setattr("tempfile.tempdir", str(temporary))
    sys.addaudithook(remember_calls)
    running = page.launch(
        page.Served(model, "found by a test", page.methods_of(model)), "127.0.0.1", port, MAX_BYTES, 600
    )
    yield f"http://127.0.0.1:{port}"
    running.close()
    patch.undo()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium here: {error}")
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def tab(browser, address, request):
    """The loaded page, with every request and error that it makes."""
    width, height = request.param
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.asked, tab.errors = [], []
    tab.on("request", lambda asked: tab.asked.append(asked.url))
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("console", lambda line: tab.errors.append(line.text) if line.type == "error" else None)
    tab.goto(address)
    tab.wait_for_selector(".mien-card")
    yield tab
    assert [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert tab.errors == []
    tab.close()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_first_screen(tab):
    assert "expression recognition" in tab.inner_text("h1")
    assert "at work or in education is prohibited" in tab.inner_text(".mien-notice")
    assert tab.locator(".mien-bar").count() == 7
    assert tab.locator(".mien-pictures img").count() == 4 or tab.locator(".mien-none").count() == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]
    assert tab.locator("#AU12 input[type=range]").is_visible()


def test_moving_au12_changes_the_answer(tab):
    before = tab.get_attribute(".mien-pictures img", "src")
    tab.locator("#AU12 input[type=range]").fill("0")
    tab.wait_for_function("before => document.querySelector('.mien-pictures img').src !== before", arg=before)
    tab.locator("#AU12").scroll_into_view_if_needed()
    card = tab.locator(".mien-result .mien-card").bounding_box()
    assert card["y"] >= 0  # it stays in view while one moves the sliders
    assert card["y"] < 400


def test_a_preset_moves_the_sliders(tab):
    before = tab.get_attribute(".mien-pictures img", "src")
    tab.get_by_label("Set the sliders to").click()
    tab.get_by_role("option", name="Sadness").click()
    tab.wait_for_function("before => document.querySelector('.mien-pictures img').src !== before", arg=before)
    assert tab.input_value("#AU15 input[type=range]") == "4"
    assert tab.input_value("#AU12 input[type=range]") == "0"


def test_a_photo_is_turned_upright_and_kept_nowhere(tab, temporary):
    upright = picture((10, 10), (80, 20))
    stored, data = Image.fromarray(upright).rotate(90, expand=True), io.BytesIO()
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(data, "PNG", exif=exif)
    tab.get_by_role("tab", name="Photo").click()
    photo = {"name": "two.png", "mimeType": "image/png", "buffer": data.getvalue()}
    tab.set_input_files("#photo input[type=file]", photo)
    tab.wait_for_selector(".mien-photo:visible")
    assert "2 faces" in tab.inner_text(".mien-photo")
    shown = tab.evaluate(
        "(({naturalWidth, naturalHeight}) => [naturalWidth, naturalHeight])(document.querySelector('.mien-photo img'))"
    )
    assert shown[0] > shown[1]
    assert not any("upload" in url for url in tab.asked)
    assert files(temporary) == []


def test_a_photo_that_is_too_large_is_not_sent(tab):
    tab.get_by_role("tab", name="Photo").click()
    count = len(tab.asked)
    photo = {"name": "large.png", "mimeType": "image/png", "buffer": b"x" * (MAX_BYTES + 1)}
    tab.set_input_files("#photo input[type=file]", photo)
    tab.wait_for_function("document.querySelector('.mien-drop').innerText.includes('larger than 0.4 MB')")
    assert len(tab.asked) == count


def status(address: str, path: str, length: int) -> int:
    """Answer to a POST of which only the header is sent."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    return connection.getresponse().status


def test_the_server_refuses_files_and_large_requests(address, temporary):
    assert status(address, "/gradio_api/upload", 100) == 403
    assert status(address, "/gradio_api/queue/join", 700_000) == 413
    assert files(temporary) == []


def test_the_server_asks_nobody(address, temporary):
    urllib.request.urlopen(address, timeout=20).close()
    file = {"path": "http://192.0.2.1/a.jpg", "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": ["cam", "predicted", file], "fn_index": 0, "session_hash": "a"}).encode()
    asked = urllib.request.Request(f"{address}/gradio_api/queue/join", body, {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(asked, timeout=20)
    assert files(temporary) == []
    assert {host for host in CALLED if host not in ("127.0.0.1", "localhost", "::1", "None")} == set()
