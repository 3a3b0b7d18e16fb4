"""run.precision auto: bfloat16 only where the device computes in it; what it became is noted, emulation is told."""

import json

import pytest
import tiny

from mien.audet import options
from mien.config import RunConfig
from mien.models import precision
from mien.models.precision import bfloat16_here, resolve_precision
from mien.training.loop import fit


@pytest.mark.parametrize(("flags", "expected"), [
    ("fpu avx avx2 fma", "emulated"),
    ("fpu avx2 avx512f avx512_vnni", "emulated"),
    ("fpu avx512f avx512_bf16", "slower"),
    ("fpu avx512_bf16 amx_tile amx_bf16", "faster"),
    ("fpu not_amx_bf16_at_all", "emulated"),
])  # fmt: skip
def test_flags_of_the_processor(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert bfloat16_here(tmp_path / "cpuinfo") == expected


def test_a_system_that_does_not_tell(tmp_path):
    assert bfloat16_here(tmp_path / "absent") == "emulated"


@pytest.mark.parametrize(("here", "told"), [("faster", ""), ("slower", "has no AMX"), ("emulated", "emulates")])
def test_auto_on_a_processor(monkeypatch, capsys, here, told):
    monkeypatch.setattr(precision, "bfloat16_here", lambda: here)
    assert resolve_precision("auto", "cpu") == ("bf16-mixed" if here == "faster" else "32-true")
    assert capsys.readouterr().err == ""
    assert resolve_precision("32-true", "cpu") == "32-true"
    assert resolve_precision("bf16-mixed", "cpu") == "bf16-mixed"
    printed = capsys.readouterr().err
    assert told in printed
    assert bool(printed) is bool(told)


@pytest.mark.parametrize("supported", [False, True])
def test_auto_on_a_gpu(monkeypatch, capsys, supported):
    monkeypatch.setattr(precision.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision.torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolve_precision("auto", "auto") == ("bf16-mixed" if supported else "32-true")
    assert resolve_precision("16-mixed", "gpu") == "16-mixed"
    assert capsys.readouterr().err == ""


def test_it_is_the_default():
    assert RunConfig().precision == "auto"
    assert options.RunOptions().precision == "auto"


def test_what_it_became_is_noted_and_a_change_is_told(tmp_path, monkeypatch, capsys):
    faces = tiny.store(tmp_path / "store").path
    recipe = tiny.recipe(faces, run={"precision": "auto"}, optim={"epochs": 1})
    monkeypatch.setattr(precision, "bfloat16_here", lambda: "slower")
    fit(recipe, tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert noted["precision"] == "32-true"
    monkeypatch.setattr(precision, "bfloat16_here", lambda: "faster")
    fit(recipe, tmp_path / "run")
    assert "run.precision auto is bf16-mixed here; the run began in 32-true" in capsys.readouterr().out
