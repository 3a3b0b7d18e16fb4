"""Guides in the flows: what reaches the net, pictures in memory, patience, resume, transfer, training on everything."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mien.config import AugmentConfig, ModelConfig, OptimConfig, Recipe, TransformerConfig, load_recipe
from mien.data.loader import Loader, labels_of, load_memory
from mien.data.store import open_store
from mien.data.transforms import luma, normalise
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.explain import PERTURBATION_MAPS, Sampling, explain
from mien.models import create_model
from mien.schema import Batch
from mien.training import checkpoint
from mien.training import loop as training
from mien.training.loop import fit
from mien.training.optim import class_weights, make_optimizer
from mien.training.steering import kept_guides, with_guide
from mien.training.validation import out_of_patience

STILL = dict.fromkeys(("flip", "rotation", "translate", "scale", "jitter"), 0.0)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.store(tmp_path_factory.mktemp("data") / "store", each=3).path


def recipe(faces: Path, kind: str = "guide", **sections) -> Recipe:
    net = {"backbone": "simple_cnn", "head": "flat", "preprocessing": "grey", "drop": 0.5}
    plain = {"stem_pool": True, "output_stride": None, "channels": None}
    model = {**net, **plain, **sections.pop("model", {})}
    rest = {"cue": {"kind": "landmarks"}, "augment": STILL, "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0}}
    for name, changes in sections.items():
        rest[name] = {**rest.get(name, {}), **changes}
    return tiny.recipe(faces, model=model, transformer={"kind": kind}, **rest)


def batch_of(count: int = 4) -> Batch:
    points = torch.from_numpy(np.stack([tiny.points() + k for k in range(count)]))
    points[-1] = float("nan")
    empty = torch.full((count, 1), float("nan"))
    return Batch(
        torch.zeros(count, 3, 32, 32), torch.zeros(count, dtype=torch.int64), empty, points, torch.arange(count)
    )


def guide_of(
    kind: str = "guide", missing: str = "white", control: str = "none", mean: Tensor | None = None
) -> Tensor | None:
    settings = recipe(Path("nowhere"), kind, cue={"control": control})
    settings = replace(settings, transformer=replace(settings.transformer, missing=missing))
    return with_guide(settings, batch_of(), mean, 1, 0).guide


def test_the_guide_is_the_cue_and_faces_without_one_are_white_or_black():
    white, black = guide_of(), guide_of(missing="black")
    assert white.shape == (4, 1, 32, 32)
    assert white[:3].std() > 0
    assert torch.equal(white[:3], black[:3])
    assert (white[3] == 1).all()
    assert (black[3] == 0).all()


def test_controls_of_the_cue_are_controls_of_the_guide():
    plain = guide_of()
    assert (guide_of(control="uniform") == 1).all()
    shuffled = guide_of(control="shuffled")[:3]
    assert not any(torch.equal(a, b) for a, b in zip(shuffled, plain, strict=False))
    assert {float(map_.sum()) for map_ in shuffled} == {float(map_.sum()) for map_ in plain[:3]}
    mean = torch.full((1, 1, 32, 32), 0.25)
    assert (guide_of(control="mean", mean=mean)[:3] == 0.25).all()


def test_landmarks_and_nothing():
    assert torch.equal(guide_of("landmarks")[:3], batch_of().landmarks[:3])
    assert guide_of("image") is None
    assert guide_of("none") is None


def test_a_guide_must_not_tell_the_label():
    with pytest.raises(UsageError, match="drawn from the label"):
        load_recipe(None, ["--transformer.kind", "guide"])
    assert load_recipe(None, ["--transformer.kind", "guide", "--cue.kind", "au_generic"]).transformer.kind == "guide"


def test_grey_is_pillows():
    colours = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    pixels = torch.from_numpy(colours).permute(0, 3, 1, 2)
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colours])
    assert np.array_equal(luma(pixels)[:, 0], pillow)
    images = normalise(pixels, "grey")
    assert images.shape == (2, 3, 9, 9)
    assert torch.allclose(images[:, 1], torch.from_numpy(pillow) / 255 * 2 - 1, atol=1e-6)
    assert torch.equal(normalise(luma(pixels), "grey"), images)


@pytest.mark.parametrize("name", PERTURBATION_MAPS)
def test_changed_pictures_keep_the_guide_of_their_face(name):
    torch.manual_seed(0)
    config = ModelConfig(backbone="simple_cnn", head="flat", size=32, preprocessing="grey")
    model = create_model(config, 3, transformer=TransformerConfig(kind="guide"))
    torch.nn.init.normal_(model.transformer.fc_loc[2].weight, std=0.1)
    images, guide = torch.rand(3, 3, 32, 32), torch.rand(3, 1, 32, 32)
    options = {"methods": (name,), "sampling": Sampling(samples=2, chunk=7)}
    together = explain(model, images, 1, guide=guide, **options)[name]
    alone = torch.cat([explain(model, images[k : k + 1], 1, guide=guide[k : k + 1], **options)[name] for k in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_pictures_in_memory_are_those_of_the_store(faces):
    store = open_store(faces)
    rows, labels = np.array([5, 3, 8, 1, 7]), labels_of(store, "basic-7")
    for preprocessing, size in (("grey", 32), ("imagenet", 40)):
        options = {
            "size": size,
            "batch": 2,
            "device": torch.device("cpu"),
            "preprocessing": preprocessing,
            "drop_last": True,
            "augment": AugmentConfig(jitter=0.0) if preprocessing == "imagenet" else None,
        }
        memory = load_memory(store, ModelConfig(size=size, preprocessing=preprocessing), torch.device("cpu"))
        plain, kept = (list(Loader(store, rows, labels, memory=m, **options)) for m in (None, memory))
        assert len(plain) == len(kept) == 2
        for one, other in zip(plain, kept, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.rows, other.rows)
            assert torch.equal(one.expressions, other.expressions)
            assert torch.allclose(one.landmarks, other.landmarks, atol=1e-4)


def test_guides_in_memory_are_drawn_once_where_they_never_change(faces):
    store = open_store(faces)
    memory = load_memory(store, ModelConfig(size=32, preprocessing="grey"), torch.device("cpu"))
    settings = recipe(faces)
    kept = kept_guides(settings, memory, None)
    options = {"size": 32, "batch": 4, "device": torch.device("cpu"), "preprocessing": "grey"}
    rows, labels = np.array([9, 2, 4]), labels_of(store, "basic-7")
    (batch,) = Loader(store, rows, labels, memory=memory._replace(guides=kept), **options)
    (plain,) = Loader(store, rows, labels, **options)
    assert torch.allclose(batch.guide, with_guide(settings, plain, None, 3, 0).guide, atol=1e-5)
    assert with_guide(settings, batch, None, 3, 0) is batch
    changes = (
        {"cue": {"control": "shuffled"}},
        {"augment": {"cutmix": 0.5}},
        {"augment": {"flip": 0.5}},
        {"mask": {"train": 0.5}},
    )
    for changing in changes:
        assert kept_guides(recipe(faces, **changing), memory, None) is None
    assert kept_guides(recipe(faces, "image"), memory, None) is None


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.load_tensors(run / "last.ckpt")[0]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """Two epochs with a shuffled guide and dropout, read from the store."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    fit(recipe(faces, cue={"control": "shuffled"}), out)
    return out


def test_resume_and_memory_change_nothing(faces, trained, tmp_path, monkeypatch):
    settings, inner = recipe(faces, cue={"control": "shuffled"}, run={"in_memory": True}), training.loss_terms

    def stop_in_epoch_2(*arguments):
        if arguments[4] == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(training, "loss_terms", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, tmp_path / "parts")
    monkeypatch.undo()
    fit(settings, tmp_path / "parts")
    assert same(weights(tmp_path / "parts"), weights(trained))


@pytest.mark.parametrize("kind", ["masked", "channel", "landmarks"])
def test_every_kind_trains_and_is_scored(faces, tmp_path, kind):
    settings = recipe(faces, kind, optim={"epochs": 1})
    fit(settings, tmp_path / kind)
    results = evaluate(tmp_path / kind, methods="grad_cam")
    assert results["faces"] == 21
    assert np.isfinite(results["alignment"]["grad_cam"]["pearson"]["class_mean"])
    kept = np.load(tmp_path / kind / "maps" / "faces.npz")
    assert ("theta" in kept) == (kind != "channel")
    if kind == "landmarks":
        assert kept["theta"].shape == (21, 2, 3)
        shape = checkpoint.load_model(tmp_path / kind)[0].transformer.mean_shape
        assert (shape - torch.from_numpy((2 * tiny.points() + 1) / 32 - 1)).abs().max() < 0.1


def test_a_mean_guide_is_that_of_the_training_faces(faces, tmp_path):
    fit(recipe(faces, cue={"control": "mean"}, optim={"epochs": 1}), tmp_path / "run")
    assert evaluate(tmp_path / "run", methods="grad_cam")["faces"] == 21


def test_guidance_and_guide_together(faces, tmp_path):
    guided = {"weight": 1.0, "attribution": "grad_input", "cue": "au"}
    fit(recipe(faces, guidance=guided, optim={"epochs": 1}), tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert np.isfinite(line["train_guidance"])


def published_stop(accuracies: list[float], patience: int = 30) -> int:
    """Epochs that the published loop runs: a counter, reset by an improvement, looked at from epoch 30 on."""
    best, counter = 0.0, 0
    for epoch, accuracy in enumerate(accuracies):
        counter = 0 if accuracy > best else counter + 1
        best = max(best, accuracy)
        if epoch > patience - 1 and counter == patience:
            return epoch + 1
    return len(accuracies)


@pytest.mark.parametrize("seed", range(5))
def test_patience_is_the_published_rule(seed):
    draws = np.random.default_rng(seed)
    accuracies = list(np.minimum(0.5 + 0.01 * np.arange(500), 0.5 + draws.uniform(0, 0.8)) + draws.normal(0, 0.01, 500))
    accuracies[40:] = [min(value, 2.0) for value in accuracies[40:]]
    settings = Recipe(optim=OptimConfig(patience=30, epochs=500))
    state, epochs = {"epoch": 0, "best_epoch": 0, "best_score": -1.0}, 0
    while epochs < 500 and not out_of_patience(state, 30):
        state = training.next_state(state, {"epoch": epochs + 1, "valid_accuracy": accuracies[epochs]}, settings)
        epochs += 1
    assert epochs == published_stop(accuracies)
    assert state["best_epoch"] == 1 + int(np.argmax(accuracies[:epochs]))


def test_at_the_last_epoch_the_best_counts_not_the_last():
    """The published loop reports the accuracy of epoch 500 where it never ran out of patience."""
    state, settings = (
        {"epoch": 0, "best_epoch": 0, "best_score": -1.0},
        Recipe(optim=OptimConfig(patience=30, epochs=3)),
    )
    for epoch, accuracy in enumerate((0.5, 0.7, 0.6), start=1):
        state = training.next_state(state, {"epoch": epoch, "valid_accuracy": accuracy}, settings)
        assert not out_of_patience(state, 30)
    assert state == {"epoch": 3, "best_epoch": 2, "best_score": 0.7}


def test_class_weights_are_the_published_ones():
    labels = np.repeat(np.arange(3), [6198, 8989, 16698])
    weight = class_weights(labels, 3)
    assert np.allclose(weight / weight[0], [1, 0.6895, 0.3712], atol=1e-4)
    logits, targets = torch.randn(9, 3), torch.arange(9) % 3
    published = F.cross_entropy(logits, targets, weight=torch.tensor([1, 6198 / 8989, 6198 / 16698]))
    assert torch.allclose(F.cross_entropy(logits, targets, weight=weight), published)


def test_adamw_without_decay_is_adam():
    steps = []
    for kind in ("ours", "adam"):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        config = OptimConfig(name="adamw", lr=1e-3, weight_decay=0.0)
        optimizer = make_optimizer(model, config) if kind == "ours" else torch.optim.Adam(model.parameters(), 1e-3)
        for seed in range(5):
            model(torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        steps.append(model.weight.detach())
    assert torch.allclose(*steps, atol=1e-7)


def test_the_localisation_net_has_a_rate_of_its_own():
    config = ModelConfig(backbone="simple_cnn", head="flat", size=32, preprocessing="grey")
    model = create_model(config, 3, transformer=TransformerConfig(kind="image"))
    groups = make_optimizer(model, OptimConfig(transformer_lr=0.1, head_lr=2.0)).param_groups
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert scales[id(parameter)] == {"transformer": 0.1, "head": 2.0, "backbone": 1.0}[name.split(".")[0]]


def test_complete_trains_on_everything_and_scores_nothing_of_it(faces, tmp_path):
    fit(recipe(faces, data={"protocol": "complete"}, optim={"epochs": 1}), tmp_path / "run")
    env = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert env["rows"] == {"train": 42, "valid": 42, "test": 42}
    with pytest.raises(UsageError, match="trained on every face"):
        evaluate(tmp_path / "run")
    other = tiny.store(tmp_path / "other", each=1, seed=5).path
    assert evaluate(tmp_path / "run", store=other, methods="grad_cam")["faces"] == 7
    with pytest.raises(UsageError, match="leaves no fold"):
        recipe(faces, data={"protocol": "complete", "folds": 3, "fold": 0})


def test_a_run_does_not_start_from_one_that_saw_its_test_faces(faces, trained, tmp_path):
    with pytest.raises(UsageError, match=r"model\.initial .* was trained on \d+ of the faces"):
        fit(recipe(faces, data={"folds": 3, "fold": 0}, model={"initial": trained}), tmp_path / "fold")
    with pytest.raises(UsageError, match="was trained on"):
        fit(recipe(faces, run={"seed": 1}, model={"initial": trained}), tmp_path / "other-validation-faces")


def start(trained: Path, classes: int = 7, head: str = "keep", kind: str = "guide"):
    model = checkpoint.read_run(trained)[0].model
    torch.manual_seed(1)
    config = replace(model, initial=trained, initial_head=head)
    return create_model(config, classes, transformer=TransformerConfig(kind=kind))


def test_transfer_starts_from_another_run(trained):
    there = checkpoint.load_model(trained)[0].state_dict()
    assert same(start(trained).state_dict(), there)
    fresh = start(trained, 3, head="new")
    assert fresh.head.fc2.weight.shape == (3, 50)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, there[name]) == (not name.startswith("head.")), name


def test_transfer_to_other_classes_or_another_net_is_refused(trained):
    with pytest.raises(DataError, match=r"set model\.initial_head new"):
        start(trained, 3)
    with pytest.raises(DataError, match="tensors missing"):
        start(trained, kind="channel", head="new")


def test_transfer_trains_and_is_loaded_without_the_first_run(faces, trained, tmp_path):
    settings = recipe(faces, optim={"epochs": 1}, model={"initial": trained})
    fit(settings, tmp_path / "run")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace(str(trained), "gone"))
    assert checkpoint.load_model(tmp_path / "run")[1].model.initial == Path("gone")
