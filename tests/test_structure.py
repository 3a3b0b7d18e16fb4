"""The shape of the code: imports go one way, files and functions stay small, nothing heavy loads unasked."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mien"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION = 400, 60

# The layers, lowest first (mien/<folder> or a module at the root). A module may import what stands in an earlier row, and
# its own folder. A module may stand in another row than its folder: settings lie beside what they set.
LAYERS: list[set[str]] = [
    {"errors", "compat", "__init__"},
    {"schema", "files", "values", "maps", "progress", "plugins"},
    {"cues.config", "data.config", "losses.options", "training.config"},
    {"losses.config"},
    {"config", "draw"},
    {"faces", "metrics", "explain", "models", "losses"},
    {"data"},
    {"cues", "synthetic"},
    {"datasets"},
    {"training"},
    {"evaluation", "wrapped"},
    {"audet"},
    {"predict"},
    {"export", "calibrate"},
    {"report"},
    {"audit"},
    {"reproduce", "box"},
    {"crossval"},
    {"demo", "web", "cli"},
    {"shell"},
    {"__main__"},
]
ROOT_MODULES = {
    "schema", "maps", "config", "cli", "errors", "files", "values", "progress", "compat", "draw", "demo",
    "plugins", "__init__", "__main__",
}  # fmt: skip
"""What stands at the root of the package; the rest has a folder."""


def name_of(path: Path) -> str:
    """mien/faces/align.py -> faces.align; a package's own file is named as the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer_of(module: str) -> int:
    for names in (module, module.split(".")[0]):
        for k, layer in enumerate(LAYERS):
            if names in layer:
                return k
    raise AssertionError(f"mien.{module} has no place in LAYERS of {Path(__file__).name}: give it one")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> set[str]:
    """Modules of mien that a file imports anywhere, also inside functions and for types only."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / whole.replace(".", "/")).is_dir() or (
                    ROOT / (whole.replace(".", "/") + ".py")
                ).is_file()
                found.add(whole if is_module else str(node.module))
    return {name.removeprefix("mien.") for name in found if name.startswith("mien.")}


def test_imports_go_one_way():
    wrong = []
    for path in FILES:
        own = name_of(path)
        for other in imports(path):
            same_folder = "." in own + other and other.split(".")[0] == own.split(".")[0]
            if layer_of(other) > layer_of(own) or (layer_of(other) == layer_of(own) and not same_folder):
                wrong.append(f"{own} imports {other}")
    assert not wrong, "\n".join(wrong)


def circles() -> list[str]:
    """Every circle of imports, also of imports inside functions and inside one folder."""
    known = {name_of(path): imports(path) for path in FILES}
    found, done = [], set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
            return
        if module in done or module not in known:
            return
        for other in sorted(known[module]):
            visit(other, (*trail, module))
        done.add(module)

    for module in known:
        visit(module, ())
    return found


def test_no_circles():
    assert not circles(), "\n".join(circles())


def test_the_root_is_known_and_the_house_is_counted(capsys):
    root = sorted(path.stem for path in PACKAGE.glob("*.py"))
    long = [name_of(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    with capsys.disabled():
        print(f"\n{len(root)} modules at the root, {len(circles())} circles, {len(long)} files over {MAX_LINES} lines")
    assert len(root) <= 14
    assert set(root) == ROOT_MODULES, f"a module belongs into a folder: {set(root) ^ ROOT_MODULES}"
    assert not long


SIBLINGS = {"faces", "models", "losses", "explain", "metrics"}


def test_siblings_do_not_know_each_other():
    """Model, loss, explainer and metric meet in training and evaluation only."""
    wrong = []
    for path in FILES:
        own = name_of(path).split(".")[0]
        if own in SIBLINGS and layer_of(name_of(path)) == layer_of(own):
            wrong += [
                f"{name_of(path)} imports {other}" for other in imports(path) if other.split(".")[0] in SIBLINGS - {own}
            ]
    assert not wrong, "\n".join(wrong)


def test_report_reads_run_folders_only():
    heavy = {"models", "training", "losses", "explain"}
    wrong = [
        f"{name_of(p)} imports {m}"
        for p in FILES
        if name_of(p).split(".")[0] == "report"
        for m in imports(p)
        if m.split(".")[0] in heavy and m != "training.checkpoint"  # reads a run folder
    ]
    assert not wrong, "\n".join(wrong)


def modules_after(code: str) -> set[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split())


LIGHT = [
    "mien",
    "mien.schema",
    "mien.errors",
    "mien.cli",
    "mien.progress",
    "mien.faces",
    "mien.cues",
    "mien.data.store",
    "mien.faces.models",
]


def test_light_modules_load_no_torch():
    loaded = modules_after("\n".join(f"import {name}" for name in LIGHT))
    assert not loaded & {"torch", "matplotlib", "torchvision", "timm", "cv2"}


def test_verbs_can_be_helped_without_torch():
    """Everything but training and evaluation parses its words before torch is loaded."""
    verbs = [
        "demo", "synthetic.synthesize", "datasets.prepare", "datasets.check", "datasets.folds", "cues.guides", "cues.verb",
        "predict.explain", "predict", "calibrate", "faces.models",
    ]  # fmt: skip
    assert not modules_after("\n".join(f"import mien.{name}" for name in verbs)) & {"torch", "matplotlib"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_small(path):
    assert len(path.relative_to(PACKAGE).parts) <= 2, "one folder level"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    long = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            size = (node.end_lineno or 0) - node.lineno + 1
            size -= (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring is not None else 0
            if size > MAX_FUNCTION:
                long[node.name] = size
    assert not long, f"longer than {MAX_FUNCTION} lines: {long}"


FORBIDDEN = {
    r"register_(full_)?(forward|backward)(_pre)?_hook|register_module_": "no hooks: all is in Output",
    r"\bpickle\b|allow_pickle=True|weights_only=False": "nothing is unpickled",
    r"\bnp\.random\.(seed|rand|randn|randint|choice|shuffle|permutation)\(": "generators are passed in",
    r"\bTODO\b|\bFIXME\b|NotImplementedError\(|\bXXX\b": "no unfinished work",
    r"(?<![\w.])/(work|root|home|tmp)/": "no path of one machine",
    r"(?i)(guess|infer|predict|recogni[sz]|classif)\w* (the )?(race|ethnic|gender)": "neither race nor gender",
}


def test_pictures_and_videos_are_opened_in_one_place():
    """There the formats that count are named: an EPS file is a program that Pillow runs, a playlist makes FFmpeg fetch."""
    places = {r"\bImage\.open\(": "faces/pictures.py", r"\bVideoCapture\(": "faces/video.py"}
    wrong = [
        f"{path.relative_to(PACKAGE)}: {pattern}"
        for pattern, place in places.items()
        for path in FILES
        if re.search(pattern, path.read_text(encoding="utf-8")) and str(path.relative_to(PACKAGE)) != place
    ]
    assert not wrong, "\n".join(wrong)


SAFE_UNPICKLING = "label_pickle.py"
"""AUDetNet published its labels as pickles; this one reader runs nothing of what they say."""


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_forbidden(pattern):
    hits = []
    for path in FILES:
        if path.name == SAFE_UNPICKLING and "pickle" in pattern:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(pattern, line):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not hits, FORBIDDEN[pattern] + "\n" + "\n".join(hits)


def test_no_keyword_tunnels_and_no_missing_docstrings():
    wrong = []
    for path in FILES:
        assert ast.get_docstring(tree_of(path)) or path.name == "__init__.py", path
        for node in tree_of(path).body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                wrong.append(f"{name_of(path)}.{node.name} has no docstring")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
                wrong.append(f"{name_of(path)}.{node.name} takes **{node.args.kwarg.arg}")
    assert not wrong, "\n".join(wrong)


def test_readme_map_is_the_tree():
    """The map names every folder and no other."""
    block = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- file map -->")[1].split("```")[1]
    rows = block.strip().splitlines()
    assert len(rows) <= 15
    named = {name for row in rows for name in re.findall(r"(?<!\S)(?:mien/)?(\w+)/(?=\s|$)", row)} - {"mien"}
    there = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    there |= {"recipes", "examples", "benchmarks", "tools", "tests", "docs"}
    assert named == there


def tables() -> dict[str, list[str]]:
    from mien.audet.blocks import BLOCKS
    from mien.audet.options import DEPENDENCY_KINDS
    from mien.cli import VERBS
    from mien.cues import CONTROLS, CUES
    from mien.datasets import DATASETS
    from mien.explain import EXPLAINERS
    from mien.faces.detect import PROVIDERS
    from mien.losses.alignment import CHANNELS, SIMILARITIES
    from mien.losses.attribution import ATTRIBUTIONS
    from mien.metrics.alignment import SCORES
    from mien.models import HEADS
    from mien.schema import PREPROCESSING, SCHEMES

    named = {"CUES": CUES, "CONTROLS": CONTROLS, "DATASETS": DATASETS, "EXPLAINERS": EXPLAINERS, "HEADS": HEADS}
    named |= {"BLOCKS": BLOCKS, "DEPENDENCY_KINDS": DEPENDENCY_KINDS}
    named |= {"ATTRIBUTIONS": ATTRIBUTIONS, "CHANNELS": CHANNELS}
    named |= {
        "PREPROCESSING": PREPROCESSING,
        "PROVIDERS": PROVIDERS,
        "SCHEMES": SCHEMES,
        "SCORES": SCORES,
        "SIMILARITIES": SIMILARITIES,
    }
    return {"VERBS": [f"mien {verb}" for verb in VERBS], **{table: list(keys) for table, keys in named.items()}}


def test_every_key_of_every_table_is_in_the_docs():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    missing = [
        f"{table}: {key}"
        for table, keys in tables().items()
        for key in keys
        if not re.search(rf"[`\s|]{re.escape(key)}\b", pages)
    ]
    assert not missing, "\n".join(missing)


def test_tables_agree_with_the_lists_that_load_no_torch():
    from mien.cues import CONTROLS, CUES
    from mien.cues.config import CONTROL_KINDS, CUE_KINDS

    assert list(CUES) == list(CUE_KINDS)
    assert tuple(CONTROLS) == CONTROL_KINDS


def test_verbs_are_modules_are_functions():
    from mien.cli import VERBS

    for verb, (module, summary) in VERBS.items():
        file = ROOT / (module.replace(".", "/") + ".py")
        path = file if file.is_file() else file.with_suffix("") / "__init__.py"
        assert path.is_file(), f"mien {verb}: {module} is missing"
        assert re.search(rf"^(def {verb}\(|from .* import .*\b{verb}\b)", path.read_text(), re.M), (
            f"no {verb} in {module}"
        )
        assert summary[0].islower()
