"""The page's functions: synthetic faces, cards, photos, limits. Gradio is not needed; the browser test is in test_page.py."""

import asyncio
import base64
import io
import re
import sys
from dataclasses import replace

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
from mien.web import cards, is_loopback, limits, page, serve, synthetic, warn_of


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(tiny.store(tmp_path_factory.mktemp("data") / "store").path, optim={"epochs": 1}), out)
    (out / "calibration.json").write_text('{"temperature": 1.5, "threshold": 0.99}')
    model = mien.load(out, faces=find)
    return page.Served(model, "found by a test", page.methods_of(model))


def data_url(image: np.ndarray, kind: str = "PNG", **options) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
    values = page.start_values()
    shown = page.explain_drawn(served, "layer_cam", "Sadness", 2, 10, 0, *values)
    face = synthetic.draw_face(synthetic.START, 2, 10, 0)
    direct = replace(served.model, provider=synthetic.finder_of(face)).predict(face.image).faces[0]
    assert f"Synthetic face: {direct.expression} {direct.confidence:.0%}" in shown
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", shown)]
    np.testing.assert_allclose(widths, [100 * p for p in direct.probabilities.values()], atol=0.06)
    assert "AU cue: Sadness" in shown
    assert "layer_cam: Sadness" in shown
    assert shown.count("<img") == 4
    assert "unsure" in shown


def test_a_preset_answers_with_the_card_and_the_sliders(served):
    card, *values = page.explain_preset(served, "Anger", "cam", page.PREDICTED, 1, 0, 0)
    assert dict(zip(synthetic.UNITS, values, strict=True)) == synthetic.preset("Anger")
    assert card == page.explain_drawn(served, "cam", page.PREDICTED, 1, 0, 0, *values)


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
    shown = cards.header("<run>", "found by mediapipe")
    assert "expression recognition" in shown
    assert "never what the person feels" in shown
    assert "at work or in education is prohibited" in shown
    assert "&lt;run&gt;" in shown
    assert not re.search(r"https?://", shown + cards.STYLE + cards.PICKER_SCRIPT + cards.picker(1))


# photos


def test_a_photo_shows_every_face(served):
    shown = page.explain_photo(served, served.methods[0], page.PREDICTED, data_url(picture((10, 10), (80, 20))))
    assert shown.count("mien-card") == 2
    assert "2 faces" in shown
    assert "No result: no face found." in page.explain_photo(served, "cam", page.PREDICTED, data_url(picture()))
    assert "Choose a photo" in page.explain_photo(served, "cam", page.PREDICTED, "")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_turned_upright(orientation):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:8, :8] = 255
    stored = Image.fromarray(image)
    exif = stored.getexif()
    exif[0x0112] = orientation
    turn = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    stored = stored.rotate(turn, expand=True)
    found = limits.read_photo(data_url(np.asarray(stored), "PNG", exif=exif))
    assert np.array_equal(found, image)


def test_large_photos_are_made_smaller_and_huge_ones_refused(monkeypatch):
    assert limits.read_photo(data_url(np.zeros((20, 3200, 3), np.uint8))).shape == (10, 1600, 3)
    monkeypatch.setattr(limits, "MEGAPIXELS", 0.001)
    with pytest.raises(PictureError, match="megapixels are too many"):
        limits.read_photo(data_url(np.zeros((40, 40, 3), np.uint8)))


@pytest.mark.parametrize(
    "sent", [7, "x", "data:image/png;base64,@@@", "data:image/png;base64,", "data:text/plain;base64,aGVsbG8="]
)
def test_what_is_no_photo_is_told(served, sent):
    assert "This file cannot be used: " in page.explain_photo(served, "cam", page.PREDICTED, sent)


def test_a_photo_leaves_nothing_on_the_disk(served, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    page.explain_photo(served, "cam", page.PREDICTED, data_url(picture((10, 10)), "JPEG"))
    assert not list(tmp_path.iterdir())


# limits


def test_tokens_come_back_with_time():
    now = 0.0
    rate = limits.Rate(60, lambda: now)
    assert [rate.allow("a") for _ in range(11)] == [True] * 10 + [False]
    assert rate.allow("b")
    now = 2.0
    assert [rate.allow("a") for _ in range(3)] == [True, True, False]


def test_few_addresses_are_remembered(monkeypatch):
    monkeypatch.setattr(limits, "REMEMBERED", 3)
    rate = limits.Rate(60, lambda: 0.0)
    for number in range(9):
        rate.allow(str(number))
    assert list(rate.seen) == ["6", "7", "8"]


def ask(
    app, method="POST", path="/gradio_api/queue/join", headers=(), chunks=(b"",)
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent, waiting = [], list(chunks)

    async def receive():
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "client": ("127.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(part["body"] for part in sent[1:])


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


QUESTION = b'{"data": [1, "a"]}'


def test_requests_are_measured_by_their_length_and_as_they_come():
    app = limits.Limits(echo, max_bytes=len(QUESTION), rate=600)
    assert ask(app, chunks=(QUESTION[:5], QUESTION[5:]))[::2] == (200, QUESTION)
    assert ask(app, chunks=(QUESTION, b" "))[0] == 413
    assert ask(app, headers=[(b"content-length", b"19")])[0] == 413
    assert ask(app, headers=[(b"content-length", b"-1")])[0] == 413
    assert b"larger than 1.8e-05 MB" in ask(app, chunks=(QUESTION + b" ",))[2]
    assert limits.request_bytes(3_000_000) > 4_000_000


def test_a_flood_is_answered_with_429():
    app = limits.Limits(echo, max_bytes=99, rate=60)
    answers = [ask(app, chunks=(QUESTION,)) for _ in range(12)]
    assert [status for status, _, _ in answers] == [200] * 10 + [429] * 2
    assert answers[-1][1][b"retry-after"] == b"10"
    assert ask(app, method="GET")[0] == 200


def test_no_file_is_taken_and_the_browser_asks_nobody_else():
    app = limits.Limits(echo, max_bytes=99, rate=600)
    for path in ("upload", "run/answer_for", "call/answer_for", "process_recording"):
        assert ask(app, path=f"/gradio_api/{path}", chunks=(QUESTION,))[0] == 403
    policy = ask(app, method="GET")[1][b"content-security-policy"].decode()
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "*" not in policy


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": ["cam", {"path": "http://example.org/a.jpg", "meta": {"_type": "gradio.FileData"}}]}',
        b'{"data": ["cam", [{"path": "http://example.org/a.jpg"}]]}',
        b'{"data": {"path": "http://example.org/a.jpg"}}',
        b"[" * 5000,
        b"[]",
        b"not JSON",
        b"\xff\xfe",
    ],
)
def test_a_question_is_flat_so_that_the_server_fetches_nothing(body):
    assert ask(limits.Limits(echo, max_bytes=9999, rate=600), chunks=(body,))[0] == 400


# the command


def test_hosts(capsys):
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.org")))
    warn_of("127.0.0.1")
    assert capsys.readouterr().err == ""
    warn_of("0.0.0.0")
    assert capsys.readouterr().err.startswith("mien: WARNING: --host 0.0.0.0 lets every computer")


def test_wrong_options(capsys):
    for options in ({"max_mb": 0.0}, {"rate": 1}, {"port": 99999}):
        with pytest.raises(UsageError):
            serve(**options)
    assert main(["serve", "--prt", "1"]) == 2
    assert "Did you mean '--port'" in capsys.readouterr().err


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"pip install 'mien\[page\]'"):
        page.need_gradio()


def test_without_a_finder_whole_pictures_are_faces(served, monkeypatch, capsys, tmp_path):
    def missing(name, model):
        raise DataError("provider 'mediapipe' needs LiteRT")

    monkeypatch.setattr(page, "load", lambda run, **options: served.model)
    monkeypatch.setattr(page, "Finders", missing)
    opened = page.open_model(tmp_path, None, "auto", None, "cpu")
    assert opened.found_by == "whole pictures are taken as faces"
    assert "needs LiteRT" in capsys.readouterr().err
    with pytest.raises(DataError, match="needs LiteRT"):
        page.open_model(tmp_path, None, "mediapipe", None, "cpu")


@pytest.mark.parametrize(("faces", "least"), [("auto", 0.7), ("mediapipe", 0.7), ("dlib", float("-inf"))])
def test_doubtful_faces_do_not_count(served, monkeypatch, tmp_path, faces, least):
    monkeypatch.setattr(page, "load", lambda run, **options: replace(served.model, least_face=float("-inf")))
    monkeypatch.setattr(page, "Finders", lambda name, model: find)
    assert page.open_model(tmp_path, None, faces, None, "cpu").model.least_face == least


def test_methods_of_one_pass(served):
    assert "cam" in served.methods
    assert not {"score_cam", "grad_cam_pp_as_coded"} & set(served.methods)
