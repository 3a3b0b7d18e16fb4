"""The tutorials run from their first block to their last, show pictures that they drew themselves, and stay short."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.fixture(scope="module")
def tutorials():
    spec = importlib.util.spec_from_file_location("tutorials", ROOT / "tools" / "tutorials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_short_whole_and_with_a_picture(tutorials, page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    for picture in tutorials.PICTURE.findall(text):
        assert (page.parent / picture).is_file()
    assert tutorials.PICTURE.findall(text)
    for kind, code, output in tutorials.BLOCK.findall(text):
        assert kind != "python" or ast.parse(code)
        assert not output or re.search(r"```text\n.+", output), f"run python tools/tutorials.py {page.stem}"
    assert text.rstrip().splitlines()[-1].startswith("* ["), "it ends with where to go on"


@pytest.mark.slow
def test_they_run(tutorials, tmp_path):
    """All of them, one after the other: faces that several pages render are rendered once."""
    made = {}
    for page in PAGES:
        (tmp_path / page.stem).mkdir()
        tutorials.run(page, tmp_path / page.stem, made)
