"""Several processes are one training: the same numbers as one process, every net, one folder, refused where it cannot be."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from mien.config import ModelConfig, RunConfig, as_dict
from mien.errors import UsageError
from mien.files import first_process
from mien.models import create_model
from mien.training import checkpoint, validation
from mien.training.devices import open_fabric
from mien.training.guides import guides_of
from mien.training.unused import leave_out_unused

ROOT = Path(__file__).resolve().parent.parent
LEFT_OVER = ["mobilenetv3_small_050", "mobilenetv4_conv_small", "ghostnet_050", "edgenext_xx_small", "poolformer_s12"]


@pytest.mark.parametrize(
    "backbone", ["convnext_atto", *(pytest.param(name, marks=pytest.mark.slow) for name in LEFT_OVER)]
)
def test_every_weight_that_is_left_gets_a_gradient(backbone: str) -> None:
    model = create_model(ModelConfig(backbone=backbone, size=64), 7)
    before = sum(weight.requires_grad for weight in model.parameters())
    idle = leave_out_unused(model, 64)
    kept = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(kept) < before
    model(torch.rand(2, 3, 64, 64)).logits.sum().backward()
    assert all(weight.grad is not None or any(weight is one for one in idle) for weight in kept)


def test_validation_keeps_no_graph_and_takes_a_batch_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.training.session import prepare_session

    faces = tiny.store(tmp_path / "store").path
    recipe = tiny.recipe(faces, guidance={"weight": 2.0, "attribution": "grad_input"}, optim={"batch": 4})
    session, _ = prepare_session(recipe, tmp_path / "run")
    seen: list[torch.Tensor] = []
    inner = validation.trained_maps

    def watched(*arguments):
        output, looks = inner(*arguments)
        assert not any(tensor.grad_fn for tensor in seen), "an earlier batch still has its graph"
        seen.append(output.logits.detach())
        assert len(output.logits) <= recipe.optim.batch
        return output, looks

    kept: list[torch.Tensor] = []
    scores_of = validation.scores_of

    def scored(session, recipe, logits, of_labels, aligned):
        kept.extend([*logits, *(part for parts in aligned.values() for part in parts)])
        return scores_of(session, recipe, logits, of_labels, aligned)

    monkeypatch.setattr(validation, "trained_maps", watched)
    monkeypatch.setattr(validation, "scores_of", scored)
    validation.validate(session, recipe)
    assert len(seen) > 1
    assert not any(tensor.requires_grad for tensor in kept)
    plain = tiny.recipe(faces, guidance={"weight": 2.0})
    assert validation.validation_batch(plain, guides_of(plain, session.model)) == validation.MOST


def test_another_number_of_processes_than_was_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunConfig(accelerator="cpu")
    with pytest.raises(UsageError, match=r"run\.num_nodes is 2; start"):
        open_fabric(run, "32-true", 2)
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"torchrun started 2 .* 3 machines.*--run.devices 2 --run.num_nodes 3"):
        open_fabric(run, "32-true")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NNODES", "1")
    with pytest.raises(UsageError, match=r"SLURM started 4 .* give --run.devices 4 --run.num_nodes 1"):
        open_fabric(run, "32-true")
    assert first_process()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not first_process()


def test_scaler_goes_into_the_checkpoint_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lightning-fabric takes bfloat16 on a CPU in place of 16-mixed; here it gets the scaler that it has on a GPU."""
    from lightning_fabric.plugins.precision.amp import MixedPrecision

    from mien.training import session
    from mien.training.loop import fit

    def half(*settings):
        fabric = open_fabric(*settings)
        fabric._strategy.precision = MixedPrecision("16-mixed", "cpu")
        return fabric

    monkeypatch.setattr(session, "open_fabric", half)
    faces = tiny.store(tmp_path / "store", each=3).path
    recipe = tiny.recipe(faces, optim={"epochs": 1})
    fit(recipe, tmp_path / "run")
    saved = checkpoint.load_tensors(tmp_path / "run" / "last.ckpt")[1]["scaler"]
    assert saved["_growth_tracker"] > 0 or saved["scale"] != 65536  # it has counted steps, or found its scale
    again, _ = session.prepare_session(recipe, tmp_path / "run")
    assert again.fabric.strategy.precision.state_dict() == saved


def trained(folder: Path, faces: Path, start: list[str], **sections: dict) -> Path:
    """A run of `mien train` in processes of its own."""
    out, recipe = folder / "run", tiny.recipe(faces, **sections)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(as_dict(recipe)))
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, *start, "-m", "mien", "train", str(folder / "recipe.yaml"), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**clean, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Next: mien evaluate") == 1
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]], ids=["own", "torchrun"]
)
def test_two_processes_of_8_faces_are_one_of_16(start: list[str], tmp_path: Path) -> None:
    faces = tiny.store(tmp_path / "store", each=8).path
    common = {
        "guidance": {"weight": 2.0},
        "data": {"balance": "weights"},
        "model": {"backbone": "convnext_atto", "channels": None, "stem_pool": True, "output_stride": None, "size": 64},
    }
    one = trained(tmp_path / "one", faces, [], **common, optim={"batch": 16, "epochs": 2, "lr": 0.01})
    shared = {"devices": 2, "strategy": "ddp"}
    two = trained(tmp_path / "two", faces, start, **common, optim={"batch": 8, "epochs": 2, "lr": 0.01}, run=shared)
    lines = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, two)]
    for first, second in zip(*lines, strict=True):
        for key in first:
            if key not in ("seconds", "images_per_second"):
                assert first[key] == pytest.approx(second[key], abs=1e-4), key
    weights = [checkpoint.load_tensors(run / "last.ckpt")[0] for run in (one, two)]
    moved = 0.0
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-4), name
        moved += float(tensor.abs().sum())
    assert np.isfinite(moved)
    with pytest.raises(UsageError, match=r"run\.devices: 2 there, 1 here"):
        checkpoint.open_run(two, replace(tiny.recipe(faces, **common, optim={"batch": 8, "epochs": 2, "lr": 0.01})))
