"""Smaller files: half and 8-bit precision with what they cost beside float32; graphs of action units."""

import json

import numpy as np
import pytest
import tiny
import tiny_audet
import torch

from mien.audet.photos import open_reader, unit_strengths
from mien.audet.train import fit as fit_units
from mien.cli import main
from mien.data.framing import FramedFace
from mien.errors import DataError, UsageError
from mien.export import drawn_faces, export, reduced
from mien.faces import units as measured
from mien.predict.fusion import Fusion, write_fusion
from mien.training.loop import fit

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 1}), out)
    return out


def opened(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["mien"])

    def call(values):
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {session.get_inputs()[0].name: values}), strict=True))

    return call, about


def twin(call, store, rows, labels):
    """Accuracy and negative log-likelihood face by face."""
    right, lost = 0, 0.0
    for row in rows:
        shares = call(store.image(int(row)).transpose(2, 0, 1)[None])["probabilities"][0]
        right += int(shares.argmax() == labels[row])
        lost -= np.log(shares[labels[row]])
    return right / len(rows), lost / len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_files_with_what_they_cost(run, tmp_path, capsys, precision):
    plain = export(run, out=tmp_path / "plain.onnx")
    assert main(["export", str(run), "--precision", precision, "--out", str(tmp_path / "small.onnx")]) == 0
    assert f"  {precision}" in capsys.readouterr().out
    (before, _), (after, about) = opened(plain), opened(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < plain.stat().st_size
    assert about["precision"] == precision
    assert about["opset"] >= 18
    told = about["measured"]
    assert told[precision]["bytes"] == pytest.approx((tmp_path / "small.onnx").stat().st_size, rel=0.1)
    assert told["split"] == "test"
    _, recipe, env = reduced_parts(run)
    known = reduced.known_faces(precision, recipe, env, "votes", None)
    assert not set(known.ranges) & set(known.scored)
    for name, call in (("float32", before), (precision, after)):
        accuracy, nll = twin(call, known.store, known.scored, known.labels)
        assert told[name]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert told[name]["nll"] == pytest.approx(nll, abs=1e-3)
    faces = drawn_faces(tiny.SIZE).numpy()
    assert set(after(faces)) == set(before(faces))
    difference = np.abs(after(faces)["probabilities"] - before(faces)["probabilities"]).max()
    assert difference == pytest.approx(told["largest_probability_difference"], abs=1e-3)
    assert 0 < difference < (0.01 if precision == "fp16" else 0.3)
    np.testing.assert_allclose(after(faces)["logits"][:1], after(faces[:1])["logits"], atol=1e-2)


def reduced_parts(run):
    from mien.training import checkpoint

    return checkpoint.load_model(run)


def test_refusals(run, tmp_path, capsys):
    with pytest.raises(UsageError, match="--precision fp16 is for --to onnx"):
        export(run, to="torchscript", precision="fp16")
    with pytest.raises(UsageError, match="Did you mean 'int8'"):
        export(run, precision="int9")
    with pytest.raises(UsageError, match="--store is for --precision fp16 or int8"):
        export(run, store=tmp_path, out=tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="for graphs of expressions, not of action units"):
        export(units=True, precision="int8", out=tmp_path / "a.onnx")
    few = tiny.store(tmp_path / "few", each=2, splits=("test",)).path
    with pytest.raises(DataError, match="has 7 labelled faces to score; 20 are the least"):
        export(run, precision="fp16", store=few, out=tmp_path / "a.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_without_the_faces_of_the_run(run, tmp_path, capsys):
    _, recipe, env = reduced_parts(run)
    recipe.data.store.rename(tmp_path / "gone")
    try:
        with pytest.raises(UsageError, match="takes its ranges from faces; name a prepared store by --store"):
            reduced.known_faces("int8", recipe, env, "votes", None)
        assert reduced.known_faces("fp16", recipe, env, "votes", None) is None
        assert "accuracy and calibration are not measured" in capsys.readouterr().err
        known = reduced.known_faces("int8", recipe, env, "votes", tmp_path / "gone")
        assert known.split == "test"
    finally:
        (tmp_path / "gone").rename(recipe.data.store)


def test_units_of_blendshapes_as_a_graph(run, tmp_path):
    rng = torch.Generator().manual_seed(3)
    fusion = Fusion(*(torch.randn(shape, generator=rng) for shape in ((5, 52), (5,), (7, 5), (7,))))
    write_fusion(run, fusion, tiny.NAMES)
    call, about = opened(export(run, units=True, out=tmp_path / "units.onnx"))
    shapes = (np.random.default_rng(0).random((32, 52)) ** 4).astype(np.float32)
    shapes[0], shapes[1] = 0, 1
    found, wanted = call(shapes), measured.unit_intensities(shapes)
    np.testing.assert_allclose(found["intensities"], wanted, atol=1e-4)
    np.testing.assert_allclose(found["added"], fusion.added(torch.from_numpy(shapes)).numpy(), atol=1e-4)
    for row, values in enumerate(wanted):
        there = {column for columns in measured.present_units(values).values() for column in columns}
        assert {name for name, one in zip(about["columns"], found["present"][row], strict=True) if one} == there
    assert about["units"]["AU12"]["proven"] is True
    assert about["units"]["AU12"]["columns"] == ["AU12_L", "AU12_R"]
    assert about["input"]["names"][0] == "_neutral"
    (run / "fusion.ckpt").unlink()


def test_a_run_of_action_units_as_a_graph(tmp_path):
    store = tiny_audet.store(tmp_path / "store")
    out = tmp_path / "units"
    fit_units(tiny_audet.cfg("--training.max_epochs", "1"), store.path, out)
    call, about = opened(export(out, out=tmp_path / "net.onnx"))
    assert about["units"] == list(open_reader(out).net.action_units)
    assert (tmp_path / "face_crop.py").is_file()
    images = store.images(range(32))
    framed = [FramedFace(image, np.zeros((68, 2), np.float32), image, np.eye(2, 3), "whole") for image in images]
    wanted = unit_strengths(open_reader(out), framed)
    np.testing.assert_allclose(call(images.transpose(0, 3, 1, 2))["strengths"], wanted, atol=1e-4)
    np.testing.assert_allclose(call(images[:1].transpose(0, 3, 1, 2))["strengths"], wanted[:1], atol=1e-4)
