"""Any net in: layers found, answers found, classes matched, the net left as it was."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from other_nets import WORDS, Flat, Small, bright, faces, resnet, vit
from torch import nn

import mien
from mien.audit.sources import face_model
from mien.errors import MienError, UsageError
from mien.explain import explain
from mien.models.taps import tapped
from mien.wrapped.classes import expressions_of, labels_for, read_classes

NAMES = ("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")


@pytest.mark.parametrize("answer", ["logits", "tuple", "dict", "softmax"])
def test_answers_are_those_of_the_net_itself(answer):
    torch.manual_seed(0)
    net = Small(answer).train()
    model = mien.wrap(net, WORDS, size=40)
    assert model.classes == NAMES
    assert model.words == WORDS
    assert net.training, "left as it was found"
    images = torch.from_numpy(faces()).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    net.answer = "logits"
    with torch.no_grad():
        expected = net.eval()((images - mean) / std)
    net.answer = answer
    np.testing.assert_allclose(model.probabilities(faces()), expected.softmax(1), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "layer", "side"), [(resnet, "layer4", 4), (vit, "ln_1", 4), (lambda: Small(), "second", 16)]
)
def test_auto_finds_the_last_layer_with_places(make, layer, side, capsys):
    net = make()
    model = mien.wrap(net, WORDS, size={resnet: 128, vit: 32}.get(make, 64))
    assert model.layer.endswith(layer)
    assert f"maps are those of layer {model.layer}" in capsys.readouterr().err
    images = model.prepare(faces(3))
    methods = (
        ("grad_cam", "layer_cam") if make is resnet else ("grad_cam", "layer_cam", "score_cam")
    )  # 512 masks a face
    maps = explain(model.module, images, 0, methods)
    assert all(map_.shape == (3, 1, side, side) for map_ in maps.values())
    assert maps["grad_cam"].abs().sum() > 0
    assert "forward" not in net.get_submodule(model.layer).__dict__


def test_the_gradient_is_that_of_the_layer_although_the_net_changes_it_in_place():
    """Central differences of the logit with respect to the layer's maps, the in-place ReLU behind them."""
    torch.manual_seed(0)
    net = Small().eval()
    model = mien.wrap(net, WORDS, size=8, layer="second")
    images = model.prepare(faces(1, 8))
    output = model.forward(images)
    grid = output.features[0]
    assert (grid < 0).any(), "before the ReLU"
    (gradient,) = torch.autograd.grad(output.logits[0, 2], grid)

    def logit(maps):
        return net.fc(maps.relu().mean((2, 3)))[0, 2]

    for place in ((0, 3, 0, 0), (0, 5, 1, 1), (0, 0, 1, 0)):
        step = torch.zeros_like(grid)
        step[place] = 1e-2
        slope = (logit(grid.detach() + step) - logit(grid.detach() - step)) / 2e-2
        assert gradient[place] == pytest.approx(slope.item(), abs=1e-3)


def test_tokens_are_on_the_path_to_the_logits():
    """A changed grid changes the answer: what is explained is what the net goes on with."""
    net = vit().eval()
    x = torch.randn(2, 3, 32, 32)
    plain = net(x)
    with tapped(net, ("encoder.layers.encoder_layer_0",), 2) as seen:
        same = net(x)
    torch.testing.assert_close(plain, same)
    assert seen[0].grid.shape == (2, 16, 4, 4)
    assert torch.autograd.grad(same[:, 0].sum(), seen[0].grid)[0].abs().sum() > 0


def test_a_frozen_net_has_gradients_too_and_keeps_its_flags():
    net = resnet().requires_grad_(False)
    model = mien.wrap(net, WORDS, size=64)
    assert model.layer == "layer4"
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    assert explain(model.module, model.prepare(faces(2)), 1, ("grad_cam",))["grad_cam"].abs().sum() > 0


def test_a_net_without_places_says_so(capsys):
    model = mien.wrap(Flat(), WORDS, size=32)
    assert model.layer is None
    assert not model.differentiable
    assert "only `occlusion`" in capsys.readouterr().err
    assert model.probabilities(faces()).shape == (5, 7)


def test_explain_is_the_evidence_of_the_explainer():
    torch.manual_seed(0)
    model = mien.wrap(Small(), WORDS, size=32)
    raw = explain(model.module, model.prepare(faces()), 3, ("layer_cam",))["layer_cam"]
    np.testing.assert_allclose(model.explain(faces(), "layer_cam", "Happiness"), raw.relu()[:, 0], atol=1e-6)
    assert mien.wrap(bright, WORDS, size=24).explain(faces(2)).shape == (2, 8, 8)
    with pytest.raises(UsageError, match="unknown expression 'happy'"):
        model.explain(faces(), expression="happy")


def test_dropout_left_on_is_told(capsys):
    mien.wrap(Small("dropout"), WORDS, size=32)
    assert "differ from pass to pass" in capsys.readouterr().err


def test_half_precision_and_grey_and_a_fixed_size(capsys):
    torch.manual_seed(0)
    plain = Small()
    half = mien.wrap(copy.deepcopy(plain).half(), WORDS, size=32)
    assert half.logits(faces()).dtype == np.float32
    np.testing.assert_allclose(half.logits(faces()), mien.wrap(plain, WORDS, size=32).logits(faces()), atol=2e-2)
    assert explain(half.module, half.prepare(faces(2)), 0, ("grad_cam",))["grad_cam"].dtype == torch.float32
    grey = mien.wrap(Small(channels=1), WORDS)
    assert grey.probabilities(faces()).shape == (5, 7)
    fixed = mien.wrap(Small(size=48), WORDS)
    assert fixed.size == 48
    assert "faces are 48 px, the first usual size that it takes" in capsys.readouterr().err


def test_a_function_and_an_onnx_graph(tmp_path):
    model = mien.wrap(bright, WORDS, size=24)
    np.testing.assert_allclose(model.probabilities(faces(3, 24)), bright(faces(3, 24)), atol=1e-5)
    assert (model.identity, model.layer, model.kind) == ("", None, "function")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = Small().eval()
    file = tmp_path / "small.onnx"
    torch.onnx.export(
        net, (torch.zeros(1, 3, 32, 32),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )
    graph = face_model(file, classes=WORDS)
    assert (graph.size, graph.kind, graph.name) == (32, "onnx", "small")
    assert len(graph.identity) == 64
    np.testing.assert_allclose(
        graph.probabilities(faces()), mien.wrap(net, WORDS, size=32).probabilities(faces()), atol=1e-4
    )


class Encoder(nn.Module):
    """torch's own encoder, whose fused path in evaluation calls none of its parts; tokens first or second."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first, self.patch, self.fc = batch_first, nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 7)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        seen = self.encoder(tokens) if self.batch_first else self.encoder(tokens.transpose(0, 1)).transpose(0, 1)
        return self.fc(seen[:, 0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_encoders_with_a_fused_path(batch_first):
    torch.manual_seed(0)
    model = mien.wrap(Encoder(batch_first), WORDS, size=32)
    assert model.layer == "encoder.layers.1.norm1"
    for method in ("grad_cam", "score_cam"):
        assert explain(model.module, model.prepare(faces(2)), 0, (method,))[method].shape == (2, 1, 4, 4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_odd_nets_give_what_they_can():
    torch.manual_seed(0)
    scripted = torch.jit.script(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    )
    convolutional = nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1))  # answers (B, 7, 1, 1)
    for net, layer in (
        (scripted, None), (convolutional, "0"), (nn.DataParallel(Small()), "module.second"), (Small().double(), "second"),
        (Small().bfloat16(), "second"),
    ):  # fmt: skip
        model = mien.wrap(net, WORDS, size=32)
        assert model.layer == layer
        assert model.probabilities(faces()).shape == (5, 7)
        assert explain(model.module, model.prepare(faces(2)), 0, ("occlusion",))["occlusion"].isfinite().all()
    with pytest.raises(UsageError, match="layer 0 returns no map"):
        mien.wrap(scripted, WORDS, size=32, layer="0")
    with pytest.raises(UsageError, match="no weights yet"):
        mien.wrap(Small().to("meta"), WORDS, size=32)


def test_an_onnx_graph_of_one_batch_size(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net, file = Small().eval(), tmp_path / "fixed.onnx"
    torch.onnx.export(net, (torch.zeros(2, 3, 32, 32),), file, dynamo=False)
    found = mien.wrap(file, WORDS).probabilities(faces(5))
    np.testing.assert_allclose(found, mien.wrap(net, WORDS, size=32).probabilities(faces(5)), atol=1e-4)


def test_preprocessing_of_ones_own():
    net = Small().eval()
    named = mien.wrap(net, WORDS, size=40, preprocess="half").logits(faces())
    tensor = mien.wrap(net, WORDS, size=40, preprocess=lambda x: (x - 0.5) / 0.5).logits(faces())
    picture = mien.wrap(
        net, WORDS, size=40, preprocess=lambda p: torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1
    ).logits(faces())
    np.testing.assert_allclose(named, tensor, atol=1e-5)
    np.testing.assert_allclose(named, picture, atol=1e-3)


def test_classes_are_matched_by_name():
    assert expressions_of(("03_sad", "Joy", "ANGRY", "bored")) == ("Sadness", "Happiness", "Anger", "bored")
    assert read_classes("rafdb")[0] == "Surprise"
    assert read_classes({1: "b", 0: "a"}) == ("a", "b")
    for wrong, words in (
        (("cat", "dog"), "none of the classes"),
        (("happy", "joy"), "both stand for Happiness"),
    ):
        with pytest.raises(UsageError, match=words):
            expressions_of(wrong)
    with pytest.raises(UsageError, match="names of the net's classes are not known"):
        mien.wrap(Small())


def test_labels_follow_the_names(tmp_path):
    from tiny import store

    faces_of = store(tmp_path / "toy", each=1)
    labels = labels_for(faces_of, ("bored", "Happiness", "Anger"))
    assert [faces_of.expression[k] for k in np.flatnonzero(labels == 1)] == ["Happiness"] * 2
    assert set(faces_of.expression[labels < 0]) == {"Neutral", "Surprise", "Fear", "Disgust", "Sadness"}
    polar = labels_for(faces_of, ("Positive", "Negative"))
    assert set(faces_of.expression[polar == 1]) == {"Anger", "Disgust", "Fear", "Sadness"}


def test_mistakes_are_one_line():
    for net, options, words in (
        (Small(), {"size": 32, "layer": "fourth"}, "unknown layer"),
        (Small(classes=5), {"size": 32}, r"returns \(2, 5\); expected \(B, 7\)"),
        (Small(size=48), {"size": 32}, "does not take such pictures"),
        (Small(), {"size": 32, "preprocess": "vgg"}, "unknown preprocessing"),
        (lambda f: np.ones((len(f), 3)), {"size": 32}, "expected"),
        (3, {}, "is no model"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            mien.wrap(net, WORDS, **options)
        assert "\n" not in str(error.value)


def test_a_module_that_somebody_changed_is_put_back():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    plain = net[0].forward

    def own(x):
        return plain(x)

    net[0].forward = own
    with tapped(net, ("0",), 1):
        net(torch.zeros(1, 3, 4, 4))
    assert net[0].forward is own


@dataclass
class Answer:
    """What some code of papers returns."""

    feature: torch.Tensor
    prediction: torch.Tensor


class Plain:
    """An object that is no dataclass."""

    def __init__(self, pooled: torch.Tensor, logits: torch.Tensor) -> None:
        self.au, self.expression, self._hidden = pooled[:, :7], logits, logits * 2


@pytest.mark.parametrize(
    ("name", "pack", "told"),
    [
        ("dataclass", lambda pooled, logits: Answer(pooled, logits), False),
        ("object", Plain, True),
        ("nested", lambda pooled, logits: {"out": {"expr": logits, "au": pooled}}, False),
        ("same width", lambda pooled, logits: {"au": pooled[:, :7], "expression": logits}, True),
        ("one row", lambda pooled, logits: logits[:, None], False),
        ("arrays", lambda pooled, logits: (pooled.detach().numpy(), logits.detach().numpy()), False),
        ("per cent", lambda pooled, logits: 100 * logits.softmax(1), False),
    ],
)
def test_answers_are_found_wherever_they_stand(name, pack, told):
    class Packed(Small):
        def forward(self, x):
            pooled = self.second(self.act(self.first(x))).relu().mean((2, 3))
            return pack(pooled, self.fc(pooled))

    torch.manual_seed(0)
    packed = Packed().eval()
    plain = Small().eval()
    plain.load_state_dict(packed.state_dict())
    model = mien.wrap(packed, WORDS, size=32, preprocess="half")
    expected = mien.wrap(plain, WORDS, size=32, preprocess="half").probabilities(faces())
    np.testing.assert_allclose(model.probabilities(faces()), expected, atol=1e-5)
    assert any("it returns several" in note for note in model.notes) == told


def test_answers_of_a_sigmoid_are_told():
    class Sigmoid(Small):
        def forward(self, x):
            return super().forward(x).sigmoid()

    assert any("do not add up" in note for note in mien.wrap(Sigmoid(), WORDS, size=32).notes)


def test_a_quantised_net_and_its_hash():
    torch.manual_seed(0)
    nets = [torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}) for _ in range(2)]
    first, second = (mien.wrap(net, WORDS, size=32).identity for net in nets)
    assert first != second
    assert first == mien.wrap(copy.deepcopy(nets[0]), WORDS, size=32).identity


def shares_of(pictures):
    up = np.asarray(pictures, np.float64).mean((1, 2, 3)) / 255
    return np.stack([up, *[(1 - up) / 6] * 6], 1)


def test_functions_answer_in_any_form_and_fail_in_one_line():
    expected = mien.wrap(shares_of, WORDS, size=24).probabilities(faces())
    for same in (
        lambda f: shares_of(f).tolist(), lambda f: torch.tensor(shares_of(f), requires_grad=True), lambda f: 100 * shares_of(f),
    ):  # fmt: skip
        np.testing.assert_allclose(mien.wrap(same, WORDS, size=24).probabilities(faces()), expected, atol=1e-5)
    whitened = mien.wrap(
        lambda f: shares_of((f - f.mean()) / f.std() * 20 + 99), WORDS, size=24
    )  # fails on black pictures alone
    assert whitened.probabilities(faces()).shape == (5, 7)
    for function, words in (
        (lambda f: None, "expected"), (lambda f: ["happy"] * len(f), "fails on"), (lambda f: [{"happy": 1}] * len(f), "fails"),
        (lambda f: shares_of(f) - 1, "softmax"), (lambda f: shares_of(f) * np.nan, "not finite"),
        (lambda f: shares_of(f).T, "expected"),
    ):  # fmt: skip
        with pytest.raises(MienError, match=words) as error:
            mien.wrap(function, WORDS, size=24)
        assert "\n" not in str(error.value)
    two = mien.wrap(lambda f: shares_of(f) if len(f) == 2 else 1 / 0, WORDS, size=24)
    with pytest.raises(UsageError, match="fails on"):
        two.probabilities(faces())


def test_orders_of_classes():
    numbered = {word: k for k, word in enumerate(WORDS)}
    assert read_classes(numbered) == WORDS
    assert read_classes({str(k): word for word, k in numbered.items()}) == WORDS
    for wrong, words in (
        ({0: "angry", 2: "sad"}, "numbered 0, 2"), ({"a": "angry", "b": "sad"}, "are numbered"), (set(WORDS), "no order"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            read_classes(wrong)
    with pytest.raises(
        UsageError, match="only Neutral of the classes"
    ) as error:  # one class alone is right on every face
        expressions_of(("Wut", "Ekel", "Angst", "Freude", "neutral", "Trauer"))
    assert "English" in str(error.value)
    with pytest.raises(UsageError, match="and 988 more is an expression") as error:
        expressions_of([f"n{k}" for k in range(1000)])
    assert len(str(error.value)) < 300


def test_what_is_no_net_is_said_in_one_line():
    for net, options, words in (
        (Small, {}, "Small is a class"), (Small().state_dict(), {}, "load_state_dict"), (Small(), {"size": 0}, "size is 0"),
        (Small(), {"size": (32, 32)}, "size is"), (Small(), {"size": 32.0}, "size is"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            mien.wrap(net, WORDS, **options)


@pytest.mark.parametrize("kind", ["grey", "grey, colours last", "bytes", "two outputs"])
def test_onnx_graphs_in_other_forms(kind, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Turned(Small):
        def forward(self, x):
            x = x.permute(0, 3, 1, 2) if "last" in kind or kind == "bytes" else x
            logits = super().forward(x.float() / 255 if kind == "bytes" else x)
            return (-logits, logits) if kind == "two outputs" else logits

    channels = 1 if "grey" in kind else 3
    shape = (1, 32, 32, channels) if "last" in kind or kind == "bytes" else (1, channels, 32, 32)
    example = torch.zeros(shape, dtype=torch.uint8 if kind == "bytes" else torch.float32)
    names = ["auxiliary", "expression"] if kind == "two outputs" else ["answer"]
    torch.onnx.export(
        Turned(channels=channels).eval(), (example,), tmp_path / "n.onnx", dynamo=False, output_names=names
    )
    model = mien.wrap(tmp_path / "n.onnx", WORDS)
    assert model.size == 32
    assert np.isfinite(model.probabilities(faces())).all()
    assert any("expression is taken" in note for note in model.notes) == (kind == "two outputs")


def test_a_file_of_code_runs_as_python_runs_it_and_fails_in_one_line(tmp_path):
    (tmp_path / "parts_of_mine.py").write_text("SIDE = 32\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy as np\nimport mien\n"
        "from parts_of_mine import SIDE\n@dataclass\nclass Config:\n    side: int = SIDE\n"
        "def make():\n    return mien.wrap(lambda f: np.full((len(f), 2), 0.5), ('happy', 'sad'), size=Config().side)\n"
        "def broken():\n    return {}['weights.pt']\n"
    )
    assert face_model(f"{file}:make").size == 32
    for text, words in (
        (f"{file}:broken", r"fails in line 12: KeyError: 'weights.pt'"), (f"{file}:other", "no function 'other'"),
        (f"{file}:Config", "returned a Config"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words) as error:
            face_model(text)
        assert "\n" not in str(error.value)
    file.write_text("def make(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        face_model(f"{file}:make")
