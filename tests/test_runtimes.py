"""The net in other runtimes: the same answers, the fastest by measurement, PyTorch where nothing is at hand."""

import sys

import pytest
import tiny
import torch
from torch import nn

from mien.errors import UsageError
from mien.models import create_model
from mien.predict import runtimes
from mien.predict.views import logits_of

CPU = torch.device("cpu")
PACKAGES = {"onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino", "onnx")}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    model = create_model(tiny.recipe(None).model, 7).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # as after a training, or folding them in would change nothing
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    return model


def pictures(count: int) -> torch.Tensor:
    images = torch.rand(count, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(count))
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "compiled" else n for n in runtimes.RUNTIMES]
)
def test_every_runtime_answers_as_torch_for_any_number_of_faces(name: str, net: nn.Module) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    answers = runtimes.as_answers(net, name, tiny.SIZE, CPU, False, False)
    assert answers.named == name
    for count in (1, 2, 5, 33):
        expected = logits_of(net, pictures(count), None, 2)
        assert torch.allclose(logits_of(answers, pictures(count), None, 2), expected, atol=1e-4)
    assert answers(pictures(0)).logits.shape == (0, 7)
    try:  # as the page exchanges calibrations
        net.offsets = torch.linspace(-1, 1, 7)
        assert torch.allclose(answers(pictures(2)).logits, net(pictures(2)).logits, atol=1e-4)
        again = runtimes.as_answers(net, name, tiny.SIZE, CPU, False, False)
        assert torch.allclose(again(pictures(2)).logits, net(pictures(2)).logits, atol=1e-4)
    finally:
        net.offsets = None
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


class Clock:
    """Time that runtimes of the test take, whatever the machine does."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


def late(few: float, many: float, add: float = 0.0):
    """A runtime that takes some seconds for a face or two, and others for many."""

    def make(net, example):
        def answer(images):
            CLOCK.now += few if len(images) <= runtimes.FEW else many
            return net(images) + add

        return answer

    return make


def broken(net, example):
    raise RuntimeError("no such operator\nin this version")


def absent(net, example):
    raise ImportError("No module named 'none'", name="none")


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        "torch": late(4, 8), "quick": late(1, 6), "many": late(3, 5), "wrong": late(0, 0, add=0.01), "broken": broken,
        "absent": absent,
    }  # fmt: skip
    monkeypatch.setattr(runtimes, "RUNTIMES", kinds)
    monkeypatch.setattr(runtimes, "UNASKED", tuple(kinds))
    monkeypatch.setattr(runtimes, "time", CLOCK)


def test_the_fastest_that_answers_alike_is_taken_for_one_face_and_for_many(zoo: None, net: nn.Module) -> None:
    answers = runtimes.as_answers(net, runtimes.FASTEST, tiny.SIZE, CPU, False, False)
    assert answers.chosen == {False: "quick", True: "many"}
    assert answers.named == "quick and many"
    assert set(answers.ready) == {"quick", "many"}  # the others are given up


def test_auto_measures_when_it_begins_to_pay(zoo: None, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "WAIT", 20)
    answers = runtimes.as_answers(net, runtimes.AUTO, tiny.SIZE, CPU, False, False)
    for _ in range(2):
        assert answers(pictures(10)).features  # of torch, whole
        assert not answers.ready
    assert answers.named == "torch"
    found = answers(pictures(10))
    assert not found.features
    assert torch.allclose(found.logits, net(pictures(10)).logits, atol=1e-4)
    assert answers.chosen == {True: "many"}
    answers(pictures(1))
    assert answers.chosen == {True: "many", False: "quick"}
    half = runtimes.as_answers(net, runtimes.AUTO, tiny.SIZE, CPU, True, False)
    assert half.chosen == {False: "torch", True: "torch"}


@pytest.mark.parametrize(("files", "first"), [(None, "torch"), (1999, "torch"), (2000, "many")])
def test_auto_does_not_wait_where_many_files_are_known(
    files: int | None, first: str, zoo: None, net: nn.Module
) -> None:
    answers = runtimes.as_answers(net, runtimes.AUTO, tiny.SIZE, CPU, False, False)
    answers.expect(files)
    assert torch.allclose(answers(pictures(10)).logits, net(pictures(10)).logits, atol=1e-4)
    assert answers.named.split()[-1] == first


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", r"^runtime broken cannot take this net \(no such operator in this version\); take torch\.$"),
        ("wrong", "^runtime wrong answers otherwise than torch for this net"), ("absent", "needs the package 'none'"),
        ("quikc", "quick"),
    ],
)  # fmt: skip
def test_one_that_cannot_be_is_refused_by_its_name(zoo: None, name: str, told: str, net: nn.Module) -> None:
    with pytest.raises(UsageError, match=told):
        runtimes.as_answers(net, name, tiny.SIZE, CPU, False, False)


def test_what_a_runtime_cannot_is_refused(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, told in (
        (("frozen", CPU, True, False), "precision 32-true"), (("frozen", CPU, False, True), "steered by a guide"),
        (("onnxruntime", torch.device("cuda:0"), False, False), "for the processor, and the device is cuda:0"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            runtimes.check_runtime(*given)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"pip install 'mien\[openvino\]'"):
        runtimes.as_answers(net, "openvino", tiny.SIZE, CPU, False, False)
