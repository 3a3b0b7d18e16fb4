"""`mien doctor` and shell completion."""

import shutil
import subprocess

import pytest

from mien.cli import VERBS, main
from mien.shell import bundled, declared, lines
from mien.shell.complete import script, words


def test_doctor_tells_what_would_work_and_names_no_path(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MIEN_FACE_LANDMARKER", raising=False)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "torch " in text
    assert "bundled weights" in text
    assert "whole" in text
    assert str(tmp_path) not in text
    assert "/home" not in text
    needed, extras = declared()
    assert "numpy" in needed
    assert all(f"  {extra}" in text for extra in extras)


def test_doctor_tells_what_is_missing(monkeypatch):
    monkeypatch.setattr("mien.shell.there", lambda name: name != "onnxruntime")
    row = next(line for line in lines() if line.strip().startswith("export "))
    assert row.endswith('lacks onnxruntime: pip install "mien[export]"')


def test_doctor_tells_damaged_weights(monkeypatch, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  net.ckpt\n")
    (folder / "net.ckpt").write_bytes(b"x")
    monkeypatch.setattr("mien.shell.__file__", str(tmp_path / "shell" / "__init__.py"))
    assert "damaged: net.ckpt" in bundled()


def test_completion_knows_every_verb_and_its_options():
    known = words()
    assert set(known) == set(VERBS)
    assert known["evaluate"]["--split"] == ("test", "valid", "train")
    assert known["models"][""] == ("get", "list")
    for shell in ("bash", "zsh", "fish"):
        text = script(shell)
        assert all(verb in text for verb in VERBS)
        assert "faithfulness-steps" in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes():
    ask = """
COMP_WORDS=(mien evaluate run --split v); COMP_CWORD=4; _mien; echo "${COMPREPLY[@]}"
COMP_WORDS=(mien evaluate run --faithfulness-s); COMP_CWORD=3; _mien; echo "${COMPREPLY[@]}"
COMP_WORDS=(mien doc); COMP_CWORD=1; _mien; echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(["bash", "-c", script("bash") + ask], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["valid", "--faithfulness-steps", "doctor"]
