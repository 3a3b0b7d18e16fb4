"""Photos -> faces -> strips, maps and a manifest; every bad photo is listed, none is fatal."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from mien.data.framing import Framing, frame_face, framing_of
from mien.data.store import open_store, write_store
from mien.data.transforms import normalise
from mien.errors import DataError, UsageError
from mien.explain import explain
from mien.faces.detect import points_box
from mien.faces.landmarks import five_points
from mien.faces.provider import Face
from mien.files import file_sha256
from mien.predict import photos as verb
from mien.predict.explain import explain as explain_verb
from mien.schema import EXPRESSIONS
from mien.training import checkpoint
from mien.training.loop import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, guidance={"weight": 1.0}, optim={"epochs": 1}), out)
    return out


def photo(path: Path, size: tuple[int, int] = (120, 90), seed: int = 0, **options) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(path, **options)
    return path


def found(points: np.ndarray) -> Face:
    return Face(points_box(points), points, 0.9, "mediapipe")


@pytest.fixture
def provider(monkeypatch):
    """A finder that sees two faces in a wide photo, one in others, none in a square one."""

    def find(image):
        height, width = image.shape[:2]
        if height == width:
            return []
        points = tiny.points(70).astype(np.float32)
        faces = [found(points + np.float32([5, 10])), found(points[:, :] * 0.5 + np.float32([80, 10]))]
        return faces if width >= 200 else faces[:1]

    opened = []
    monkeypatch.setattr("mien.faces.detect.open_provider", lambda name, model=None: opened.append(name) or find)
    return opened


def test_manifest_strips_and_maps(run, provider, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    one, two = photo(folder / "one.jpg"), photo(folder / "deep" / "two.PNG", (210, 90), 1)
    photo(folder / "square.png", (64, 64), 2)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not read")
    out = tmp_path / "out"
    manifest = explain_verb(folder, run=run, out=out, methods="cam,grad_cam_pp", batch=2)
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert provider == ["mediapipe"]
    assert [(Path(e["file"]).name, e["face"]) for e in manifest["faces"]] == [
        ("two.PNG", 1),
        ("two.PNG", 2),
        ("one.jpg", 1),
    ]
    assert {Path(e["file"]).name: e["reason"] for e in manifest["skipped"]} == {
        "broken.jpg": "a text file, not a picture",
        "square.png": "no face found",
    }
    assert manifest["photos"] == 4
    assert manifest["checkpoint"]["sha256"] == file_sha256(run / "best.ckpt")
    assert manifest["methods"] == ["attention", "cam", "grad_cam_pp"]
    for entry in manifest["faces"]:
        assert entry["crop"] == "aligned"
        assert sum(entry["probabilities"].values()) == pytest.approx(1)
        assert entry["expression"] == max(entry["probabilities"], key=entry["probabilities"].get)
        assert entry["explained_expression"] == entry["expression"]
        assert entry["sha256"] == file_sha256(two if "two" in entry["file"] else one)
        with Image.open(out / entry["strip"]) as strip:
            assert strip.width > 4 * 192
        saved = np.load(out / entry["maps"])
        assert set(saved.files) == {"pixels", "landmarks", "cue", "attention", "cam", "grad_cam_pp"}
        assert saved["pixels"].shape == (tiny.SIZE, tiny.SIZE, 3)
        assert np.isfinite(saved["cam"]).all()
        if entry["expression"] == "Neutral":
            assert entry["scores"] is None
            assert entry["cue"] is None
        else:
            assert all(-1 <= v <= 1 + 1e-6 for kinds in entry["scores"].values() for v in kinds.values())
    shown = capsys.readouterr().out
    assert "one.jpg" in shown
    assert "2 skipped" in shown


def test_numbers_are_those_of_a_direct_pass(run, provider, tmp_path):
    entry = explain_verb(
        photo(tmp_path / "a.png"), run=run, out=tmp_path, expression="Happiness", methods="cam,layer_cam"
    )["faces"][0]
    saved = np.load(tmp_path / entry["maps"])
    model, _, _ = checkpoint.load_model(run)
    images = normalise(torch.from_numpy(saved["pixels"]).permute(2, 0, 1)[None])
    with torch.no_grad():
        output = model(images)
    assert list(entry["probabilities"].values()) == pytest.approx(output.logits.softmax(1)[0].tolist(), abs=1e-5)
    assert entry["explained_expression"] == "Happiness"
    assert entry["cue"] == "au"
    raw = explain(model, images, EXPRESSIONS.index("Happiness"), ["cam", "layer_cam"])
    assert np.allclose(saved["cam"], raw["cam"][0, 0].numpy(), atol=1e-5)
    assert np.allclose(saved["layer_cam"], raw["layer_cam"][0, 0].numpy(), atol=1e-5)
    assert np.allclose(saved["attention"], output.features[-1].mean(1)[0].numpy(), atol=1e-5)


def test_batches_do_not_matter(run, provider, tmp_path):
    files = [photo(tmp_path / f"{k}.png", (200, 90), k) for k in range(2)]
    several, single = (
        explain_verb(*files, run=run, out=tmp_path / str(b), batch=b, methods="cam", size=32)["faces"] for b in (32, 1)
    )
    assert [e["strip"] for e in several] == [e["strip"] for e in single]
    for first, second in zip(several, single, strict=True):
        assert list(first["probabilities"].values()) == pytest.approx(list(second["probabilities"].values()), abs=1e-5)


def test_exif_orientation(run, provider, tmp_path):
    upright = photo(tmp_path / "a.png")
    with Image.open(upright) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # the viewer turns it by 90 degrees clockwise
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    first, second = explain_verb(upright, tmp_path / "b.png", run=run, out=tmp_path / "out")["faces"]
    assert np.array_equal(*(np.load(tmp_path / "out" / e["maps"])["pixels"] for e in (first, second)))


def test_whole_picture_without_provider(run, tmp_path, monkeypatch, capsys):
    def missing(name, model=None):
        raise DataError("no face_landmarker.task found.")

    monkeypatch.setattr("mien.faces.detect.open_provider", missing)
    picture = photo(tmp_path / "a.png")
    for faces in ("none", "auto"):
        manifest = explain_verb(picture, run=run, out=tmp_path / faces, faces=faces)
        (entry,) = manifest["faces"]
        assert (entry["box"], entry["landmarks_found"], entry["crop"], entry["scores"]) == (None, False, "whole", None)
        assert manifest["faces_found_by"].startswith("none")
    assert "whole pictures" in capsys.readouterr().err
    with pytest.raises(DataError, match="face_landmarker"):
        explain_verb(picture, run=run, out=tmp_path / "x", faces="mediapipe")


def test_bad_requests(run, provider, tmp_path):
    good = photo(tmp_path / "a.png")
    square = photo(tmp_path / "square.png", (64, 64))
    cases = [
        (UsageError, "Did you mean 'layer_cam'", [good], {"methods": "layercam"}),
        (UsageError, "Did you mean 'Happiness'", [good], {"expression": "Hapiness"}),
        (UsageError, "Did you mean 'mediapipe'", [good], {"faces": "mediapip"}),
        (UsageError, "--size", [good], {"size": 3}),
        (UsageError, "at least one photo", [], {}),
        (DataError, "photo not found", [good, tmp_path / "gone.jpg"], {}),
        (DataError, "holds no pictures", [run / "tensorboard"], {}),
        (DataError, "none of 1 photos.*no face found", [square], {}),
    ]
    for error, words, photos, options in cases:
        with pytest.raises(error, match=words) as caught:
            explain_verb(*photos, run=run, out=tmp_path / "never", **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "never").exists()
    with pytest.raises(DataError, match="not a run folder"):
        explain_verb(good, run=tmp_path)


def test_faces_are_put_where_the_training_faces_lie(tmp_path):
    """A store's own face, pasted small and turned into a large photo, comes back as it lies in the store."""
    store = tiny.store(tmp_path / "store")
    framing = framing_of(store, np.arange(len(store)))
    assert framing.size == tiny.SIZE
    assert np.allclose(framing.points, five_points(tiny.points()), atol=0.4)
    turn = 0.4
    move = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 2.5
    points = (tiny.points() @ move.T + [150, 80]).astype(np.float32)
    image = np.zeros((240, 320, 3), np.uint8)
    framed = frame_face(image, points, None, framing, 128)
    assert framed.rule == "aligned"
    assert framed.pixels.shape == (tiny.SIZE, tiny.SIZE, 3)
    assert framed.display.shape == (128, 128, 3)
    assert np.allclose(five_points(framed.landmarks), framing.points, atol=0.3)


def test_display_shows_what_the_net_sees(tmp_path):
    framing = Framing(32, 1, "dataset", False, five_points(tiny.points(32)).tolist())
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240)))
    framed = frame_face(image, tiny.points(200), None, framing, 128)
    grey = np.asarray(Image.fromarray(framed.display).resize((32, 32), Image.Resampling.BOX).convert("L"), np.float64)
    assert (framed.pixels[..., 0] == framed.pixels[..., 2]).all()
    assert np.abs(grey - framed.pixels[..., 0]).mean() < 4


def test_box_where_the_store_has_no_points(tmp_path):
    blind = Framing(32, 3, "none", False, None)
    image = np.zeros((100, 100, 3), np.uint8)
    image[30:60, 40:70] = 255
    framed = frame_face(image, tiny.points(100), np.float32([40, 30, 70, 60]), blind, 64)
    assert framed.rule == "box"
    assert framed.pixels[16, 16].tolist() == [255, 255, 255]
    assert framed.pixels[0, 0].tolist() == [0, 0, 0]  # a margin around the box
    assert np.isfinite(framed.landmarks).all()


def test_runs_from_before_framing_was_kept(run):
    _, recipe, env = checkpoint.load_model(run)
    assert verb.framing_of_run(env, recipe).points is not None
    assert verb.framing_of_run({}, recipe).size == tiny.SIZE
    store = open_store(recipe.data.store)
    assert verb.framing_of_run(env, recipe).size == store.info.size


@pytest.mark.skipif("MIEN_SHARED_DATA" not in os.environ, reason="MIEN_SHARED_DATA names no folder with photos")
def test_real_photos(run, tmp_path):
    pytest.importorskip("ai_edge_litert")
    root = Path(os.environ["MIEN_SHARED_DATA"]) / "faces"
    people = sorted((root / "london" / "smiling").glob("*.jpg"))[:4]
    manifest = explain_verb(*people, run=run, out=tmp_path)
    assert [Path(entry["file"]) for entry in manifest["faces"]] == people
    assert all(entry["crop"] == "aligned" for entry in manifest["faces"])


@pytest.fixture(scope="module")
def units_run(tmp_path_factory):
    """A run of action units, on faces with landmarks of their own place in the picture."""
    import tiny_audet

    from mien.audet.train import fit as fit_units

    made = [record._replace(landmarks=tiny.points(tiny_audet.SIZE)) for record in tiny_audet.records()]
    data = tmp_path_factory.mktemp("units") / "store"
    write_store(made, data, dataset="toy", size=tiny_audet.SIZE)
    fit_units(tiny_audet.cfg("--training.max_epochs", "1"), data, data.parent / "run")
    return data.parent / "run"


def test_action_units_stand_beside_the_expression(run, units_run, provider, tmp_path, capsys, monkeypatch):
    from mien.audet.photos import open_reader, unit_strengths
    from mien.cues.reading import read_units

    monkeypatch.setattr("mien.predict.limits.read_limits", dict)  # noise is no face that may be read
    picture = photo(tmp_path / "a.png")
    manifest = explain_verb(picture, run=run, out=tmp_path, methods="cam", action_units=units_run)
    (entry,) = manifest["faces"]
    assert manifest["action_units_by"] == "run"
    reader = open_reader(units_run)
    assert reader.framing.points is not None
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    face = frame_face(pixels, tiny.points(70).astype(np.float32) + np.float32([5, 10]), None, reader.framing, 64)
    strength = unit_strengths(reader, [face])[0]
    assert list(entry["action_units"]) == list(reader.net.action_units)
    np.testing.assert_allclose(list(entry["action_units"].values()), strength, atol=1e-3)
    named = dict(zip(reader.net.action_units, map(float, strength), strict=True))
    assert entry["reading"]["text"] == read_units(named, 0.5).text
    assert entry["reading"]["text"] in capsys.readouterr().out
    plain = explain_verb(picture, run=run, out=tmp_path / "plain", methods="cam")
    assert plain["action_units_by"] is None
    assert "reading" not in plain["faces"][0]
    assert plain["faces"][0]["probabilities"] == entry["probabilities"]


def test_observed_cue_of_a_photo_needs_the_units(run, units_run, provider, tmp_path, monkeypatch):
    observed = tmp_path / "run"
    shutil.copytree(run, observed)
    trained_with = checkpoint.load_tensors(run / "best.ckpt")[1]["settings"]
    monkeypatch.setattr(checkpoint, "settings_sha256", lambda recipe: trained_with)
    config = observed / "config.yaml"
    config.write_text(
        config.read_text().replace("kind: au\n", "kind: au_observed\n").replace("least: 1.0", "least: 0.1")
    )
    picture = photo(tmp_path / "a.png")
    with_units = explain_verb(picture, run=observed, out=tmp_path, methods="cam", action_units=units_run)["faces"][0]
    assert with_units["cue"] == "au_observed"
    assert np.load(tmp_path / with_units["maps"])["cue"].max() > 0
    without = explain_verb(picture, run=observed, out=tmp_path, methods="cam")["faces"][0]
    assert without["cue"] is None
    assert without["scores"] is None


def test_a_wrong_run_of_units_is_named(run, provider, tmp_path):
    with pytest.raises(DataError, match="not a run folder of AUDetNet"):
        explain_verb(photo(tmp_path / "a.png"), run=run, out=tmp_path, action_units=run)


def test_the_bundled_model_explains_where_no_run_is_named(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = explain_verb(photo(tmp_path / "a.png"), faces="none", methods="cam")
    assert (tmp_path / "explained" / "manifest.json").is_file()
    assert len(manifest["faces"]) == 1
    with pytest.raises(UsageError, match=f"is a run folder, .*write --run {run}"):
        explain_verb(run, tmp_path / "a.png")


def test_units_are_those_of_mien_predict(run, tmp_path, capsys, monkeypatch):
    import mien
    from mien.faces.blendshapes import BLENDSHAPES

    shapes = np.full(52, 1e-4, np.float32)
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        shapes[BLENDSHAPES.index(name)] = 0.99
    face = found(tiny.points(70).astype(np.float32))._replace(blendshapes=shapes)
    monkeypatch.setattr("mien.faces.detect.open_provider", lambda name, model=None: lambda image: [face])
    picture = photo(tmp_path / "one.png", (90, 120))
    manifest = explain_verb(picture, run=run, faces="mediapipe", out=tmp_path / "out")
    entry, told = manifest["faces"][0], capsys.readouterr().out
    monkeypatch.setattr("mien.predict.finders.open_provider", lambda name, model=None: lambda image: [face])
    wanted = mien.load(run).predict(picture).faces[0]
    assert (entry["outside"], entry["present"], "reading" in entry) == (wanted.outside, [], False)  # no real face
    assert wanted.outside in told
    monkeypatch.setattr("mien.predict.limits.read_limits", dict)
    manifest = explain_verb(picture, run=run, faces="mediapipe", out=tmp_path / "out")
    entry, told = manifest["faces"][0], capsys.readouterr().out
    wanted = mien.load(run).predict(picture).faces[0]
    assert wanted.reading
    assert entry["outside"] is None
    assert entry["reading"]["text"] == wanted.reading
    assert entry["present"] == [column for columns in wanted.present_units.values() for column in columns]
    assert entry["action_units"] == {name: round(value, 3) for name, value in wanted.action_units.items()}
    assert manifest["action_units_by"] == "points"
    assert wanted.reading in told
