"""Distillation: targets of the training faces are mixed with what other runs say of them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from mien.box import pack
from mien.config import DataConfig, load_recipe
from mien.data.labels import labels_of
from mien.data.loader import Loader, targets_of
from mien.data.store import open_store
from mien.data.transforms import normalise
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.report.card import card
from mien.report.runs import load_run
from mien.training import checkpoint, teachers
from mien.training.loop import fit
from mien.training.session import prepare_session
from mien.training.teachers import FILE, taught

NET = {"backbone": "small_resnet", "channels": [8, 16], "stem_pool": True, "output_stride": None}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("faces") / "s", each=8).path


@pytest.fixture(scope="module")
def runs(faces, tmp_path_factory):
    """A teacher with two heads and one with a head, of another size."""
    folder = tmp_path_factory.mktemp("runs")
    fit(tiny.recipe(faces, data={"targets": "both"}, model=NET), folder / "two")
    fit(tiny.recipe(faces, model={**NET, "size": 24}, optim={"epochs": 1}), folder / "one")
    return [folder / "two", folder / "one"]


def test_a_target_is_the_mean_of_truth_and_teachers_weighed_by_their_share():
    said = np.array([[0.2, 0.3, 0.5], [0.9, 0.1, 0.0]], np.float32)
    mixed = taught(np.array([2, -1, 0]), np.array([2, 0]), said, 0.25)
    for row, (label, own) in {2: (0, said[0]), 0: (2, said[1])}.items():
        for k in range(3):
            assert mixed[row, k] == pytest.approx(0.75 * (k == label) + 0.25 * own[k])
    votes = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], np.float32)
    mixed = taught(votes, np.array([1]), said[:1], 1.0)
    assert mixed[0].tolist() == votes[0].tolist()
    assert mixed[1].tolist() == said[0].tolist()
    assert votes[1].tolist() == [0.0, 1.0, 0.0], "the store's own votes stay"


def test_the_loss_is_that_of_hinton_at_temperature_1():
    q, z = [0.2, 0.3, 0.5], torch.tensor([[0.1, 2.0, -1.0]])
    mixed = torch.from_numpy(taught(np.array([1]), np.array([0]), np.array([q], np.float32), 0.4))
    log_p = [v - math.log(sum(math.exp(u) for u in z[0].tolist())) for v in z[0].tolist()]
    expected = -0.6 * log_p[1] - 0.4 * sum(a * b for a, b in zip(q, log_p, strict=True))
    assert torch.nn.functional.cross_entropy(z, mixed).item() == pytest.approx(expected, rel=1e-6)


def test_both_heads_learn_from_the_mean_of_the_teachers_and_their_mirrored_faces(faces, runs, tmp_path):
    recipe = tiny.recipe(faces, data={"targets": "both", "teachers": runs, "teacher_share": 0.25}, model=NET)
    session, _ = prepare_session(recipe, tmp_path / "run")
    store, row = open_store(faces), session.split.train[3]
    said = {"votes": np.zeros(7), "labels": np.zeros(7)}
    for run in runs:
        model, own, _ = checkpoint.load_model(run)
        image = torch.from_numpy(store.image(int(row))).permute(2, 0, 1)[None]
        picture = torch.nn.functional.interpolate(
            image.float(), size=(own.model.size,) * 2, mode="bilinear", antialias=True
        )
        picture = normalise(picture.round().clamp(0, 255).to(torch.uint8), own.model.preprocessing)
        for view in (picture, picture.flip(-1)):
            output = model(view)
            of_labels = output.logits if output.label_logits is None else output.label_logits
            for head, logits in (("votes", output.logits), ("labels", of_labels)):
                said[head] += logits.detach().softmax(1)[0].numpy() / 4
    votes, label = targets_of(store, "basic-7", "both")[row], np.eye(7)[labels_of(store, "basic-7")[row]]
    assert session.targets[row] == pytest.approx(0.75 * votes + 0.25 * said["votes"], abs=2e-3)
    assert session.label_targets[row] == pytest.approx(0.75 * label + 0.25 * said["labels"], abs=2e-3)
    judged = session.split.valid
    assert (session.label_targets[judged].max(1) == 1).all(), "nobody is asked about validation faces"


@torch.no_grad()
def test_each_face_is_seen_mirrored_too(faces, runs):
    model, own, _ = checkpoint.load_model(runs[0])
    model.head.weight *= 50  # or both views of a net that hardly learnt would be answered alike
    store, rows = open_store(faces), np.arange(5)
    votes, _ = teachers.answers(model, own, store, rows, "two")
    images = normalise(torch.from_numpy(store.images(rows)).permute(0, 3, 1, 2), own.model.preprocessing)
    one, other = (model(view).logits.softmax(1) for view in (images, images.flip(-1)))
    assert (one - other).abs().max() > 1e-2
    torch.testing.assert_close(votes, (one + other) / 2)


def test_labels_alone_learn_from_the_labels_head(faces, runs, tmp_path):
    recipe = tiny.recipe(faces, data={"teachers": runs[:1], "teacher_share": 1.0}, model=NET)
    session, _ = prepare_session(recipe, tmp_path / "run")
    with np.load(tmp_path / "run" / FILE) as kept:
        assert session.targets[session.split.train] == pytest.approx(kept["labels"])
        assert np.abs(kept["labels"] - kept["votes"]).max() > 1e-3
    assert session.label_targets is None


def test_teachers_are_asked_once(faces, runs, tmp_path, monkeypatch):
    recipe = tiny.recipe(faces, data={"teachers": runs[1:]}, model=NET)
    fit(recipe, tmp_path / "whole")
    prepare_session(recipe, tmp_path / "run")  # as far as a training that is stopped in its first epoch gets
    asked = []
    ask = teachers.answers
    monkeypatch.setattr(teachers, "answers", lambda *values: asked.append(values) or ask(*values))
    fit(recipe, tmp_path / "run")
    assert not asked
    lines = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("run", "whole")
    ]
    assert [one["train_classification"] for one in lines[0]] == [one["train_classification"] for one in lines[1]]
    (tmp_path / "run" / FILE).write_bytes((tmp_path / "run" / FILE).read_bytes()[:100])
    with pytest.raises(DataError, match=r"teachers\.npz is damaged.*delete it"):
        prepare_session(recipe, tmp_path / "run")
    (tmp_path / "run" / FILE).unlink()
    prepare_session(replace(recipe, data=replace(recipe.data, teachers=runs[:1])), tmp_path / "other")
    (tmp_path / "run" / FILE).write_bytes((tmp_path / "other" / FILE).read_bytes())  # of another teacher
    prepare_session(recipe, tmp_path / "run")
    assert len(asked) == 2


def test_card_and_packed_weights_name_the_teachers_without_their_place(faces, runs, tmp_path):
    fit(tiny.recipe(faces, data={"teachers": runs}, model=NET, optim={"epochs": 1}), tmp_path / "run")
    evaluate(tmp_path / "run", methods="cam")
    told = card(load_run(tmp_path / "run", "run"))
    assert "A share of 0.5 of each target is the mean answer of `two`, `one`." in told
    pack.pack_run(tmp_path / "run", tmp_path / "packed")
    text = (tmp_path / "packed" / "config.yaml").read_text()
    assert str(tmp_path) not in text
    assert checkpoint.read_run(tmp_path / "packed")[0].data.teachers == [Path("two"), Path("one")]


def test_a_folder_of_other_settings_keeps_what_its_teachers_said(faces, runs, tmp_path):
    recipe = tiny.recipe(faces, data={"teachers": runs[:1]}, model=NET)
    prepare_session(recipe, tmp_path / "run")
    before = (tmp_path / "run" / FILE).read_bytes()
    with pytest.raises(UsageError, match=r"run with other settings \(data\.teachers"):
        prepare_session(replace(recipe, data=replace(recipe.data, teachers=runs)), tmp_path / "run")
    assert (tmp_path / "run" / FILE).read_bytes() == before


def test_shares_of_both_heads_reach_the_device_in_one_copy(faces):
    store = open_store(faces)
    votes = targets_of(store, "basic-7", "both")
    loader = Loader(
        store,
        np.arange(4),
        votes,
        size=tiny.SIZE,
        batch=4,
        device=torch.device("cpu"),
        labels=np.ascontiguousarray(votes[:, ::-1]),
    )
    batch = next(iter(loader))
    assert batch.expressions.numpy().tolist() == votes[:4].tolist()
    assert batch.labels.numpy().tolist() == votes[:4, ::-1].tolist()
    assert batch.expressions.untyped_storage().data_ptr() == batch.labels.untyped_storage().data_ptr()


def test_teachers_that_cannot_teach_are_refused(faces, runs, tmp_path):
    def begun(**data):
        prepare_session(tiny.recipe(faces, data=data, model=NET), tmp_path / "run")

    with pytest.raises(UsageError, match=r"two knows the classes of basic-7, .* data\.scheme polarity-3"):
        begun(teachers=runs, scheme="polarity-3")
    with pytest.raises(DataError, match="is not a run folder"):
        begun(teachers=[tmp_path / "nothing"])
    fit(tiny.recipe(faces, model=NET, run={"seed": 5}, optim={"epochs": 1}), tmp_path / "seen")
    with pytest.raises(UsageError, match=r"data\.teachers .*seen was trained on \d+ of the faces"):
        begun(teachers=[tmp_path / "seen"])
    guided = tiny.recipe(faces, transformer={"kind": "guide"}, cue={"kind": "landmarks"}, optim={"epochs": 1})
    fit(guided, tmp_path / "guided")
    with pytest.raises(UsageError, match=r"guided is steered by a guide \(transformer\.kind guide\)"):
        begun(teachers=[tmp_path / "guided"])


def test_a_share_of_no_teachers_and_a_share_of_nothing_are_refused():
    with pytest.raises(UsageError, match=r"data\.teacher_share is the share of data\.teachers, and none is named"):
        DataConfig(teacher_share=0.3)
    with pytest.raises(UsageError, match=r"data\.teacher_share is 0"):
        load_recipe(None, ["--data.teachers", "[a]", "--data.teacher_share", "0"])
