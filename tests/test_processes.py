"""Several processes are one training: the same numbers as one process, every net, one folder, refused where it cannot be."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import yaml

from mien.compat import ensure_torchvision
from mien.config import ModelConfig, RunConfig, as_dict
from mien.data.store import write_store
from mien.errors import DataError, UsageError
from mien.files import first_process
from mien.models import create_model
from mien.training import checkpoint, loop, validation
from mien.training.devices import open_fabric, together
from mien.training.guides import guides_of
from mien.training.shared_norms import share_norms
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


def test_a_process_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:41")
    with pytest.raises(RuntimeError, match="gloo"), together():
        raise gone
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for error in (gone, torch.distributed.DistNetworkError("socket")):
        with pytest.raises(DataError, match=r"^another process of this training ended, [^\n]* resumes\.$"), together():
            raise error
    with pytest.raises(RuntimeError, match="shapes"), together():
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for a child process as Linux tells of it")
def test_the_first_process_tells_that_another_was_killed(tmp_path: Path) -> None:
    faces = tiny.store(tmp_path / "store", each=8).path
    recipe = tiny.recipe(faces, optim={"epochs": 500}, run={"devices": 2, "strategy": "ddp"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(as_dict(recipe)))
    command = [sys.executable, "-m", "mien", "train", "recipe.yaml", "--out", "run"]
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    first = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    while "epoch   2" not in first.stdout.readline():
        assert first.poll() is None, first.stderr.read()
    children = [int(pid) for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    other = [pid for pid in children if b"mien" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(other[0], signal.SIGKILL)
    _, error = first.communicate(timeout=300)
    assert first.returncode == 1
    assert "mien: another process of this training ended" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_two_processes_of_torchrun_are_stopped_and_one_goes_on_with_few_faces(tmp_path: Path) -> None:
    """Six faces to train on, one to validate: neither number suits two processes. SIGTERM, then the rest by one process."""
    people = [record._replace(subject=record.id) for record in tiny.records(each=1)]
    faces = write_store(people, tmp_path / "store", dataset="toy", size=tiny.SIZE).path
    data, optim = {"valid_fraction": 0.15}, {"epochs": 30, "batch": 2, "lr": 0.01}
    recipe = tiny.recipe(faces, data=data, optim=optim, run={"devices": 2, "strategy": "ddp"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(as_dict(recipe)))
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    env = {**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = ["-m", "mien", "train", "recipe.yaml", "--out", "run"]
    both = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *run], cwd=tmp_path, text=True, env=env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while "epoch   2" not in both.stdout.readline():
        assert both.poll() is None, both.stderr.read()
    both.terminate()
    both.communicate(timeout=120)
    assert not (tmp_path / "run" / ".lock").exists()
    more = [
        "--run.devices",
        "1",
        "--run.strategy",
        "auto",
        "--optim.batch",
        "4",
        "--run.workers",
        "1",
        "--run.in_memory",
        "true",
    ]
    one = subprocess.run(
        [sys.executable, *run, *more], cwd=tmp_path, text=True, env=env, capture_output=True, timeout=600
    )
    assert one.returncode == 0, one.stderr[-2000:]
    assert "goes on with 1 x 4 faces a step in place of 2 x 2" in one.stdout
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 31))


def test_each_process_drops_out_its_own() -> None:
    assert len({loop.own_seed(0, epoch, rank) for epoch in (1, 2) for rank in range(4)}) == 8
    assert loop.own_seed(3, 1, 0) == int(
        np.random.SeedSequence((3, 1)).generate_state(1)[0]
    )  # as in a run of one process


@pytest.mark.parametrize("count", [7, 2, 9])
def test_validation_faces_are_shared_out_and_gathered_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "broadcast", lambda buffer, source: None)
    rows = np.arange(100, 100 + count)
    fabrics = [SimpleNamespace(world_size=3, global_rank=rank, device="cpu") for rank in range(3)]
    shares = [validation.shared_rows(fabric, torch.nn.BatchNorm1d(2), rows) for fabric in fabrics]
    assert {len(share) for share in shares} == {-(-count // 3)}
    every = torch.stack([torch.from_numpy(share) for share in shares])
    fabrics[1].all_gather = lambda here: every
    assert validation.in_order(fabrics[1], every[1], count).tolist() == rows.tolist()


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_shared_batch_norm_is_that_of_all_faces(
    act: bool, momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with the same faces, whose sum is twice the own: as one batch with every face twice."""
    ensure_torchvision()
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    plain = (BatchNormAct2d if act else torch.nn.BatchNorm2d)(3, momentum=momentum)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(3) + 0.5)
        plain.bias.copy_(torch.rand(3))
    net = torch.nn.Sequential(copy.deepcopy(plain))
    share_norms(net)
    assert list(net[0].state_dict()) == list(plain.state_dict())
    images = (50 + 3 * torch.randn(4, 3, 5, 5)).requires_grad_()
    weights = torch.rand(4, 3, 5, 5)
    alone = net(images)  # without processes
    assert torch.equal(alone, copy.deepcopy(plain)(images))
    net = torch.nn.Sequential(copy.deepcopy(plain))
    share_norms(net)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    found, both = net(images), plain(torch.cat([images, images]))
    assert torch.allclose(found, both[:4], atol=1e-4)
    own, twice = (
        torch.autograd.grad((out * weights.repeat(n, 1, 1, 1)).sum(), images, retain_graph=True)[0]
        for out, n in ((found, 1), (both, 2))
    )
    assert torch.allclose(2 * own, twice, atol=1e-4)
    for name, buffer in plain.named_buffers():
        assert torch.allclose(dict(net[0].named_buffers())[name].float(), buffer.float(), rtol=1e-4), name
    net.eval()
    plain.eval()
    assert torch.allclose(net(images), plain(images), atol=1e-4)


def test_a_run_goes_on_with_other_processes_if_a_step_takes_as_many_faces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.recipe(tmp_path / "store", optim={"batch": 16})
    run, two = tmp_path / "run", {"devices": 2, "strategy": "ddp"}
    checkpoint.open_run(run, recipe)
    checkpoint.open_run(run, recipe)
    assert not capsys.readouterr().out
    checkpoint.open_run(run, tiny.recipe(tmp_path / "store", optim={"batch": 8}, run=two))
    assert "goes on with 2 x 8 faces a step in place of 1 x 16" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"16 faces a step \(1 x .* 16\), now it is 32 .*give --optim.batch 8"):
        checkpoint.open_run(run, tiny.recipe(tmp_path / "store", optim={"batch": 16}, run=two))
    with pytest.raises(UsageError, match="3 processes cannot share them"):
        checkpoint.open_run(run, tiny.recipe(tmp_path / "store", optim={"batch": 8}, run={**two, "devices": 3}))
    with pytest.raises(UsageError, match=r"optim\.lr"):
        checkpoint.open_run(run, tiny.recipe(tmp_path / "store", optim={"batch": 8, "lr": 0.1}, run=two))


def test_scaler_goes_into_the_checkpoint_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lightning-fabric takes bfloat16 on a CPU in place of 16-mixed; here it gets the scaler that it has on a GPU."""
    from lightning_fabric.plugins.precision.amp import MixedPrecision

    from mien.training import session

    def half(*settings):
        fabric = open_fabric(*settings)
        fabric._strategy.precision = MixedPrecision("16-mixed", "cpu")
        return fabric

    monkeypatch.setattr(session, "open_fabric", half)
    faces = tiny.store(tmp_path / "store", each=3).path
    recipe = tiny.recipe(faces, optim={"epochs": 1})
    loop.fit(recipe, tmp_path / "run")
    saved = checkpoint.load_tensors(tmp_path / "run" / "last.ckpt")[1]["scaler"]
    assert saved["_growth_tracker"] > 0 or saved["scale"] != 65536  # it has counted steps, or found its scale
    again, _ = session.prepare_session(recipe, tmp_path / "run")
    assert again.fabric.strategy.precision.state_dict() == saved


def trained(folder: Path, faces: Path, start: Sequence[str] = (), **sections: dict) -> Path:
    """A run of `mien train` in processes of its own."""
    out, recipe = folder / "run", tiny.recipe(faces, **sections)
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(as_dict(recipe)))
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, *start, "-m", "mien", "train", str(folder / "recipe.yaml"), "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, env={**clean, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Next: mien evaluate") == 1
    return out


def trained_by_slurm(machines: int, folder: Path, faces: Path, **sections: dict) -> Path:
    """The same in two processes with the variables that srun sets, on one machine or, as they believe, on two."""
    shared = {"devices": 2 // machines, "num_nodes": machines, "strategy": "ddp"}
    out, recipe = folder / "run", tiny.recipe(faces, **sections, run=shared)
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(as_dict(recipe)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    each = 2 // machines
    job = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mien", "SLURM_NTASKS": "2", "SLURM_NNODES": str(machines),
        "SLURM_NTASKS_PER_NODE": str(each), "SLURM_JOB_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "mien", "train", str(folder / "recipe.yaml"), "--out", str(out)]
    started = [
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                **clean, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each),
                "SLURM_NODEID": str(rank // each),
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=900) for process in started]
    for process, (_, error) in zip(started, said, strict=True):
        assert process.returncode == 0, error[-2000:]
    assert ["Next: mien evaluate" in told for told, _ in said] == [True, False]
    facts = json.loads((out / "environment.json").read_text())
    assert facts["processes"] == 2
    return out


STARTS = {
    "own": partial(trained, start=[]),
    "torchrun": partial(trained, start=["-m", "torch.distributed.run", "--nproc-per-node", "2"]),
    "slurm": partial(trained_by_slurm, 1),
    "slurm, two machines": partial(trained_by_slurm, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_two_processes_of_8_faces_are_one_of_16(start: str, tmp_path: Path) -> None:
    faces = tiny.store(tmp_path / "store", each=8).path
    common = {
        "guidance": {"weight": 2.0},
        "data": {"balance": "weights"},
        "model": {"backbone": "convnext_atto", "channels": None, "stem_pool": True, "output_stride": None, "size": 64},
    }
    one = trained(tmp_path / "one", faces, **common, optim={"batch": 16, "epochs": 2, "lr": 0.01})
    shared = {} if start.startswith("slurm") else {"run": {"devices": 2, "strategy": "ddp"}}
    two = STARTS[start](tmp_path / "two", faces, **common, optim={"batch": 8, "epochs": 2, "lr": 0.01}, **shared)
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


@pytest.mark.slow
def test_shared_batch_norms_make_two_processes_one_also_from_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = tiny.store(tmp_path / "store", each=8).path
    common = {"guidance": {"weight": 2.0}}
    whole, part = ({"batch": size, "epochs": 3, "lr": 0.01} for size in (16, 8))
    shared = {"devices": 2, "strategy": "ddp", "sync_batchnorm": True}
    one = trained(tmp_path / "one", faces, **common, optim=whole, run={"sync_batchnorm": True})
    two = trained(tmp_path / "two", faces, **common, optim=part, run=shared)

    def stopped(recipe, session, epoch, rows):
        if epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(recipe, session, epoch, rows)

    train_epoch = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):  # the first epoch by one process, the others by two
        loop.fit(tiny.recipe(faces, **common, optim=whole, run={"sync_batchnorm": True}), tmp_path / "both" / "run")
    both = trained(tmp_path / "both", faces, **common, optim=part, run=shared)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, two, both)]
    for log in logs[1:]:
        for line, wanted in zip(log, logs[0], strict=True):
            for key in set(wanted) - {"seconds", "images_per_second"}:
                assert line[key] == pytest.approx(wanted[key], abs=1e-3), (key, line["epoch"])
