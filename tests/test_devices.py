"""What a recipe asks of devices: each option has a test, what was found is written down, what cannot be is refused."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mien.config import RunConfig
from mien.data.transforms import DRAWN, philox, uniform
from mien.errors import UsageError
from mien.maps import off_diagonal
from mien.training import devices, loop, refusals
from mien.training.devices import machine_facts, memory_line
from mien.training.optim import follow
from mien.training.session import prepare_session
from mien.training.shared_norms import SharedBatchNorm

HERE = Path(__file__).parent
ASKED = "test_devices.py::test_what_a_recipe_asks_is_what_lightning_fabric_is_asked"
THERE = "test_devices.py::test_loader_processes_pictures_in_memory_shared_norms_and_compiled_code_are_there"
TESTED = {
    "seed": ["test_train.py::test_seeds_differ_and_repeat"],
    "accelerator": [ASKED, "test_accelerator.py::test_a_step_neither_waits_nor_mixes_devices"],
    "devices": [ASKED, "test_processes.py::test_two_processes_of_8_faces_are_one_of_16"],
    "strategy": [ASKED, "test_processes.py::test_two_processes_of_8_faces_are_one_of_16"],
    "num_nodes": [ASKED, "test_processes.py::test_two_processes_of_8_faces_are_one_of_16"],
    "sync_batchnorm": [
        THERE,
        "test_processes.py::test_shared_batch_norms_make_two_processes_one_also_from_a_checkpoint",
    ],
    "precision": [ASKED, "test_precision.py::test_auto_on_a_gpu"],
    "workers": [THERE, "test_train.py::test_results_do_not_depend_on_workers"],
    "compile": [THERE, "test_devices.py::test_a_compiled_training_is_the_same_training"],
    "in_memory": [THERE, "test_stn_training.py::test_pictures_in_memory_are_those_of_the_store"],
}
"""Option of the section `run` -> tests: the first would fail where it did nothing, others say what it must not change."""


def test_every_option_about_devices_has_a_test() -> None:
    assert set(TESTED) == {field.name for field in dataclasses.fields(RunConfig)}
    for place in itertools.chain.from_iterable(TESTED.values()):
        file, name = place.split("::")
        assert f"def {name}(" in (HERE / file).read_text(encoding="utf-8"), place


def test_memory_is_told_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, system = tmp_path / "status", tmp_path / "meminfo"
    status.write_text("Name: x\nVmRSS:\t 1572864 kB\n")
    system.write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    cpu = torch.device("cpu")
    assert memory_line(cpu, status, system) == "memory: 1.5 GiB in use, 8.0 of 16.0 GiB left on this machine"
    assert memory_line(cpu, tmp_path / "none", system) == ""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 2**29)
    line = memory_line(torch.device("cuda:0"))
    assert line == "memory: 1.5 GiB reserved, 10.0 of 80.0 GiB left on cuda:0"


@pytest.mark.parametrize(
    ("kind", "precision", "products"), [("cpu", "high", False), ("cuda", "high", True), ("cuda", "highest", False)]
)
def test_tf32_is_written_down(kind: str, precision: str, products: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    facts = machine_facts(SimpleNamespace(device=torch.device(kind), world_size=2), "32-true")
    convolutions = kind == "cuda" and torch.backends.cudnn.allow_tf32
    assert facts == {
        "precision": "32-true", "processes": 2, "tf32": {"matrix_products": products, "convolutions": convolutions},
    }  # fmt: skip


class Asked(Exception):
    """In the place of lightning-fabric: what it was asked for."""

    def __init__(self, **options: object) -> None:
        self.options = options
        raise self


@pytest.mark.parametrize(
    ("run", "options"),
    [
        ({"accelerator": "gpu"}, {"accelerator": "gpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}),
        ({"precision": "bf16-mixed"}, {"accelerator": "cpu", "precision": "bf16-mixed"}),
        ({"devices": 2, "num_nodes": 3, "strategy": "ddp"}, {"devices": 2, "num_nodes": 3, "strategy": "ddp"}),
    ],
)
def test_what_a_recipe_asks_is_what_lightning_fabric_is_asked(
    run: dict[str, object], options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "Fabric", Asked)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 8)
    monkeypatch.setenv("MASTER_ADDR", "localhost")  # as whoever starts several machines sets it
    faces = tiny.store(tmp_path / "store", each=3).path
    with pytest.raises(Asked) as asked:
        prepare_session(tiny.recipe(faces, run=run), tmp_path / "run")
    assert asked.value.options.items() >= options.items()


def test_loader_processes_pictures_in_memory_shared_norms_and_compiled_code_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each where it is asked for, and not where it is not; nothing is read or compiled for it."""
    monkeypatch.setattr(refusals.shutil, "which", lambda name: "g++")
    faces = tiny.store(tmp_path / "store", each=3).path

    def found(**run: object) -> tuple[object, ...]:
        session, _ = prepare_session(tiny.recipe(faces, run=run), tmp_path / str(sorted(run)))
        norms = [part for part in session.model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
        shared = {isinstance(part, SharedBatchNorm) for part in norms}
        compiled = session.model.backbone._compiled_call_impl is not None
        kept = None if session.memory is None else tuple(session.memory.images.shape)
        return session.reader.loader.num_workers, kept, shared, compiled

    assert found() == (0, None, {False}, False)
    assert found(workers=2, in_memory=True) == (2, (42, 3, tiny.SIZE, tiny.SIZE), {False}, False)
    assert found(sync_batchnorm=True, compile=True) == (0, None, {True}, True)


def test_what_compiled_code_cannot_is_refused_before_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = tiny.store(tmp_path / "store", each=3).path
    twice = {"weight": 1.0, "attribution": "grad_input", "layers": [-2]}
    with pytest.raises(UsageError, match=r"run\.compile: guidance\.attribution takes gradients .* twice"):
        prepare_session(tiny.recipe(faces, guidance=twice, run={"compile": True}), tmp_path / "run")
    monkeypatch.setattr(refusals.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"run\.compile needs a C\+\+ compiler"):
        prepare_session(tiny.recipe(faces, run={"compile": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(refusals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"run\.compile needs the package triton"):
        refusals.refuse_compile(tiny.recipe(faces, run={"compile": True}), [], torch.device("cuda"))


@pytest.mark.slow
def test_a_compiled_training_is_the_same_training(tmp_path: Path) -> None:
    faces = tiny.store(tmp_path / "store", each=3).path
    for name, compiled in (("plain", False), ("compiled", True)):
        recipe = tiny.recipe(faces, guidance={"weight": 2.0}, optim={"epochs": 1}, run={"compile": compiled})
        loop.fit(recipe, tmp_path / name)
    plain, compiled = (json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("plain", "compiled"))
    for key in set(plain) - {"seconds", "images_per_second"}:
        assert compiled[key] == pytest.approx(plain[key], abs=1e-3), key


def test_a_moving_average_is_that_of_torch() -> None:
    """Weights and counts of batch norms over four steps; the count of steps stays on the CPU, where it is read."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ours, theirs = (AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True) for _ in range(2))
    for step in range(4):
        net(torch.rand(5, 3, generator=torch.Generator().manual_seed(step)))
        with torch.no_grad():
            net[0].weight.add_(0.1 * step)
        follow(ours, net)
        theirs.update_parameters(net)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 5), (3, 4, 4)])
def test_rows_without_the_diagonal(shape: tuple[int, ...]) -> None:
    matrix, n = torch.rand(shape), shape[-1]
    expected = matrix[..., ~torch.eye(n, dtype=torch.bool)].view(*shape[:-1], n - 1)
    assert torch.equal(off_diagonal(matrix), expected)


def test_random_words_are_those_of_the_paper() -> None:
    """Known answers of Philox4x32-10 in the authors' Random123."""
    ones, pi = 0xFFFFFFFF, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    known = [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, (ones, ones), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (pi, (0xA4093822, 0x299F31D0), [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ]
    for counter, key, words in known:
        assert philox(np.array(counter, dtype=np.uint64), *key).tolist() == words


def test_numbers_of_a_face_do_not_depend_on_its_batch() -> None:
    rows = np.array([7, 3, 900_000, 3])
    drawn = uniform(5, 2, rows)
    assert drawn.shape == (4, DRAWN)
    assert torch.equal(drawn[1], drawn[3])
    assert torch.equal(drawn[2], uniform(5, 2, rows[2:3])[0])
    assert uniform(5, 2, rows[:0]).shape == (0, DRAWN)
    many = uniform(5, 2, np.arange(20_000))
    assert 0 <= many.min() < many.max() < 1
    assert torch.allclose(many.mean(0), torch.tensor(0.5), atol=0.01)
    assert torch.corrcoef(torch.cat([many.T, uniform(5, 3, np.arange(20_000)).T])).fill_diagonal_(0).abs().max() < 0.04
