"""The benchmarks run; what they measure is not judged here."""

import importlib
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = {
    "cues": 3,
    "cams": 3,
    "evaluation": 2,
    "guidance": 16,
    "methods": 6,
    "stn": 2,
    "audet": 1,
    "loading": 2,
    "startup": 3,
    "memory": 2,
}


LONG = ("evaluation", "memory", "startup")


@pytest.mark.parametrize("part", [pytest.param(p, marks=pytest.mark.slow) if p in LONG else p for p in PARTS])
def test_every_part_gives_numbers(part, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    if part in ("cams", "evaluation") and not all(map(importlib.util.find_spec, ("pytorch_grad_cam", "torchcam"))):
        pytest.skip("grad-cam and torchcam are not installed")  # found, not imported: they import torchvision
    rows = importlib.import_module(f"benchmarks.{part}").measure(quick=True)
    assert len(rows) == PARTS[part] or (part == "memory" and not Path("/proc/self/status").exists())
    for row in rows:
        assert all(value is None or math.isfinite(value) for value in row[1:4])
        assert part in ("memory", "evaluation") or all(value > 0 for value in row[1:4])
        assert row.what
        assert row.aim


def test_the_table_is_markdown(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    rows = importlib.import_module("benchmarks.rows")
    lines = rows.table([rows.Row("a", 1.0, 2.0, 2.0, "> 1"), rows.Row("b", 0.123, None, None, "-", 1)]).splitlines()
    assert lines[2:] == ["| a | 1.00 | 2.00 | 2.00 | > 1 |", "| b | 0.1 | - | - | - |"]


def test_help():
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--help"]
    assert "--quick" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_photos_are_timed(tmp_path, monkeypatch):
    import predict_parts
    import tiny

    from mien.predict.model import load
    from mien.training.loop import fit

    monkeypatch.syspath_prepend(str(ROOT))
    photos = importlib.import_module("benchmarks.photos")
    fit(tiny.recipe(tiny.store(tmp_path / "store", each=2).path, optim={"epochs": 1}), tmp_path / "run")
    files = [predict_parts.save(tmp_path / f"{k}.png", predict_parts.picture((5, 5))) for k in range(3)]
    rows = photos.measure(load(tmp_path / "run", faces=predict_parts.find), files, repeats=1)
    assert [row.faces for row in rows] == [3, 3, 3, 3, 1, 1]
    assert all(row.wall > 0 for row in rows)
    assert photos.table(rows).count("\n") == 7


def test_stores_of_any_size_are_made_and_commands_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    growth = importlib.import_module("benchmarks.growth")
    from mien.data.duplicates import near_pairs
    from mien.data.store import open_store

    monkeypatch.setattr(growth, "POOL", 42)
    growth.make_store(tmp_path / "made", 200, 32)
    store = open_store(tmp_path / "made")
    assert len(store) == 200
    assert {"train", "valid", "test"} == set(store.split)
    assert near_pairs(store).tolist() == [[k - 1, k] for k in range(49, 200, 50)]  # the mirrored copies, and no others
    if Path("/proc/self/status").exists():
        cost = growth.cost_of(["-c", "held = bytearray(b'1') * (40 << 20)\nfor _ in range(3 * 10**6): pass"])
        assert cost.cpu > 0
        assert cost.memory > 30
        assert growth.table({3000: {"check": cost}}).count("\n") == 2
    with pytest.raises(SystemExit, match="ValueError"):
        growth.cost_of(["-c", "raise ValueError"])
