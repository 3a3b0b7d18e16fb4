"""Training: exact resume, independence of workers, every switch does what it says, clear errors."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from mien.config import OptimConfig, Recipe, as_dict
from mien.data.labels import labels_of
from mien.data.loader import Loader, targets_of
from mien.data.store import open_store
from mien.errors import DataError, MienError, UsageError
from mien.files import write_json
from mien.losses.alignment import resolve_layers
from mien.losses.config import GuidanceConfig
from mien.models import create_model
from mien.training import checkpoint
from mien.training.cues import cues_for
from mien.training.loop import fit, loss_terms, train
from mien.training.optim import class_weights, lr_factor, make_optimizer, set_lr
from mien.training.session import prepare_session, split_rows
from mien.training.validation import next_state


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.store(tmp_path_factory.mktemp("data") / "store").path


@pytest.fixture(scope="module")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two guided epochs that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    fit(guided(faces), out)
    return out


def guided(faces: Path, **sections: dict) -> Recipe:
    return tiny.recipe(faces, **{"guidance": {"weight": 2.0}, **sections})


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.load_tensors(run / f"{which}.ckpt")[0]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def one_line(error: type[MienError], recipe: Recipe, out: Path, *words: str) -> None:
    with pytest.raises(error) as caught:
        fit(recipe, out)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_two_epochs_run_and_log(finished: Path, faces: Path) -> None:
    lines = log(finished)
    assert [line["epoch"] for line in lines] == [1, 2]
    for key in ("lr", "train_classification", "train_guidance", "train_accuracy", "valid_accuracy", "valid_att_cos"):
        assert all(np.isfinite(line[key]) for line in lines)
    env = json.loads((finished / "environment.json").read_text())
    assert env["store_fingerprint"] == open_store(faces).fingerprint
    assert env["classes"][0] == "Neutral"
    assert np.allclose(env["framing"]["points"], np.array(env["framing"]["points"]).clip(0, tiny.SIZE))
    assert sorted(path.name for path in finished.iterdir()) == [
        "best.ckpt", "config.yaml", "environment.json", "last.ckpt", "log.jsonl", "tensorboard",
    ]  # fmt: skip
    assert list((finished / "tensorboard").iterdir())
    _, meta = checkpoint.load_tensors(finished / "best.ckpt")
    best = max(lines, key=lambda line: line["valid_accuracy"])
    assert (meta["epoch"], meta["score"]) == (best["epoch"], best["valid_accuracy"])


def test_the_same_command_again_changes_nothing(finished: Path, faces: Path) -> None:
    before = weights(finished), log(finished)
    fit(guided(faces), finished)
    assert same(weights(finished), before[0])
    assert log(finished) == before[1]


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import tiny
from mien.training import loop as train
inner, calls = train.loss_terms, []
def slow(*arguments):
    if arguments[4] == 2:
        calls.append(1)
        if len(calls) == 2:
            Path(sys.argv[2], "in-epoch-2").touch()
            time.sleep(600)
    return inner(*arguments)
train.loss_terms = slow
train.fit(tiny.recipe(Path(sys.argv[1]), guidance={"weight": 2.0}), Path(sys.argv[2]))
"""


def test_killed_in_the_second_epoch_and_resumed_equals_uninterrupted(
    finished: Path, faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(faces), str(out), str(here)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while not (out / "in-epoch-2").exists():
            assert child.poll() is None, "the child ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert [line["epoch"] for line in log(out)] == [1]
    fit(guided(faces), out)
    assert same(weights(out), weights(finished))
    assert same(weights(out, "best"), weights(finished, "best"))
    assert log(out) == log(finished)


def test_a_log_line_beyond_the_checkpoint_is_dropped_on_resume(faces: Path, finished: Path, tmp_path: Path) -> None:
    """Killed between the log line and the checkpoint: the epoch is repeated and stands in the log once."""
    out = tmp_path / "run"
    fit(guided(faces, optim={"epochs": 1}), out)
    (out / "config.yaml").write_text(yaml.safe_dump(as_dict(guided(faces))))
    with open(out / "log.jsonl", "a") as file:
        file.write('{"epoch": 2, "half": true}\n')
    fit(guided(faces), out)
    assert [line["epoch"] for line in log(out)] == [1, 2]


PAL = {"weight": 1.0, "attribution": "grad_input", "similarity": "pearson", "channels": "random", "fraction": 0.5}
MORE_STATE = {
    "ema": {"optim": {"ema": 0.9}},
    "adamw": {"optim": {"name": "adamw", "lr": 1e-3}},
    "attribution": {"guidance": {**PAL, "layers": [3, -1], "warmup_epochs": 1}, "model": {"drop": 0.3}},
}


@pytest.mark.parametrize("options", MORE_STATE.values(), ids=MORE_STATE)
def test_resume_is_exact_with_more_state(
    faces: Path, tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.training import loop as module

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recipe = tiny.recipe(faces, **options)
    fit(recipe, whole)
    inner = module.loss_terms

    def stop_in_epoch_2(*arguments):
        if arguments[4] == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(module, "loss_terms", stop_in_epoch_2)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, parts)
    monkeypatch.undo()
    fit(recipe, parts)
    assert same(weights(parts), weights(whole))
    assert log(parts) == log(whole)


def test_results_do_not_depend_on_workers(faces: Path, tmp_path: Path) -> None:
    options = {"optim": {"epochs": 1, "batch": 14}}
    for workers in (0, 1):
        fit(guided(faces, run={"workers": workers}, **options), tmp_path / str(workers))
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))


def test_seeds_differ_and_repeat(faces: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(tiny.recipe(faces, optim={"epochs": 1}, run={"seed": seed}), tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_other_settings_and_other_data_into_the_same_folder(finished: Path, faces: Path, tmp_path: Path) -> None:
    before = weights(finished)
    one_line(UsageError, guided(faces, optim={"lr": 0.01}), finished, "optim.lr", "0.05", "0.01", "--out")
    other = tiny.store(tmp_path / "other", seed=1).path
    one_line(DataError, guided(other), finished, "other data", "--out")
    assert same(weights(finished), before)


def copy_of(run: Path, out: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, out))


def test_damaged_checkpoint_and_environment(finished: Path, faces: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path / "damaged")
    whole = (run / "last.ckpt").read_bytes()
    (run / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    one_line(DataError, guided(faces), run, "last.ckpt", "damaged")
    (run / "last.ckpt").write_bytes(b"")
    one_line(DataError, guided(faces), run, "last.ckpt", "damaged")
    (run / "last.ckpt").write_bytes(whole)
    (run / "environment.json").write_text("{")
    one_line(DataError, guided(faces), run, "environment.json", "damaged")


def test_run_of_another_version(finished: Path, faces: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path / "old")
    env = json.loads((run / "environment.json").read_text())
    write_json(run / "environment.json", {**env, "run_version": 99})
    one_line(DataError, guided(faces), run, "version 99")
    with pytest.raises(DataError, match="version 99"):
        checkpoint.load_model(run)
    write_json(run / "environment.json", env)
    from safetensors.torch import load_file, save_file

    meta = {"mien": json.dumps({"run_version": 99, "epoch": 1, "best_epoch": 1, "best_score": 0.0})}
    save_file(load_file(run / "last.ckpt"), run / "last.ckpt", meta)
    one_line(DataError, guided(faces), run, "last.ckpt", "another version")
    save_file(load_file(run / "last.ckpt"), run / "last.ckpt")
    one_line(DataError, guided(faces), run, "last.ckpt", "not written by mien")


def test_load_model_needs_a_run_with_weights(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        checkpoint.load_model(tmp_path)
    run = copy_of(finished, tmp_path / "no-best")
    (run / "best.ckpt").unlink()
    with pytest.raises(DataError, match="is missing"):
        checkpoint.load_model(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["channels"] = [4, 4, 4, 4]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "best.ckpt").write_bytes((finished / "best.ckpt").read_bytes())
    with pytest.raises(DataError, match="was trained with other settings"):
        checkpoint.load_model(run)


def test_loss_that_is_no_number_is_told(faces: Path, tmp_path: Path) -> None:
    one_line(
        DataError,
        tiny.recipe(faces, loss={"weight": 1e6}, optim={"lr": 100.0, "warmup": 0.0, "epochs": 9}),
        tmp_path / "run",
        "loss became",
        "--optim.lr",
    )
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_store_without_labels_of_a_split(tmp_path: Path) -> None:
    path = tiny.store(tmp_path / "s", splits=("train",)).path
    one_line(
        DataError, tiny.recipe(path, data={"protocol": "paper"}), tmp_path / "run", "no labelled faces", "mien check"
    )


def run_one(faces: Path, out: Path, **sections: dict) -> dict[str, torch.Tensor]:
    optim = {"epochs": 1, "batch": 14, **sections.pop("optim", {})}
    fit(tiny.recipe(faces, optim=optim, **sections), out)
    return weights(out)


@pytest.fixture(scope="module")
def plain(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return run_one(faces, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"targets": "votes"}},
        {"data": {"targets": "mixed"}},
        {"data": {"targets": "both"}},
        {"data": {"balance": "sampler"}},
        {"optim": {"label_smoothing": 0.2}},
        {"optim": {"head_lr": 3.0}},
        {"optim": {"clip": 0.01}},
        {"optim": {"name": "adamw"}},
        {"optim": {"schedule": "step"}},
        {"model": {"drop": 0.5}},
        {"augment": {"erase": 1.0}},
        {"guidance": {"weight": 1.0}},
        {"guidance": {"weight": 1.0, "similarity": "pearson"}},
        {"guidance": {"weight": 1.0, "layers": [2, -1]}},
        {"guidance": {"weight": 1.0}, "cue": {"kind": "landmarks"}},
        *(
            {"guidance": {"weight": 1.0, **change}}
            for change in (
                {"attribution": "grad_input", "similarity": "pearson"},
                {"attribution": "grad_cam"},
                {"attribution": "integrated"},
                {"attribution": "layer_cam", "layers": [3, 4], "target": "margin"},
                {"attribution": "grad", "layers": [4], "similarity": "paper"},
                {"channels": "all_joint"},
                {"channels": "random", "fraction": 0.5},
                {"barrier": True},
                {"scale": "to_cue"},
                {"normalise": "softmax"},
                {"similarity": "kl"},
                {"similarity": "l1"},
                {"cue": "landmarks"},
            )
        ),
        {"guidance": {"weight": 1.0}, "second": {"weight": 1.0, "attribution": "grad_input", "cue": "landmarks"}},
        *({"guidance": {"weight": 1.0}, "cue": {"control": c}} for c in ("uniform", "mean", "shuffled", "other_class")),
    ],
    ids=lambda s: "-".join(f"{k}.{v}" for part in s.values() for k, v in part.items()),
)
def test_every_switch_changes_the_weights(faces: Path, plain: dict, tmp_path: Path, sections: dict) -> None:
    changed = run_one(faces, tmp_path / "run", **sections)
    names = [name for name in plain if name.startswith("model/")]
    assert any(not torch.equal(plain[name], changed[name]) for name in names)
    assert all(torch.isfinite(changed[name]).all() for name in names)


def test_ema_is_what_is_evaluated(faces: Path, plain: dict, tmp_path: Path) -> None:
    state = run_one(faces, tmp_path / "run", optim={"ema": 0.9})
    best = weights(tmp_path / "run", "best")
    for name in plain:
        if name.startswith("model/"):
            assert torch.equal(state[name], plain[name])  # the average does not disturb the training
            assert torch.equal(best[name], state[name.replace("model/", "average/module.")])
    assert not torch.equal(best["model/head.weight"], state["model/head.weight"])


def test_the_last_epoch_is_kept_without_selection(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(faces, optim={"epochs": 2, "batch": 14, "select": "last"})
    falling = [{"epoch": epoch, "valid_accuracy": score} for epoch, score in ((1, 0.9), (2, 0.4))]
    state = {"epoch": 0, "best_epoch": 0, "best_score": -1.0}
    for line in falling:
        state = next_state(state, line, recipe)
    assert state == {"epoch": 2, "best_epoch": 2, "best_score": 0.4}
    assert fit(recipe, tmp_path / "run")["epoch"] == 2
    with pytest.raises(UsageError, match=r"optim\.patience"):
        tiny.recipe(faces, optim={"select": "last", "patience": 3})


def test_patience_and_guided_epochs(faces: Path, tmp_path: Path) -> None:
    fit(tiny.recipe(faces, optim={"epochs": 9, "batch": 14, "lr": 0.0, "patience": 2}), tmp_path / "p")
    lines = log(tmp_path / "p")
    best = max(range(len(lines)), key=lambda k: (lines[k]["valid_accuracy"], -k))
    assert len(lines) == min(9, best + 3)
    recipe = guided(faces, guidance={"weight": 1.0, "start_epoch": 2, "end_epoch": 2}, optim={"epochs": 3, "batch": 14})
    fit(recipe, tmp_path / "g")
    assert ["train_guidance" in line for line in log(tmp_path / "g")] == [False, True, False]


def test_two_guidances_are_logged_and_described(faces: Path, tmp_path: Path, capsys) -> None:
    """AU alignment of the activation and PAL beside it, the second from epoch 2 on."""
    second = {**PAL, "cue": "landmarks", "channels": "first_half", "fraction": 1.0, "start_epoch": 2}
    fit(guided(faces, second=second, optim={"batch": 14}), tmp_path / "run")
    lines = log(tmp_path / "run")
    assert ["train_second" in line for line in lines] == [False, True]
    assert all("train_guidance" in line for line in lines)
    for name in ("valid_second:grad_input", "valid_second:grad_input-all"):
        assert all(-1 <= line[name] <= 1 for line in lines)
    told = capsys.readouterr().out
    assert (
        told.count("second: grad_input at layer 5 of 5, pearson with cue landmarks; gradient of label by closed form")
        == 1
    )
    assert told.count("guidance: activation at layer 5 of 5") == 1


def test_refusals_come_before_a_run_folder(faces: Path, tmp_path: Path) -> None:
    one_line(
        UsageError, guided(faces, guidance={"weight": 1.0, "attribution": "grad"}), tmp_path / "run",
        "guidance.attribution grad", "layer 5", "same at every cell",
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layers", [[-1], [3]], ids=["closed form", "double backward"])
def test_mixed_precision_with_an_attribution(faces: Path, tmp_path: Path, layers: list[int]) -> None:
    run_one(faces, tmp_path / "run", guidance={**PAL, "layers": layers}, run={"precision": "bf16-mixed"})
    assert all(np.isfinite(value) for value in log(tmp_path / "run")[0].values())


def test_weight_rises_over_the_warm_up() -> None:
    config = GuidanceConfig(weight=3.0, start_epoch=2, end_epoch=5, warmup_epochs=2)
    assert [config.weight_at(epoch) for epoch in range(1, 7)] == pytest.approx([0, 1, 2, 3, 3, 0])


def test_paper_protocol_selects_on_test(faces: Path, tmp_path: Path) -> None:
    store = open_store(faces)
    strict, paper = (split_rows(store, tiny.recipe(faces, data={"protocol": p})) for p in ("strict", "paper"))
    assert set(paper.valid) == set(paper.test) == set(strict.test)
    assert set(strict.train) | set(strict.valid) == set(paper.train)
    assert not set(strict.train) & set(strict.valid)
    subjects = store.subject
    assert not set(subjects[strict.train]) & set(subjects[strict.valid])


def test_class_weights() -> None:
    labels = np.array([0, 0, 0, 1, -1])
    assert class_weights(labels, 3).tolist() == pytest.approx([4 / 9, 4 / 3, 0])
    assert class_weights(labels, 3, "weights_max").tolist() == pytest.approx([1, 3, 0])


def test_balance_weights_enter_the_loss(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(faces, data={"balance": "weights"})
    store = open_store(faces)
    batch = next(
        iter(Loader(store, np.arange(6), labels_of(store, "basic-7"), size=32, batch=6, device=torch.device("cpu")))
    )
    output = create_model(recipe.model, 7)(batch.images)
    weight = torch.tensor([1.0, 5, 1, 1, 1, 1, 1])
    session = prepare_session(recipe, tmp_path / "run")[0]._replace(class_weight=weight)
    term = loss_terms(recipe, output, batch, session, 1, 0)["classification"]
    single = torch.nn.functional.cross_entropy(output.logits, batch.expressions, reduction="none")
    w = weight[batch.expressions]
    assert torch.allclose(term, (w * single).sum() / w.sum())


def test_votes_become_soft_targets(faces: Path) -> None:
    store = open_store(faces)
    soft = targets_of(store, "basic-7", "votes")
    assert soft.shape == (len(store), 7)
    assert np.allclose(soft.sum(1), 1)
    assert (soft.argmax(1) == labels_of(store, "basic-7")).all()
    assert soft.max() == pytest.approx(0.7)
    mixed = targets_of(store, "basic-7", "mixed")
    assert np.allclose(mixed, 0.6 * np.eye(7)[labels_of(store, "basic-7")] + 0.4 * soft)
    polar = targets_of(store, "polarity-3", "votes")
    fear = np.flatnonzero(store.expression == "Fear")[0]  # votes: Fear 0.7, Anger 0.3, both negative
    assert polar[fear].tolist() == [0, 0, 1]


def test_schedules() -> None:
    steps = OptimConfig(schedule="step", step_size=4, gamma=0.9)
    assert [lr_factor(steps, e, 0, 5) for e in (1, 4, 5, 9)] == pytest.approx([1, 1, 0.9, 0.81])
    cosine = OptimConfig(schedule="cosine", epochs=10, warmup=0.1)
    factors = [lr_factor(cosine, e, s, 10) for e in range(1, 11) for s in range(10)]
    assert all(a < b for a, b in itertools.pairwise(factors[:11]))
    assert max(factors) == 1 == factors[10]
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert 0 < factors[-1] < 1e-3


def test_no_decay_on_biases_and_norms(faces: Path) -> None:
    model = create_model(tiny.recipe(faces).model, 7)
    for name in ("sgd", "adamw"):
        decayed, free = make_optimizer(model, OptimConfig(name=name)).param_groups
        assert all(p.dim() > 1 for p in decayed["params"])
        assert all(p.dim() <= 1 for p in free["params"])
        assert free["weight_decay"] == 0 < decayed["weight_decay"]
        assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_rate_of_the_head(faces: Path) -> None:
    model = create_model(tiny.recipe(faces).model, 7)
    config = OptimConfig(lr=0.1, head_lr=10.0, schedule="step")
    optimizer = make_optimizer(model, config)
    set_lr(optimizer, config, 1, 0, 9)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert all(rates[id(p)] == pytest.approx(0.1) for p in model.backbone.parameters())
    assert all(rates[id(p)] == pytest.approx(1.0) for p in model.head.parameters())


def test_controls_are_drawn_anew_each_step_and_repeat(faces: Path) -> None:
    recipe = guided(faces, cue={"control": "other_class"})
    store = open_store(faces)
    rows = np.flatnonzero(store.expression != "Neutral")
    batch = next(iter(Loader(store, rows, labels_of(store, "basic-7"), size=32, batch=40, device=torch.device("cpu"))))
    first, again, later = (cues_for(recipe, batch, [(8, 8)], [None], 1, step)[0].maps for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_guidance_raises_alignment(faces: Path, tmp_path: Path) -> None:
    """The paper's claim in miniature: attention moves onto the cue, on faces that were held out."""
    scores = {}
    for weight in (0.0, 4.0):
        fit(tiny.recipe(faces, guidance={"weight": weight}, optim={"epochs": 5, "batch": 14}), tmp_path / str(weight))
        scores[weight] = log(tmp_path / str(weight))[-1]["valid_att_cos"]
    assert scores[4.0] > scores[0.0] + 0.1, scores


def test_layer_of_a_recipe_that_the_net_has_not(faces: Path, tmp_path: Path) -> None:
    one_line(
        UsageError,
        guided(faces, guidance={"weight": 1.0, "layers": [6]}),
        tmp_path / "run",
        "guidance.layers",
        "1 to 5",
    )
    assert resolve_layers([1, -1, 5], 5) == [0, 4, 4]


def test_the_verb_names_the_run_after_its_recipe(faces: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(as_dict(tiny.recipe(faces))))
    folder = train(tmp_path / "mine.yaml", overrides=["--optim.epochs", "1", "--run.seed=3", "--optim.batch", "14"])
    assert folder == Path("runs/mine-seed3")
    assert "mien evaluate" in capsys.readouterr().out
    recipe, _ = checkpoint.read_run(folder)
    assert recipe.optim.epochs == 1
