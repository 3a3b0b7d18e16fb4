"""Where the evidence lies is known: PAL moves a small net onto it."""

import importlib
from pathlib import Path

import torch


def test_pal_moves_the_evidence_onto_the_landmarks_without_losing_accuracy(monkeypatch):
    """benchmarks/toy.py with fewer epochs: rho of the true class from below 0.5 to above 0.75."""
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    toy = importlib.import_module("benchmarks.toy")
    found = {}
    for name in ("cross-entropy only", "grad_input, label"):
        found[name] = toy.scores(toy.train(toy.SETTINGS[name], seed=0, epochs=7), seed=0)
    without, guided = found.values()
    assert without["rho(label)"] < 0.5
    assert guided["rho(label)"] > 0.75
    assert guided["accuracy"] > without["accuracy"] - 0.02
    assert guided["accuracy"] > 0.8
