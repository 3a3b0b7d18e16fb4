"""What a training would do to an accelerator, on a pretended one: no mixed devices, no waits in a step, few copies."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

pretend = pytest.importorskip("pretend", reason="this torch has no backends written in Python")

from mien.training import loop, session  # noqa: E402

MOST_COPIES = 6
STEPS = 2
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guided": {"guidance": {"weight": 2.0}},
    "gradient": {"guidance": {"weight": 2.0, "attribution": "grad_input"}},
    "pal": {
        "guidance": {"weight": 2.0, "attribution": "grad_input", "channels": "first_half", "similarity": "pearson"}
    },
    "mask": {"mask": {"train": 0.5}},
    "guide": {"transformer": {"kind": "guide"}, "cue": {"kind": "au_generic"}},
}


class OneDevice:
    """What a training asks of lightning-fabric, on the pretended device."""

    device = pretend.DEVICE
    global_rank, world_size, is_global_zero = 0, 1, True
    strategy = SimpleNamespace(precision=SimpleNamespace(state_dict=dict))

    def barrier(self) -> None:
        pass

    def broadcast(self, value: Any) -> Any:
        return value

    def all_reduce(self, value: Any, **options: Any) -> Any:
        return value

    def setup(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        before = list(model.parameters())
        pretend.move(model)
        moved = dict(zip(map(id, before), model.parameters(), strict=True))
        for group in optimizer.param_groups:
            group["params"] = [moved[id(weight)] for weight in group["params"]]
        return model, optimizer

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def clip_gradients(self, model: torch.nn.Module, optimizer: Any, max_norm: float) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.store(tmp_path_factory.mktemp("data") / "store").path


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_neither_waits_nor_mixes_devices(
    kind: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe(faces, **{"augment": {"grayscale": 0.2, "erase": 0.3}, "optim": {"clip": 1.0}, **KINDS[kind]})
    monkeypatch.setattr(session, "open_fabric", lambda *settings: OneDevice())
    with pretend.pretended():
        ready, _ = session.prepare_session(recipe, tmp_path / "run")
        rows = np.arange(STEPS * recipe.optim.batch)
        loop.train_epoch(recipe, ready, 1, rows[: recipe.optim.batch])  # constants reach the device once
        pretend.EVENTS.clear()
        loop.train_epoch(recipe, ready, 2, rows)
        events = [event for event in pretend.EVENTS if "all_reduce" not in event[2]]
        pretend.EVENTS.clear()
    waits = [event for event in events if event[0] != "copy"]
    assert not waits, "\n".join(map(str, waits))
    copies = [event for event in events if event[0] == "copy"]
    assert len(copies) <= MOST_COPIES * STEPS, "\n".join(map(str, copies))
