"""Nets of others in `mien predict`, `mien explain` and `mien serve`: a run's way, with nothing of the bundled model."""

import csv
import json

import numpy as np
import pytest
import tiny
import torch
from other_nets import WORDS, Flat, Small, bright, vit
from predict_parts import SIDE, find, frame, picture, save, write_video
from test_web import asked, encoded, face_asked

import mien
from mien.cli import main
from mien.data.framing import Framing, frame_face
from mien.errors import UsageError
from mien.predict.explain import explain as explain_verb
from mien.web import page

CODE = """
import torch
from other_nets import WORDS, Small, bright
import mien

def net():
    torch.manual_seed(0)
    return mien.wrap(Small("tuple"), WORDS, size=40, name="theirs")

def function():
    return mien.wrap(bright, WORDS, size=24, name="bright")
"""


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "their_code.py"
    file.write_text(CODE)
    return file


def three(faces):
    """Of three classes only, in an order of its own."""
    up = faces.mean((1, 2, 3))[:, None] / 255
    return np.concatenate([0.5 * up, 0.2 * up, 1 - 0.7 * up], 1).astype(np.float32)


def wrapped(kind):
    torch.manual_seed(0)
    nets = {
        "half": lambda: Small().half(), "no convolution": Flat, "grey": lambda: Small(channels=1), "tokens": vit,
        "function": lambda: bright, "three classes": lambda: three, "more classes": lambda: Small(classes=9),
    }  # fmt: skip
    words = {"three classes": ("happy", "neutral", "angry"), "more classes": (*WORDS, "contempt", "no face")}
    size = {"tokens": 32, "no convolution": 32}.get(kind, 40)
    return mien.wrap(nets.get(kind, lambda: Small(kind))(), words.get(kind, WORDS), size=size, name="theirs")


KINDS = (
    "logits", "tuple", "dict", "softmax", "dropout", "half", "grey", "tokens", "no convolution", "function", "three classes",
    "more classes",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_face_of_a_photo_is_answered_as_the_net_answers_it(kind):
    """One view of the square around its box, no temperature, no offsets, nothing of blendshapes."""
    other = wrapped(kind)
    model = mien.load(other, faces=find)
    image = picture((20, 10), size=(200, 140))
    found = model.predict(image, explain=True)[0].faces
    assert len(found) == 1
    face, (seen,) = found[0], find(image)
    cut = frame_face(image, seen.landmarks, seen.box, model.framing, 64)
    assert (cut.rule, face.crop, cut.pixels.shape) == ("box", "box", (other.size, other.size, 3))
    assert tuple(face.probabilities) == other.classes
    if kind != "dropout":
        np.testing.assert_allclose(
            list(face.probabilities.values()), other.probabilities(cut.pixels[None])[0], atol=2e-5
        )
    assert not face.abstained
    told = face.explanation
    assert (told.attention is None) == (other.layer is None)
    assert told.method == ("layer_cam" if other.layer else "occlusion")
    assert np.isfinite(told.map).all()
    assert told.runner_up in other.classes
    assert 0 < sum(region.share for region in told.regions.values()) < 1 + 1e-5 or not told.map.any()
    assert len(model.predict(image).to_table()) == 1


def test_cues_are_those_of_the_expression_although_the_classes_stand_in_another_order():
    model = mien.load(mien.wrap(three, ("happy", "neutral", "angry"), size=40), faces=find)
    image = picture((20, 10))
    cues = {name: model.predict(image, expression=name)[0].faces[0].explanation.cue for name in model.classes}
    assert cues["Neutral"] is None
    assert cues["Happiness"] is not None
    assert not np.allclose(cues["Happiness"], cues["Anger"])
    assert (model.index["Happiness"], model.index["Anger"], "Fear" in model.index) == (0, 2, False)


def test_faces_are_aligned_where_the_wrap_says_how(tmp_path, capsys):
    store = tiny.store(tmp_path / "store")
    net = Small()
    model = mien.load(mien.wrap(net, WORDS, size=40, framing=store.path), faces=find)
    assert model.framing.size == tiny.SIZE
    assert model.predict(picture((20, 10)))[0].faces[0].crop == "aligned"
    assert "not known" not in capsys.readouterr().err
    mien.load(mien.wrap(net, WORDS, size=40), faces=find)
    told = [line for line in capsys.readouterr().err.splitlines() if "not known" in line or "nothing of" in line]
    assert len(told) == 2
    assert "1.3 times the box" in told[0]
    whole = mien.load(mien.wrap(net, WORDS, size=40), faces="none")
    assert "not known" not in capsys.readouterr().err
    assert whole.predict(picture())[0].faces[0].crop == "whole"
    for wrong in (Framing(0, 3, "", True, None), 7):
        with pytest.raises(UsageError, match="raming"):
            mien.wrap(net, WORDS, size=40, framing=wrong)


def test_what_belongs_to_runs_is_refused_in_one_line():
    other = wrapped("logits")
    for options in ({"calibration": "labels"}, {"precision": "bf16-mixed"}, {"runtime": "frozen"}):
        with pytest.raises(UsageError, match="theirs is a model of others: leave it out"):
            mien.load(other, faces="none", **options)
    assert mien.load(other, faces="none").views == 1
    two = mien.load(other, faces="none", views=2)
    image = picture(size=(40, 40))
    logits = other.logits(np.stack([image, image[:, ::-1]])).mean(0)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(list(two.predict(image)[0].faces[0].probabilities.values()), shares, atol=2e-5)


def test_the_command_takes_code_photos_folders_and_videos(code, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    images = [picture(size=(60, 60), seed=k) for k in range(2)]
    for k, image in enumerate(images):
        save(folder / f"{k}.png", image)
    write_video(tmp_path / "film.avi", [frame() for _ in range(3)])
    for name, method in (("net", "layer_cam"), ("function", "occlusion")):
        out = tmp_path / f"{name}.csv"
        words = [
            "predict",
            str(folder),
            str(tmp_path / "film.avi"),
            "--run",
            f"{code}:{name}",
            "--faces",
            "none",
            "--out",
            str(out),
        ]
        assert main(words) == 0
        rows = list(csv.DictReader(out.open()))
        assert [row["method"] for row in rows] == [method] * 5
    np.testing.assert_allclose(float(rows[0]["p_Anger"]), bright(np.asarray(images[0])[None])[0, 0], atol=0.02)
    assert "model bright" in capsys.readouterr().out
    for wrong, told in (
        (code, "their_code.py:FUNCTION"),
        (f"{code}:nothing", "no function"),
        (tmp_path / "w.pth", "without"),
    ):
        (tmp_path / "w.pth").write_bytes(b"weights")
        assert main(["predict", str(folder), "--run", str(wrong), "--faces", "none"]) == 2
        assert told in capsys.readouterr().err


def test_an_onnx_file_is_predicted_explained_and_named(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    file, axes = tmp_path / "theirs.onnx", {"x": {0: "n"}}
    torch.onnx.export(
        Small().eval(), (torch.zeros(1, 3, 32, 32),), file, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    photo = save(tmp_path / "one.png", picture(size=(60, 60)))
    options = ["--run", str(file), "--faces", "none"]
    assert main(["predict", str(photo), *options]) == 2
    assert "--classes" in capsys.readouterr().err
    options += ["--classes", ",".join(WORDS)]
    assert main(["predict", str(photo), *options]) == 0
    assert main(["explain", str(photo), *options, "--out", str(tmp_path / "told")]) == 0
    manifest = json.loads((tmp_path / "told" / "manifest.json").read_text())
    assert (manifest["methods"], manifest["kind"], manifest["run"]) == (["occlusion"], "onnx", "theirs")
    assert "cosine of occlusion" in capsys.readouterr().out


def test_explain_draws_what_a_model_allows(code, tmp_path, monkeypatch):
    monkeypatch.setattr("mien.faces.detect.open_provider", lambda name, model=None: find)
    photo = save(tmp_path / "one.png", picture((20, 10)))
    for name, methods in (("net", ["attention", "grad_cam_pp", "layer_cam"]), ("function", ["occlusion"])):
        manifest = explain_verb(photo, run=f"{code}:{name}", out=tmp_path / name)
        (entry,) = manifest["faces"]
        assert manifest["methods"] == methods
        assert entry["crop"] == "box"
        maps = np.load(tmp_path / name / entry["maps"])
        assert set(methods) <= set(maps.files)
        assert (tmp_path / name / entry["strip"]).is_file()
    with pytest.raises(UsageError, match="grad_cam: of this model only answers are known"):
        explain_verb(photo, run=f"{code}:function", out=tmp_path, methods="grad_cam")
    with pytest.raises(UsageError, match="unknown expression 'Contempt'"):
        explain_verb(photo, run=f"{code}:function", out=tmp_path, expression="Contempt")


@pytest.mark.parametrize("name", ["net", "function"])
def test_the_page_serves_it(code, name):
    served = page.open_model(f"{code}:{name}", None, "none", None, "auto")
    assert (served.models, served.methods == ("occlusion",)) == ({}, name == "function")
    status, answer = asked(served, "/look", encoded(picture(size=(SIDE, SIDE))))
    assert (status, answer["faces"]) == (200, 1)
    assert ("<figcaption>attention" in answer["html"]) == (name == "net")
    status, answer = asked(served, "/look", face_asked(), expression="Happiness")
    assert status == 200
    assert "AU cue: Happiness" in answer["html"]
    status, answer = asked(served, "/frame", encoded(picture(size=(SIDE, SIDE))))
    assert status == 200
    assert page.settings(served, 10)["model"] == f"model {served.model.name}"
