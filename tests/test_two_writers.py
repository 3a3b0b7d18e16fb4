"""Two trainings never write one folder; what lies in a run folder is read as what it must be, or refused in one line."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from mien.audet.check import cfg_of
from mien.config import ModelConfig
from mien.data.framing import read_framing
from mien.errors import DataError, MienError, UsageError
from mien.files import alone, read_json, write_json
from mien.models.backbone import Backbone
from mien.training import checkpoint
from mien.training.checkpoint import read_log
from mien.training.devices import open_fabric
from mien.training.loop import fit

ROOT = Path(__file__).parent.parent
HOLDER = """
import sys, time
from pathlib import Path
from mien.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `run`."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_writer_is_told_who_writes_and_a_killed_one_leaves_no_lock(tmp_path, holder):
    tiny.store(tmp_path / "faces")
    with pytest.raises(DataError, match=f"is being written by process {holder.pid} on .*; wait until it has ended"):
        fit(tiny.recipe(tmp_path / "faces", optim={"epochs": 1}), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock"]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone(tmp_path / "run"), pytest.raises(DataError, match=f"process {os.getpid()} on"), alone(tmp_path / "run"):
        pass
    with alone(tmp_path / "run"):
        pass


class Windows:
    """What `msvcrt` does to files: a locked byte is refused to others, and goes with the file that locked it."""

    LK_NBLCK = 2

    def __init__(self):
        self.held = {}

    def locking(self, number, mode, bytes_):
        assert (mode, bytes_) == (self.LK_NBLCK, 1)
        assert os.lseek(number, 0, os.SEEK_CUR) > 2**20  # nobody may read a locked byte, and others read the beginning
        key = os.fstat(number).st_ino
        if self.held.get(key, number) != number and os.path.exists(f"/proc/self/fd/{self.held[key]}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        self.held[key] = number


def test_a_second_writer_is_told_on_windows_too(tmp_path, monkeypatch):
    monkeypatch.setattr("mien.files.fcntl", None)
    monkeypatch.setattr("mien.files.msvcrt", Windows())
    with alone(tmp_path / "run"), pytest.raises(DataError, match=f"process {os.getpid()} on"), alone(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    with alone(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_has_no_guard(tmp_path, monkeypatch):
    monkeypatch.setattr("mien.files.fcntl", None)
    monkeypatch.setattr("mien.files.msvcrt", None)
    with alone(tmp_path / "run"), alone(tmp_path / "run"):
        pass


def test_further_processes_of_one_training_pass(tmp_path, monkeypatch):
    with alone(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with alone(tmp_path):
            pass


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '"x"', "{", "", "[" * 100_000, '{"a": ' * 100_000, "\x00", '{"a": [{"b": 1, "b": 2}]}']
)
def test_json_of_another_type_is_one_clear_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json is damaged \([^\n]{0,300}; train again\.$"):
        read_json(tmp_path / "a.json", "train again")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    tiny.store(place / "faces")
    fit(tiny.recipe(place / "faces", optim={"epochs": 1}), place / "run")
    return place / "run"


def changed(run: Path, out: Path) -> Path:
    """A copy of a run folder's weights and settings."""
    out.mkdir()
    for name in ("best.ckpt", "last.ckpt", "config.yaml", "environment.json"):
        (out / name).write_bytes((run / name).read_bytes())
    return out


@pytest.mark.parametrize("text", ["[]", "7", "null", "[" * 50_000])
def test_an_odd_environment_is_one_clear_line(run, tmp_path, text):
    copy = changed(run, tmp_path / "copy")
    (copy / "environment.json").write_text(text)
    with pytest.raises(DataError, match=r"environment\.json is damaged"):
        checkpoint.load_model(copy)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "preprocessing", "half"),
        ("model", "size", 40),
        ("cue", "kind", "landmarks"),
        ("data", "scheme", "basic-8"),
    ],
)
def test_weights_do_not_load_under_other_settings(run, tmp_path, section, key, value):
    copy = changed(run, tmp_path / "copy")
    checkpoint.load_model(copy)
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings[section][key] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(DataError, match="was trained with other settings of model, transformer, cue or scheme"):
        checkpoint.load_model(copy)


def test_weights_do_not_load_without_or_with_another_environment(run, tmp_path):
    copy = changed(run, tmp_path / "copy")
    file = copy / "environment.json"
    env = json.loads(file.read_text())
    file.write_text(file.read_text().replace('"channels": 3', '"channels": 1'))
    with pytest.raises(DataError, match="was changed since it was written"):
        checkpoint.load_model(copy)
    write_json(file, {**env, "framing": {**env["framing"], "size": 64}})
    with pytest.raises(DataError, match="another framing or other classes than its environment"):
        checkpoint.load_model(copy)
    file.unlink()
    with pytest.raises(DataError, match=r"environment\.json is missing, which says how faces are cut out"):
        checkpoint.load_model(copy)


@pytest.mark.parametrize(
    "framing", [3, {"size": "x"}, {"size": 64, "channels": 3, "faces": "none", "aligned": False, "points": [[1]]}]
)
def test_a_framing_that_cannot_be_is_one_clear_line(framing):
    with pytest.raises(DataError, match=r"^environment\.json is damaged \(framing: [^\n]*$"):
        read_framing({"framing": framing}, "environment.json")


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    copy = changed(run, tmp_path / "copy")
    tensors, meta = checkpoint.load_tensors(copy / "best.ckpt")
    first = next(name for name in tensors if tensors[name].is_floating_point())
    tensors[first].view(-1)[0] = float("nan")
    checkpoint.save_tensors(copy / "best.ckpt", tensors, meta)
    with pytest.raises(DataError, match=r"best\.ckpt holds numbers that are not finite"):
        checkpoint.load_model(copy)


@pytest.mark.parametrize("change", [
    {"epoch": "x"}, {"epoch": None}, {"best_score": [1]}, {"tensors": {}}, {"tensors": {"optimizer/x/y": torch.ones(1)}},
])  # fmt: skip
def test_an_odd_last_checkpoint_is_one_clear_line(run, tmp_path, change):
    copy = changed(run, tmp_path / "copy")
    tensors, meta = checkpoint.load_tensors(copy / "last.ckpt")
    tensors = change.pop("tensors", tensors)
    checkpoint.save_tensors(copy / "last.ckpt", tensors, {**meta, **change})
    recipe, env = checkpoint.read_run(copy)
    with pytest.raises(MienError, match=r"^[^\n]*last\.ckpt[^\n]*$"):
        fit(recipe, copy)
    assert env["run_version"] == 1


@pytest.mark.parametrize(("key", "value"), [("devices", 1000), ("workers", 1000)])
def test_more_processes_than_the_machine_has_cores_are_refused(tmp_path, key, value):
    with pytest.raises(UsageError, match=rf"^run\.{key} is 1000, but this machine has \d+ cores; lower it\.$"):
        open_fabric(tiny.recipe(tmp_path, run={key: value}).run, "32-true")


def test_widths_that_do_not_fit_the_net_are_one_clear_line():
    with pytest.raises(UsageError, match=r"with model\.channels \[4, 4\] does not take|does not take \{"):
        Backbone(ModelConfig(backbone="resnet18", size=32, channels=[4, 4]))


def test_closed_standard_input_is_one_clear_line():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = f"exec '{sys.executable}' -m mien predict - --faces none <&-"
    done = subprocess.run(["sh", "-c", words], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nothing came on standard input" in done.stderr
    assert "Traceback" not in done.stderr


CFG = sorted((ROOT / "recipes" / "audet").glob("*.cfg"))
ODD = (
    "[",
    "]",
    "{",
    "}",
    "[]",
    "{}",
    "=",
    "a=",
    "=a",
    "[net",
    "{Encoder}",
    "9" * 400,
    "1e999",
    "nan",
    "-1",
    "0",
    "\x00",
    "é",
)


def fuzz_cfg(text: str, count: int, seed: int) -> int:
    """How many of `count` mutated cfgs are refused; anything but a MienError comes through."""
    draws, refused = random.Random(seed), 0
    for _ in range(count):
        lines = text.splitlines()
        for _ in range(draws.randint(1, 3)):
            k, odd = draws.randrange(len(lines)), draws.choice(ODD)
            lines[k] = f"{lines[k].split('=')[0]}={odd}" if "=" in lines[k] and draws.random() < 0.6 else odd
        try:
            cfg_of("\n".join(lines), "x.cfg")
        except MienError:
            refused += 1
    return refused


@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_mutated_cfgs_are_read_or_refused(count):
    texts = [file.read_text(encoding="utf-8") for file in CFG if "timm" not in file.name]
    assert sum(fuzz_cfg(text, max(1, count // len(texts)), seed) for seed, text in enumerate(texts)) > count / 4


def test_a_line_of_the_log_of_another_type_is_told(run, tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"epoch": 1}) + "\n3\n")
    with pytest.raises(DataError, match="line 2 is damaged"):
        read_log(tmp_path / "log.jsonl")
