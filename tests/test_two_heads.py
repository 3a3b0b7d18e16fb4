"""data.targets both: a head for the annotators' votes and a head for the labels, each with its own loss and its own scores."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from mien.calibrate import calibrate
from mien.data.cutmix import mix_batch
from mien.data.labels import labels_of, voted_labels
from mien.data.loader import Loader, targets_of
from mien.data.store import open_store, write_store
from mien.data.transforms import normalise
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.losses.terms import Step
from mien.models import create_model
from mien.predict.model import load
from mien.schema import EXPRESSIONS, scheme_classes
from mien.training import checkpoint
from mien.training.loop import fit
from mien.training.session import prepare_session


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A store whose votes say the class after that of the label, in nine cases of ten."""
    out, rows = tmp_path_factory.mktemp("faces") / "s", []
    for record in tiny.records(each=8):
        votes, k = np.zeros(len(EXPRESSIONS), np.float32), EXPRESSIONS.index(record.expression)
        votes[k], votes[(k + 1) % 7] = 0.1, 0.9
        rows.append(record._replace(votes=votes))
    return write_store(rows, out, dataset="toy", size=tiny.SIZE).path


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "both"
    net = {"backbone": "small_resnet", "channels": [8, 16, 16], "stem_pool": True, "output_stride": None}
    optim = {"epochs": 2, "batch": 14, "sizes": [[16, 0.5]], "select": "last"}
    fit(tiny.recipe(faces, data={"targets": "both"}, model=net, optim=optim), out)
    return out


def test_each_head_answers_its_own_question(run, faces):
    model, _, _ = checkpoint.load_model(run)
    store = open_store(faces)
    labels, voted = labels_of(store, "basic-7"), voted_labels(store, "basic-7")
    rows = np.flatnonzero(store.split == "test")
    batch = next(iter(Loader(store, rows, labels, size=tiny.SIZE, batch=len(rows), device=torch.device("cpu"))))
    output = model(batch.images)
    by_labels, by_votes = output.label_logits.argmax(1).numpy(), output.logits.argmax(1).numpy()
    assert not np.allclose(output.label_logits.detach(), output.logits.detach())
    results = evaluate(run)
    assert results["classification"]["accuracy"] == pytest.approx((by_labels == labels[rows]).mean())
    assert results["votes"]["accuracy"] == pytest.approx((by_votes == voted[rows]).mean())


def test_both_heads_learn(faces, tmp_path):
    recipe = tiny.recipe(faces, data={"targets": "both"}, optim={"epochs": 1, "select": "last"})
    start = prepare_session(recipe, tmp_path / "start")[0].model.state_dict()
    fit(recipe, tmp_path / "run")
    end = checkpoint.load_model(tmp_path / "run")[0].state_dict()
    assert all(not torch.equal(start[name], end[name]) for name in ("head.weight", "label_head.weight"))


def test_a_calibration_names_the_head_that_answers(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    by_votes, by_labels = calibrate(copy, accuracy=0.01), calibrate(copy, accuracy=0.01, head="labels")
    assert (by_votes["head"], by_labels["head"]) == ("votes", "labels")
    assert (copy / "labels.json").is_file()
    net, _, _ = checkpoint.load_model(copy)
    image = np.random.default_rng(0).integers(0, 255, (tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
    shown = normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        output = net(shown)
    for name, logits, kept in ((None, output.logits, by_votes), ("labels", output.label_logits, by_labels)):
        model = load(copy, faces="none", calibration=name, views=1, device="cpu")
        face = model.predict(image, explain="cam").faces[0]
        expected = (logits / kept["temperature"]).softmax(1)[0].tolist()
        assert list(face.probabilities.values()) == pytest.approx(expected, abs=1e-4)
        assert face.explanation.map.shape == (tiny.SIZE // 8, tiny.SIZE // 8)
    (copy / "labels.json").write_text((copy / "labels.json").read_text().replace('"labels"', '"nobody"'))
    with pytest.raises(DataError, match="head 'nobody'"):
        load(copy, faces="none", calibration="labels")


def test_one_head_has_no_choice(faces, tmp_path):
    fit(tiny.recipe(faces, optim={"epochs": 1}), tmp_path / "run")
    with pytest.raises(UsageError, match="two heads"):
        calibrate(tmp_path / "run", head="labels")


def test_loss_is_the_weighted_mean_of_both(faces):
    torch.manual_seed(0)
    recipe = tiny.recipe(faces, data={"targets": "both"})
    store, classes = open_store(faces), scheme_classes("basic-7")
    model = create_model(recipe.model, 7, two_heads=True)
    labels, votes = labels_of(store, "basic-7"), targets_of(store, "basic-7", "both")
    rows = np.arange(12)
    loader = Loader(store, rows, votes, size=tiny.SIZE, batch=12, device=torch.device("cpu"), labels=labels)
    batch = next(iter(loader))
    output = model(batch.images)
    step = Step(model, output, batch.expressions, classes, 1.0, lambda: None, labels=batch.labels, label_share=0.3)
    expected = 0.0
    for b in range(12):
        first, second = output.logits[b].log_softmax(0), output.label_logits[b].log_softmax(0)
        own = -sum(float(votes[rows[b], k]) * first[k].item() for k in range(7))
        expected += (0.7 * own - 0.3 * second[labels[rows[b]]].item()) / 12
    assert step.classification("cross_entropy").item() == pytest.approx(expected, rel=1e-5)


def test_cutmix_mixes_the_labels_of_the_second_head_too(faces):
    store = open_store(faces)
    labels, votes = labels_of(store, "basic-7"), targets_of(store, "basic-7", "both")
    loader = Loader(store, np.arange(4), votes, size=tiny.SIZE, batch=4, device=torch.device("cpu"), labels=labels)
    batch = next(iter(loader))
    mixed = mix_batch(batch, (0, tiny.SIZE // 2, 0, tiny.SIZE), torch.tensor([1, 2, 3, 0]), 7)
    one_hot = torch.eye(7)[batch.labels]
    assert torch.allclose(mixed.labels, 0.5 * one_hot + 0.5 * one_hot[[1, 2, 3, 0]])


def test_a_net_that_takes_one_size_only_is_refused(faces, tmp_path):
    net = {"backbone": "simple_cnn", "head": "flat", "preprocessing": "grey", "channels": None, "stem_pool": True}
    recipe = tiny.recipe(faces, model={**net, "output_stride": None}, optim={"sizes": [[24, 0.5]]})
    with pytest.raises(UsageError, match="does not take pictures of 24 px"):
        fit(recipe, tmp_path / "run")
