"""Terms, masks, segmentation head and curriculum in whole trainings; wrong settings are one clear line."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from mien.config import LossConfig, Recipe, as_dict, load_recipe
from mien.data.store import open_store
from mien.errors import DataError, MienError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.losses.options import TERM_OPTIONS, options_of
from mien.losses.terms import TERMS
from mien.training import checkpoint
from mien.training.loop import fit, loss_terms
from mien.training.objective import masked
from mien.training.session import prepare_session

SEGMENT = {"model": {"segmentation": True}}
ALL = [{"name": name, "weight": 0.01} for name in TERMS]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.store(tmp_path_factory.mktemp("data") / "store").path


@pytest.fixture(scope="module")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs with every term, the last one from epoch 2 on."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    fit(every_term(faces), out)
    return out


def every_term(faces: Path) -> Recipe:
    terms = [*ALL[:-1], {**ALL[-1], "start_epoch": 2}]
    return tiny.recipe(faces, loss={"terms": terms}, optim={"batch": 14}, **SEGMENT)


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_tensors(run / "last.ckpt")[0]


def refused(error: type[MienError], recipe: Recipe, out: Path, *words: str) -> None:
    with pytest.raises(error) as caught:
        fit(recipe, out)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (out / "last.ckpt").exists()


# Settings


def test_the_tables_of_functions_and_options_agree() -> None:
    assert list(TERMS) == list(TERM_OPTIONS)


@pytest.mark.parametrize("name", TERMS)
def test_defaults_are_written_out_and_read_back(name: str, tmp_path: Path) -> None:
    loss = LossConfig(terms=[{"name": name, "weight": 0.5}])
    assert loss.terms == [{"name": name, **asdict(TERM_OPTIONS[name](weight=0.5))}]
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump({"loss": asdict(loss)}))
    assert load_recipe(file).loss == loss
    assert options_of(loss.terms[0]) == TERM_OPTIONS[name](weight=0.5)


def test_terms_from_yaml_and_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "loss:\n  terms:\n  - {name: sparse_features, norm: l2, layer: 3, end_epoch: 4}\n  - name: unimodality\n"
    )
    first, second = load_recipe(file).loss.terms
    assert (first["norm"], first["layer"], first["end_epoch"], first["weight"]) == ("l2", 3, 4, 1.0)
    assert second["name"] == "unimodality"
    command = ["--loss.terms", "[{name: high_entropy, weight: 0.1, kind: generalised, alpha: 0.3}]"]
    (term,) = load_recipe(file, command).loss.terms
    assert (term["name"], term["weight"], term["alpha"]) == ("high_entropy", 0.1, 0.3)
    assert load_recipe(None, ["--loss.classification", "focal", "--loss.focal_gamma=1"]).loss.focal_gamma == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[{name: high_entropi}]", ["unknown term 'high_entropi'", "Did you mean 'high_entropy'"]),
        ("[{name: high_entropy, alfa: 0.2}]", ["option of high_entropy 'alfa'", "Did you mean 'alpha'"]),
        ("[{name: high_entropy, weight: much}]", ["high_entropy", "weight", "much"]),
        ("[{name: high_entropy, kind: other}]", ["high_entropy", "kind", "other"]),
        ("[{name: high_entropy, alpha: 0}]", ["alpha is 0", "between 0 and 1"]),
        ("[{name: high_entropy, weight: -1}]", ["weight is -1", "at least 0"]),
        ("[{name: high_entropy, weight: .nan}]", ["weight is nan"]),
        ("[{name: high_entropy, start_epoch: 3, end_epoch: 2}]", ["end_epoch 2", "before start_epoch 3"]),
        ("[{name: focal, alpha: -1}]", ["alpha is -1"]),
        ("[{name: focal, gamma: -1}]", ["gamma is -1"]),
        ("[{name: ordinal_mean, epsilon: -1}]", ["epsilon is -1"]),
        ("[{name: score_margin, margin: -1}]", ["margin is -1"]),
        ("[{name: cost_sensitive, top: 0}]", ["top is 0"]),
        ("[{name: orthogonal_weights, iterations: 0}]", ["iterations is 0"]),
        ("[{name: sparse_weights, share: 0}]", ["share is 0"]),
        ("[{name: sparse_weights, limit: -1}]", ["limit is -1"]),
        ("[{name: attention_size, low: 0.6, high: 0.4}]", ["low 0.6", "high 0.4"]),
        ("[{name: block_features, layers: []}]", ["layers is empty"]),
        ("[{name: orthogonal_features, same: false}]", ["both false"]),
        ("[{weight: 1}]", ["is no term"]),
        ("[high_entropy]", ["high_entropy"]),
    ],
)
def test_wrong_terms_are_one_line(text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(None, ["--loss.terms", text])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ["loss.terms", *words]), message


# Training


def test_every_term_is_trained_logged_and_in_the_recipe(finished: Path) -> None:
    first, second = log(finished)
    for name in TERMS:
        assert np.isfinite(second[f"train_{name}"]), name
        assert f"train_{name}" in first
    assert first["train_au_segmentation"] == 0 < second["train_au_segmentation"]
    written = yaml.safe_load((finished / "config.yaml").read_text())["loss"]["terms"]
    assert [term["name"] for term in written] == list(TERMS)
    options = {name: {field.name for field in fields(kind)} for name, kind in TERM_OPTIONS.items()}
    assert all(set(term) == {"name"} | options[term["name"]] for term in written)


def test_resume_is_exact(finished: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.training import loop as module

    inner = module.loss_terms

    def stop_in_epoch_2(*arguments):
        if arguments[4] == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(module, "loss_terms", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        fit(every_term(faces), tmp_path / "run")
    monkeypatch.undo()
    fit(every_term(faces), tmp_path / "run")
    again, whole = weights(tmp_path / "run"), weights(finished)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.fixture(scope="module")
def session(faces: Path, tmp_path_factory: pytest.TempPathFactory):
    return prepare_session(tiny.recipe(faces, **SEGMENT, loss={"terms": ALL[-1:]}), tmp_path_factory.mktemp("s"))[0]


def batch_of(session, soft: bool = False):
    from mien.data.loader import Loader

    rows = np.arange(14)
    batch = next(
        iter(Loader(session.store, rows, session.labels, size=tiny.SIZE, batch=14, device=torch.device("cpu")))
    )
    if soft:
        mixed = torch.nn.functional.one_hot(batch.expressions, 7).float()
        batch = batch._replace(expressions=0.7 * mixed + 0.3 * mixed.flip(0))
    return batch


LEVERS = {  # which parameters a term must move
    **dict.fromkeys(("weight_sparsity", "orthogonal_weights", "sparse_weights"), "head.weight"),
    "au_segmentation": "segmentation.weight",
}
NARROW = {"attention_size": {"low": 0.8, "high": 0.9}}  # bounds that the untrained net does not keep


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_the_gradient_of_every_term_reaches_its_weights(session, faces: Path, name: str, soft: bool) -> None:
    term = {"name": name, **NARROW.get(name, {})}
    terms = [term] if name == "au_segmentation" else [term, *ALL[-1:]]
    recipe = tiny.recipe(faces, **SEGMENT, loss={"terms": terms})
    batch = batch_of(session, soft)
    session.model.zero_grad()
    value = loss_terms(recipe, session.model(batch.images), batch, session, 1, 0)[name]
    value.backward()
    gradient = session.model.get_parameter(LEVERS.get(name, "backbone.net.conv1.0.weight")).grad
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "squared", "absolute"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_every_classification_loss_takes_labels_and_soft_targets(session, faces: Path, kind: str, soft: bool) -> None:
    recipe = tiny.recipe(faces, **SEGMENT, loss={"classification": kind, "weight": 2.0, "terms": ALL[-1:]})
    batch = batch_of(session, soft)
    output = session.model.eval()(batch.images)
    double = loss_terms(recipe, output, batch, session, 1, 0)["classification"]
    single = tiny.recipe(faces, **SEGMENT, loss={"classification": kind, "terms": ALL[-1:]})
    assert torch.allclose(double, 2 * loss_terms(single, output, batch, session, 1, 0)["classification"])


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "squared", "absolute"])
def test_a_classification_loss_as_a_term_is_the_same_loss(session, faces: Path, kind: str) -> None:
    """With class weights, label smoothing and a second branch of the head."""
    session = session._replace(class_weight=torch.rand(7) + 0.5)
    batch = batch_of(session)
    output = session.model.eval()(batch.images)
    output = output._replace(branches=(output.logits.flip(1),))
    first = {"classification": kind, "terms": ALL[-1:]}
    added = {"weight": 0.0, "terms": [{"name": kind, "weight": 3.0}, *ALL[-1:]]}
    main, term = (
        loss_terms(
            tiny.recipe(faces, **SEGMENT, optim={"label_smoothing": 0.1}, loss=loss), output, batch, session, 1, 0
        )
        for loss in (first, added)
    )
    assert term["classification"] == 0
    assert torch.allclose(term[kind], 3 * main["classification"])


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ([{"name": "sparse_features", "layer": 6}], ["sparse_features", "layer: 6", "1 to 5"]),
        ([{"name": "ordinal_mean", "order": ["Neutral", "Angry"]}], ["ordinal_mean", "order", "'Anger'"]),
        ([{"name": "cost_sensitive", "top": 7}], ["cost_sensitive", "top 7"]),
        ([{"name": "au_segmentation"}], ["model.segmentation", "go together"]),
    ],
)
def test_terms_that_this_net_cannot_have(faces: Path, tmp_path: Path, loss: list[dict], words: list[str]) -> None:
    refused(UsageError, tiny.recipe(faces, loss={"terms": loss}), tmp_path / "run", "loss.terms", *words)


@pytest.mark.parametrize("head", ["wildcat", "mlp"])
def test_classifiers_of_other_heads(faces: Path, tmp_path: Path, head: str) -> None:
    terms = [{"name": "orthogonal_weights", "weight": 0.1}, {"name": "sparse_weights", "weight": 0.1}]
    recipe = tiny.recipe(faces, loss={"terms": terms}, model={"head": head}, optim={"epochs": 1, "batch": 14})
    fit(recipe, tmp_path / "run")
    assert {"train_orthogonal_weights", "train_sparse_weights"} <= set(log(tmp_path / "run")[0])


def test_two_classifiers_are_refused(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(faces, loss={"terms": [{"name": "sparse_weights"}]}, model={"head": "acol"})
    refused(UsageError, recipe, tmp_path / "run", "sparse_weights", "one classifier", "model.head")


def test_every_term_under_cutmix(faces: Path, tmp_path: Path) -> None:
    options = {"loss": {"terms": ALL, "classification": "focal"}, "augment": {"cutmix": 1.0}, "mask": {"train": 0.5}}
    fit(tiny.recipe(faces, **SEGMENT, **options, optim={"epochs": 1, "batch": 14}), tmp_path / "run")
    assert all(np.isfinite(value) for value in log(tmp_path / "run")[0].values())


def test_a_segmentation_head_without_its_term_is_refused(faces: Path, tmp_path: Path) -> None:
    refused(UsageError, tiny.recipe(faces, **SEGMENT), tmp_path / "run", "model.segmentation", "go together")


# Segmentation and masks


def test_segmentation_is_learnt_and_scored(faces: Path, tmp_path: Path) -> None:
    terms = [{"name": "au_segmentation", "weight": 3.0}]
    recipe = tiny.recipe(faces, **SEGMENT, loss={"terms": terms}, optim={"epochs": 6})
    fit(recipe, tmp_path / "run")
    results = evaluate(tmp_path / "run")
    scores = results["segmentation"]
    assert scores["net"]["dice"]["class_mean"] > scores["baseline:uniform"]["dice"]["class_mean"]
    assert 0 < scores["net"]["iou"]["class_mean"] < scores["net"]["dice"]["class_mean"] <= 100
    assert scores["net"]["dice"]["per_class"]["Neutral"] is None
    assert all(0 <= scores["net"]["dice"]["per_class"][name] <= 100 for name in tiny.NAMES[1:])
    assert results["label_leak"] is False
    assert "segmentation" not in " ".join(results["alignment"])


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
def test_masked_faces_repeat_and_depend_on_the_share(faces: Path, tmp_path: Path, fill: str) -> None:
    recipe = tiny.recipe(faces, mask={"train": 0.5, "fill": fill}, cue={"kind": "landmarks"})
    session, _ = prepare_session(recipe, tmp_path / "run")
    batch = batch_of(session)
    first, again, later = (masked(recipe, batch, session.masking, 0.5, 1, step).images for step in (0, 0, 1))
    changed = (first != batch.images).flatten(1).any(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert 0 < changed.sum() < 14
    assert (masked(recipe, batch, session.masking, 1.0, 1, 0).images != batch.images).flatten(1).any(1).all()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(environment["mask_colour"]) == 3


def test_masked_evaluation_by_the_label_is_told(faces: Path, tmp_path: Path, capsys) -> None:
    recipe = tiny.recipe(faces, mask={"train": 1.0, "evaluate": True, "fill": "mean"}, optim={"epochs": 1})
    fit(recipe, tmp_path / "run")
    results = evaluate(tmp_path / "run")
    assert results["label_leak"] is True
    assert json.loads((tmp_path / "run" / "results.json").read_text())["label_leak"] is True
    told = [line for line in capsys.readouterr().out.splitlines() if "sees the label" in line]
    assert len(told) == 2  # by training and by evaluation
    assert all(line.startswith("warning") for line in told)


def test_masks_and_segmentation_take_the_mean_cue(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(
        faces, **SEGMENT, cue={"control": "mean"}, mask={"train": 1.0, "evaluate": True}, loss={"terms": ALL[-1:]},
        optim={"epochs": 1, "batch": 14},
    )  # fmt: skip
    fit(recipe, tmp_path / "run")
    assert evaluate(tmp_path / "run")["label_leak"] is False


# Curriculum and balance


def test_curriculum_trains_on_its_classes(faces: Path, tmp_path: Path) -> None:
    names = list(tiny.NAMES)
    recipe = tiny.recipe(faces, data={"curriculum": [names[:2], names[2:]]}, optim={"epochs": 2, "batch": 4})
    fit(recipe, tmp_path / "run")
    first, second = log(tmp_path / "run")
    assert first["images_per_second"] * first["seconds"] < 0.5 * second["images_per_second"] * second["seconds"]
    assert load_recipe(tmp_path / "run" / "config.yaml").data.curriculum == [names[:2], names[2:]]


def test_curriculum_of_classes_that_the_store_has_not(faces: Path, tmp_path: Path) -> None:
    eight = [["Contempt"], [*tiny.NAMES]]
    wrong = tiny.recipe(faces, data={"curriculum": eight})
    refused(UsageError, wrong, tmp_path / "a", "data.curriculum", "unknown class 'Contempt'")
    empty = tiny.recipe(faces, data={"curriculum": eight, "scheme": "basic-8"})
    refused(DataError, empty, tmp_path / "b", "data.curriculum", "no training face")


@pytest.mark.parametrize("balance", ["weights_max", "sampler_min"])
def test_balance_runs(tmp_path: Path, balance: str) -> None:
    path = tiny.store(tmp_path / "s", each=4).path
    fit(tiny.recipe(path, data={"balance": balance}, optim={"epochs": 1}), tmp_path / "run")
    assert len(open_store(path)) == 56
    assert as_dict(load_recipe(tmp_path / "run" / "config.yaml"))["data"]["balance"] == balance
