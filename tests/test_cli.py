"""The command line: help, exit codes, one-line errors; a verb is a function and every option of it is explained."""

import importlib
import inspect
import os
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import tiny
from docstring_parser import parse

from mien import __version__
from mien.cli import VERBS, main

ROOT = Path(__file__).parent.parent


def function_of(verb: str):
    module, _ = VERBS[verb]
    return getattr(importlib.import_module(module), verb)


def documented(function) -> dict[str, str]:
    return {p.arg_name.lstrip("*"): p.description or "" for p in parse(function.__doc__ or "").params}


def squeezed(text: str) -> str:
    return "".join(text.split())


def call(*words: str) -> int:
    try:
        return main(words)
    except SystemExit as stop:  # argparse leaves this way after --help
        return int(stop.code or 0)


@pytest.mark.parametrize(("words", "told"), [
    ("evaluate RUN --split tset", "--split: unknown value 'tset'. Did you mean 'test'? Valid: test, valid, train."),
    ("prepare folder --root x --out y --size=big", "--size: 'big' is no whole number."),
    ("prepare folder --root x --out y --landmark-order xy", "--landmark-order: unknown value 'xy'. Did you mean 'x-y'?"),
    ("models gte", "action: unknown value 'gte'. Did you mean 'get'? Valid: get, list."),
])  # fmt: skip
def test_wrong_values_of_options_are_told_in_plain_words(capsys, words, told):
    assert call(*words.split()) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"mien: {told}")
    assert line.endswith(f"See `mien {words.split()[0]} --help`.\n")


def python(code: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)


HEAVY = [
    "torch",
    "torchvision",
    "timm",
    "matplotlib",
    "cv2",
    "scipy",
    "sklearn",
    "pyarrow",
    "pandas",
    "tensorflow",
    "numpy",
]


def test_help_is_fast_and_light():
    """Half a second of CPU on any machine of today, so that a loaded one does not fail the test."""
    code = f"import sys; from mien.cli import main; main(['--help']); print([m for m in {HEAVY} if m in sys.modules])"
    before = os.times()
    done = python(code)
    after = os.times()
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_help_names_every_verb(capsys):
    assert call() == call("--help") == call("-h") == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert "expressions" in shown
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == f"mien {__version__}"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    began = time.process_time()
    assert call(verb, "--help") == 0
    assert time.process_time() - began < 10
    shown = squeezed(capsys.readouterr().out)
    for name, text in documented(function_of(verb)).items():
        assert name == "overrides" or squeezed(text) in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_typed_and_documented(verb):
    function = function_of(verb)
    hints = typing.get_type_hints(function)
    texts = documented(function)
    parameters = inspect.signature(function).parameters
    for name, parameter in parameters.items():
        assert name in hints
        assert texts.get(name), f"mien {verb}: '{name}' has no line under Args"
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        if hints[name] is bool:
            assert parameter.default is False, f"mien {verb} --{name}: a switch starts off"
    assert set(texts) <= set(parameters), f"mien {verb} documents an option that it does not have"
    assert (function.__doc__ or "").splitlines()[0].strip().endswith((".", "`"))


def one_line(capsys, code: int, *words: str) -> str:
    assert call(*words) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mien: ")
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["xyz"], "Valid: "),
        (["--bogus"], "unknown command"),
        (["train"], "required: recipe"),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "nowhere.yaml", "--oot", "x"], "Did you mean '--out'?"),
        (["evaluate", "run", "--batch", "many"], "many"),
        (["evaluate", "run", "--split", "tset"], "tset"),
        (["evaluate", "run", "--batch"], "--batch"),
        (["evaluate", "run", "other"], "other"),
        (["prepare", "fer2031", "--root", "x", "--out", "y"], "Did you mean 'fer2013'?"),
        (["prepare", "folder"], "required: root, out"),
        (["explain"], "photos"),
        (["models", "get", "face_landmark"], "Did you mean 'face_landmarker'?"),
        (["models", "fetch"], "fetch"),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2_and_one_line(words, expected, capsys):
    assert expected in one_line(capsys, 2, *words)


@pytest.mark.parametrize("verb", ["check", "evaluate", "explain"])
def test_data_errors_exit_with_1_and_one_line(verb, capsys, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    gone = str(tmp_path / "gone")
    words = [str(tmp_path / "photo.jpg"), "--run", gone] if verb == "explain" else [gone]
    assert gone in one_line(capsys, 1, verb, *words)


def test_a_verb_runs_with_overrides_and_options(tmp_path, monkeypatch, capsys):
    import yaml

    from mien.config import as_dict, load_recipe

    recipe = tiny.recipe(tiny.store(tmp_path / "store", each=3).path, optim={"epochs": 5, "batch": 14})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(as_dict(recipe)))
    out = tmp_path / "run"
    words = ["train", str(tmp_path / "r.yaml"), "--optim.epochs", "1", "--out", str(out), "--guidance.layers=[1, -1]"]
    assert call(*words) == 0
    kept = load_recipe(out / "config.yaml")
    assert (kept.optim.epochs, kept.guidance.layers) == (1, [1, -1])
    assert call("evaluate", str(out), "--split", "valid") == 0
    assert (out / "results-valid.json").is_file()
    capsys.readouterr()
    assert "Did you mean 'optim.epochs'" in one_line(capsys, 2, *words[:2], "--optim.epoch", "1")
    assert "optim.lr" in one_line(capsys, 2, *words, "--optim.lr", "fast")


@pytest.mark.parametrize(
    ("verb", "error", "code", "told"),
    [
        ("prepare", KeyboardInterrupt, 130, "mien: stopped; what was finished is kept, the same command resumes.\n"),
        ("check", KeyboardInterrupt, 130, "mien: stopped; the same command starts over.\n"),
        ("check", BrokenPipeError, 0, ""),
    ],
)
def test_interrupt_and_closed_pipe(verb, error, code, told, monkeypatch, capsys):
    def stopped(store: Path) -> None:
        raise error

    monkeypatch.setattr(f"mien.datasets.{verb}.{verb}", stopped)
    assert call(verb, "x") == code
    assert capsys.readouterr().err == told
