"""Swaps against the faces that they should have become, on toy twins and nets whose answers are known."""

import json

import numpy as np
import pytest
import tiny
import tiny_audet
import torch

from mien.audet import counterfactual as flow
from mien.audet import readers
from mien.audet.disentangle import disentangle_audet
from mien.audet.disentangle_page import page
from mien.audet.run import load_audet
from mien.audet.train import fit
from mien.data.store import open_store, write_store
from mien.data.twins import twin_groups
from mien.errors import DataError, UsageError
from mien.schema import ACTION_UNITS, Record

UNITS = ("AU2", "AU12")
TEXT = tiny_audet.TEXT.replace("output_features=12", "output_features=2").replace(
    "image_size=16", "image_size=16\naction_units=AU2, AU12"
)


def twins(views: int = 3, people: int = 6, size: int = 16) -> list[Record]:
    """Blocks of two people with two sets of actions; a person is a texture, an action a bright bar, a view the brightness."""
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 90, (people, size, size, 3))
    places = (5, 11)
    made = []
    for block in range(views * people // 2):
        pair = (block * 2 % people, (block * 2 + 1) % people)
        wanted = rng.permutation([(0, 4), (4, 0), (4, 4), (0, 0)])[:2]
        for i, who in enumerate(pair):
            for k, intensities in enumerate(wanted):
                image = looks[who] + 8 * (block % 5) + rng.integers(0, 3, (size, size, 3))
                units = np.full(len(ACTION_UNITS), np.nan, np.float32)
                for name, row, value in zip(UNITS, places, intensities, strict=True):
                    image[row] += 30 * value
                    units[ACTION_UNITS.index(name)] = value
                made.append(
                    Record(
                        f"b{block}p{i}a{k}",
                        image.astype(np.uint8),
                        "train" if who < 4 else "test",
                        f"s{who}",
                        action_units=units,
                        landmarks=tiny.points(size),
                        pose=np.array([block, 0, 0], np.float32),
                        same_person=f"b{block}p{i}",
                        same_actions=f"b{block}a{k}",
                    )
                )
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("twins")
    write_store(twins(), root / "store", dataset="toy", size=16)
    for seed, name in ((0, "run"), (1, "other")):
        cfg = tiny_audet.cfg("--training.max_epochs", "1", "--run.seed", str(seed), text=TEXT)
        fit(cfg, root / "store", root / name)
    return root


def scored(runs, monkeypatch, decode, reader=None):
    store = open_store(runs / "store")
    monkeypatch.setattr(flow, "decode_rows", lambda net, store, z1, z2, device: decode(store, z1, z2))
    net = load_audet(runs / "run")
    return flow.counterfactual(net, store, np.arange(len(store)), 100, reader, 0, torch.device("cpu"))


def outcome(store, z1, z2):
    """What a perfect net would decode."""
    groups = twin_groups(store)
    at = {pair: row for row, pair in enumerate(zip(*(column.tolist() for column in groups), strict=True))}
    rows = [at[int(groups.same_person[p]), int(groups.same_actions[a])] for a, p in zip(z1, z2, strict=True)]
    return flow.real_pictures(store, np.array(rows), 16)


def bars(name="bars"):
    """A reader that sees the bars."""

    def read(pictures, corners):
        rows = pictures.mean(1)
        return torch.stack([rows[:, y].mean(1) - rows[:, y - 1].mean(1) for y in (5, 11)], 1).double().numpy() * 5

    return readers.Reader(name, UNITS, (2.0, 2.0), 2.0, True, read)


def test_a_perfect_decoder_and_one_that_copies(runs, monkeypatch):
    best = scored(runs, monkeypatch, outcome, bars())
    assert best["pairs"] == 36
    assert best["people"] == 6
    for row in best["error"].values():
        assert row["psnr"]["swapped"][0] == row["psnr"]["reconstruction"][0] == pytest.approx(100)
        assert row["ssim"]["swapped"][0] == pytest.approx(1)
    gain = best["error"]["acting"]["psnr"]["nearer_than_copy"]
    assert gain["difference"] > 50
    assert gain["p"] < 0.001
    reads = best["reader"]["scores"]
    assert reads["swapped"] == reads["truth"]
    assert reads["truth"]["correlation"][0] > 0.9 > 0.2 > reads["copy"]["correlation"][0]
    assert best["reader"]["f1_share_of_truth"] == pytest.approx(1)
    assert best["identity"]["inner"]["kept"] == pytest.approx(1, abs=0.1)
    assert best["identity"]["inner"]["own_face"][0] > 0.8
    assert best["identity"]["inner"]["chance"] == pytest.approx(1 / 6)
    lazy = scored(runs, monkeypatch, lambda store, z1, z2: flow.real_pictures(store, z2, 16), bars())
    assert lazy["error"]["acting"]["psnr"]["nearer_than_copy"]["difference"] == 0
    assert lazy["reader"]["scores"]["swapped"] == lazy["reader"]["scores"]["copy"]
    thief = scored(runs, monkeypatch, lambda store, z1, z2: flow.real_pictures(store, z1, 16), bars())
    assert thief["identity"]["head"]["as_z1"] > 0.8
    assert thief["identity"]["head"]["kept"] < 0.2


def test_a_reader_that_finds_few_faces_says_so(runs, monkeypatch):
    blind = bars()._replace(read=lambda pictures, corners: np.full((len(pictures), 2), np.nan))
    found = scored(runs, monkeypatch, outcome, blind)["reader"]
    assert found == {"skipped": "bars finds a face in 0 of 36 swaps and their outcomes"}

    def half(pictures, corners):
        values = bars().read(pictures, corners)
        values[::2] = np.nan
        return values

    found = scored(runs, monkeypatch, outcome, bars()._replace(read=half))["reader"]
    assert found["found"] == dict.fromkeys(flow.SHOWN, 0.5)
    assert found["scored"] == 0.5


def test_report_with_another_net_as_reader(runs, capsys):
    report = disentangle_audet(runs / "run", split="all", draws=3, reader=str(runs / "other"))
    found = report["runs"]["run"]["counterfactual"]
    assert found["reader"]["name"] == "other"
    assert found["reader"]["scores"]["truth"]["icc"] is None  # probabilities
    assert (runs / "run" / "disentangle-outcomes.png").stat().st_size > 1000
    assert json.loads((runs / "run" / "disentangle.json").read_text()) == report
    text = page(report)
    assert "the outcome than a copy of z2's face" in text
    assert "read by other" in text
    assert "compare with --reader blendshapes" in text
    assert text in capsys.readouterr().out


def test_readers_that_are_not_independent_are_refused(runs):
    with pytest.raises(UsageError, match="is the net that made the swaps"):
        readers.open_reader(str(runs / "run"), runs / "run")
    cfg = tiny_audet.cfg(text=TEXT)
    trained = cfg.__class__(
        **{**cfg.__dict__, "loss": cfg.loss.__class__(**{**cfg.loss.__dict__, "reader": str(runs / "other")})}
    )
    assert readers.same_net(runs / "other", runs / "run", trained) == "trained the net that made the swaps"
    with pytest.raises(DataError, match="not a run folder"):
        readers.open_reader(str(runs / "store"), runs / "run")


def test_blendshapes_are_read_where_there_is_the_face_model(runs, monkeypatch):
    from mien.faces import mediapipe

    def missing(model):
        raise DataError("no face_landmarker.task; get it")

    monkeypatch.setattr(mediapipe, "open_nets", missing)
    assert readers.open_reader("none", runs / "run") == (None, "none was asked for")
    reader, why = readers.open_reader("auto", runs / "run")
    assert reader is None
    assert "--reader RUN" in why
    with pytest.raises(DataError, match="get it"):
        readers.open_reader("blendshapes", runs / "run")

    class Found:
        blendshapes = np.full(52, 0.1, np.float32)

    seen = []
    monkeypatch.setattr(
        mediapipe, "open_nets", lambda model: lambda pixels: seen.append(pixels) or [Found] * (len(seen) > 1)
    )
    reader = readers.open_blendshapes()
    values = reader.read(torch.zeros(2, 3, 16, 16), torch.zeros(2, 4, 2))
    assert values.shape == (2, len(reader.units))
    assert np.isnan(values[0]).all()  # no face
    assert ((values[1] >= 0) & (values[1] <= 5)).all()
    assert seen[0].shape == (256, 256, 3)
    assert seen[0].dtype == np.uint8
    assert "AU12" in reader.units


def test_a_store_without_twins_says_what_is_missing(runs, tmp_path):
    plain = [record._replace(same_person=None, same_actions=None) for record in twins()]
    write_store(plain, tmp_path / "plain", dataset="toy", size=16)
    found = disentangle_audet(runs / "run", data=tmp_path / "plain", split="all", draws=3)
    assert "--twins" in found["runs"]["run"]["counterfactual"]["skipped"]
    assert "Not compared" in page(found)
