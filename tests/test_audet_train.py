"""The adversarial loop: all cfgs take two steps, resuming is exact, the net comes back from its run folder."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_audet
import torch
from tiny_audet import TEXT, cfg

from mien.audet import data, train
from mien.audet.check import cfg_of
from mien.audet.evaluate import evaluate_audet
from mien.audet.faces import au_loss, au_targets, changed, moved, noisy
from mien.audet.nets import AudetNet, Critic
from mien.audet.options import DEPENDENCY_KINDS
from mien.audet.players import MainNet, learning_rate_factor, make_optimizer
from mien.audet.run import load_audet, open_run, read_run
from mien.audet.train import fit
from mien.data import loader
from mien.data.store import open_store, write_store
from mien.errors import DataError, UsageError
from mien.schema import ACTION_UNITS
from mien.training import checkpoint

ROOT = Path(__file__).parent.parent
CFGS = sorted(path for path in (ROOT / "recipes" / "audet").glob("*.cfg") if "swap" not in path.stem)  # need twins
MOMU = ["--data.balance_dataset_with_momu", "True", "--data.epoch_size", "24", "--data.sampling_size", "2"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return tiny_audet.store(tmp_path_factory.mktemp("audet") / "store").path


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Three faces each of six subjects, two of whom are test and one becomes validation: two batches of four."""
    return tiny_audet.store(tmp_path_factory.mktemp("few") / "store", faces=18, subjects=6, size=32).path


def narrow(text: str) -> str:
    """The same architecture with a sixteenth of the channels (z1 of 12 units stays, pictures stay)."""
    kept = {0: 0, 1: 1, 3: 3, 12: 12, 500: 20}

    def divided(found: re.Match[str]) -> str:
        width = int(found[2])
        return f"{found[1]}={kept.get(width, max(1, width // 16))}"

    keys = "filters|output_features|channels|num_features|start_index|end_index"
    return re.sub(rf"\b({keys})=(\d+)", divided, text)


THIN_VGG = (2, 2, 0, 2, 2, 0, 2, 2, 2, 0, 2, 2, 2, 0, 2, 2, 512, 0)


@pytest.mark.parametrize("path", CFGS, ids=lambda p: p.stem)
def test_every_cfg_takes_two_steps(path, few, tmp_path, monkeypatch):
    monkeypatch.setattr("mien.audet.blocks.VGG_CHANNELS", THIN_VGG)
    text = path.read_text(encoding="utf-8").replace("vgg_face_dag.pth\n", "random\n").replace("resnet18", "resnet10t")
    if "[timm]" not in text:
        text = narrow(text)
    small = ["--training.max_epochs", "1", "--training.batch_size", "4", "--training.decay_lr_over_last_n_epochs", "1"]
    small += ["--training.train_main_net_every_n_batches", "1", "--data.balance_dataset_with_momu", "False"]
    settings = cfg_of(text, path.name, [*small, "--run.accelerator", "cpu", "--data.valid_fraction", "0.2"])
    assert fit(settings, few, tmp_path / "run")["epoch"] == 1
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert all(np.isfinite(value) for value in line.values())
    assert ("train_reconstruction" in line) == ("Decoder" in settings.nets)
    assert ("train_dependency" in line) == settings.splits
    assert ("train_image_distance" in line) == ("Image Discriminator" in settings.nets)
    assert ("train_identity" in line) == (settings.loss.identity_loss_lambda > 0)
    z = load_audet(tmp_path / "run").encode(torch.zeros(1, 3, *[settings.data.image_size] * 2))
    side = 4 if "spatial" in path.stem else 1
    assert z.shape == (1, settings.z1_channels + settings.z2_channels, side, side)


@pytest.mark.parametrize("kind", DEPENDENCY_KINDS)
@pytest.mark.parametrize(
    "extra", [[], ["--loss.pairing", "other_subject", "--loss.through_shuffled", "True"]], ids=["", "other"]
)
def test_every_estimator_trains(kind, extra, faces, tmp_path):
    best = fit(cfg("--loss.dependency", kind, "--training.max_epochs", "1", *extra), faces, tmp_path / "run")
    assert np.isfinite(best["loss"])


def test_training_lowers_the_loss(faces, tmp_path):
    words = ["--training.max_epochs", "15", "--training.train_main_net_every_n_batches", "1", "--data.colour", "0",
             "--loss.discriminator_loss_lambda", "0.01", "--loss.img_discriminator_loss_lambda", "0.01"]  # fmt: skip
    rates = [word for net in ("encoder", "aupredictor", "decoder") for word in (f"--{net}.learning_rate", "0.01")]
    fit(cfg(*words, "--data.flip", "0", *rates), faces, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["train_au"] < 0.8 * lines[0]["train_au"]
    assert min(line["train_reconstruction"] for line in lines) < 0.8 * lines[0]["train_reconstruction"]


# ---- resuming


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_tensors(run / "last.ckpt")[0]


def numbers(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """Faces of whom every eighth is neutral."""
    made = [
        r._replace(action_units=np.zeros_like(r.action_units)) if k % 8 == 5 or k % 11 == 0 else r
        for k, r in enumerate(tiny_audet.records(faces=80))
    ]
    return write_store(made, tmp_path_factory.mktemp("calm") / "store", dataset="toy", size=16).path


@pytest.mark.parametrize(
    "extra", [MOMU, ["--loss.dependency", "infonce", "--loss.identity_loss_lambda", "0.5"]], ids=["momu", "identity"]
)
def test_a_stopped_run_goes_on_exactly(extra, calm, tmp_path, monkeypatch):
    settings = cfg("--training.max_epochs", "3", "--training.learning_rate_scheduler", "Linear",
                   "--training.decay_lr_over_last_n_epochs", "2", *extra)  # fmt: skip
    fit(settings, calm, tmp_path / "whole")
    real = train.train_epoch

    def stopped(session, epoch, rows):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(session, epoch, rows)

    monkeypatch.setattr(train, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, calm, tmp_path / "parts")
    monkeypatch.undo()
    fit(settings, calm, tmp_path / "parts")
    one, two = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(name.startswith("critic/optimizer/") for name in one)
    assert ("momu/waiting" in one) == (extra is MOMU)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")
    assert [line["lr"] for line in numbers(tmp_path / "parts")] == pytest.approx([1e-4, 1e-4, 5e-5])


def test_another_cfg_or_other_faces_are_refused(faces, few, tmp_path):
    fit(cfg("--training.max_epochs", "1"), faces, tmp_path / "run")
    with pytest.raises(UsageError, match=r"\{General\} block 2 \[loss_options\] dependency: unset there, hsic here"):
        fit(cfg("--training.max_epochs", "1", "--loss.dependency", "hsic"), faces, tmp_path / "run")
    every = ("--training.train_main_net_every_n_batches", "1")  # `few` are a single batch
    fit(cfg("--training.max_epochs", "1", *every), faces, tmp_path / "every")
    with pytest.raises(DataError, match="trained on other data"):
        fit(cfg("--training.max_epochs", "1", *every), few, tmp_path / "every")


def test_where_a_run_goes_on_is_free(tmp_path):
    open_run(tmp_path / "run", cfg_of(TEXT))
    open_run(tmp_path / "run", cfg("--run.workers", "2"))
    with pytest.raises(UsageError, match="seed: unset there, 1 here"):
        open_run(tmp_path / "run", cfg("--run.seed", "1"))


def test_a_loss_that_is_lost_is_told(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "au_loss", lambda logits, *_: logits.sum() * torch.inf)
    with pytest.raises(DataError, match=r"became -?(nan|inf) in epoch"):
        fit(cfg(), faces, tmp_path / "run")


def test_validation_and_logging_do_not_change_training(faces, tmp_path):
    fit(cfg(), faces, tmp_path / "all")
    fit(cfg("--training.max_test_iters", "1"), faces, tmp_path / "one")
    one, other = tensors(tmp_path / "all"), tensors(tmp_path / "one")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_loader_processes_do_not_change_training(faces, tmp_path, monkeypatch):
    real = loader.DataLoader
    forked = lambda *args, **options: real(*args, **{**options, "multiprocessing_context": "fork"})  # noqa: E731
    fit(cfg("--training.max_epochs", "1"), faces, tmp_path / "none")
    monkeypatch.setattr(loader, "DataLoader", forked)  # spawned ones take seconds to import torch
    fit(cfg("--training.max_epochs", "1", "--run.workers", "2"), faces, tmp_path / "two")
    one, other = tensors(tmp_path / "none"), tensors(tmp_path / "two")
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- schedule


def test_main_net_trains_every_nth_batch_across_epochs(faces, tmp_path, monkeypatch):
    """Also where an epoch is shorter than n."""
    steps = []
    real = train.take_step
    monkeypatch.setattr(train, "take_step", lambda player: (steps.append(type(player.module).__name__), real(player)))
    fit(cfg("--training.train_main_net_every_n_batches", "8"), faces, tmp_path / "run")
    batches = steps.count("Critic") // 2
    assert batches // 2 < 8 <= batches
    assert steps.count("MainNet") == batches // 8


def test_linear_schedule():
    settings = cfg("--training.max_epochs", "10", "--training.learning_rate_scheduler", "Linear",
                   "--training.decay_lr_over_last_n_epochs", "4")  # fmt: skip
    assert [learning_rate_factor(settings, e) for e in range(1, 11)] == [1] * 7 + [0.75, 0.5, 0.25]
    assert learning_rate_factor(cfg(), 2) == 1


def test_groups_have_the_rates_and_betas_of_their_nets():
    settings = cfg("--encoder.learning_rate", "0.1", "--decoder.beta1", "0.25", "--discriminator.learning_rate", "0.2")
    main = make_optimizer("main", MainNet(AudetNet(settings), 0, settings.loss), settings)
    assert [group["lr"] for group in main.param_groups] == [0.1, 1e-4, 1e-4]
    assert [group["betas"][0] for group in main.param_groups] == [0.5, 0.5, 0.25]
    critic = make_optimizer("critic", Critic(settings.nets["Discriminator"]), settings)
    assert critic.param_groups[0]["lr"] == 0.2


# ---- parts


def test_output_and_swaps():
    net = AudetNet(cfg())
    images = net.from_pixels(torch.randint(0, 256, (5, 3, 20, 30), dtype=torch.uint8))
    assert images.shape == (5, 3, 16, 16)
    net.eval()
    out = net(images)
    assert (out.z1.shape, out.z2.shape) == ((5, 4, 1, 1), (5, 8, 1, 1))
    assert torch.equal(out.action_units, out.logits.sigmoid())
    assert torch.allclose(net.decode(out.z1, out.z2), out.reconstruction)
    assert torch.allclose(net(images[:1]).logits, out.logits[:1], atol=1e-6)  # a single face keeps its batch axis
    assert not any(isinstance(value, torch.Tensor) for value in vars(net).values())


def test_intensities_and_the_scale_of_pixels():
    regress = AudetNet(cfg("--data.regress_au_intensities", "True"))
    assert regress.scores(torch.tensor([[-1.0, 0.5, 2.0]])).tolist() == [[0.0, 2.5, 5.0]]
    crossed = AudetNet(
        cfg("--data.regress_au_intensities", "True", "--loss.au_regression_loss_function", "BCEWithLogits")
    )
    assert crossed.scores(torch.zeros(1, 1)).tolist() == [[2.5]]
    half = AudetNet(cfg()).standardise(torch.full((1, 3, 2, 2), 0.75))
    assert half.flatten().tolist() == [0.5] * 12
    large = AudetNet(cfg("--data.mean", "129,104,93", "--data.std", "1,1,1")).standardise(torch.ones(1, 3, 1, 1))
    assert large.flatten().tolist() == [126, 151, 162]


def test_unknown_labels_do_not_count():
    units = torch.tensor([[0.0, 2.0, float("nan")], [1.9, 5.0, 3.0]])
    assert au_targets(units, False, 2.0).nan_to_num(-1).tolist() == [[0, 1, -1], [0, 1, 1]]
    assert au_targets(units, True, 2.0)[1].tolist() == pytest.approx([0.38, 1.0, 0.6])
    logits = torch.tensor([[1.0, 2.0, 9.0], [0.0, -1.0, 0.5]], requires_grad=True)
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.detach().flatten()[[0, 1, 3, 4, 5]], torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    )
    loss = au_loss(logits, au_targets(units, False, 2.0), True)
    assert loss.item() == pytest.approx(by_hand.item())
    loss.backward()
    assert logits.grad[0, 2] == 0
    none = au_loss(logits, torch.full((2, 3), float("nan")), False)
    assert none.item() == 0


def test_random_changes_of_faces():
    images = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    first, again = (changed(images, 0.5, 0.9, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(changed(images, 0, 0, torch.Generator()), images)
    assert torch.equal(changed(images, 1, 0, torch.Generator()), images.flip(3))
    flipped = changed(images, 0.5, 0, torch.Generator().manual_seed(0))
    share = sum(torch.equal(a, b.flip(2)) for a, b in zip(flipped, images, strict=True)) / 64
    assert 0.3 < share < 0.7
    spoiled = noisy(images, 0.2, torch.Generator().manual_seed(0)) - images
    deviations = spoiled.flatten(1).std(1)
    assert deviations.max() < 0.3
    assert deviations.min() < 0.05  # each face has a deviation of its own
    assert torch.equal(noisy(images, 0, torch.Generator()), images)


def test_moved_faces():
    """A white dot on black: found again where the drawn shift puts it, nowhere without a reach."""
    images = torch.zeros(300, 3, 33, 33)
    images[:, :, 15:18, 15:18] = 1
    assert torch.equal(moved(images, 0.0, torch.Generator()), images)
    first, again = (moved(images, 0.1, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    weight = first[:, 0] / first[:, 0].sum((1, 2), keepdim=True)
    line = torch.arange(33.0) - 16
    places = torch.stack([(weight.sum(1) * line).sum(1), (weight.sum(2) * line).sum(1)])
    assert places.abs().max() < 0.12 * 33 / 0.9
    assert places.std(1) == pytest.approx([0.1 * 33 / 3**0.5] * 2, rel=0.15)
    areas = first[:, 0].sum((1, 2)) / 9
    assert 1 / 1.1**2 - 0.1 < areas.min() < 0.9
    assert 1.1 < areas.max() < 1 / 0.9**2 + 0.1


# ---- data


def test_subjects_on_both_sides_are_an_error_unless_asked_for(tmp_path):
    mixed = [
        r._replace(split="test" if k % 3 == 0 else "train")
        for k, r in enumerate(tiny_audet.records(faces=36, subjects=4))
    ]
    path = write_store(mixed, tmp_path / "s", dataset="toy", size=16).path
    with pytest.raises(DataError, match=r"train and test: 3 subjects .*--data\.shared_subjects"):
        fit(cfg("--training.max_epochs", "1"), path, tmp_path / "run")
    fit(cfg("--training.max_epochs", "1", "--data.shared_subjects", "True"), path, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["split"]["test_subjects_also_in_train"] == 4


def test_labels_that_are_missing_are_told(tmp_path):
    path = tiny_audet.store(tmp_path / "s", faces=24, units=("AU1", "AU2")).path
    with pytest.raises(DataError, match="no face has a label of AU4"):
        fit(cfg(), path, tmp_path / "run")
    two = TEXT.replace("output_features=12", "output_features=2")
    settings = cfg("--data.action_units", "AU2,AU1", "--training.max_epochs", "1", text=two)
    fit(settings, path, tmp_path / "run")
    net = load_audet(tmp_path / "run")
    assert net.action_units == ("AU2", "AU1")
    labels = data.labels_of(open_store(path), settings)
    order = [ACTION_UNITS.index(name) for name in ("AU2", "AU1")]
    assert np.array_equal(labels.units, open_store(path).action_units[:, order])


def test_identity_needs_subjects(tmp_path):
    path = write_store(
        [r._replace(subject=None) for r in tiny_audet.records()], tmp_path / "s", dataset="toy", size=16
    ).path
    with pytest.raises(DataError, match="have no subject"):
        fit(cfg("--loss.identity_loss_lambda", "1"), path, tmp_path / "run")
    fit(cfg("--training.max_epochs", "1"), path, tmp_path / "run2")


def test_run_folders_are_checked(faces, tmp_path):
    with pytest.raises(DataError, match=r"no audet.cfg"):
        load_audet(tmp_path)
    fit(cfg("--training.max_epochs", "1"), faces, tmp_path / "run")
    settings, facts = read_run(tmp_path / "run")
    assert settings.training == replace(cfg().training, max_epochs=1)
    assert facts["store"] == str(faces)
    assert facts["split"]["active"]["AU1"] > 0
    other = (
        (tmp_path / "run" / "audet.cfg")
        .read_text()
        .replace("filters=12", "filters=13")
        .replace("channels=12", "channels=13")
    )
    (tmp_path / "run" / "audet.cfg").write_text(other)
    with pytest.raises(DataError, match=r"was trained with other nets or data options"):
        load_audet(tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_text("{}")
    with pytest.raises(DataError, match="train again"):
        read_run(tmp_path / "run")


def test_mixed_precision(faces, tmp_path):
    best = fit(cfg("--run.precision", "bf16-mixed", "--training.max_epochs", "1"), faces, tmp_path / "run")
    assert np.isfinite(best["loss"])
    assert all(v.dtype == torch.float32 for k, v in tensors(tmp_path / "run").items() if k.endswith("weight"))


def test_a_wrong_accelerator_is_a_usage_error(faces, tmp_path):
    with pytest.raises(UsageError, match=r"run\.accelerator: "):
        fit(cfg_of(TEXT, "x", ["--run.accelerator", "abacus"]), faces, tmp_path / "run")


@pytest.mark.slow
def test_two_processes(faces, tmp_path):
    """DDP on two CPU processes: both end with the same weights, and the log has one line an epoch."""
    (tmp_path / "tiny.cfg").write_text(TEXT)
    words = ["audet", "train", str(tmp_path / "tiny.cfg"), "--data", str(faces), "--out", str(tmp_path / "run")]
    words += ["--run.devices", "2", "--run.accelerator", "cpu", "--run.strategy", "ddp", "--training.batch_size", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "mien.cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(numbers(tmp_path / "run")) == 2


# ---- the verb


def test_verb(faces, tmp_path, capsys):
    from mien.cli import main

    path = tmp_path / "tiny.cfg"
    path.write_text(TEXT)
    assert main(["audet", "summary", str(path), "--data.image_size", "16"]) == 0
    assert "Encoder: 3x16x16" in capsys.readouterr().out
    assert main(["audet", "train", str(path)]) == 2
    assert "needs --data STORE" in capsys.readouterr().err
    assert main(["audet", "summary", str(path), "--data", str(faces)]) == 2
    assert "takes no --data" in capsys.readouterr().err
    words = [
        "--data",
        str(faces),
        "--out",
        str(tmp_path / "run"),
        "--training.max_epochs",
        "1",
        "--run.accelerator=cpu",
    ]
    assert main(["audet", "train", str(path), *words]) == 0
    assert "best epoch 1" in capsys.readouterr().out
    assert main(["audet", "evaluate", str(tmp_path / "run"), "--training.max_epochs", "2"]) == 2
    assert "takes no pairs of --section.key value" in capsys.readouterr().err
    assert main(["audet", "evaluate", str(tmp_path / "run"), "--split", "all"]) == 2
    assert main(["audet", "predict", str(tmp_path / "run"), "--data", str(faces)]) == 2
    assert main(["audet", "evaluate", str(tmp_path / "run")]) == 0
    assert "macro F1" in capsys.readouterr().out
    ids = tmp_path / "ids.csv"
    momu = ["audet", "momu", str(path), "--data", str(faces), "--out", str(ids)]
    assert main(momu) == 2
    assert "does not balance" in capsys.readouterr().err
    assert main([*momu, *MOMU]) == 1  # nobody of the toy faces is neutral
    assert "but neutral has 0" in capsys.readouterr().err
    path.write_text(TEXT.replace("filters=12", "filters=x"))
    assert main(["audet", "summary", str(path)]) == 2
    assert re.search(r"^mien: .*tiny.cfg:\d+: filters=x: expected an integer.$", capsys.readouterr().err, re.M)


def test_ids_of_a_balanced_epoch(calm, tmp_path, capsys):
    store = open_store(calm)
    data.momu_ids(cfg(*MOMU), calm, tmp_path / "ids.csv")
    ids = (tmp_path / "ids.csv").read_text().splitlines()
    assert len(ids) == 24
    assert set(ids) <= set(store.ids[store.split == "train"])
    assert "neutral" in capsys.readouterr().out


# ---- evaluation


@pytest.mark.parametrize("kind", ["occurrence", "intensity"])
def test_evaluation_scores_every_face_of_the_split(kind, faces, tmp_path):
    extra = ["--data.regress_au_intensities", "True"] if kind == "intensity" else []
    fit(cfg("--training.max_epochs", "1", *extra), faces, tmp_path / "run")
    found = evaluate_audet(tmp_path / "run")
    assert found == json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["faces"] == 12
    assert found["same_data_as_training"]
    assert ("intensity" in found) == (kind == "intensity")
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("id,AU1,AU1_label,AU2")
    values = np.array([[float(cell) for cell in line.split(",")[1:]] for line in lines[1:]])
    active, said = values[:, 1] >= 2, values[:, 0] >= (2 if kind == "intensity" else 0.5)
    row = found["occurrence"]["units"]["AU1"]
    assert (row["tp"], row["fp"]) == (int((active & said).sum()), int((~active & said).sum()))
    assert found["occurrence"]["macro_f1_interval"][0] <= found["occurrence"]["macro_f1"]
    evaluate_audet(tmp_path / "run", split="valid")
    assert json.loads((tmp_path / "run" / "results-valid.json").read_text())["split"] == "valid"


def test_evaluation_on_faces_without_labels(faces, tmp_path):
    fit(cfg("--training.max_epochs", "1"), faces, tmp_path / "run")
    only = [r._replace(split="train") for r in tiny_audet.records(faces=16)]
    other = write_store(only, tmp_path / "s", dataset="toy", size=16).path
    with pytest.raises(DataError, match="no labelled face in split 'test'"):
        evaluate_audet(tmp_path / "run", other)


def test_steps_are_those_of_the_published_loop(monkeypatch):
    """Both sides of the benchmark train the same start on the same faces: equal terms, step after step."""
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.audet as benchmark

    words = ["--loss.pairing", "roll", "--loss.through_shuffled", "False", "--training.batch_size", "4"]
    ours, plain = benchmark.both(cfg(*words), batch=4)
    for _ in range(3):
        one, other = ours(), plain()
        assert one.keys() - {"z1_variance"} == other.keys()
        assert all(one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5) for name in other), (one, other)


def test_few_validation_faces_are_told(faces, tmp_path, capsys):
    fit(cfg("--training.max_epochs", "1"), faces, tmp_path / "run")
    assert "validation faces choose the epoch" in capsys.readouterr().err
