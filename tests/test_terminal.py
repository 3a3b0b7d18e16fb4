"""Names of files that a terminal would take for commands, and packages that are used without being declared."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from mien.values import escaped, short

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "\x1b]0;gone\x07\x1b[2Ja\u202eb\r.png"


def test_control_characters_are_escaped():
    assert escaped("a\tb\n") == "a\tb\n"
    assert escaped("\x1b[2J\x07\r\u202e\x9b") == r"\x1b[2J\x07\r\u202e\x9b"
    assert escaped("Łódź 表情 😀") == "Łódź 表情 😀"
    assert "\x1b" not in short(HOSTILE)


def run_on_a_terminal(script: str) -> str:
    """What a program writes to a terminal."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=slave, stderr=slave, env=env)
    os.close(slave)
    told = b""
    try:
        while block := os.read(master, 4096):
            told += block
    except OSError:  # the other end is closed
        pass
    process.wait(timeout=60)
    os.close(master)
    return told.decode()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_letters_that_the_output_does_not_know_are_escaped(encoding):
    script = r"""
import sys, types
import mien.cli
verb = sys.modules["shows"] = types.ModuleType("shows")
def folds() -> None:
    "Print."
    print("\u2191", "\udcff")
verb.folds = folds
mien.cli.VERBS["folds"] = ("shows", "print")
sys.argv = ["mien", "folds"]
sys.exit(mien.cli.main())
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    arrow = "\u2191".encode() if encoding == "utf-8" else rb"\u2191"
    assert done.stdout.strip() == arrow + rb" \udcff"


def test_a_reader_that_goes_away_is_no_error():
    script = """
import sys, types
import mien.cli
verb = sys.modules["shows"] = types.ModuleType("shows")
def folds() -> None:
    "Print."
    for number in range(100_000):
        print(number)
verb.folds = folds
mien.cli.VERBS["folds"] = ("shows", "print")
sys.argv = ["mien", "folds"]
sys.exit(mien.cli.main())
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_names_reach_the_terminal_escaped(tmp_path):
    script = f"""
import sys, types
import mien.cli
def folds(store: str) -> None:
    "Print."
    print("read", store)
    from mien.errors import DataError
    raise DataError(f"{{store}} is damaged.")
verb = sys.modules["shows"] = types.ModuleType("shows")
verb.folds = folds
mien.cli.VERBS["folds"] = ("shows", "print")
sys.argv = ["mien", "folds", {HOSTILE!r}]
sys.exit(mien.cli.main())
"""
    told = run_on_a_terminal(script)
    assert told.count(r"\x1b]0;gone\x07\x1b[2Ja\u202eb") == 2
    assert "\x1b" not in told
    assert "\x07" not in told


def imported() -> set[str]:
    """First words of all imports in the package, those inside functions too."""
    found = set()
    for path in (ROOT / "mien").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    return found - {"mien", *sys.stdlib_module_names}


def test_every_package_that_is_imported_is_declared():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from constraints import declared, plain
    finally:
        sys.path.remove(str(ROOT / "tools"))
    owners = metadata.packages_distributions()
    undeclared = {
        name for name in imported() if name in owners and not {plain(owner) for owner in owners[name]} & declared()
    }
    assert undeclared - {"google"} == set()


def test_every_package_that_is_declared_is_imported():
    """A package that one test needs, or nothing, is not installed for everybody."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in project["dependencies"]}
    owners = metadata.packages_distributions()
    used = {owner.lower().replace("_", "-") for name in imported() for owner in owners.get(name, ())}
    assert needed - used == {"tensorboard"}  # what torch.utils.tensorboard writes with


def test_constraints_pin_all_that_is_declared_for_users():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {line.partition("==")[0] for line in lines if "==" in line}
    assert len(pins) > 60
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines if line and not line.startswith("#"))
    assert {"torch", "jsonargparse", "docstring-parser", "typeshed-client", "huggingface-hub"} <= pins
