"""`mien.load` and `FaceModel.predict`: what comes back for pictures of every kind."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import predict_parts as parts
import pytest
import tiny
import torch
from PIL import Image

import mien
from mien.data.transforms import normalise
from mien.errors import DataError, UsageError
from mien.predict.calibration import FILE
from mien.predict.finders import Finders, ahead
from mien.predict.model import load, pixels
from mien.predict.rows import Layout, columns
from mien.predict.sources import Picture
from mien.training import checkpoint
from mien.training.loop import fit


@pytest.fixture(autouse=True)
def noise_is_no_cover(monkeypatch):
    """The faces of these pictures are noise, which looks covered."""
    monkeypatch.setattr("mien.faces.quality.covered_share", lambda view: 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, guidance={"weight": 1.0}, optim={"epochs": 1}), out)
    return out


@pytest.fixture(scope="module")
def model(run):
    return load(run, faces=parts.find, device="cpu")


def test_load_is_one_attribute_of_mien(run):
    assert mien.load is load
    assert isinstance(mien.load(run, faces="none"), mien.FaceModel)
    with pytest.raises(AttributeError, match="nothing"):
        mien.nothing  # noqa: B018


def test_every_kind_of_picture_gives_the_same(model, tmp_path):
    image = parts.picture((20, 20))
    path = parts.save(tmp_path / "a.png", image)
    kinds = [path, str(path), path.read_bytes(), Image.fromarray(image), image]
    found = model.predict(kinds)
    assert len(found) == 5
    assert [picture.source for picture in found] == [str(path), str(path), "picture 3", "picture 4", "picture 5"]
    for picture in found:
        assert (picture.width, picture.height, picture.reason) == (160, 96, None)
        (face,) = picture.faces
        assert face.probabilities == found.faces[0].probabilities
        assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert face.expression == max(face.probabilities, key=face.probabilities.get)
        assert face.confidence == face.probabilities[face.expression]
        assert not face.abstained
        assert face.explanation is None
        assert face.display.shape == (112, 112, 3)
    assert model.predict(image).faces[0].probabilities == pytest.approx(found.faces[0].probabilities, abs=1e-6)
    assert len(model.predict(np.stack([image, image]))) == 2


def test_a_folder_is_its_pictures_in_name_order(model, tmp_path):
    for name in ("b.png", "a.jpg", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parts.save(tmp_path / name, parts.picture((20, 20)))
    (tmp_path / "notes.txt").write_text("no")
    assert [Path(p.source).name for p in model.predict(tmp_path)] == ["a.jpg", "b.png", "c.png"]
    (tmp_path / "empty").mkdir()
    assert "without pictures" in model.predict(tmp_path / "empty")[0].reason


def test_what_cannot_be_used_keeps_its_place(model, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    found = model.predict([broken, parts.picture(), 3.5, tmp_path / "gone.png", parts.picture((5, 5)), "x" * 300])
    reasons = [picture.reason for picture in found]
    assert reasons[0].startswith("damaged picture") or reasons[0].startswith("not a picture")
    assert reasons[1] == "no face found"
    assert "float is no picture" in reasons[2]
    assert reasons[3] == "picture file does not exist"
    assert reasons[4] is None
    assert reasons[5] == "cannot be read (File name too long)"
    assert len(found.faces) == 1


def test_numbers_are_those_of_a_direct_pass(run):
    model = load(run, faces=parts.find, device="cpu", views=1)
    image = parts.picture((20, 20), (90, 30))
    faces = model.predict(image, explain="cam", display=32).faces
    assert [face.face for face in faces] == [1, 2]
    net, _, _ = checkpoint.load_model(run)
    shown = torch.from_numpy(np.stack([face.display for face in faces])).permute(0, 3, 1, 2)
    with torch.no_grad():
        output = net(normalise(shown))  # the store is in colour and as large as the display
    expected = output.logits.softmax(1).numpy()
    assert np.allclose([list(face.probabilities.values()) for face in faces], expected, atol=1e-5)
    for k, face in enumerate(faces):
        best, second = np.argsort(-expected[k])[:2]
        assert np.allclose(face.explanation.map, output.maps[k, best], atol=1e-5)
        assert np.allclose(face.explanation.contrast, output.maps[k, best] - output.maps[k, second], atol=1e-5)
        assert np.allclose(face.explanation.attention, output.features[-1][k].mean(0), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_do_not_matter(model, batch):
    images = [parts.picture(*corners, seed=k) for k, corners in enumerate([[(5, 5), (90, 9)], [], [(9, 9)], [(70, 5)]])]
    whole = model.predict(images, explain="auto")
    found = model.predict(images, explain="auto", batch=batch)
    assert [len(p.faces) for p in found] == [2, 0, 1, 1]
    for one, other in zip(found.faces, whole.faces, strict=True):
        assert list(one.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-5)
        assert one.explanation.words.split(".")[0] == other.explanation.words.split(".")[0]


def test_explanation_of_another_expression(model):
    face = model.predict(parts.picture((20, 20)), explain="layer_cam", expression="Fear", masking=False).faces[0]
    explanation = face.explanation
    assert (explanation.expression, explanation.method) == ("Fear", "layer_cam")
    assert explanation.runner_up == max((n for n in face.probabilities if n != "Fear"), key=face.probabilities.get)
    assert explanation.cue.max() > 0
    assert set(explanation.scores) == {"attention", "layer_cam"}
    assert explanation.words.startswith(f"Fear rather than {explanation.runner_up}")
    assert all(region.effect is None for region in explanation.regions.values())
    assert sum(region.share for region in explanation.regions.values()) == pytest.approx(1, abs=1e-4)
    neutral = model.predict(parts.picture((20, 20)), explain="cam", expression="Neutral").faces[0].explanation
    assert neutral.cue is None
    assert neutral.scores == {}
    assert all(-1 <= region.effect <= 1 for region in neutral.regions.values())


def test_whole_pictures_have_no_regions(run):
    face = load(run, faces="none").predict(parts.picture(), explain="auto").faces[0]
    assert (face.box, face.landmarks, face.landmark_confidence, face.crop) == (None, None, None, "whole")
    assert face.explanation.regions == {}
    assert "no landmarks" in face.explanation.words


def test_temperature_and_threshold_come_from_the_run(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = load(run, faces=parts.find).predict(parts.picture((20, 20))).faces[0]
    (copy / FILE).write_text('{"temperature": 2.0, "threshold": 0.99}')
    after = load(copy, faces=parts.find).predict(parts.picture((20, 20))).faces[0]
    roots = {name: np.sqrt(value) for name, value in before.probabilities.items()}
    total = sum(roots.values())
    assert after.probabilities == pytest.approx({name: value / total for name, value in roots.items()}, abs=1e-4)
    assert (before.abstained, after.abstained) == (False, True)
    for wrong in ("{", '{"temperature": 0, "threshold": 0}', '{"temperature": 1}'):
        (copy / FILE).write_text(wrong)
        with pytest.raises(DataError, match="mien calibrate"):
            load(copy, faces="none")


def test_tables(model):
    found = model.predict([parts.picture((5, 5), (90, 9)), parts.picture()], explain="auto")
    table = found.to_table()
    assert table.num_rows == 3
    assert table.column_names == list(columns(Layout(model.classes, (), True)))
    assert table.schema.metadata[b"mien.predict.schema_version"] == b"1"
    rows = table.to_pylist()
    assert [row["face"] for row in rows] == [1, 2, None]
    assert [row["faces"] for row in rows] == [2, 2, 0]
    assert rows[2]["reason"] == "no face found"
    assert rows[0]["p_Fear"] == found.faces[0].probabilities["Fear"]
    assert rows[0]["words"] == found.faces[0].explanation.words
    none = model.predict(parts.picture(), explain="auto").to_table()
    assert (none.num_rows, none.column_names) == (1, table.column_names)
    assert model.predict(parts.picture()).to_table().column_names == list(columns(Layout(model.classes, (), False)))


def test_data_frame(model, monkeypatch):
    pandas = pytest.importorskip("pandas")
    found = model.predict(parts.picture((5, 5)))
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[0, "expression"] == found.faces[0].expression
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(DataError, match=r"mien\[frame\]"):
        found.to_frame()


def test_notebook(model):
    found = model.predict([parts.picture((5, 5)), b"<no picture>"], explain="auto")
    page = found._repr_html_()
    assert page.count("<img") == 2
    assert "expression recognition: 1 face in 2 pictures" in page
    assert found.faces[0].expression in page
    assert model.predict([parts.picture()] * 2)._repr_html_().count("no face found") == 2


def test_results_are_frozen(model):
    found = model.predict(parts.picture((5, 5)), explain="auto")
    for part, name in (
        (found, "pictures"),
        (found[0], "faces"),
        (found.faces[0], "box"),
        (found.faces[0].explanation, "map"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)


def test_bad_requests(run, model, tmp_path, monkeypatch):
    image = parts.picture((5, 5))
    for words, options in {
        "Did you mean 'layer_cam'": {"explain": "layercam"},
        "Did you mean 'Happiness'": {"expression": "Hapiness"},
        "at least 1": {"batch": 0},
        "needs a transformer|no attention|TS-CAM|ts_cam": {"explain": "ts_cam"},
    }.items():
        with pytest.raises(UsageError, match=words):
            model.predict(image, **options)
    with pytest.raises(UsageError, match="device 'cuda:77' cannot be used"):
        load(run, faces="none", device="cuda:77")
    with pytest.raises(UsageError, match="Did you mean 'mediapipe'"):
        load(run, faces="mediapip")
    with pytest.raises(UsageError, match="unknown precision 'bf16'"):
        load(run, faces="none", precision="bf16")
    with pytest.raises(DataError, match="not a run folder"):
        load(tmp_path, faces="none")
    monkeypatch.setattr("mien.predict.bundled.WEIGHTS", tmp_path)
    with pytest.raises(DataError, match="no bundled model"):
        load(faces="none")


def test_bfloat16_moves_little_and_says_the_same_with_an_explanation(run):
    pictures = [parts.picture((5, 5)), parts.picture((20, 20)), parts.picture((40, 10))]
    exact = load(run, faces=parts.find, device="cpu").predict(pictures)
    model = load(run, faces=parts.find, device="cpu", precision="bf16-mixed")
    plain, explained = model.predict(pictures), model.predict(pictures, explain="cam")

    def rows(found):
        return np.array([list(face.probabilities.values()) for picture in found.pictures for face in picture.faces])

    assert 0 < np.abs(rows(plain) - rows(exact)).max() < 0.03
    np.testing.assert_array_equal(rows(plain), rows(explained))
    assert all(face.explanation.map.dtype == np.float32 for picture in explained.pictures for face in picture.faces)


def test_the_bundled_model(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "expression")
    monkeypatch.setattr("mien.predict.bundled.WEIGHTS", tmp_path)
    model = load(faces="none")
    assert (model.name, model.title) == ("bundled", "the bundled model")


def test_what_is_printed_is_short(model):
    found = model.predict([parts.picture((20, 20)), b"no picture"], explain=True)
    assert repr(found).startswith("Predictions(1 face in 2 pictures; classes Neutral")
    assert "FacePrediction(1: " in repr(found[0])
    assert "a text file" in repr(found[1])
    assert " rather than " in repr(found.faces[0].explanation)
    assert len(repr(found[0])) < 200


def test_an_expression_is_explained_without_further_words(model):
    (face,) = model.predict(parts.picture((20, 20)), expression="Sadness").faces
    assert (face.explanation.expression, face.explanation.method) == ("Sadness", "cam")
    assert model.predict(parts.picture((20, 20)), explain=False).faces[0].explanation is None


def test_methods_that_fit(model):
    assert {"cam", "grad_cam", "score_cam"} <= set(model.methods)
    assert "rollout" not in model.methods
    assert model.method("auto") == "cam"


def test_order_is_kept_by_threads():
    seen = list(ahead(lambda n: n * n, range(40), workers=3, most=5))
    assert seen == [n * n for n in range(40)]


def test_threads_hold_few_pictures():
    taken = []

    def pictures():
        for n in range(30):
            taken.append(n)
            yield n

    stream = ahead(lambda n: n, pictures(), workers=2, most=4)
    next(stream)
    assert len(taken) <= 5


def test_few_large_pictures_are_held(model, monkeypatch):
    monkeypatch.setattr("mien.predict.finders.MOST_PIXELS", 160 * 96 * 3)
    taken = []

    def pictures():
        for n in range(12):
            taken.append(n)
            yield Picture(str(n), parts.picture((5, 5)), size=(160, 96))

    next(ahead(lambda one: one, pictures(), workers=2, most=32, pixels=pixels))
    assert len(taken) == 3
    next(ahead(lambda one: one, pictures(), workers=5, most=32, pixels=pixels))
    assert len(taken) == 3 + 5  # each thread has one
    taken.clear()
    stream = model.stream(pictures(), keep_images=True)
    assert next(stream)[0].source == "0"
    assert len(taken) == 3
    assert [one.source for one, _ in stream] == [str(n) for n in range(1, 12)]
    taken.clear()
    next(model.stream(pictures()))
    assert len(taken) == 12  # without their images they are small


def test_each_thread_has_a_finder_of_its_own(monkeypatch):
    opened, busy = [], []

    def open_one(name, model):
        mine = object()
        opened.append(name)

        def find(image):
            assert mine not in busy
            busy.append(mine)
            busy.remove(mine)
            return []

        return find

    monkeypatch.setattr("mien.predict.finders.open_provider", open_one)
    finders = Finders("mediapipe", None)
    assert list(ahead(finders, [np.zeros((4, 4, 3), np.uint8)] * 50, workers=3, most=6)) == [[]] * 50
    assert 1 <= len(opened) <= 3


def test_images_are_handed_back_on_demand_only(model):
    pictures = [Picture("a", parts.picture((5, 5)), size=(160, 96))]
    assert [p.image is None for p, _ in model.stream(pictures)] == [True]
    assert [p.image is None for p, _ in model.stream(pictures, keep_images=True)] == [False]


def test_action_units(model, run):
    import tiny_audet

    from mien.audet.train import fit as fit_units
    from mien.data.store import write_store

    made = [record._replace(landmarks=tiny.points(tiny_audet.SIZE)) for record in tiny_audet.records()]
    data = run.parent / "units"
    write_store(made, data / "store", dataset="toy", size=tiny_audet.SIZE)
    fit_units(tiny_audet.cfg("--training.max_epochs", "1"), data / "store", data / "run")
    both = load(run, action_units=data / "run", faces=parts.find)
    found = both.predict([parts.picture((5, 5)), parts.picture()])
    face = found.faces[0]
    assert tuple(face.action_units) == both.action_units == found.action_units
    assert all(0 <= value <= 1 for value in face.action_units.values())
    assert "->" in face.reading
    assert face.probabilities == pytest.approx(model.predict(parts.picture((5, 5))).faces[0].probabilities, abs=1e-6)
    row = found.to_table().to_pylist()[0]
    assert {name: row[name] for name in both.action_units} == dict(face.action_units)
    with pytest.raises(DataError, match="not a run folder of AUDetNet"):
        load(run, action_units=run, faces="none")


@pytest.mark.skipif("MIEN_SHARED_DATA" not in os.environ, reason="MIEN_SHARED_DATA names no folder with photos")
def test_real_photos(run):
    pytest.importorskip("ai_edge_litert")
    root = Path(os.environ["MIEN_SHARED_DATA"]) / "faces"
    found = load(run).predict([*sorted((root / "london" / "smiling").glob("*.jpg"))[:6], root / "negatives"])
    assert [len(picture.faces) for picture in found][:6] == [1] * 6
    assert sum(len(picture.faces) for picture in found) == 6


def test_doubtful_faces_do_not_count(run, monkeypatch):
    image = parts.picture((5, 5))
    sure, strict = load(run, faces=parts.find, least_face=0.9), load(run, faces=parts.find, least_face=0.95)
    assert len(sure.predict(image).faces) == 1
    assert strict.predict(image)[0].reason == "no face found (best confidence 0.90, under 0.95)"
    monkeypatch.setattr("mien.predict.finders.open_provider", lambda name, model: parts.find)
    assert [load(run, faces=name).least_face for name in ("mediapipe", "dlib")] == [0.7, float("-inf")]


def test_an_unknown_finder_of_faces_is_told_with_all_names(run):
    with pytest.raises(UsageError, match=r"Did you mean 'mediapipe'.*none"):
        load(run, faces="mediapip")
