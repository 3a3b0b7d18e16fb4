"""Wall-clock time until `mien --help`, `import mien` and a first photo are done, in a fresh process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.rows import Row
from mien.errors import DataError
from mien.faces.models import find_bundle
from mien.synthetic.sample import faces

ROOT = Path(__file__).resolve().parent.parent


def seconds(arguments: list[str], repeats: int) -> float:
    """Best of several runs of the interpreter."""
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search},
        )
        times.append(time.perf_counter() - start)
    return min(times)


def measure(quick: bool = False) -> list[Row]:
    """Against an interpreter that does nothing."""
    repeats = 1 if quick else 5
    bare = seconds(["-c", "pass"], repeats)
    cases = {
        "`mien --help`, s": (["-m", "mien", "--help"], "< 0.5 s"),
        "`import mien`, s": (["-c", "import mien"], "-"),
    }
    rows = [
        Row(f"{name}, against an empty program", own := seconds(words, repeats), bare, own / bare, aim)
        for name, (words, aim) in cases.items()
    ]
    return [*rows, first_photo(repeats)]


def first_photo(repeats: int) -> Row:
    """`mien predict` of one synthetic face, cold, against a process that imports torch and loads the bundled model."""
    finder = "mediapipe" if importlib.util.find_spec("ai_edge_litert") and has_bundle() else "none"
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "face.png"
        Image.fromarray(next(faces(7, size=224, subjects=1)).image).save(photo)
        words = ["-m", "mien", "predict", str(photo), "--faces", finder, "--out", str(Path(folder) / "rows.csv")]
        loaded, whole = [], []
        for _ in range(repeats):  # in turn, so that both see the machine as it is
            loaded.append(seconds(["-c", f"import torch, mien; mien.load(faces='{finder}')"], 1))
            whole.append(seconds(words, 1))
    own, peer = min(whole), min(loaded)
    return Row(
        "first photo with `mien predict`, s, against `import torch` and `mien.load`", own, peer, own / peer, "< 1.3"
    )


def has_bundle() -> bool:
    """Whether the model of mediapipe's faces is here."""
    try:
        find_bundle(None)
    except DataError:
        return False
    return True
