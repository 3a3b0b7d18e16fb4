"""`mien audit` as a whole on a tiny store: all parts, resumed, within its time, bad input in one line; figures and page."""

import json

import numpy as np
import pytest
import torch
from tiny import NAMES, SIZE, store

from mien.audit import run
from mien.audit.faithful import faithful
from mien.audit.follow import Response, factors, follow, monotony, neutral, with_unit
from mien.audit.page import text_csv
from mien.audit.probe import OCCLUSION, probe_of
from mien.audit.sample import sample_of
from mien.audit.table import Part, from_json
from mien.audit.truth import quality, truth
from mien.audit.verdict import LINES, verdict
from mien.errors import DataError, UsageError
from mien.metrics.faithfulness import randomised_stages, stages
from mien.wrapped.wrap import wrap


class Net(torch.nn.Module):
    """A small convolutional net with a linear head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(16, len(NAMES))

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return store(tmp_path_factory.mktemp("audit") / "toy", each=4)


@pytest.fixture(scope="module")
def net():
    return wrap(Net(), classes=NAMES, size=SIZE, preprocess="half", name="toy net")


def short_follow(probe, classes, late=bool):
    """Two responses that cost no rendering."""
    shares = np.full((3, 6, len(classes)), 1 / len(classes), np.float32)
    steps, values = tuple("012345"), tuple(map(float, range(6)))
    where = np.full((3, 6), np.nan, np.float32)
    return [
        Response("AU12", steps, values, shares, where, "unit"),
        Response("hair", steps, values, shares, where, "nuisance"),
    ]


def test_all_parts_and_resumed(faces, net, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "responses", short_follow)
    settings = {"store": faces.path, "out": tmp_path / "a", "faces": 20, "explained": 6, "corrupted": 8}
    found = run.audit(net, **settings)
    assert [part["key"] for part in found["parts"]] == [
        "right",
        "sure",
        "groups",
        "corruptions",
        "explanation",
        "follow",
    ]
    assert 3 < len(found["verdict"]) <= LINES
    assert all(any(c.isdigit() for c in sentence) or "cannot be said" in sentence for sentence in found["verdict"])
    page = (tmp_path / "a" / "audit.html").read_text()
    assert '<h2 id="explanation">' in page
    assert found["command"].startswith("mien audit 'toy net' --store")
    assert found["command"].endswith("--faces 20 --explained 6 --corrupted 8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    kept = json.loads((tmp_path / "a" / "audit.json").read_text())
    parts = [from_json(part) for part in kept["parts"]]
    assert text_csv(parts) == (tmp_path / "a" / "audit.csv").read_text()

    def never(task):
        raise AssertionError("done again")

    monkeypatch.setattr(run, "DO", dict.fromkeys(run.DO, never))
    again = run.audit(net, **settings)
    assert again["verdict"] == found["verdict"]
    with pytest.raises(AssertionError, match="done again"):
        run.audit(net, **{**settings, "seed": 1})


def test_no_time_is_said_and_not_kept(faces, net, tmp_path):
    found = run.audit(net, store=faces.path, out=tmp_path, minutes=1e-6, parts="right,explanation,corruptions,follow")
    told = {part["key"]: " ".join(part["cannot"]) for part in found["parts"]}
    assert all("time was over" in told[name] for name in ("explanation", "corruptions", "follow"))
    assert [file.stem for file in (tmp_path / "parts").iterdir()] == ["right"]


def test_bad_input_in_one_line(faces, net, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'corruptions'"):
        run.audit(net, store=faces.path, parts="right,corruption")
    with pytest.raises(UsageError, match="above 0"):
        run.audit(net, store=faces.path, minutes=-1)
    with pytest.raises(DataError, match=r"an audit needs 12.*--split all"):
        run.audit(net, store=faces.path, split="valid", out=tmp_path)
    with pytest.raises(DataError, match="no prepared store"):
        run.audit(net, store=tmp_path / "none")


def test_a_function_is_explained_by_occlusion_and_never_kept(faces, tmp_path):
    def bright(pictures):
        rows = pictures.mean((2, 3)) / 255
        shares = np.stack([rows[:, (k + 1) * SIZE // 9 : (k + 2) * SIZE // 9].mean(1) for k in range(7)], 1) ** 8 + 1e-9
        return shares / shares.sum(1, keepdims=True)

    model = wrap(bright, classes=NAMES, size=SIZE)
    found = run.audit(model, store=faces.path, out=tmp_path, explained=4, parts="right,explanation")
    assert found["method"] == OCCLUSION
    assert "Its weights cannot be made random" in " ".join(found["parts"][1]["cannot"])
    rows = {row["name"]: row["value"] for row in found["parts"][1]["tables"][0]["rows"]}
    assert rows["insertion"] > rows["deletion"]
    assert not (tmp_path / "parts").exists()


def test_faithful_scores_of_a_net(faces, net):
    rows = np.flatnonzero(faces.split == "test")[:5]
    labels = np.array([NAMES.index(name) for name in faces.expression])
    sample = sample_of(faces, rows, labels, NAMES)
    found = faithful(probe_of(net), sample, faces.images(rows))
    assert set(found.scores) == {"own", "random", "class_mean", "centre", "cue"}
    assert all(len(values) == 5 for kinds in found.scores.values() for values in kinds.values())
    cue = found.scores["cue"]
    known = np.isfinite(cue["flip"])
    np.testing.assert_allclose(cue["flip"][known], 1, atol=1e-4)
    assert (cue["recall@0.5"][known] > 0.95).all()
    assert len(found.twins["cascading"]) == len(found.twins["independent"]) <= 5
    beside = faithful(probe_of(net), sample.part(np.arange(3)), faces.images(rows[:3]), shuffled=probe_of(net))
    assert beside.twins["trained on random labels"][0] == pytest.approx(1, abs=1e-4)  # the same net
    assert "trained on random labels" in {row.name for row in truth(sample, beside, "cam").tables[-1].rows}
    part = truth(sample, found, "cam")
    assert "--random-labels" in " ".join(part.cannot)
    assert isinstance(part, Part)
    assert part.tables[0].rows
    assert len(quality(found, 9)) == 9


def test_stages_leave_the_model_alone():
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = stages(model, 2)
    assert found == [["head"], ["body.2", "body.0"]] or sum(map(len, found)) == 3
    twin = randomised_stages(model, found[0])
    assert not torch.equal(twin.head.weight, model.head.weight)
    assert torch.equal(twin.body[0].weight, model.body[0].weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_unit_moves_nothing_else():
    face = neutral(0)
    smile = with_unit(face, "AU12", 5)
    assert (smile.actions != face.actions).sum() == 2
    assert np.array_equal(with_unit(face, "AU12", 0).actions, face.actions)
    assert smile.appearance == face.appearance


def test_monotony_and_a_class_that_is_not_there():
    curves = np.array([[0.0, 0.1, 0.2], [0.3, 0.2, 0.25]])
    assert monotony(curves).tolist() == [1.0, 0.5]
    part = follow(short_follow(None, ("Neutral", "Anger")), ("Neutral", "Anger"))
    assert "Happiness is no class" in " ".join(part.cannot)
    assert follow([], ("Neutral",)).cannot


def test_verdict_has_ten_lines_at_most():
    parts = [Part(key, key, verdict=tuple(f"{key} {k}." for k in range(4))) for key in run.ORDER]
    assert len(verdict(parts)) == LINES
    assert verdict(parts[:1]) == ["right 0.", "right 1.", "right 2.", "right 3."]


def test_each_person_wears_heads_of_their_own():
    """Were they the same six for everybody, eight people would be one, and the interval over them too narrow."""
    change = next(one[-1] for one in factors() if one[0] == "identity")
    heads = [change(neutral(person), step).identity for person in range(4) for step in range(6)]
    assert len({head.tobytes() for head in heads}) == 24
