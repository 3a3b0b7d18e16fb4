"""`mien audet disentangle` and `predict` on a run that trains in a second."""

import json

import numpy as np
import pytest
import tiny_audet
import torch

from mien.audet import disentangle as flow
from mien.audet.disentangle import disentangle_audet
from mien.audet.disentangle_page import page
from mien.audet.embed import embed
from mien.audet.predict import predict_audet
from mien.audet.run import load_audet
from mien.audet.train import fit
from mien.data.au_table import read_unit_table
from mien.data.store import open_store
from mien.errors import DataError, UsageError

TEXT = tiny_audet.TEXT.replace("output_features=12", "output_features=2").replace(
    "image_size=16", "image_size=16\naction_units=AU2, AU12"
)


def train(store, out, *overrides, text=TEXT):
    fit(tiny_audet.cfg("--training.max_epochs", "1", *overrides, text=text), store, out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A store of synthetic faces; a run, one without dependency, and one of intensities."""
    root = tmp_path_factory.mktemp("audet")
    tiny_audet.store(root / "store", faces=96)
    train(root / "store", root / "run")
    train(root / "store", root / "plain", "--loss.discriminator_loss_lambda", "0")
    train(root / "store", root / "regress", "--data.regress_au_intensities", "True")
    return root


def test_a_vector_laid_out_over_a_map_counts_once():
    vector, places = torch.randn(5, 3, 1, 1), torch.randn(5, 3, 2, 2)
    assert torch.equal(flow.numbers(vector.expand(5, 3, 4, 4)), vector.flatten(1).double())
    assert torch.equal(flow.numbers(places), places.flatten(1).double())
    assert flow.numbers(torch.zeros(5, 0, 1, 1)).shape == (5, 0)


def test_report_of_two_runs(runs, capsys):
    report = disentangle_audet(runs / "run", split="all", against=runs / "plain", draws=9)
    assert report == json.loads((runs / "run" / "disentangle.json").read_text())
    assert (runs / "run" / "disentangle.png").stat().st_size > 1000
    text = (runs / "run" / "disentangle.md").read_text()
    assert text == page(report)
    assert text in capsys.readouterr().out
    assert "## run: wgan, weight 0.5" in text
    assert "## plain: wgan, weight 0" in text
    found = report["runs"]["run"]
    assert set(found["probes"]) == {"AU", "identity", "pose"}
    assert set(found["probes"]["identity"]) == {"z1", "z2", "z"}
    assert "no number varies" in found["probes"]["pose"]["skipped"]
    assert 0 <= found["swap"]["units_of_z1"] <= 1
    assert 0 <= found["swap"]["f1_of_z1"] <= 1
    assert 0 < found["swap"]["f1_always_active"] < 1
    assert found["swap"]["pairs"] == 96
    assert found["swap"]["identity"]["chance"] == pytest.approx(1 / 8)
    assert set(found["collapse"]["psnr"]) == {"own", "other_z2", "other_z1"}
    assert found["dependence"]["hsic"]["p"] >= 0.1


def test_report_is_repeatable_and_takes_only_the_test_split(runs):
    first, second = (disentangle_audet(runs / "run", faces=20, draws=3, seed=4) for _ in range(2))
    assert first == second
    assert (first["faces"], first["subjects"]) == (20, 2)


def test_embeddings_do_not_depend_on_the_batch(runs):
    net, store = load_audet(runs / "run"), open_store(runs / "store")
    rows = np.arange(10)
    small, large = (embed(net, store, rows, torch.device("cpu"), batch) for batch in (3, 10))
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(one, other)
    assert small.z1.shape == (10, 4, 1, 1)
    assert small.z2.shape == (10, 8, 1, 1)


def test_factors_of_rendered_faces(runs, monkeypatch):
    """Attributes of a synthetic store become factors: light numbers, skin classes."""
    store = open_store(runs / "store")
    light = [
        {"light": 0.1 * k, "light_azimuth": float(k % 3), "skin": "I" if k % 2 else "II"} for k in range(len(store))
    ]
    monkeypatch.setattr(store, "attributes_of", lambda rows: [light[row] for row in rows])
    known = flow.Faces(store, np.arange(12), np.zeros((12, 2)), np.arange(12) % 4)
    factors = flow.factors_of(known)
    assert factors["light"].values.shape == (12, 2)
    assert list(factors["skin"].values[:2]) == ["II", "I"]
    assert factors["identity"].unseen == "images"
    assert factors["skin"].unseen == "subjects"


def test_predictions_become_intensities_beside_the_store(runs, tmp_path):
    store, net = open_store(runs / "store"), load_audet(runs / "run")
    values = predict_audet(runs / "run", runs / "store", tmp_path / "aus.csv", batch=7)
    table = read_unit_table(tmp_path / "aus.csv")
    assert table.ids == tuple(store.ids)
    assert table.units == net.action_units
    np.testing.assert_allclose(table.values, values, rtol=1e-3, atol=1e-4)
    probability = embed(net, store, np.arange(3), torch.device("cpu")).units.numpy()
    np.testing.assert_allclose(values[:3], 5 * probability, atol=1e-5)
    regressed = predict_audet(runs / "regress", runs / "store", tmp_path / "i.csv")
    own = embed(load_audet(runs / "regress"), store, np.arange(3), torch.device("cpu")).units.numpy()
    np.testing.assert_allclose(regressed[:3], own, atol=1e-5)


def test_nets_without_a_decoder_or_z2_say_what_is_left_out(runs, tmp_path):
    text = TEXT.split("{Decoder}")[0].replace("channels=4\n", "channels=12\n")
    train(runs / "store", tmp_path / "whole", "--loss.reconstruction_loss_lambda", "0", text=text)
    found = disentangle_audet(tmp_path / "whole", split="all", draws=3)["runs"]["whole"]
    assert set(found["probes"]["AU"]) == {"z1", "z"}
    assert found["dependence"] == {"skipped": "the net has no z2"}
    assert found["swap"] == {"skipped": "the net has no decoder"}
    assert not (tmp_path / "whole" / "disentangle.png").exists()


def test_what_is_wrong_is_named(runs):
    with pytest.raises(UsageError, match="must be at least 8"):
        disentangle_audet(runs / "run", faces=4)
    with pytest.raises(DataError, match="not a run folder of AUDetNet"):
        disentangle_audet(runs)
