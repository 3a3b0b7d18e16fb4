"""Run the tutorials of docs/tutorials: their blocks in order, in an empty folder, and renew what they printed and drew.

python tools/tutorials.py                 all of them
python tools/tutorials.py first-look      one

A ```yaml block whose first line is `# NAME.yaml` is written to that file, a ```python block goes on where the last one ended, and of a
```bash block every line that begins with `mien` is run. A block that begins with `# not run` is not. A ```text block behind a block is
what it printed; pictures that the page shows are taken from the folder.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "tutorials"
BLOCK = re.compile(r"^```(python|bash|yaml)\n(.*?)^```$(\n\n```text\n(?:.*?)^```$)?", re.M | re.S)
PICTURE = re.compile(r"!\[[^\]]*\]\(([\w-]+\.png)\)")
LONGEST = 40
"""Lines of an output that a page shows."""


def run_block(kind: str, code: str, names: dict[str, Any], made: dict[str, Path]) -> str:
    """What a block prints; an exception, or a command that does not return 0, ends the tutorial.

    `made` are stores of rendered faces that an earlier page made by the same line: they are copied, not rendered again.
    """
    from mien.cli import main

    if kind == "yaml":
        head = re.match(r"# ([\w-]+\.yaml)\n", code)
        if head:
            Path(head[1]).write_text(code, encoding="utf-8")
        return ""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        if kind == "python":
            exec(compile(code, "tutorial", "exec"), names)
        else:
            for line in re.sub(r"\\\n\s*", "", code).splitlines():
                words = shlex.split(line, comments=True)
                out = Path(words[words.index("--out") + 1]) if words[:2] == ["mien", "synthesize"] else None
                if out is not None and line in made:
                    shutil.copytree(made[line], out)
                elif words[:1] == ["mien"] and main(words[1:]) != 0:
                    raise SystemExit(f"failed: {line}")
                elif out is not None:
                    made[line] = out.resolve()
    return shown.getvalue()


def run(page: Path, folder: Path, made: dict[str, Path] | None = None) -> str:
    """Run a page's blocks in an empty folder; the page's text with what they printed. `made`: see `run_block`."""
    made = {} if made is None else made
    text, names = page.read_text(encoding="utf-8"), {"__name__": "tutorial"}

    def renewed(found: re.Match[str]) -> str:
        kind, code, output = found.groups()
        if code.startswith("# not run"):
            return found[0]
        printed = run_block(kind, code, names, made).replace(str(folder), ".").rstrip().splitlines()
        if output is None:
            return found[0]
        printed = [line.rstrip() for line in printed if line.strip()]
        cut = [*printed[: LONGEST - 1], "..."] if len(printed) > LONGEST else printed
        return f"```{kind}\n{code}```\n\n```text\n" + "\n".join(cut) + "\n```"

    recipes = folder / "recipes"
    if not recipes.exists():  # as in the root of the repository
        recipes.symlink_to(FOLDER.parent.parent / "recipes")
    with inside(folder):
        text = BLOCK.sub(renewed, text)
    missing = [name for name in PICTURE.findall(text) if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{page.name} shows {', '.join(missing)}, which it does not draw")
    return text


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main(names: list[str]) -> None:
    """Run pages and write them anew."""
    for page in sorted(FOLDER.glob("*.md")):
        if names and page.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            began, used = time.perf_counter(), sum(os.times()[:4])
            text = run(page, Path(folder))
            for name in PICTURE.findall(text):
                shutil.copy(Path(folder) / name, FOLDER / name)
            page.write_text(text, encoding="utf-8")
        print(f"{page.stem}: {time.perf_counter() - began:.0f} s, {sum(os.times()[:4]) - used:.0f} s of processor time")


if __name__ == "__main__":
    main(sys.argv[1:])
