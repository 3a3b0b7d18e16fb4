"""The page in a browser: three widths, light and dark, by keyboard; what it asks for, and what it leaves behind."""

import io
import re
import shutil
import sys
from pathlib import Path

import pytest
import tiny
from PIL import Image
from predict_parts import find, frame, picture, write_video

import mien
from mien.training.loop import fit
from mien.web import page

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
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(tiny.store(tmp_path_factory.mktemp("data") / "store").path, optim={"epochs": 1}), out)
    model = mien.load(out, faces=find)
    patch = pytest.MonkeyPatch()
    patch.setattr("tempfile.tempdir", str(temporary))
    sys.addaudithook(remember_calls)
    served = page.Served(model, "found by a test", page.methods_of(model))
    running = page.launch(served, "127.0.0.1", 0, MAX_BYTES, 6000)
    yield running.url
    running.close()
    patch.undo()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    words = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--disable-background-networking",
    ]
    with api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=path, args=words)
        except api.Error as error:
            pytest.skip(f"no Chromium here: {error}")
        yield opened
        opened.close()


WIDTHS = {"desktop": (1280, 900, "light"), "tablet": (768, 1024, "dark"), "phone": (360, 740, "light")}


@pytest.fixture(params=WIDTHS)
def tab(browser, address, request):
    """The loaded page, with every request and error that it makes."""
    width, height, scheme = WIDTHS[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, permissions=["camera"]
    )
    tab = context.new_page()
    tab.asked, tab.errors, tab.refused = [], [], False
    tab.on("request", lambda asked: tab.asked.append(asked.url))
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("console", lambda line: tab.errors.append(line.text) if line.type == "error" else None)
    tab.goto(address)
    tab.wait_for_selector(".mien-card")
    yield tab
    assert [url for url in tab.asked if not url.startswith((address, "data:", "blob:"))] == []
    assert [error for error in tab.errors if not (tab.refused and "422" in error)] == []
    context.close()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def fits(tab) -> bool:
    """Nothing is wider than the screen."""
    return tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]


def photo(image, name="two.png", kind="PNG", **options) -> dict:
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind, **options)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": data.getvalue()}


def test_first_screen(tab):
    assert "expression recognition" in tab.inner_text("h1")
    assert "at work or in education is prohibited" in tab.inner_text(".mien-notice")
    assert tab.locator("#drawn .mien-bar").count() == 7
    assert tab.locator("#drawn .mien-pictures img").count() == 4 or tab.locator(".mien-none").count() == 1
    assert fits(tab)
    assert tab.locator("#AU12 input[type=range]").is_visible()
    tops = tab.evaluate(
        "[...document.querySelectorAll('[role=tab]:not([hidden])')].map((e) => e.getBoundingClientRect().top)"
    )
    assert len(set(tops)) == 1, "the tabs stand in one row"


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_texts_have_the_contrast_of_wcag_aa(tab):
    found = tab.evaluate("""() => [...document.querySelectorAll('body *')].filter((e) => e.offsetParent !== null
        && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
          let behind = e; const clear = (c) => c === 'rgba(0, 0, 0, 0)';
          while (behind.parentElement && clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
          return [e.textContent.trim().slice(0, 30), getComputedStyle(e).color, getComputedStyle(behind).backgroundColor]; })""")
    assert len(found) > 40
    for text, ink, paper in found:
        low, high = sorted((luminance(ink), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ink, paper)


def test_every_control_has_a_name_and_every_picture_a_text(tab):
    nameless = tab.evaluate("""() => [...document.querySelectorAll('input, select, button, canvas, img')].filter((e) =>
        !(e.labels && e.labels.length && e.labels[0].textContent.trim()) && !e.textContent.trim() && !e.getAttribute('aria-label')
        && !e.getAttribute('alt') && !e.closest('[hidden]')).map((e) => e.outerHTML)""")
    assert nameless == []
    assert tab.evaluate("document.documentElement.lang") == "en"


def test_the_keyboard_reaches_the_tabs(tab):
    tab.focus("#tab-drawn")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#photo").is_visible()
    assert not tab.locator("#drawn").is_visible()
    assert tab.evaluate("document.activeElement.id") == "tab-photo"
    tab.keyboard.press("End")
    assert tab.get_attribute("#tab-camera", "aria-selected") == "true"
    assert fits(tab)


def test_moving_au12_changes_the_answer(tab):
    before = tab.get_attribute("#drawn .mien-pictures img", "src")
    tab.locator("#AU12 input[type=range]").fill("0")
    tab.wait_for_function("before => document.querySelector('#drawn .mien-pictures img').src !== before", arg=before)
    tab.locator("#AU12").scroll_into_view_if_needed()
    card = tab.locator(".mien-result .mien-card").bounding_box()
    assert 0 <= card["y"] < 400  # it stays in view while one moves the sliders


def test_a_preset_moves_the_sliders(tab):
    before = tab.get_attribute("#drawn .mien-pictures img", "src")
    tab.get_by_label("Set the sliders to").select_option("Sadness")
    tab.wait_for_function("before => document.querySelector('#drawn .mien-pictures img').src !== before", arg=before)
    assert tab.input_value("#AU15 input[type=range]") == "4"
    assert tab.input_value("#AU12 input[type=range]") == "0"


def test_photos_are_turned_upright_downloaded_and_kept_nowhere(tab, temporary):
    stored = Image.fromarray(picture((10, 10), (80, 20))).rotate(90, expand=True)
    exif = stored.getexif()
    exif[0x0112] = 6
    import numpy as np

    several = [photo(np.asarray(stored), exif=exif), photo(picture((30, 30)), "one.png")]
    tab.get_by_role("tab", name="Photo").click()
    tab.set_input_files("#photo input[type=file]", several)
    tab.wait_for_function("() => document.querySelectorAll('#photo .mien-photo').length === 2")
    assert "2 faces" in tab.inner_text(".mien-photo >> nth=0")
    shown = tab.evaluate(
        "(({naturalWidth, naturalHeight}) => [naturalWidth, naturalHeight])(document.querySelector('.mien-photo img'))"
    )
    assert shown[0] > shown[1]
    assert fits(tab)
    for name, begin in (
        ("Rows of all", b"schema_version"),
        ("Picture of one", b"\xff\xd8"),
        ("Report of two", b"%PDF"),
    ):
        with tab.expect_download() as waiting:
            tab.get_by_role("button", name=name).click()
        content = Path(waiting.value.path()).read_bytes()
        assert content.startswith(begin)
        if name == "Rows of all":
            assert [line.split(b",")[1] for line in content.splitlines()] == [
                b"source",
                b"two.png",
                b"two.png",
                b"one.png",
            ]
    assert files(temporary) == []


def test_drawn_examples_need_no_photo(tab):
    tab.get_by_role("tab", name="Photo").click()
    assert tab.locator("#examples button").count() == 3
    tab.locator("#examples button").nth(1).click()
    tab.wait_for_selector("#photo-answers .mien-card")
    assert "Synthetic face" in tab.inner_text("#photo-answers .mien-card h3")


def test_what_is_no_photo_is_told(tab):
    tab.refused = True
    tab.get_by_role("tab", name="Photo").click()
    tab.set_input_files("#photo input[type=file]", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"%!PS-Adobe"})
    tab.wait_for_function("() => document.querySelector('#photo-answers').innerText.includes('PostScript program')")


def test_a_photo_that_is_too_large_is_not_sent(tab):
    tab.get_by_role("tab", name="Photo").click()
    count = len(tab.asked)
    tab.set_input_files(
        "#photo input[type=file]", {"name": "large.png", "mimeType": "image/png", "buffer": b"x" * (MAX_BYTES + 1)}
    )
    tab.wait_for_function("() => document.querySelector('.mien-drop').innerText.includes('larger than 0.4 MB')")
    assert len(tab.asked) == count


def test_a_video_is_played_here_and_its_rows_downloaded(tab, tmp_path):
    path = write_video(tmp_path / "v.webm", [frame((10 + k, 10)) for k in range(20)], codec="VP80")
    tab.get_by_role("tab", name="Video").click()
    tab.set_input_files("#video-file", str(path))
    tab.get_by_role("button", name="Rows (CSV)").last.wait_for()
    with tab.expect_download() as waiting:
        tab.locator("#video-buttons button").click()
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert [float(line.split(",")[3]) for line in lines[1:]] == [0, 0.5, 1, 1.5]
    assert tab.locator("#video-line").is_visible()
    assert fits(tab)


def test_the_camera_is_looked_at_until_it_is_stopped(tab):
    tab.get_by_role("tab", name="Camera").click()
    tab.get_by_role("button", name="Start the camera").click()
    tab.wait_for_selector("#camera-canvas:visible")
    tab.wait_for_function("() => document.querySelector('#camera-answer').innerText.includes('No face')")
    assert fits(tab)
    tab.get_by_role("button", name="Stop").click()
    tab.wait_for_selector("#camera-canvas", state="hidden")


def test_the_server_called_nobody():
    assert {name for name in CALLED if name not in ("127.0.0.1", "localhost")} == set()
