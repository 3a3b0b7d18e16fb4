"""Evaluation: baselines stand beside every score, and numbers do not depend on how they were batched."""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import yaml

from mien.config import ModelConfig, as_dict
from mien.cues import render_cue
from mien.data.labels import labels_of, voted_labels
from mien.data.store import open_store
from mien.data.transforms import normalise
from mien.errors import DataError, UsageError
from mien.evaluation import collect
from mien.evaluation.evaluate import BASELINES, MISMATCHED, choose_methods, evaluate
from mien.explain import DEFAULT_METHODS, Sampling, evidence, explain
from mien.metrics.alignment import SCORES, cam_scores
from mien.metrics.faithfulness import FAITHFULNESS, TWINS
from mien.models import HEADS, create_model
from mien.schema import EXPRESSIONS, HeadOutput, Layers
from mien.training import checkpoint
from mien.training.loop import fit


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny.store(tmp_path_factory.mktemp("data") / "store").path


@pytest.fixture(scope="module")
def run(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny.recipe(faces, guidance={"weight": 2.0}, optim={"epochs": 3}), out)
    return out


@pytest.fixture(scope="module")
def results(run):
    return evaluate(run)


def test_nothing_of_a_batch_stays_but_its_rows(run, tmp_path, monkeypatch):
    """Tensors that stay from batch to batch leave holes in memory, which grew by 100 KB a face."""
    copy, alive = Path(shutil.copytree(run, tmp_path / "run")), []
    inner = collect.batch_scores

    def counted(*arguments):
        alive.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
        return inner(*arguments)

    monkeypatch.setattr(collect, "batch_scores", counted)
    evaluate(copy, methods="cam", batch=7)
    assert len(alive) == 6
    assert len(set(alive[2:])) == 1, alive


def test_baselines_controls_and_every_layer(results):
    names = set(results["alignment"])
    assert names >= {f"baseline:{name}" for name in BASELINES} | {f"mismatched:{name}" for name in MISMATCHED}
    assert names >= {f"layer-{k}" for k in range(1, 6)} | set(DEFAULT_METHODS)
    for name, kinds in results["alignment"].items():
        assert set(kinds) >= set(SCORES)
        for kind in SCORES:
            score = kinds[kind]
            low = -1 if kind in ("cosine", "pearson") else 0
            assert low - 1e-6 <= score["class_mean"] <= 1 + 1e-6, (name, kind)
    uniform = results["alignment"]["baseline:uniform"]
    assert uniform["pearson"]["class_mean"] == pytest.approx(0, abs=1e-5)
    assert uniform["cosine"]["class_mean"] > 0.2  # why a cosine without its baseline says little
    mean = results["alignment"]["baseline:mean"]["cosine"]["class_mean"]
    assert mean > uniform["cosine"]["class_mean"]


def test_a_trained_attribution_has_rows_of_its_own(faces, tmp_path, results, capsys):
    """Constrained channels and all of them, of the true class; a run that was guided by activation has no such row."""
    second = {"weight": 1.0, "attribution": "grad_input", "similarity": "pearson", "channels": "first_half"}
    guidance = {"weight": 1.0, "attribution": "grad_cam", "layers": [4, 5]}
    fit(tiny.recipe(faces, guidance=guidance, second={**second, "cue": "landmarks"}), tmp_path / "run")
    found = evaluate(tmp_path / "run")["alignment"]
    assert [name for name in found if name.startswith(("guided:", "second:"))] == [
        "guided:grad_cam", "second:grad_input", "second:grad_input-all",
    ]  # fmt: skip
    assert all(-1 <= found[name]["pearson"]["class_mean"] <= 1 for name in found)
    assert found["second:grad_input"] != found["second:grad_input-all"]
    assert "second:grad_input-all" in capsys.readouterr().out
    assert not any(name.startswith(("guided:", "second:")) for name in results["alignment"])


def test_the_file_is_the_result(run, results):
    read = json.loads((run / "results.json").read_text())
    assert read.pop("sha256")  # the seal
    assert read == json.loads(json.dumps(results))
    assert read["faces"] == 42
    assert read["faces_with_cue"] == 36  # Neutral has no cue
    assert read["classes"][0] == "Neutral"
    assert read["store_fingerprint"] == json.loads((run / "environment.json").read_text())["store_fingerprint"]
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error"):
        assert 0 <= read["classification"][key] <= 1


def test_predictions_agree_with_a_direct_pass(run, faces, results):
    store = open_store(faces)
    saved = np.load(run / "maps" / "faces.npz")
    assert list(saved["id"]) == [name for name, split in zip(store.ids, store.split, strict=True) if split == "test"]
    model, recipe, _ = checkpoint.load_model(run)
    images = normalise(torch.from_numpy(store.images(saved["row"])).permute(0, 3, 1, 2))
    with torch.no_grad():
        direct = model(images).logits.softmax(1).numpy()
    assert np.allclose(saved["probabilities"], direct, atol=1e-5)
    labels = labels_of(store, recipe.data.scheme)[saved["row"]]
    assert (saved["label"] == labels).all()
    assert results["classification"]["accuracy"] == pytest.approx((direct.argmax(1) == labels).mean())
    assert (saved["valid"] == (labels != 0)).all()


def test_annotators_majority(run, faces, results):
    """A loop over the votes: ties, no votes and expressions outside the scheme are left out."""
    saved, right, counted = np.load(run / "maps" / "faces.npz"), 0, 0
    for row, share in zip(saved["row"], saved["probabilities"], strict=True):
        votes = open_store(faces).votes[row].tolist()
        counted += 1
        right += votes.index(max(votes)) == share.argmax()
    assert results["votes"]["count"] == counted
    assert results["votes"]["accuracy"] == pytest.approx(right / counted)


def test_majority_labels():
    votes = np.full((5, len(EXPRESSIONS)), np.nan, np.float32)
    votes[0], votes[1], votes[2], votes[3] = 0, 0, 0, 0
    votes[0, 1], votes[0, 3] = 0.6, 0.4  # Happiness, which is Positive
    votes[1, 1] = votes[1, 3] = 0.5  # a tie
    votes[2, EXPRESSIONS.index("Surprise")] = 1  # in no class of polarity
    store = SimpleNamespace(votes=votes)
    assert voted_labels(store, "polarity-3").tolist() == [1, -1, -1, -1, -1]
    assert voted_labels(store, "basic-7").tolist() == [1, -1, 2, -1, -1]


def test_class_means(run):
    means = np.load(run / "maps" / "class_means.npz")
    assert set(means.files) == {"cue", "attention", "cam"}
    for name in means.files:
        assert means[name].shape == (7, tiny.SIZE, tiny.SIZE)
        assert means[name].min() >= 0
        assert means[name].max() <= 1 + 1e-6
    assert (means["cue"][0] == 0).all()
    assert (means["cue"][1:].max(axis=(1, 2)) > 0.5).all()


def test_batch_size_does_not_matter(run, results, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    other = evaluate(copy, batch=5)
    assert other["classification"]["confusion"] == results["classification"]["confusion"]
    for name, kinds in results["alignment"].items():
        for kind in SCORES:
            assert other["alignment"][name][kind]["class_mean"] == pytest.approx(kinds[kind]["class_mean"], abs=1e-4), (
                name,
                kind,
            )


def test_other_splits_and_stores(run, faces, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = (copy / "results.json").read_bytes()
    scores = evaluate(copy, split="train")
    assert (copy / "results.json").read_bytes() == before
    assert json.loads((copy / "results-train.json").read_text())["split"] == "train"
    assert scores["faces"] + evaluate(copy, split="valid")["faces"] == 42


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_store_leaves_the_runs_own_scores_alone(run, results, faces, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = contents(copy)
    other = tiny.store(tmp_path / "other", seed=5)
    assert evaluate(copy, store=other.path, methods="cam")["store_fingerprint"] == other.fingerprint
    assert f"written to {copy / 'results-on-other.json'}" in capsys.readouterr().out
    evaluate(copy, store=other.path, split="train", methods="cam")
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    names = ("results{}.json", "predictions{}.csv", "errors{}.csv", "maps/faces{}.npz", "maps/class_means{}.npz")
    assert set(after) - set(before) == {n.format(s) for n in names for s in ("-on-other", "-train-on-other")}
    namesake = tiny.store(tmp_path / "elsewhere" / "other", seed=6)
    with pytest.raises(DataError, match=r"results-on-other\.json holds scores on other faces"):
        evaluate(copy, store=namesake.path)
    moved = Path(shutil.copytree(faces, tmp_path / "moved"))
    evaluate(copy, store=moved, methods="cam")
    assert not (copy / "results-on-moved.json").exists()


def test_scored_pictures_that_were_in_training_are_counted(faces, tmp_path, capsys):
    """By pixels: under other ids and splits too; whether the store of the training is still there or not."""
    from mien.data.store import write_store

    run, own = tmp_path / "run", Path(shutil.copytree(faces, tmp_path / "own"))
    fit(tiny.recipe(own, optim={"epochs": 1}), run)
    learnt = json.loads((run / "environment.json").read_text())["rows"]["train"]
    capsys.readouterr()
    assert evaluate(run, methods="cam")["scored_in_training"] == 0
    assert evaluate(run, split="train", methods="cam")["scored_in_training"] == learnt
    assert capsys.readouterr().err == ""
    again = [record._replace(id=f"again-{record.id}", split="test") for record in tiny.records()]
    write_store(again, tmp_path / "again", dataset="toy", size=tiny.SIZE)
    assert evaluate(run, store=tmp_path / "again", methods="cam")["scored_in_training"] == learnt
    assert f"{learnt} of the {len(again)} scored pictures are training faces" in capsys.readouterr().err
    shutil.rmtree(own)
    assert evaluate(run, store=tmp_path / "again", methods="cam")["scored_in_training"] is None
    told = capsys.readouterr().err
    assert "could not be checked" in told
    assert told.count("\n") == 1
    assert evaluate(run, store=faces, methods="cam")["scored_in_training"] == 0  # the same faces in another place


def test_store_without_the_split(run, tmp_path):
    other = tiny.store(tmp_path / "other", splits=("train", "valid"))
    with pytest.raises(DataError, match="no labelled faces in split 'test'") as caught:
        evaluate(run, store=other.path)
    assert "\n" not in str(caught.value)


def test_a_guided_run_on_a_store_without_landmarks(faces, tmp_path):
    """No cue anywhere: scores are empty, not wrong, and classification stands."""
    from mien.data.store import write_store

    blind = [record._replace(landmarks=None) for record in tiny.records(each=4)]
    store = write_store(blind, tmp_path / "blind", dataset="toy", size=tiny.SIZE)
    second = {"weight": 1.0, "attribution": "grad_input", "similarity": "pearson", "cue": "landmarks"}
    fit(tiny.recipe(faces, guidance={"weight": 1.0}, second=second, optim={"epochs": 1}), tmp_path / "run")
    scores = evaluate(tmp_path / "run", store=store.path)
    assert scores["faces_with_cue"] == 0
    assert scores["alignment"]["layer-5"]["cosine"]["class_mean"] is None
    assert scores["alignment"]["second:grad_input"]["pearson"]["class_mean"] is None
    assert scores["excess"]["layer-5"]["scores"]["cosine"]["class_mean"] is None
    assert set(scores["class_cues"]["faces"].values()) == {0}
    assert 0 <= scores["classification"]["accuracy"] <= 1


def test_a_run_guided_by_an_attribution_predicts_without_landmarks(faces, tmp_path):
    """The same pictures with and without their landmarks get the same probabilities, with guidance on or off."""
    from mien.data.store import write_store

    blind = [record._replace(landmarks=None) for record in tiny.records()]
    store = write_store(blind, tmp_path / "blind", dataset="toy", size=tiny.SIZE)
    pal = {"weight": 1.0, "attribution": "grad_input", "similarity": "pearson", "cue": "landmarks"}
    recipe = tiny.recipe(faces, guidance=pal, optim={"epochs": 1})
    fit(recipe, tmp_path / "run")
    told = []
    for weight, path, name in (
        (1.0, faces, "faces"),
        (1.0, store.path, "faces-on-blind"),
        (0.0, store.path, "faces-on-blind"),
    ):
        settings = replace(recipe, guidance=replace(recipe.guidance, weight=weight))
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(as_dict(settings)))
        evaluate(tmp_path / "run", store=path, methods="cam")
        told.append(np.load(tmp_path / "run" / "maps" / f"{name}.npz")["probabilities"])
    assert np.array_equal(told[0], told[1])
    assert np.array_equal(told[0], told[2])


def test_landmark_cue_has_no_other_class(faces, tmp_path):
    recipe = tiny.recipe(faces, optim={"epochs": 1})
    fit(replace(recipe, cue=replace(recipe.cue, kind="landmarks")), tmp_path / "run")
    scores = evaluate(tmp_path / "run")
    assert "mismatched:other_class" not in scores["alignment"]
    assert scores["faces_with_cue"] == 42  # landmarks give Neutral a cue too


def test_a_store_of_test_faces_alone_can_be_scored(tmp_path: Path) -> None:
    tiny.store(tmp_path / "faces")
    tiny.store(tmp_path / "foreign", splits=("test",), seed=5)
    fit(tiny.recipe(tmp_path / "faces", optim={"epochs": 1}), tmp_path / "run")
    results = evaluate(tmp_path / "run", store=tmp_path / "foreign")
    assert results["faces"] == 42
    assert results["alignment"]["baseline:mean"]["cosine"]["class_mean"] > 0.3
    with pytest.raises(DataError, match="no labelled faces"):
        evaluate(tmp_path / "run", store=tmp_path / "foreign", split="valid")


class HiddenHead(torch.nn.Module):
    """A head with a hidden layer and without class maps: no closed form, no CAM."""

    def __init__(self, channels: int, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        self.top = torch.nn.Sequential(
            torch.nn.Linear(channels, 8), torch.nn.Tanh(), torch.nn.Dropout(drop), torch.nn.Linear(8, classes)
        )

    def forward(self, layers: Layers, labels: torch.Tensor | None = None) -> HeadOutput:
        return HeadOutput(self.top(layers.features[-1].mean(dim=(2, 3))), None)


@pytest.fixture(scope="module")
def hidden_run(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "hidden"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HEADS, "hidden", HiddenHead)
        fit(tiny.recipe(faces, model={"head": "hidden"}, optim={"epochs": 1}), out)
        yield out


def test_a_head_without_class_maps(hidden_run, capsys):
    scores = evaluate(hidden_run)
    assert scores["methods"] == ["grad_cam", "grad_cam_pp", "layer_cam"]
    assert "left out: cam." in capsys.readouterr().err
    assert "cam@predicted" not in scores["alignment"]
    assert np.isfinite(scores["alignment"]["layer_cam"]["pearson"]["class_mean"])
    assert set(np.load(hidden_run / "maps" / "class_means.npz").files) == {"cue", "attention", "grad_cam"}
    with pytest.raises(UsageError, match="cam: this model has no class activation maps") as caught:
        evaluate(hidden_run, methods="cam")
    assert "\n" not in str(caught.value)


def test_methods_are_those_of_explain(hidden_run, faces):
    """Scores per face equal `explain` and the metric called by hand, through one backward pass a batch."""
    evaluate(hidden_run, methods="hires_cam,score_cam,ss_cam", samples=2, batch=11)
    saved = np.load(hidden_run / "maps" / "faces.npz")
    model, recipe, _ = checkpoint.load_model(hidden_run)
    store = open_store(faces)
    images = normalise(torch.from_numpy(store.images(saved["row"])).permute(0, 3, 1, 2))
    labels = torch.from_numpy(saved["label"])
    cue = render_cue(
        recipe.cue, torch.from_numpy(store.landmarks[saved["row"]].astype(np.float32)), labels,
        image_size=(tiny.SIZE, tiny.SIZE), size=(tiny.SIZE, tiny.SIZE),
    )  # fmt: skip
    maps = explain(model, images, labels, ("hires_cam", "score_cam", "ss_cam"), sampling=Sampling(samples=2))
    for name, raw in maps.items():
        for kind, values in cam_scores(evidence(name, raw), cue.maps).items():
            assert np.allclose(saved[f"{name}/{kind}"], values.numpy(), atol=1e-4), (name, kind)


def test_predicted_class(run, results):
    """Where the answer is right nothing changes; faces misclassified as Neutral have no cue."""
    saved = np.load(run / "maps" / "faces.npz")
    predicted = saved["probabilities"].argmax(1)
    right = saved["valid"] & (predicted == saved["label"])
    assert right.any()
    assert np.allclose(saved["cam@predicted/cosine"][right], saved["cam/cosine"][right], atol=1e-5)
    assert (saved["valid_predicted"] == (saved["valid"] & (predicted != 0))).all()
    own, said = results["alignment"]["cam"]["cosine"], results["alignment"]["cam@predicted"]["cosine"]
    assert said["correct"] == pytest.approx(own["correct"], abs=1e-6)


def test_class_by_class(run, results, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    evaluate(copy, per_class=True)
    shown = capsys.readouterr().out
    confusion = np.array(results["classification"]["confusion"])
    for k, (name, row) in enumerate(results["per_class"].items()):
        assert row["faces"] == confusion[k].sum()
        assert row["recall"] == pytest.approx(confusion[k, k] / confusion[k].sum())
        others = confusion[k].copy()
        others[k] = 0
        assert row["taken_for"] == (results["classes"][others.argmax()] if others.any() else None)
        assert set(row["cosine"]) == {"layer-5", *DEFAULT_METHODS}
        assert row["cosine"]["cam"]["all"] == pytest.approx(results["alignment"]["cam"]["cosine"]["per_class"][name])
        assert f"  {name:<12}" in shown
    assert results["per_class"]["Neutral"]["cosine"]["cam"] == {"all": None, "right": None, "wrong": None}


def test_faithfulness(run, results, tmp_path, capsys):
    assert "faithfulness" not in results
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    options = {"faithfulness": True, "faithfulness_faces": 10, "faithfulness_steps": 4, "methods": "cam,layer_cam"}
    found = evaluate(copy, **options)["faithfulness"]
    assert (found["faces"], found["steps"]) == (10, 4)
    assert set(found["scores"]) == {"layer-5", "cam", "layer_cam", "baseline:random", "baseline:centre"}
    for name, kinds in found["scores"].items():
        assert set(kinds) == {"deletion", "insertion"} if name.startswith("baseline") else set(FAITHFULNESS)
        for kind, score in kinds.items():
            assert score["higher_is_better"] is FAITHFULNESS[kind]
            assert (-1 if kind.startswith("random") else 0) <= score["class_mean"] <= 1 + 1e-6
    saved = np.load(copy / "maps" / "faces.npz")
    assert np.isfinite(saved["cam/deletion"]).sum() == 10
    spread = found["scores"]["cam"]["randomised_all"]
    assert found["twins"] == len(spread["each"]) == TWINS
    assert spread["deviation"] == pytest.approx(np.std([one for one in spread["each"] if one is not None], ddof=1))
    assert spread["undefined"] == 10 - np.isfinite(saved["cam/randomised_all"]).sum()
    assert found["scores"]["layer-5"]["randomised_head"]["class_mean"] == pytest.approx(1, abs=1e-4)  # of no class
    assert found["scores"]["cam"]["randomised_head"]["class_mean"] < 0.99
    again = evaluate(copy, **options, batch=3)["faithfulness"]["scores"]
    for name, kinds in found["scores"].items():
        for kind, score in kinds.items():
            assert again[name][kind]["class_mean"] == pytest.approx(score["class_mean"], abs=1e-4), (name, kind)
    assert "faithfulness over 10 faces" in capsys.readouterr().out


def test_bad_options(run):
    for options, words in (
        ({"methods": "layercam"}, "Did you mean 'layer_cam'"),
        ({"methods": "score_cam", "samples": 0}, "samples is 0"),
        ({"faithfulness": True, "faithfulness_steps": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
    ):
        with pytest.raises(UsageError, match=words):
            evaluate(run, **options)


def test_default_methods_of_a_transformer(faces, capsys):
    """Whatever fits, and one line about what does not."""
    options: dict[str, bool | int | float] = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
    recipe = tiny.recipe(faces)
    for head, expected in (
        ("ts_cam", (*DEFAULT_METHODS, "attention", "ts_cam", "rollout")),
        ("cls", ("attention", "rollout")),
    ):
        net = {"backbone": "deit_tiny_patch16_224", "backbone_options": options, "head": head, "size": tiny.SIZE}
        model = create_model(ModelConfig(**net), 7)
        assert choose_methods(None, model, recipe) == expected
    assert "left out: cam, grad_cam, grad_cam_pp, layer_cam." in capsys.readouterr().err
