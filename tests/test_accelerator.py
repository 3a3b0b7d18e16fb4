"""What a training would do to an accelerator, on a pretended one: no mixed devices, no waits in a step, few copies."""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_audet
import tiny_twins
import torch

pretend = pytest.importorskip("pretend", reason="this torch has no backends written in Python")

from mien.audet import session as audet_session  # noqa: E402
from mien.audet import train as audet_train  # noqa: E402
from mien.cues.config import CONTROL_KINDS  # noqa: E402
from mien.losses.options import TERM_OPTIONS  # noqa: E402
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
    "image, landmarks": {"transformer": {"kind": "image"}, "guidance": {"weight": 2.0}, "cue": {"kind": "landmarks"}},
    "alignment, saliency": {
        "transformer": {"kind": "landmarks"}, "guidance": {"weight": 2.0}, "cue": {"kind": "saliency"},
    },
}  # fmt: skip


def each(section: str, key: str, values: Iterable[Any], **more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A kind for each value of a key, beside other sections."""
    return {f"{key} {value}": {**more, section: {**more.get(section, {}), key: value}} for value in values}


GUIDED, PULLED = {"guidance": {"weight": 2.0}}, {"guidance": {"weight": 2.0, "attribution": "grad_input"}}
EVERY: dict[str, dict[str, Any]] = {
    **each("transformer", "kind", ("masked", "channel"), cue={"kind": "au_generic"}),
    **each("guidance", "attribution", ("grad_cam", "layer_cam", "integrated"), **GUIDED),
    **each("guidance", "target", ("sum", "margin", "predicted", "logprob"), **PULLED),
    **each("guidance", "channels", ("all_joint", "all_per_channel", "random"), **PULLED),
    **each("guidance", "similarity", ("standardised_cosine", "paper", "l1", "l2", "kl"), **GUIDED),
    **each("cue", "kind", ("au_generic", "landmark_mask", "landmark_soft", "landmark_dilation"), **GUIDED),
    **each("cue", "control", (name for name in CONTROL_KINDS if name != "none"), **GUIDED),
    **each("mask", "fill", ("mean", "blur"), mask={"train": 0.5, "dilation": 0.05}),
    **each("data", "targets", ("votes", "mixed", "both"), **GUIDED),
    **each("data", "balance", ("weights", "weights_max"), **GUIDED),
    **each("model", "head", ("max_pool", "lse", "wildcat", "prm", "acol", "mlp", "flat"), **GUIDED),
    **each("loss", "classification", ("focal", "squared", "absolute")),
    **{
        f"term {name}": {"loss": {"terms": [{"name": name, "weight": 0.1}]}} for name in TERM_OPTIONS
        if name != "au_segmentation"
    },
    "segmentation": {"model": {"segmentation": True}, "loss": {"terms": [{"name": "au_segmentation", "weight": 1.0}]}},
    "second": {**GUIDED, "second": {"weight": 1.0, "attribution": "grad_input", "cue": "landmarks"}},
    "parts of a face": {**GUIDED, "cue": {"kind": "landmarks", "groups": {"nose": 0.5}, "merge": "sum"}},
    "barrier to the cue's size": {"guidance": {"weight": 2.0, "barrier": True, "scale": "to_cue", "normalise": "softmax"}},
    "cutmix": {**GUIDED, "augment": {"cutmix": 1.0}},
    "adamw, average": {"optim": {"label_smoothing": 0.1, "ema": 0.9, "name": "adamw"}},
    "dropped": {**GUIDED, "model": {"adl": 0.5, "drop": 0.2, "spatial_drop": 0.2, "self_attention": True}},
    **each("model", "head", ("ts_cam", "cls"), **GUIDED, model={
        "backbone": "vit_tiny_patch16_224", "channels": None, "stem_pool": True, "output_stride": None,
        "backbone_options": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    }),
    "small first": {"optim": {"sizes": [[24, 0.5]]}},
    "limited": {"transformer": {"kind": "image", "limit": 0.5, "padding": "border", "shape": "similarity"}},
    "in memory": {**GUIDED, "run": {"in_memory": True}},
}  # fmt: skip
"""Every other kind of guidance, cue, control, head and term."""


class OneDevice:
    """What a training asks of lightning-fabric, on the pretended device."""

    device = pretend.DEVICE
    global_rank, world_size, is_global_zero = 0, 1, True
    strategy = SimpleNamespace(precision=SimpleNamespace(state_dict=dict))

    def barrier(self) -> None:
        pass

    def autocast(self) -> Any:
        return nullcontext()

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


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in EVERY)])
def test_a_step_neither_waits_nor_mixes_devices(
    kind: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"augment": {"grayscale": 0.2, "erase": 0.3}, "optim": {"clip": 1.0}}
    for section, keys in {**KINDS, **EVERY}[kind].items():
        asked[section] = {**asked.get(section, {}), **keys}
    recipe = tiny.recipe(faces, **asked)
    monkeypatch.setattr(session, "open_fabric", lambda *settings: OneDevice())
    with pretend.pretended():
        ready, _ = session.prepare_session(recipe, tmp_path / "run")
        rows = np.arange(STEPS * recipe.optim.batch)
        loop.train_epoch(recipe, ready, 1, rows[: recipe.optim.batch])  # constants reach the device once
        pretend.EVENTS.clear()
        loop.train_epoch(recipe, ready, 2, rows)
        events = [event for event in pretend.EVENTS if "all_reduce" not in event[2]]
        pretend.EVENTS.clear()
    assert_quiet(events, MOST_COPIES * STEPS)


def assert_quiet(events: list[tuple[str, str, str]], most: int) -> None:
    """No waits, no mixed devices and generators, and at most so many copies."""
    waits = [event for event in events if event[0] != "copy"]
    assert not waits, "\n".join(map(str, waits))
    copies = [event for event in events if event[0] == "copy"]
    assert len(copies) <= most, "\n".join(map(str, copies))


AUDET = {
    "critics": ["--data.affine", "0.1"],
    "readers": ["--loss.identity_loss_lambda", "0.1", "--loss.action_loss_lambda", "0.1"],
    **{f"dependency {name}": ["--loss.dependency", name] for name in ("logistic", "infonce", "hsic")},
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if " " in k else k for k in AUDET])
def test_a_step_of_audetnet_neither_waits_nor_mixes_devices(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of six faces, of which the second is a turn of the main net beside both critics."""
    faces = tiny_audet.store(tmp_path / "store").path
    monkeypatch.setattr(audet_session, "open_fabric", lambda *settings: OneDevice())
    cfg = tiny_audet.cfg(*AUDET[kind])
    with pretend.pretended():
        ready, _ = audet_session.prepare_session(cfg, faces, tmp_path / "run")
        rows = ready.labels.train[:12]
        audet_train.train_epoch(ready, 1, rows)  # constants reach the device once
        pretend.EVENTS.clear()
        audet_train.train_epoch(ready, 2, rows)
        events = [event for event in pretend.EVENTS if "all_reduce" not in event[2]]
        pretend.EVENTS.clear()
    assert_quiet(events, MOST_COPIES * 2)


TWINS = {
    "masked": [],
    "open": ["--data.affine", "0.1", "--data.flip", "0.5", "--data.colour", "0.3"],
    "pairs": ["--loss.twin_targets", "0"],
}
"""Where the eyes are known, with random changes that twins share, and decoded from a random pairing instead of twins."""


@pytest.mark.parametrize("kind", TWINS)
def test_a_step_on_twins_neither_waits_nor_mixes_devices(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of two blocks, with every term of swaps."""
    faces, reader = tiny_twins.store(tmp_path / "store").path, tmp_path / "reader"
    audet_train.fit(tiny_audet.cfg("--training.max_epochs", "1"), faces, reader)
    monkeypatch.setattr(audet_session, "open_fabric", lambda *settings: OneDevice())
    cfg = tiny_twins.cfg("--loss.reader", str(reader), "--loss.reader_loss_lambda", "0.1", *TWINS[kind])
    with pretend.pretended():
        ready, _ = audet_session.prepare_session(cfg, faces, tmp_path / "run")
        if ready.reader is not None:
            pretend.move(ready.reader.net)
        audet_train.train_epoch(ready, 1, audet_train.epoch_rows(ready, 1)[:16])
        pretend.EVENTS.clear()
        audet_train.train_epoch(ready, 2, audet_train.epoch_rows(ready, 2)[:16])
        events = [event for event in pretend.EVENTS if "all_reduce" not in event[2]]
        pretend.EVENTS.clear()
    assert_quiet(events, MOST_COPIES * 2)
