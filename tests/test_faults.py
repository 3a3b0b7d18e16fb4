"""The table of docs/reliability.md: every command under every fault ends with one line, and leaves nothing half-written."""

import contextlib
import os
import re
import sys
from pathlib import Path

import cv2
import fake_datasets
import pytest
import tiny
import tiny_audet

from mien.cli import main
from mien.evaluation.evaluate import evaluate
from mien.files import alone
from mien.training.loop import fit

resource = pytest.importorskip("resource")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Photos, a store, a recipe, a trained and scored run and a table of predictions."""
    place = tmp_path_factory.mktemp("made")
    fake_datasets.class_folders(place / "photos", each=1)
    tiny.store(place / "store", each=3)
    recipe = tiny.recipe(place / "store", optim={"epochs": 1})
    fit(recipe, place / "run")
    evaluate(place / "run", methods="cam")
    cv2.imwrite(str(place / "photo.png"), fake_datasets.face(1, 64))
    assert main(["predict", str(place / "photo.png"), "--run", str(place / "run"), "--faces", "none",
                 "--out", str(place / "rows.csv")]) == 0  # fmt: skip
    return place


def train_units(made: Path) -> None:
    """A run of action units, where a command of `mien audet` needs one."""
    if not (made / "units.cfg").exists():
        tiny_audet.store(made / "units")
        (made / "units.cfg").write_text(tiny_audet.TEXT)
        assert main(["audet", "train", str(made / "units.cfg"), "--data", str(made / "units"), "--out", str(made / "audet"),
                     "--training.max_epochs", "1"]) == 0  # fmt: skip


def words_of(command: str, made: Path, out: Path) -> list[str]:
    """The command line; `out` is a folder of its own for what is written."""
    photo, run, store, units, audet = (str(made / name) for name in ("photo.png", "run", "store", "units", "audet"))
    if command.startswith("audet"):
        train_units(made)
    # fmt: off
    lines = {
        "synthesize": ["--out", f"{out}/s", "--faces", "7", "--size", "32", "--workers", "0"],
        "prepare": ["folder", "--root", str(made / "photos"), "--out", f"{out}/s", "--size", "32", "--workers", "0"],
        "check": [store, "--exact-only", "--out", f"{out}/c.json"],
        "guides": [store, "--out", f"{out}/guides", "--size", "16"],
        "train": [f"{run}/config.yaml", "--out", f"{out}/run"],
        "evaluate": [run, "--methods", "cam"],
        "explain": [photo, "--run", run, "--faces", "none", "--methods", "cam", "--out", f"{out}/explained"],
        "predict": [photo, "--run", run, "--faces", "none", "--out", f"{out}/rows.csv"],
        "summarize": [str(made / "rows.csv"), "--out", f"{out}/people.csv"],
        "export": [run, "--to", "torchscript", "--out", f"{out}/m.pt"],
        "report": [run, "--no-faces", "--out", f"{out}/page.html"],
        "folds": [store, "--out", f"{out}/folds.csv", "--folds", "3"],
        "cues": [store, "--out", f"{out}/cues", "--size", "8"],
        "crossval": [f"{run}/config.yaml", "--folds", "2", "--only", "0", "--workers", "1", "--out", f"{out}/folds"],
        "audit": [run, "--store", store, "--parts", "right,sure", "--out", f"{out}/audit"],
        "compare": [run, "bundled", "--store", store, "--out", f"{out}/compared"],
        "calibrate": [run, "--store", store, "--out", f"{out}/calibrated.json", "--accuracy", "0.01"],
        "publish": [run, "--to", f"{out}/published"],
        "figures": [run, "--no-faces", "--out", f"{out}/figures"],
        "reproduce": [
            "lambda", "--data", store, "--seeds", "1", "--only", "0", "--workers", "1", "--out", f"{out}/table",
        ],
        "audet train": [
            str(made / "units.cfg"), "--data", units, "--out", f"{out}/audet", "--training.max_epochs", "1",
        ],
        "audet predict": [audet, "--data", units, "--out", f"{out}/units.csv"],
        "audet disentangle": [audet, "--draws", "9"],
    }
    # fmt: on
    return [*command.split(), *lines[command]]


FAST = ("synthesize", "prepare", "check", "predict", "summarize", "guides", "folds", "cues")
SLOW = (
    "train", "evaluate", "explain", "export", "report", "crossval", "audit", "compare", "calibrate", "publish", "figures",
    "reproduce", "audet train", "audet predict", "audet disentangle",
)  # fmt: skip
COMMANDS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@contextlib.contextmanager
def file_size(most: int):
    """No file of this process may grow beyond `most` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


INTO_THE_RUN = ("evaluate", "audet disentangle")
UNFINISHED = r"(\.part\.csv|progress\.json|\.yaml|\.cfg|log\.jsonl|tfevents.*|face_crop\.py|cell\.log|failed\.txt)$"
"""Names of what may stay: a command goes on from it, or says that it is not whole."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def whole(folder: Path) -> None:
    """Nothing that a program could take for a finished result."""
    left = [name for name in files(folder) if not re.search(UNFINISHED, name)]
    assert not left, left


def told(capsys) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("mien: ")]
    assert lines, err
    return lines[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_no_half_file(command, made, tmp_path, capsys):
    before = files(made / "run")
    words = words_of(command, made, tmp_path)
    with file_size(0):
        code = main(words)
    line = told(capsys)
    assert code == 1, line
    assert "cannot write" in line or "disk" in line or "File too large" in line
    whole(tmp_path)
    if command == "evaluate":
        now = files(made / "run")
        assert {name: now[name] for name in before} == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_one_line(command, made, tmp_path, capsys):
    if command in INTO_THE_RUN:
        pytest.skip("writes into the run folder")
    assert main(words_of(command, made, Path("/proc/nowhere"))) in (1, 2)
    assert "/proc/nowhere" in told(capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_closed_streams(command, made, tmp_path, monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(words_of(command, made, tmp_path)) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_no_home_and_no_place_for_temporary_files(command, made, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert main(words_of(command, made, tmp_path / "out")) == 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["synthesize", "prepare", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train", "audet train"))],
)
def test_two_writers(command, made, tmp_path, capsys):
    words = words_of(command, made, tmp_path)
    folder = Path(words[words.index("--out") + 1])
    with alone(folder):
        assert main(words) == 1
        assert f"is being written by process {os.getpid()}" in told(capsys)
    assert main(words) == 0


@pytest.mark.parametrize("place", ["photo", "table", "recipe", "landmarks", "store"])
def test_a_pipe_in_the_place_of_a_file_is_told_at_once(place, made, tmp_path, capsys):
    pipe = (
        tmp_path / {"photo": "a.png", "table": "a.csv", "recipe": "a.yaml", "landmarks": "a.txt", "store": "s"}[place]
    )
    os.mkfifo(pipe)
    words = {
        "photo": ["predict", str(tmp_path), "--run", str(made / "run"), "--faces", "none"],
        "table": ["prepare", "table", "--root", str(pipe), "--out", str(tmp_path / "s")],
        "recipe": ["train", str(pipe)],
        "landmarks": ["prepare", "folder", "--root", str(made / "photos"), "--out", str(tmp_path / "s"), "--faces", "given",
                      "--landmarks", str(pipe)],
        "store": ["check", str(pipe)],
    }[place]  # fmt: skip
    assert main(words) in (1, 2)
    streams = capsys.readouterr()
    assert "Traceback" not in streams.err
    assert str(pipe.parent) in streams.out + streams.err
    assert re.search(r"pipe|does not exist", streams.out + streams.err)
