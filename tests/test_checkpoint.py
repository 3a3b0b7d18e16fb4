"""A full disk costs one clear line and nothing that was saved before; run folders of other versions are refused."""

import errno
import json
import os
from pathlib import Path

import pytest
import tiny
import torch

from mien.data.store import finished_ids, open_store, write_store
from mien.errors import DataError
from mien.files import write_json
from mien.models.packed import pack
from mien.training import checkpoint
from mien.training.loop import fit


def full_disk(monkeypatch: pytest.MonkeyPatch, ending: str, allowed: int = 0) -> None:
    """Renaming a file onto a name with this ending fails with ENOSPC, after `allowed` that succeed."""
    real, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if str(target).endswith(ending):
            seen.append(target)
            if len(seen) > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.ckpt"
    checkpoint.save_tensors(file, {"x": torch.ones(2)}, {"epoch": 1})
    full_disk(monkeypatch, "a.ckpt")
    with pytest.raises(DataError, match="disk is full") as caught:
        checkpoint.save_tensors(file, {"x": torch.zeros(2)}, {"epoch": 2})
    assert "\n" not in str(caught.value)
    tensors, meta = checkpoint.load_tensors(file)
    assert tensors["x"].tolist() == [1, 1]
    assert meta["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_full_disk_in_training_then_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.store(tmp_path / "faces")
    recipe = tiny.recipe(tmp_path / "faces", guidance={"weight": 2.0})
    fit(recipe, tmp_path / "whole")
    full_disk(monkeypatch, "last.ckpt", allowed=1)
    with pytest.raises(DataError, match="disk is full"):
        fit(recipe, tmp_path / "parts")
    monkeypatch.undo()
    fit(recipe, tmp_path / "parts")
    one, two = (checkpoint.load_tensors(tmp_path / name / "last.ckpt")[0] for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert (
        [json.loads(line)["epoch"] for line in lines[1]] == [json.loads(line)["epoch"] for line in lines[0]] == [1, 2]
    )


def test_full_disk_in_a_store_keeps_finished_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.data.store.PART_ROWS", 10)
    made, out = tiny.records(), tmp_path / "s"
    full_disk(monkeypatch, ".arrow", allowed=2)
    with pytest.raises(DataError, match="disk is full") as caught:
        write_store(made, out, dataset="toy", size=tiny.SIZE)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setattr("mien.data.store.PART_ROWS", 10)
    kept = len(list(finished_ids(out)))
    assert kept == 20
    todo = iter(made)
    store = write_store((record for record in todo), out, dataset="toy", size=tiny.SIZE)
    assert len(store) == len(made)
    whole = write_store(made, tmp_path / "whole", dataset="toy", size=tiny.SIZE)
    assert open_store(out).fingerprint == whole.fingerprint


def test_wrong_folder_and_other_version(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        checkpoint.read_run(tmp_path)
    tiny.store(tmp_path / "faces")
    fit(tiny.recipe(tmp_path / "faces", optim={"epochs": 1}), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    write_json(tmp_path / "run" / "environment.json", {**facts, "run_version": 99})
    with pytest.raises(DataError, match="run version 99"):
        checkpoint.load_model(tmp_path / "run")


def test_damaged_and_foreign_checkpoints(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "foreign.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"not a checkpoint")
    for name, words in (("foreign", "not written by mien"), ("broken", "damaged"), ("none", "missing")):
        with pytest.raises(DataError, match=words):
            checkpoint.load_tensors(tmp_path / f"{name}.ckpt")


def test_packed_weights_are_small_and_near(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"kernel": torch.randn(6, 5, 3, 3, generator=generator), "bias": torch.randn(6, generator=generator),
               "count": torch.tensor(7), "empty": torch.zeros(2, 4)}  # fmt: skip
    tensors["kernel"][2] *= 1000  # each channel has its own scale
    checkpoint.save_tensors(tmp_path / "packed", pack(tensors), {})
    found, _ = checkpoint.load_tensors(tmp_path / "packed")
    assert found.keys() == tensors.keys()
    for channel, kernel in zip(found["kernel"], tensors["kernel"], strict=True):
        assert (channel - kernel).abs().max() <= kernel.abs().max() / 254 * 1.001
    assert torch.allclose(found["bias"].float(), tensors["bias"], rtol=1e-3)
    assert found["count"] == 7
    assert not found["empty"].any()
    kernel = {"kernel": torch.randn(64, 64, 3, 3, generator=generator)}
    checkpoint.save_tensors(tmp_path / "a", kernel, {})
    checkpoint.save_tensors(tmp_path / "b", pack(kernel), {})
    assert (tmp_path / "b").stat().st_size < 0.27 * (tmp_path / "a").stat().st_size


def test_one_flipped_bit_in_a_weight_is_told(tmp_path):
    file = tmp_path / "best.ckpt"
    checkpoint.save_tensors(file, {"x": torch.ones(64)}, {"epoch": 1})
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"best\.ckpt is damaged \(its numbers are not those that were written\)"):
        checkpoint.load_tensors(file)
