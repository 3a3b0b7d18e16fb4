"""The page: synthetic faces, cards, photos, its guard and its server. A browser looks at it in test_page.py."""

import http.client
import io
import json
import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from predict_parts import find, picture

import mien
from mien.cli import main
from mien.errors import DataError, PictureError, UsageError
from mien.predict.results import Explanation, FacePrediction, PicturePrediction
from mien.synthetic.sample import UNIT_ACTIONS
from mien.training.loop import fit
from mien.web import cards, guard, page, report, serve, server, synthetic, warn_of


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(tiny.store(tmp_path_factory.mktemp("data") / "store").path, optim={"epochs": 1}), out)
    (out / "calibration.json").write_text('{"temperature": 1.5, "threshold": 0.99}')
    model = mien.load(out, faces=find)
    return page.Served(model, "found by a test", page.methods_of(model))


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return sum(
        weight * ((part + 0.055) / 1.055) ** 2.4 for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def test_lines_are_told_from_the_paper_and_commands_are_marked():
    folder = Path(page.__file__).parent
    inks = re.search(
        r"INKS = \{ light: (\[.*?\]).*?dark: (\[.*?\])", (folder / "page.js").read_text(encoding="utf-8"), re.DOTALL
    )
    papers = re.findall(r"--paper: (#\w{6})", (folder / "page.css").read_text(encoding="utf-8"))
    for paper, found in zip(papers, inks.groups(), strict=True):
        for ink in re.findall(r"#\w{6}", found):
            low, high = sorted((luminance(ink), luminance(paper)))
            assert (high + 0.05) / (low + 0.05) >= 3, (ink, paper)
    assert "<code>mien predict</code> lists &lt;all&gt;" in cards.message("`mien predict` lists <all>")


def encoded(image: np.ndarray, kind: str = "PNG", **options) -> bytearray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return bytearray(buffer.getvalue())


def asked(served, path: str, body: object, **fields: str):
    """Status and answer of a question; a dict is asked as JSON, bytes as a photo."""
    is_photo = isinstance(body, bytes | bytearray)
    kind = guard.BYTES if is_photo else guard.JSON
    sent = bytearray(body if is_photo else json.dumps(body).encode())
    answer = page.answer(served, 10**7, server.Question(path, fields, kind, sent))
    return answer.status, json.loads(answer.body) if answer.kind == "application/json" else answer.body


def face_asked(units: dict | None = None, person: int = 1, yaw: float = 0, pitch: float = 0) -> dict:
    return {"units": synthetic.START if units is None else units, "person": person, "yaw": yaw, "pitch": pitch}


# synthetic faces


def test_every_unit_of_the_rig_has_a_slider():
    assert set(synthetic.UNITS) == set(UNIT_ACTIONS) - {"AU45"}
    assert len(synthetic.UNITS) == len(set(synthetic.UNITS))
    assert set(synthetic.START) <= set(synthetic.UNITS)


def test_actions_add_up_and_are_the_same_on_both_sides():
    one, two = synthetic.actions_of({"AU12": 2.5}), synthetic.actions_of({"AU6": 5})
    np.testing.assert_allclose(synthetic.actions_of({"AU12": 2.5, "AU6": 5}), one + two)
    assert one.max() == pytest.approx(0.95 / 2)
    assert (one > 0).sum() == 2
    assert synthetic.actions_of(dict.fromkeys(synthetic.UNITS, 5.0)).max() <= 1.6


def test_au12_raises_the_corners_of_the_mouth():
    rest, smile = (synthetic.draw_face({"AU12": value}, person=3, size=64).landmarks for value in (0.0, 5.0))
    corners = [48, 54]
    assert (rest[corners, 1] - smile[corners, 1] > 1).all()
    assert np.array_equal(synthetic.draw_face({}, size=48).image, synthetic.draw_face({}, size=48).image)


def test_presets_are_prototypes():
    smile = synthetic.preset("Happiness")
    assert tuple(smile) == synthetic.UNITS
    assert {name for name, value in smile.items() if value} == {"AU6", "AU12", "AU25"}
    assert not any(synthetic.preset("Neutral").values())
    with pytest.raises(UsageError, match="Did you mean 'Happiness'"):
        synthetic.preset("Hapiness")


@pytest.mark.parametrize(
    ("words", "units", "options"),
    [
        ("between 0 and 5", {"AU12": 5.5}, {}),
        ("between 0 and 5", {"AU12": float("nan")}, {}),
        ("unknown action unit", {"AU99": 1}, {}),
        ("give 1 to", {}, {"person": 0}),
        ("within 40", {}, {"yaw": 90}),
    ],
)
def test_what_cannot_be_drawn(words, units, options):
    with pytest.raises(UsageError, match=words):
        synthetic.draw_face(units, **options)


def test_the_card_of_a_drawn_face_says_what_the_model_says(served):
    status, found = asked(served, "/look", face_asked(None, 2, 10), method="layer_cam", expression="Sadness")
    assert status == 200
    shown = found["html"]
    face = synthetic.draw_face(synthetic.START, 2, 10, 0)
    direct = replace(served.model, provider=synthetic.finder_of(face)).predict(face.image).faces[0]
    assert f"Synthetic face: {direct.expression} {direct.confidence:.0%}" in shown
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", shown)]
    np.testing.assert_allclose(widths, [100 * p for p in direct.probabilities.values()], atol=0.06)
    assert "AU cue: Sadness" in shown
    assert "layer_cam: Sadness" in shown
    assert shown.count("<img") == 4
    assert "unsure" in shown
    assert found["csv"].splitlines()[1].split(",")[1] == "synthetic face"


def test_the_page_is_told_all_that_its_controls_need(served):
    _, known = asked(served, "/settings", b"")
    assert list(known["groups"]) == list(synthetic.UNIT_GROUPS)
    assert known["presets"]["Anger"] == synthetic.preset("Anger")
    assert {name for name, _, _ in known["examples"]} <= set(synthetic.PRESETS)
    assert len(known["examples"]) == 3
    assert known["classes"] == list(served.model.classes)


@pytest.mark.parametrize(
    "body", [{}, [], 7, {"units": 3}, {"units": {"AU12": "x"}, "person": 1, "yaw": 0, "pitch": 0}, face_asked({"AU99": 1}),
             face_asked({"AU12": float("nan")}), face_asked(person=99), {"units": {}, "person": 1e400, "yaw": 0, "pitch": 0}],
)  # fmt: skip
def test_what_no_face_is_drawn_of_is_told(served, body):
    status, found = asked(served, "/look", body)
    assert status == 422
    assert len(found["message"]) > 20


def test_unknown_maps_and_expressions_are_told(served):
    assert "unknown map 'x'" in asked(served, "/look", face_asked(), method="x")[1]["message"]
    assert "unknown expression 'x'" in asked(served, "/look", face_asked(), expression="x")[1]["message"]
    assert "time must be" in asked(served, "/frame", encoded(picture()), time="nan")[1]["message"]


# cards


def face_of(expression: str = "Fear", cue=None, **options) -> FacePrediction:
    told = Explanation("cam", expression, "Anger", np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32), cue, None)
    named = {"Fear": 0.75, "<b>": 0.25}
    return FacePrediction(
        1, (0, 0, 9, 9), np.zeros((68, 2), np.float32), 0.9, named, expression, 0.75, False, "aligned",
        np.zeros((32, 32, 3), np.uint8), np.eye(2, 3), **{"explanation": told, **options},
    )  # fmt: skip


def test_a_card_escapes_names_and_marks_the_explained_class():
    shown = cards.card(face_of(), "cam")
    assert "&lt;b&gt;" in shown
    assert "<b></b>" not in shown
    assert re.search(r'mien-marked"><span class="mien-name">Fear', shown)
    assert "width:75.0%" in shown
    assert "Fear has no action units" in shown
    assert "unsure" not in shown


def test_a_card_says_why_there_is_no_cue():
    assert "no landmarks, no cue" in cards.card(replace(face_of(), landmarks=None), "cam")
    assert cards.card(face_of(explanation=None), "cam").count("<img") == 1


def test_a_photo_with_many_faces_shows_the_first():
    image = np.zeros((40, 60, 3), np.uint8)
    found = PicturePrediction("p", 60, 40, (face_of(),) * (cards.MOST + 3))
    shown = cards.photo_page(image, found, "cam")
    assert shown.count("mien-card") == cards.MOST
    assert "3 more faces" in shown
    assert "No result: no face found." in cards.photo_page(
        image, PicturePrediction("p", 60, 40, (), "no face found"), "cam"
    )


def test_the_first_screen_says_what_it_is_and_what_is_prohibited():
    assert "expression recognition" in cards.TITLE
    assert "never what the person feels" in cards.NOTICE
    assert "at work or in education is prohibited" in cards.NOTICE


# photos


def test_a_photo_shows_every_face(served):
    status, found = asked(served, "/look", encoded(picture((10, 10), (80, 20))), name="=two.png")
    assert status == 200
    assert found["html"].count("mien-card") == found["faces"] == 2
    assert "2 faces" in found["html"]
    assert found["csv"].splitlines()[1].split(",")[1] == "./=two.png"
    assert "No result: no face found." in asked(served, "/look", encoded(picture()))[1]["html"]


def test_a_frame_gives_boxes_in_shares_and_rows_without_maps(served):
    status, found = asked(served, "/frame", encoded(picture((10, 10), (80, 20))), name="v.mp4", time="1.5", frame="3")
    assert status == 200
    assert [sorted(face) for face in found["faces"]] == [
        ["box", "confidence", "doubt", "expression", "probabilities"]
    ] * 2
    direct = served.model.predict(picture((10, 10), (80, 20)))[0]
    np.testing.assert_allclose(found["faces"][0]["box"], np.array(direct.faces[0].box) / [160, 96, 160, 96])
    assert found["csv"].splitlines()[1].startswith("1,v.mp4,3,1.5,160,96,2,1,")
    assert "method" not in found["csv"]


@pytest.mark.parametrize("corners", [(), ((10, 10),), ((2, 2), (30, 30), (60, 2), (90, 30), (120, 2))])
def test_a_report_is_one_page(served, corners):
    status, found = asked(served, "/report", encoded(picture(*corners, size=(200, 96))), name="one.png")
    assert status == 200
    assert found.startswith(b"%PDF")
    assert found.count(b"/Type /Page\n") + found.count(b"/Type /Page ") <= 1
    assert asked(served, "/report", face_asked())[1].startswith(b"%PDF")
    assert report.MOST == 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_turned_upright(orientation):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:8, :8] = 255
    stored = Image.fromarray(image)
    exif = stored.getexif()
    exif[0x0112] = orientation
    turn = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    stored = stored.rotate(turn, expand=True)
    assert np.array_equal(page.read_photo(encoded(np.asarray(stored), "PNG", exif=exif)), image)


def test_large_photos_are_made_smaller_and_huge_ones_refused(monkeypatch):
    assert page.smaller(np.zeros((20, 3200, 3), np.uint8)).shape == (10, 1600, 3)
    monkeypatch.setattr(page, "MEGAPIXELS", 0.001)
    with pytest.raises(PictureError, match="40 x 40 pixels are too many"):
        page.read_photo(encoded(np.zeros((40, 40, 3), np.uint8)))


@pytest.mark.parametrize(
    "sent",
    [b"", b"x", bytes(encoded(picture())[:200]), b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(encoded(picture(), "JPEG")[:500])],
)
def test_what_is_no_photo_is_told(served, sent):
    for path in ("/look", "/frame", "/report"):
        status, found = asked(served, path, sent)
        assert status == 422
        assert found["message"].startswith("This file cannot be used: ")


def test_a_library_that_fails_is_told_and_does_not_end_the_page(served, monkeypatch, capsys):
    def broken(picture, prediction):
        raise KeyError("secret.jpg")

    monkeypatch.setattr(cards, "annotated", broken)
    status, found = asked(served, "/look", encoded(picture((10, 10))))
    assert (status, found) == (500, {"message": "This could not be answered (KeyError)."})
    assert "secret" not in capsys.readouterr().err


def test_without_a_finder_photos_are_refused_and_drawn_faces_answered(served):
    without = replace(served.model, provider=None)
    alone = page.Served(without, "not in photos", served.methods, photos=False)
    for path in ("/look", "/frame", "/report"):
        status, found = asked(alone, path, encoded(picture()))
        assert status == 422
        assert "mien models get face_landmarker" in found["message"]
    assert asked(alone, "/look", face_asked())[0] == 200
    assert asked(alone, "/settings", b"")[1]["photos"] is False


def test_a_question_starts_no_threads(served):
    asked(served, "/look", encoded(picture((10, 10))))
    before = threading.active_count(), {thread.ident for thread in threading.enumerate()}
    finders = page.Finders.__new__(page.Finders)
    finders._idle, finders._open = page.Finders.__init__.__globals__["SimpleQueue"](), None
    finders._idle.put(find)
    pooled = page.Served(replace(served.model, provider=finders), "x", served.methods)
    started = []
    real = threading.Thread.start
    threading.Thread.start = lambda self: (started.append(self), real(self))[1]
    try:
        assert asked(pooled, "/look", encoded(picture((10, 10), (80, 20))))[1]["faces"] == 2
    finally:
        threading.Thread.start = real
    assert started == []
    assert threading.active_count() == before[0]


def test_calibrations_are_offered_by_what_they_were_fitted_on(served, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    fit(tiny.recipe(tiny.store(out.parent / "store").path, optim={"epochs": 1}), out)
    own = {"temperature": 1.0, "threshold": 0.1, "fitted_on": "valid", "valid": {"faces": 1234}}
    names = served.model.classes
    mine = {"temperature": 1.0, "threshold": 0.2, "offsets": {name: 9.0 * (name == "Fear") for name in names}, "fitted_on": "photos",
            "photos": 12, "people": 6, "photos_without_subject": 0, "before": {"recall": {"Neutral": 1, "Happiness": 1}}}  # fmt: skip
    (out / "calibration.json").write_text(json.dumps(own))
    (out / "mine.json").write_text(json.dumps(mine))
    (out / "other.json").write_text(json.dumps({**own, "checkpoint_sha256": "0" * 64}))
    opened = page.open_model(out, None, "none", None, "cpu")
    told = asked(opened, "/settings", b"")[1]["calibrations"]
    assert told == {"calibration": "1,234 validation faces", "mine": "12 photos of 6 people (Neutral, Happiness)"}
    shown = encoded(picture())
    plain, moved = (asked(opened, "/look", shown, calibration=name)[1]["csv"] for name in told)
    assert ",Fear," in moved
    assert plain != moved
    assert asked(opened, "/look", shown)[1]["csv"] == plain  # nothing stays of the question before
    assert asked(opened, "/look", shown, calibration="none")[0] == 422
    assert asked(served, "/settings", b"")[1]["calibrations"] == {}


def test_a_long_name_leaves_room_on_the_report(served, monkeypatch):
    from matplotlib.figure import Figure

    written, real = [], Figure.text

    def text(page, x, y, words, **options):
        written.append(words)
        return real(page, x, y, words, **options)

    monkeypatch.setattr(Figure, "text", text)
    for name in ("word " * 40, "w" * 200):
        assert asked(served, "/report", encoded(picture((10, 10))), name=name)[0] == 200
        line = next(words for words in written if "map: " in words)
        assert len(line) < 120
        written.clear()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_flat_over_two_thousand_requests(served):
    import urllib.request

    def owned() -> float:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) / 1024

    running = page.launch(served, "127.0.0.1", 0, 400_000, 1_000_000)
    photo = bytes(encoded(picture()))
    try:
        for number in range(2000):
            asked = urllib.request.Request(f"{running.url}/look", photo, {"Content-Type": guard.BYTES})
            with urllib.request.urlopen(asked, timeout=30) as answer:
                assert answer.status == 200
            if number == 400:
                before = owned()
        assert owned() - before < 12  # MiB
    finally:
        running.close()


# the guard


PLACE = guard.Place("127.0.0.1", 7860)


@pytest.mark.parametrize(("host", "name", "known"), [
    ("127.0.0.1", "127.0.0.1:7860", True), ("127.0.0.1", "localhost:7860", True), ("127.0.0.1", "[::1]:7860", True),
    ("127.0.0.1", "LOCALHOST:7860", True), ("127.0.0.1", "evil.example:7860", False), ("127.0.0.1", "127.0.0.1", False),
    ("127.0.0.1", "192.168.0.7:7860", False), ("127.0.0.1", "", False), ("127.0.0.1", "a@127.0.0.1:7860", False),
    ("127.0.0.1", "127.0.0.1:x", False), ("127.0.0.1", "127.0.0.1:7860/x", False), ("127.0.0.1", "[::1", False),
    ("0.0.0.0", "192.168.0.7:7860", True), ("0.0.0.0", "evil.example:7860", False), ("lab.example", "lab.example:7860", True),
    ("lab.example", "other.example:7860", False),
])  # fmt: skip
def test_names_of_the_page(host, name, known):
    assert guard.Place(host, 7860).knows(name) is known


def test_behind_a_proxy_its_name_counts():
    place = guard.Place("127.0.0.1", 7860, "https://faces.example")
    headers = {"host": "faces.example", "origin": "https://faces.example", "content-type": guard.BYTES}
    assert guard.check("POST", "/look", headers, place) == guard.ROUTES["/look"]
    with pytest.raises(guard.Refusal, match="another page"):
        guard.check("POST", "/look", {**headers, "origin": "https://other.example"}, place)


@pytest.mark.parametrize(("status", "method", "path", "headers"), [
    (404, "GET", "/gradio_api/file=http://x", {}), (404, "GET", "/../etc/passwd", {}), (404, "GET", "/page.css/", {}),
    (405, "POST", "/", {}), (405, "GET", "/look", {}), (405, "HEAD", "/", {}), (405, "OPTIONS", "/look", {}),
    (415, "POST", "/look", {"content-type": "multipart/form-data"}), (415, "POST", "/look", {}),
    (403, "GET", "/", {"sec-fetch-site": "cross-site"}), (403, "GET", "/", {"origin": "null"}),
    (421, "GET", "/", {"host": "evil.example"}),
])  # fmt: skip
def test_all_else_is_refused(status, method, path, headers):
    with pytest.raises(guard.Refusal) as refused:
        guard.check(method, path, {"host": "127.0.0.1:7860", **headers}, PLACE)
    assert refused.value.status == status


@pytest.mark.parametrize(("status", "headers"), [
    (413, {"content-length": "100"}), (411, {}), (411, {"content-length": "-1"}), (411, {"content-length": "1e1"}),
    (411, {"content-length": "5", "transfer-encoding": "chunked"}), (413, {"content-length": "9" * 5000}),
    (411, {"content-length": "\u0664"}),
])  # fmt: skip
def test_lengths(status, headers):
    with pytest.raises(guard.Refusal) as refused:
        guard.body_length(guard.ROUTES["/look"], headers, 99)
    assert refused.value.status == status
    assert guard.body_length(guard.ROUTES["/look"], {"content-length": "99"}, 99) == 99
    assert guard.body_length(guard.ROUTES["/"], {}, 99) == 0


def test_tokens_come_back_with_time():
    now = 0.0
    rate = guard.Rate(60, lambda: now)
    assert [rate.allow("a") for _ in range(11)] == [True] * 10 + [False]
    assert rate.allow("b")
    now = 2.0
    assert [rate.allow("a") for _ in range(3)] == [True, True, False]


def test_few_addresses_are_remembered(monkeypatch):
    monkeypatch.setattr(guard, "REMEMBERED", 3)
    rate = guard.Rate(60, lambda: 0.0)
    for number in range(9):
        rate.allow(str(number))
    assert list(rate.seen) == ["6", "7", "8"]


# the server


MAX = 300_000
CONFIRMED = {"Content-Type": guard.BYTES}


@pytest.fixture
def running():
    """A server that answers with the length of the body."""
    count = lambda question: server.Answer("text/plain", str(len(question.body)).encode())  # noqa: E731
    made = server.Server("127.0.0.1", 0, count, MAX, 60).start()
    yield made
    made.close()


def sent(running, head: str, body: bytes = b"", timeout: float = 10) -> bytes:
    with socket.create_connection(("127.0.0.1", running.place.port), timeout=timeout) as link:
        link.sendall(head.replace("HOST", f"Host: 127.0.0.1:{running.place.port}").encode("latin-1") + body)
        answer = b""
        while part := link.recv(65536):
            answer += part
        return answer


def post(length: int, more: str = "") -> str:
    return f"POST /look HTTP/1.1\r\nHOST\r\nContent-Type: {guard.BYTES}\r\nContent-Length: {length}\r\n{more}\r\n"


def test_a_body_comes_whole(running):
    for length in (0, 1, 5000, 70_000, MAX):
        assert sent(running, post(length), b"x" * length).endswith(f"\r\n\r\n{length}".encode())


@pytest.mark.parametrize(("status", "head"), [
    (400, "nonsense\r\n\r\n"), (400, "GET / FTP/1.1\r\nHOST\r\n\r\n"), (400, "GET http://x/ HTTP/1.1\r\nHOST\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHOST\r\nHost: evil.example\r\n\r\n"), (421, "GET / HTTP/1.1\r\n\r\n"),
    (431, "GET / HTTP/1.1\r\nHOST\r\nX: " + "x" * 40_000), (431, "GET / HTTP/1.1\r\nHOST\r\n" + "A: b\r\n" * 200 + "\r\n"),
    (413, f"POST /look HTTP/1.1\r\nHOST\r\nContent-Type: {guard.BYTES}\r\nContent-Length: {MAX + 1}\r\n\r\n"),
    (404, "GET /\x00\xff HTTP/1.1\r\nHOST\r\n\r\n"),
])  # fmt: skip
def test_what_is_no_request_is_refused_in_one_line(running, status, head):
    answer = sent(running, head)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"\r\n\r\n") == 1


def test_slow_clients_are_dropped_whatever_they_drip(running, monkeypatch):
    monkeypatch.setattr(server, "DEADLINE", 1.0)
    links = [socket.create_connection(("127.0.0.1", running.place.port)) for _ in range(20)]
    heads = ["GET / HT", post(MAX).replace("HOST", f"Host: 127.0.0.1:{running.place.port}"), ""]
    for number, link in enumerate(links):
        link.sendall(heads[number % 3].encode())
    began = time.monotonic()
    dripping = links[1]
    with pytest.raises(OSError):  # noqa: PT012
        while time.monotonic() - began < 8:
            dripping.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - began < 5
    for link in links[2:]:
        link.settimeout(5)
        assert link.recv(100) == b""
        link.close()
    assert running.heap.held == 0
    assert not running.open


def test_stalled_uploads_hold_little_and_whole_ones_go_on(running):
    running.rate = guard.Rate(100_000)
    head = post(MAX).replace("HOST", f"Host: 127.0.0.1:{running.place.port}").encode()
    links = [socket.create_connection(("127.0.0.1", running.place.port)) for _ in range(30)]
    for link in links:
        link.sendall(head + b"x" * (MAX - 9))
    time.sleep(0.5)
    assert running.heap.held <= server.BODIES * MAX
    for link in links:
        link.close()
    time.sleep(0.5)
    assert running.heap.held == 0
    assert sent(running, post(10), b"x" * 10).endswith(b"\r\n\r\n10")


def test_connections_are_limited(running, monkeypatch):
    monkeypatch.setattr(server, "PER_ADDRESS", 3)
    links = [socket.create_connection(("127.0.0.1", running.place.port)) for _ in range(5)]
    time.sleep(0.3)
    assert running.open["127.0.0.1"] == 3
    for link in links:
        link.close()


def test_a_flood_is_answered_with_429_whatever_address_it_claims(running):
    claims = [
        f"X-Forwarded-For: 10.0.0.{k}\r\nForwarded: for=10.0.0.{k}\r\nX-Real-IP: 10.0.0.{k}\r\n" for k in range(13)
    ]
    answers = [sent(running, post(1, claim), b"x").split()[1] for claim in claims]
    assert answers == [b"200"] * 10 + [b"429"] * 3
    assert b"Retry-After: 10" in sent(running, post(1), b"x")


def test_eight_clients_at_once(running):
    running.rate = guard.Rate(100_000)
    found = []

    def many():
        for _ in range(20):
            link = http.client.HTTPConnection("127.0.0.1", running.place.port, timeout=20)
            link.request("POST", "/look", b"x" * 1000, CONFIRMED)
            found.append(link.getresponse().read())
            link.close()

    clients = [threading.Thread(target=many) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert found == [b"1000"] * 160


def test_what_a_visitor_sent_is_wiped():
    body = bytearray(b"secret" * 30_000)
    server.wipe(body)
    assert body == bytes(180_000)


# the command


def test_hosts(capsys):
    assert all(map(guard.is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost")))
    assert not any(map(guard.is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.org")))
    warn_of("127.0.0.1")
    assert capsys.readouterr().err == ""
    warn_of("0.0.0.0")
    assert capsys.readouterr().err.startswith("mien: WARNING: --host 0.0.0.0 lets every computer")


def test_wrong_options(capsys):
    for options in ({"max_mb": 0.0}, {"rate": 1}, {"port": 99999}, {"origin": "faces.example"}):
        with pytest.raises(UsageError):
            serve(**options)
    assert main(["serve", "--prt", "1"]) == 2
    assert "Did you mean '--port'" in capsys.readouterr().err


def test_without_a_finder_the_page_says_so_and_how_to_get_one(served, monkeypatch, capsys, tmp_path):
    def missing(name, model):
        raise DataError("no face_landmarker.task found. Run 'mien models get face_landmarker'")

    monkeypatch.setattr(page, "load", lambda run, **options: served.model)
    monkeypatch.setattr(page, "Finders", missing)
    opened = page.open_model(tmp_path, None, "auto", None, "cpu")
    assert opened.photos is False
    assert "mien models get face_landmarker" in opened.found_by
    assert "mien models get face_landmarker" in capsys.readouterr().err
    assert page.open_model(tmp_path, None, "none", None, "cpu").photos
    with pytest.raises(DataError, match="mien models get"):
        page.open_model(tmp_path, None, "mediapipe", None, "cpu")


@pytest.mark.parametrize(("faces", "least"), [("auto", 0.7), ("mediapipe", 0.7), ("dlib", float("-inf"))])
def test_doubtful_faces_do_not_count(served, monkeypatch, tmp_path, faces, least):
    monkeypatch.setattr(page, "load", lambda run, **options: replace(served.model, least_face=float("-inf")))
    monkeypatch.setattr(page, "Finders", lambda name, model: find)
    assert page.open_model(tmp_path, None, faces, None, "cpu").model.least_face == least


def test_examples_lie_within_the_limits():
    from mien.faces.quality import quality_of
    from mien.predict.limits import outside
    from mien.web import synthetic

    for expression, person, yaw in synthetic.EXAMPLES:
        record = synthetic.draw_face(synthetic.preset(expression), person, yaw)
        assert outside(quality_of(record.image, synthetic.finder_of(record)(record.image)[0])) == ""


def test_methods_of_one_pass(served):
    assert "cam" in served.methods
    assert not {"score_cam", "grad_cam_pp_as_coded"} & set(served.methods)
