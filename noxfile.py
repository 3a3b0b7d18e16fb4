"""The checks on every Python that is at hand: `pip install nox && nox`, and `nox -s wheel site`; missing Pythons are skipped."""

import tempfile
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PINNED = ("3.11", "3.12")
"""Pythons that the versions of constraints.txt are made for; later ones take the newest that pyproject.toml allows."""
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False


def versions(session: nox.Session) -> list[str]:
    """How pip is told the tested set."""
    return ["-c", "constraints.txt"] if session.python in (None, *PINNED) else []


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite."""
    session.install(*versions(session), "-e", ".[test]")
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session(python=PYTHONS)
def wheel(session: nox.Session) -> None:
    """A wheel, installed into an empty environment, runs the demo where the repository is not."""
    with tempfile.TemporaryDirectory() as folder:
        session.run("pip", "wheel", "--no-deps", "-w", folder, ".")
        (built,) = Path(folder).glob("mien-*.whl")
        session.install(*versions(session), str(built))
        session.chdir(folder)
        session.run("mien", "doctor")
        session.run("mien", "demo", "--faces", "210", "--epochs", "1", "--out", "demo")


@nox.session
def site(session: nox.Session) -> None:
    """The site, strict, and the tutorials that it shows."""
    session.install("-c", "constraints.txt", "-e", ".[test,docs]")
    session.run("mkdocs", "build", "--strict")
    session.run("pytest", "-m", "slow", "tests/test_tutorials.py")
