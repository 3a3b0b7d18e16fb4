"""run.precision auto: bfloat16 only where the device computes in it; what it became is noted, emulation is told."""

import json

import pytest
import tiny

from mien.audet import options
from mien.config import RunConfig
from mien.models import precision
from mien.models.precision import computes_bfloat16, resolve_precision
from mien.training.loop import fit


@pytest.mark.parametrize(("flags", "expected"), [
    ("fpu avx avx2 fma", False),
    ("fpu avx2 avx512f avx512_vnni", False),
    ("fpu avx512f avx512_bf16", True),
    ("fpu amx_tile amx_bf16", True),
    ("fpu not_amx_bf16_at_all", False),
])  # fmt: skip
def test_flags_of_the_processor(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert computes_bfloat16(tmp_path / "cpuinfo") is expected


def test_a_system_that_does_not_tell(tmp_path):
    assert computes_bfloat16(tmp_path / "absent") is False


@pytest.mark.parametrize("fast", [False, True])
def test_auto_on_a_processor(monkeypatch, capsys, fast):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: fast)
    assert resolve_precision("auto", "cpu") == ("bf16-mixed" if fast else "32-true")
    assert capsys.readouterr().err == ""
    assert resolve_precision("32-true", "cpu") == "32-true"
    assert resolve_precision("bf16-mixed", "cpu") == "bf16-mixed"
    assert ("emulates" in capsys.readouterr().err) is not fast


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
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    fit(recipe, tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert noted["precision"] == "32-true"
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    fit(recipe, tmp_path / "run")
    assert "run.precision auto is bf16-mixed here; the run began in 32-true" in capsys.readouterr().out
