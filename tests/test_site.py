"""The site: every page has a place, every module a reference page, and the strict build passes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def pages(nav: Any) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_has_one_place_in_the_navigation():
    nav = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    docs = ROOT / "docs"
    there = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert sorted(nav) == sorted({*there, *(f"reference/{name}.md" for name in ("commands", "tables", "keys"))})


def test_reference_tables_and_keys_follow_from_the_code(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import reference

    from mien.config import recipe_keys

    keys, tables = reference.keys(), reference.tables()
    assert all(f"| `{key}` |" in keys for key in recipe_keys())
    assert "| `optim.lr` | number | `0.05` | Highest learning rate. |" in keys
    assert "`cosine` / `pearson`" in keys
    for name in (
        "landmark_soft",
        "same_class",
        "layer_cam",
        "grad_input",
        "orthogonal_weights",
        "wildcat",
        "pointing",
        "rafdb",
    ):
        assert f"| `{name}` |" in tables
    empty = [line for line in (keys + tables).splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert not empty, empty


@pytest.mark.slow
def test_strict_build(tmp_path):
    """Fails on broken links and anchors, pages without a place, and docstrings that do not fit their function."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "metrics.html").read_text(encoding="utf-8")
    assert "classification_scores" in page
    assert "mien doctor" in (tmp_path / "reference" / "commands.html").read_text(encoding="utf-8")
