"""Plugins: a package that is made here adds a loss, a cue, a reader and a score; bad ones are one line and disturb nobody."""

import importlib
import json
import sys

import numpy as np
import pytest
import tiny
import torch

from mien import plugins
from mien.cli import main
from mien.config import CueConfig, load_recipe
from mien.cues import render_cue
from mien.data.store import open_store
from mien.errors import DataError, UsageError
from mien.evaluation.evaluate import evaluate
from mien.losses.config import GuidanceConfig, check_guidance
from mien.metrics.alignment import alignment_scores
from mien.training.loop import fit

CODE = '''
from dataclasses import dataclass
import numpy as np
import torch
from mien.cues.render import AddedCue
from mien.datasets import Reader
from mien.losses.options import AddedTerm, Term
from mien.metrics.alignment import AddedScore
from mien.schema import Record

@dataclass(frozen=True)
class Calm(Term):
    """Options."""
    power: float = 2.0

calm = AddedTerm(Calm, lambda step, o: step.logits.abs().pow(o.power).mean())
vector = AddedTerm(Calm, lambda step, o: step.logits)

def _upper(config, faces, size):
    maps = torch.zeros(len(faces.landmarks), 1, *size)
    maps[:, :, : size[0] // 2] = 1
    return maps, torch.isfinite(faces.landmarks).all(-1).all(-1)

upper = AddedCue(_upper)
small = AddedCue(lambda config, faces, size: (torch.ones(1), torch.ones(1)))

def _records(root, *, fold=None):
    for name in sorted(path.name for path in root.glob("*.npy")):
        yield Record(name, np.load(root / name), "train", name, "Happiness" if "happy" in name else "Neutral")

def _broken(root):
    yield 3

def _raises(root):
    raise ValueError("no such\\nheader")

mine = Reader(_records, size=32)
odd = Reader(_broken)
raising = Reader(_raises)
overlap = AddedScore(lambda maps, cue: torch.minimum(maps, cue).flatten(1).mean(1), True)
failing = AddedScore(lambda maps, cue: maps.no_such_thing, False)
NOT_ONE = 3
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package with entry points: package(name, {group: {name: object}}, code)."""
    made = []

    def install(name, groups, code=CODE):
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-0.3.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        points = [f"[mien.{g}]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items()) for g, rows in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(points))
        monkeypatch.syspath_prepend(folder)
        made.append(name)

    yield install
    for name in made:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    plugins._USED.clear()
    plugins._TOLD.clear()


def test_an_outside_package_adds_all_four(package, tmp_path, capsys):
    package(
        "tinymien",
        {
            "losses": {"calm": "tinymien:calm"}, "cues": {"upper": "tinymien:upper"},
            "readers": {"mine": "tinymien:mine"}, "metrics": {"overlap": "tinymien:overlap"},
        },
    )  # fmt: skip
    recipe = tiny.recipe(
        tiny.store(tmp_path / "store", each=4).path, optim={"epochs": 1}, cue={"kind": "upper"}, guidance={"weight": 1.0},
        loss={"terms": [{"name": "calm", "power": 3.0}]},
    )  # fmt: skip
    assert recipe.loss.terms[0]["power"] == 3.0
    fit(recipe, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("train_calm" in row for row in log)
    used = json.loads((tmp_path / "run" / "environment.json").read_text())["plugins"]
    assert used["mien.losses:calm"] == used["mien.cues:upper"] == "tinymien 0.3"
    results = evaluate(tmp_path / "run")
    scores = results["alignment"]["cam"]["overlap"]
    assert 0 < scores["class_mean"] < 1
    assert scores["higher_is_better"] is True
    assert "overlap" in capsys.readouterr().out

    root = tmp_path / "mine"
    root.mkdir()
    for k, name in enumerate(("happy1", "plain1", "happy2")):
        np.save(root / f"{name}.npy", np.full((40, 40, 3), 40 * k, np.uint8))
    assert main(["prepare", "mine", "--root", str(root), "--out", str(tmp_path / "own"), "--workers", "1"]) == 0
    assert list(open_store(tmp_path / "own").expression) == ["Happiness", "Happiness", "Neutral"]
    assert main(["doctor"]) == 0
    assert "ready: tinymien 0.3" in capsys.readouterr().out


def test_nothing_is_loaded_before_it_is_named(package):
    package("heavy", {"losses": {"slow": "heavy:calm"}, "cues": {"far": "heavy:upper"}}, "raise SystemError('loaded')")
    load_recipe(None, ["--loss.terms", "[{name: squared}]", "--cue.kind", "landmarks"])
    assert "heavy" not in sys.modules


@pytest.mark.parametrize(
    ("code", "point", "line"),
    [
        (
            "import no_such_module",
            "bad:calm",
            r"plugin 'mad' \(term of the loss\) of bad 0.3 cannot be loaded \(ModuleNot",
        ),
        (CODE, "bad:NOT_ONE", r"is a int, not a mien.losses.options.AddedTerm; see CONTRIBUTING"),
        (CODE, "bad:gone", r"cannot be loaded \(AttributeError"),
    ],
)
def test_a_bad_plugin_is_one_line_and_disturbs_nobody(package, code, point, line):
    package("bad", {"losses": {"mad": point}}, code)
    with pytest.raises(DataError, match=line) as told:
        load_recipe(None, ["--loss.terms", "[{name: mad}]"])
    assert "\n" not in str(told.value)
    load_recipe(None, ["--loss.terms", "[{name: squared}]"])


def test_names_of_mien_are_refused_and_told(package, capsys):
    package(
        "taker",
        {"losses": {"squared": "taker:calm"}, "cues": {"au": "taker:upper"}, "metrics": {"cosine": "taker:overlap"},
         "readers": {"folder": "taker:mine"}},
    )  # fmt: skip
    recipe = load_recipe(None, ["--loss.terms", "[{name: squared}]"])
    assert "power" not in recipe.loss.terms[0]
    maps = torch.rand(2, 1, 4, 4)
    assert list(alignment_scores(maps, maps)) == ["cosine", "pearson", "energy", "pointing"]
    told = capsys.readouterr().err
    for name in ("squared", "au", "cosine"):
        assert told.count(f"plugin '{name}'") == 1, told
    assert main(["prepare", "folder", "--root", "gone", "--out", "out"]) != 0
    assert "plugin 'folder' (dataset) of taker 0.3: Mien has that name itself" in capsys.readouterr().err


def test_two_packages_with_one_name(package):
    package("first", {"cues": {"upper": "first:upper"}})
    package("second", {"cues": {"upper": "second:upper"}})
    config = CueConfig("upper")
    with pytest.raises(DataError, match=r"first 0\.3 adds that name too; uninstall one of them"):
        render_cue(config, torch.zeros(1, 68, 2), torch.zeros(1).long(), image_size=(8, 8), size=(4, 4))


def test_an_unknown_name_suggests_a_plugin(package):
    package("tinymien", {"losses": {"calm": "tinymien:calm"}, "cues": {"upper": "tinymien:upper"}})
    with pytest.raises(UsageError, match="Did you mean 'calm'"):
        load_recipe(None, ["--loss.terms", "[{name: clam}]"])
    with pytest.raises(UsageError, match="Did you mean 'upper'"):
        CueConfig("uper")
    check_guidance(GuidanceConfig(weight=1.0, cue="upper"), "guidance", "here")


def test_a_plugin_that_fails_while_it_works(package, tmp_path, capsys):
    package(
        "odd",
        {"losses": {"vector": "odd:vector"}, "cues": {"small": "odd:small"}, "metrics": {"failing": "odd:failing"},
         "readers": {"odd": "odd:odd", "raising": "odd:raising"}},
    )  # fmt: skip
    store = tiny.store(tmp_path / "store", each=2).path
    with pytest.raises(DataError, match=r"term 'vector' gave .*scalar tensor"):
        fit(tiny.recipe(store, optim={"epochs": 1}, loss={"terms": [{"name": "vector"}]}), tmp_path / "run")
    with pytest.raises(DataError, match="cue 'small' gave shapes"):
        render_cue(CueConfig("small"), torch.zeros(2, 68, 2), torch.zeros(2).long(), image_size=(8, 8), size=(4, 4))
    with pytest.raises(DataError, match=r"score 'failing' failed \(AttributeError"):
        alignment_scores(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    for name, words in (("odd", "it gave a int, not a Record"), ("raising", "ValueError: no such header")):
        assert main(["prepare", name, "--root", str(tmp_path), "--out", str(tmp_path / name)]) == 1
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1


def test_a_score_that_cannot_be_loaded_is_left_out(package, capsys):
    package("bad", {"metrics": {"worse": "bad:overlap"}}, "1 / 0")
    maps = torch.rand(2, 1, 4, 4)
    for _ in range(2):
        assert list(alignment_scores(maps, maps)) == ["cosine", "pearson", "energy", "pointing"]
    assert capsys.readouterr().err.count("plugin 'worse' (alignment score) of bad 0.3 cannot be loaded") == 1
