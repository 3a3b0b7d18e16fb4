"""A run as one graph: the same numbers as the model, every map as the explainers give it, clear refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_token_maps import CONFIGS as TOKEN_CONFIGS

from mien import export as verb
from mien.cli import main
from mien.config import ModelConfig, TransformerConfig
from mien.data.transforms import luma, normalise
from mien.errors import DataError, UsageError
from mien.explain import explain
from mien.models import HEADS, create_model
from mien.training.loop import fit

NARROW = {"backbone": "resnet10t", "size": 32, "stem_pool": False, "output_stride": 8, "channels": [8, 8, 8, 8]}
MLP = {"hidden1": 16, "hidden2": 8}
MODELS = {
    **{head: ModelConfig(head=head, **NARROW) for head in ("gap", "max_pool", "lse", "wildcat", "prm")},
    "acol": ModelConfig(head="acol", head_options={"width": 16}, **NARROW),
    "mlp": ModelConfig(head="mlp", head_options=MLP, **NARROW),
    "flat": ModelConfig(backbone="simple_cnn", head="flat", size=48, preprocessing="grey"),
    "flat14": ModelConfig(head="mlp", head_options={**MLP, "flatten": True}, **{**NARROW, "size": 56}),
    **TOKEN_CONFIGS,
    "cls": ModelConfig(**{**TOKEN_CONFIGS["ts_cam"].__dict__, "head": "cls"}),
}
"""Every head, mlp that pools to 7x7, and APViT."""
CHAIN = {"grad_cam", "grad_cam_pp", "layer_cam"}
MAPS = {"gap": {"cam", *CHAIN}, "mlp": CHAIN, "flat": CHAIN, "flat14": set(), "cls": {"token_attention", "rollout"}}
MAPS |= {head: {"cam"} for head in ("max_pool", "lse", "wildcat", "prm", "acol")}
MAPS |= {"ts_cam": {"cam", "ts_cam", "token_attention", "rollout"}, "apvit": {"token_attention", "rollout"}}


def graph_of(config: ModelConfig, transformer: TransformerConfig | None = None, **options) -> verb.Graph:
    torch.manual_seed(0)
    model = create_model(config, 7, transformer=transformer or TransformerConfig()).eval()
    if transformer is not None:
        torch.nn.init.normal_(model.transformer.fc_loc[-1].weight, std=0.05)
    return verb.Graph(model, config.preprocessing, **{"grey": False, "temperature": 1.0, **options}).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tiny.store(tmp_path_factory.mktemp("data") / "store").path
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(path, optim={"epochs": 1}), out)
    (out / "calibration.json").write_text('{"temperature": 2.5, "threshold": 0.4}')
    return out


def test_every_head_is_tried():
    assert set(MODELS) == {*HEADS, "flat14", "apvit"} == set(MAPS)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_maps_are_those_of_the_explainers(name):
    graph = graph_of(MODELS[name])
    faces = verb.drawn_faces(MODELS[name].size)[:3]
    found = graph(faces)
    assert set(found) == {"logits", "probabilities", "attention", *MAPS[name]}
    images = normalise(faces, MODELS[name].preprocessing)
    for method in MAPS[name]:
        for target in (0, 4):
            known = "attention" if method == "token_attention" else method
            wanted = explain(graph.model, images, target, [known])[known]
            own = found[method] if found[method].shape[1] == 1 else found[method][:, target : target + 1]
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6 + 1e-5 * float(wanted.abs().max()))


def differences(graph: verb.Graph, size: int, to: str, folder) -> dict[str, float]:
    suffix, write, read = verb.WRITERS[to]
    faces, file = verb.drawn_faces(size), folder / f"model{suffix}"
    with torch.no_grad(), verb.quietly():
        write(graph, faces[:2], file, {"classes": ["a", "b"]})
        return verb.largest_difference(graph, read(file), faces)


@pytest.mark.parametrize("name", MODELS)
def test_torchscript_of_every_head(name, tmp_path):
    assert max(differences(graph_of(MODELS[name]), MODELS[name].size, "torchscript", tmp_path).values()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
@pytest.mark.parametrize("name", MODELS)
def test_every_head_in_the_other_formats(name, to, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    worst = differences(graph_of(MODELS[name]), MODELS[name].size, to, tmp_path)
    assert max(worst.values()) < verb.TOLERANCE


@pytest.mark.slow
def test_a_spatial_transformer_that_sees_the_picture(tmp_path):
    pytest.importorskip("onnxruntime")
    graph = graph_of(MODELS["gap"], TransformerConfig(kind="image"))
    assert max(differences(graph, 32, "onnx", tmp_path).values()) < verb.TOLERANCE


def test_without_a_run_the_model_in_the_box_is_written_here(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verb, "bundled_run", lambda: run)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", "torchscript"]) == 0
    assert (tmp_path / "model.torchscript.pt").is_file()
    assert "at batch 1 and 32, as float32: largest difference 0.0e+00" in capsys.readouterr().out


def test_the_ending_names_the_format(run, tmp_path):
    assert verb.format_of(None, None) == "onnx"
    assert (
        verb.format_of(None, Path("a.pt")) == verb.format_of("torchscript", Path("a.torchscript.pt")) == "torchscript"
    )
    assert verb.format_of(None, Path("a.pt2")) == "torch-export"
    with pytest.raises(UsageError, match="ends as files of onnx do, but --to is torchscript"):
        verb.export(run, to="torchscript", out=tmp_path / "x.onnx")
    with pytest.raises(UsageError, match=r"must be one of \.onnx, \.pt, \.pt2"):
        verb.export(run, out=tmp_path / "f.tflite")


def test_torch_export_of_a_run(run, tmp_path, capsys):
    file = verb.export(run, to="torch-export", out=tmp_path / "model.pt2")
    kept = {"mien.json": ""}
    program = torch.export.load(file, extra_files=kept)
    assert json.loads(kept["mien.json"])["input"]["size"] == tiny.SIZE
    assert tuple(program.module()(verb.drawn_faces(tiny.SIZE)[:3])["probabilities"].shape) == (3, 7)
    assert "at batch 1 and 32, as float32: largest difference" in capsys.readouterr().out


def test_onnx_of_a_run(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(run), "--out", str(tmp_path / "model.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["mien"])
    assert about["classes"] == list(tiny.NAMES)
    assert [output.name for output in session.get_outputs()] == list(about["outputs"])
    assert about["calibration"] == {
        "temperature": 2.5,
        "threshold": 0.4,
        "offsets": [],
        "head": "votes",
        "fitted_on": "",
    }
    assert "not what a person feels" in about["notice"]
    assert (about["precision"], about["opset"]) == ("float32", 20)
    assert about["action_units"]["Happiness"] == ["AU12", "AU25", "AU6"] or "AU12" in about["action_units"]["Happiness"]
    shares = session.run(["probabilities"], {"pixels": verb.drawn_faces(tiny.SIZE).numpy()})[0]
    assert np.allclose(shares.sum(1), 1, atol=1e-5)


@torch.no_grad()
def test_the_temperature_divides_the_logits():
    found = graph_of(MODELS["gap"], temperature=2.5)(verb.drawn_faces(32))
    torch.testing.assert_close(found["probabilities"], (found["logits"] / 2.5).softmax(1))


@torch.no_grad()
def test_a_run_of_grey_pictures_makes_them_grey_itself():
    faces = verb.drawn_faces(32)
    grey = luma(faces).expand(-1, 3, -1, -1)
    plain, own = graph_of(MODELS["gap"]), graph_of(MODELS["gap"], grey=True)
    torch.testing.assert_close(own(faces)["logits"], plain(grey)["logits"])
    torch.testing.assert_close(own(grey)["logits"], plain(grey)["logits"])


def test_a_file_that_differs_is_not_kept(run, tmp_path, monkeypatch):
    suffix, write, read = verb.WRITERS["torchscript"]

    def wrong(file):
        call = read(file)
        return lambda pixels: {**call(pixels), "cam": call(pixels)["cam"] + 1}

    monkeypatch.setitem(verb.WRITERS, "torchscript", (suffix, write, wrong))
    with pytest.raises(DataError, match=r"differs from PyTorch by .* of the largest cam"):
        verb.export(run, to="torchscript", out=tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_the_format_cannot_hold(tmp_path, run, monkeypatch):
    def write(graph, example, file, meta):
        raise RuntimeError("outer") from RuntimeError("No ONNX function found for <OpOverload(op='aten.made_up')>")

    monkeypatch.setitem(verb.WRITERS, "torchscript", (".pt", write, verb.WRITERS["torchscript"][2]))
    with pytest.raises(DataError, match=r"cannot be written as torchscript: ONNX has no counterpart of aten\.made_up"):
        verb.export(run, to="torchscript", out=tmp_path / "model.pt")


def test_refusals(tmp_path, run, monkeypatch):
    path = tiny.store(tmp_path / "store").path
    for kind, wanted in (("guide", "a guide image"), ("landmarks", "landmarks")):
        with pytest.raises(UsageError, match=f"steered by {wanted}"):
            verb.refuse_guided(tiny.recipe(path, transformer={"kind": kind}, cue={"kind": "landmark_mask"}))
    with pytest.raises(DataError, match="not a run folder"):
        verb.export(tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        verb.export(run, to="onxx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'mien\[export\]'"):
        verb.export(run, out=tmp_path / "model.onnx")
