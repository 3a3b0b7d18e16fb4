"""The adversarial loop does what it says: two-sided by default, growth told, no idle main net, no idle decoder."""

import json

import pytest
import tiny_audet
import torch
from tiny_audet import TEXT, cfg

from mien.audet import train
from mien.audet.check import read_cfg
from mien.audet.growth import growing, tell_growth
from mien.audet.nets import Net
from mien.audet.options import IMAGE_WEIGHTS
from mien.audet.train import embedding_variance, fit, refuse_idle
from mien.errors import UsageError

WITHOUT = TEXT.split("{Image Discriminator}")[0]
"""Without a critic of pictures."""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny_audet.store(tmp_path_factory.mktemp("audet") / "store").path


def test_the_default_is_two_sided():
    assert cfg().loss.through_shuffled
    assert not cfg("--loss.through_shuffled", "False").loss.through_shuffled


def test_variance_is_that_over_faces_and_places():
    z = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    twin = sum(z[:, c].reshape(-1).var(unbiased=False) for c in range(3)) / 3
    torch.testing.assert_close(embedding_variance(z), twin)


@pytest.mark.parametrize(("first", "last", "found"), [
    ((1.0, 0.1), (79.0, 0.2), ["train_z1_variance"]),
    ((1.0, 0.1), (9.0, 0.9), []),
    ((0.001, 0.0), (0.5, 0.9), []),
    ((1.0, 0.2), (2.0, 30.0), ["train_dependency"]),
    ((1.0, -0.2), (1347.0, 3.0), ["train_z1_variance", "train_dependency"]),
])  # fmt: skip
def test_growth_is_told(tmp_path, capsys, first, last, found):
    lines = [dict(zip(("train_z1_variance", "train_dependency"), values, strict=True)) for values in (first, last)]
    assert growing(lines) == found
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tell_growth(tmp_path)
    assert capsys.readouterr().err.count("has grown from") == len(found)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[-1]]))
    tell_growth(tmp_path)  # once, not in every epoch
    assert capsys.readouterr().err == ""


def test_a_training_without_a_main_step_is_refused(faces, tmp_path):
    words = ["--training.train_main_net_every_n_batches", "50"]
    with pytest.raises(UsageError, match="the main net would take no step") as caught:
        fit(cfg(*words), faces, tmp_path / "run")
    assert "train_main_net_every_n_batches is 50" in str(caught.value)
    assert not (tmp_path / "run").exists()
    refuse_idle(cfg(*words, "--loss.discriminator_loss_lambda", "0", text=WITHOUT), 30, 1)  # every batch is its turn


def test_the_log_has_the_variance_and_critics_leave_the_decoder_out(faces, tmp_path, monkeypatch):
    calls, real = [], Net.through

    def counted(net, *given):
        calls.append(net)
        return real(net, *given)

    monkeypatch.setattr(Net, "through", counted)
    kept = []
    monkeypatch.setattr(train, "validate", lambda session: kept.append(session) or {"au": 0.5})
    words = ["--training.max_epochs", "1", "--training.train_main_net_every_n_batches", "2"]
    fit(cfg(*words, text=WITHOUT), faces, tmp_path / "run")
    net = kept[0].net
    encoded, decoded = (sum(call is part for call in calls) for part in (net.encoder, net.decoder))
    assert decoded == encoded // 2
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text())["train_z1_variance"] > 0


def test_the_published_weights_of_pictures_are_recognised(tmp_path):
    from pathlib import Path

    shipped = Path(__file__).parent.parent / "recipes" / "audet" / "with_basic_and_image_discriminator_z1_size_64.cfg"
    text = shipped.read_text(encoding="utf-8")
    text = text.replace("img_discriminator_loss_lambda=2e-4", "img_discriminator_loss_lambda=5e-7")
    (tmp_path / "published.cfg").write_text(text.replace("lambda_img_discr=10", "lambda_img_discr=1000"))
    read = read_cfg(tmp_path / "published.cfg")
    assert (read.loss.gradient_loss_lambda_img_discr, read.loss.img_discriminator_loss_lambda) == IMAGE_WEIGHTS
    assert any("published pair 1000 and 5e-7" in warning for warning in read.warnings)
    plain = read_cfg(shipped)
    assert not any("published pair" in warning for warning in plain.warnings)


@pytest.mark.slow
def test_two_sided_keeps_the_variance(tmp_path):
    """The numbers of docs/audet.md: 96 toy faces, 60 epochs; one-sided the variance of z1 grows without bound."""
    store, last = tiny_audet.store(tmp_path / "store", faces=96).path, {}
    words = [
        "--training.max_epochs",
        "60",
        "--training.train_main_net_every_n_batches",
        "2",
        "--training.batch_size",
        "12",
    ]
    for part in ("encoder", "aupredictor", "decoder", "discriminator"):
        words += [f"--{part}.learning_rate", "2e-3"]
    for both in ("False", "True"):
        out = tmp_path / both
        fit(cfg(*words, "--loss.through_shuffled", both, "--run.precision", "32-true"), store, out)
        last[both] = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        print(both, last[both])
    assert last["False"]["train_z1_variance"] > 50
    assert last["True"]["train_z1_variance"] < 5
    assert last["True"]["valid_au"] < last["False"]["valid_au"]
