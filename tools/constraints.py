"""Renew constraints.txt from the environment that the tests passed in: every package that mien and its extras bring is pinned.

python tools/constraints.py            writes constraints.txt
python tools/constraints.py --check    exit code 1 where a package that is installed here is not pinned

Run it in an environment with all extras (`pip install -e '.[faces,video,browser,export,frame,docs,test]'`). Pins of packages that are
not installed here stay as they are.
"""

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
HEAD = """\
# One tested set for Python 3.11 on a CPU machine, with everything that it brings along; both README commands install with it.
# Renew with: python tools/constraints.py. Loose lower bounds stand in pyproject.toml.
"""
OF_THE_MACHINE = ("nvidia-", "cuda-", "triton", "setuptools", "pip", "wheel")
"""Begin the names of packages that torch or Python choose themselves."""


EXTRAS = {"jsonargparse": "signatures", "mkdocstrings": "python"}
"""Package -> its own extra that pyproject.toml asks for."""


def plain(name: str) -> str:
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Packages that pyproject.toml names, those of extras too."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {plain(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines}


def needed(names: set[str]) -> Iterator[tuple[str, str]]:
    """(name, version) of the packages and of everything that they bring along here."""
    waiting, seen = [*names], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith(OF_THE_MACHINE):
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield name, found.version.partition("+")[0]
        for line in found.requires or ():
            optional = "extra ==" in line or "extra==" in line
            if not optional or EXTRAS.get(name, "no extra") in line:
                waiting.append(plain(re.split(r"[\[<>=!~;( ]", line)[0]))


def pinned() -> dict[str, str]:
    """What constraints.txt has now."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {plain(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def main(arguments: list[str]) -> int:
    """Write the file, or compare it with what is installed."""
    before, here = pinned(), dict(needed(declared()))
    if "--check" in arguments:
        missing = sorted(set(here) - set(before))
        print(f"not pinned: {', '.join(missing)}" if missing else f"{len(here)} packages are pinned")
        return bool(missing)
    lines = [f"{name}=={version}" for name, version in sorted((before | here).items())]
    FILE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} packages pinned, {len(here)} of them installed here")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
