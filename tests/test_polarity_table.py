"""tools/polarity_table.py: seeds are taken together, and an interval holds their luck."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_tool():
    spec = importlib.util.spec_from_file_location("polarity_table", ROOT / "tools" / "polarity_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["polarity_table"] = module
    spec.loader.exec_module(module)
    return module


def write(folder: Path, rate: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = np.repeat(["Neutral", "Positive", "Negative"], [60, 120, 220])
    right = rng.random(400) < rate
    folder.mkdir()
    with open(folder / "predictions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "true", "predicted"])
        rows.writerows(
            (k, name, name if good else "other") for k, (name, good) in enumerate(zip(truth, right, strict=True))
        )
    (folder / "results.json").write_text(json.dumps({"folds": {"mean": {"epoch": 3.0}, "each": [{}]}}))
    return right


def test_a_difference_holds_faces_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool()
    base = [write(tmp_path / name, 0.6, k) for k, name in enumerate(["plain-paper", "plain_seed1-paper"])]
    other = [write(tmp_path / name, 0.8, 9 + k) for k, name in enumerate(["led-paper", "led_seed1-paper"])]
    write(tmp_path / "alone-paper", 0.7, 20)
    versions = tool.versions_of(tmp_path)
    assert {name: len(one.right) for name, one in versions.items()} == {"plain": 2, "led": 2, "alone": 1}
    variance, freedom = tool.seed_variance(versions)
    by_hand = [(a.mean() - b.mean()) ** 2 / 2 for a, b in (base, other)]
    assert freedom == 2
    assert variance == pytest.approx(sum(by_hand) / 2)
    found = tool.difference(versions["led"], versions["plain"], False, (variance, freedom))
    assert float(found.split()[0]) == pytest.approx(100 * (np.mean(other) - np.mean(base)), abs=0.006)

    def width(luck: tuple[float, int]) -> float:
        low, high = tool.difference(versions["alone"], versions["plain"], False, luck).split("[")[1][:-1].split(",")
        return float(high) - float(low)

    assert width((0.02**2, 20)) > 1.3 * width((0.0, 0))
    sys.argv = ["polarity_table.py", str(tmp_path), "--base", "plain"]
    tool.main()
    assert "| `alone` | 1 | 1, 3 |" in capsys.readouterr().out
