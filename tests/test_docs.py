"""The documentation: snippets run, commands and their options exist, links lead somewhere, every recipe key is listed."""

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from mien.audet import override_keys as cfg_keys
from mien.cli import VERBS
from mien.config import Recipe, as_dict, load_recipe, recipe_keys
from mien.losses.options import TERM_OPTIONS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
"""Their code is run by tests/test_tutorials.py."""
TEXTS = {page: page.read_text(encoding="utf-8") for page in [*PAGES, *TUTORIALS, *ROOT.glob("*.md")]}
SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", TEXTS[page], re.M | re.S))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet(code, tmp_path, monkeypatch):
    ast.parse(code)
    if code.startswith("# not run"):
        return
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def commands(text: str) -> list[list[str]]:
    """Words of every command line that starts with `mien`, in blocks, indented lines and inline code."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^\s*(?:#\s)?(mien [a-z].*)$", joined, re.M) + re.findall(r"`(mien [a-z][^`\n]*)`", joined)
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return [shlex.split(part) for part in parts if part.startswith("mien ")]


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.name)
def test_commands_exist(page):
    for words in commands(TEXTS[page]):
        if words[1].isupper():
            continue
        assert words[1] in VERBS, words
        module, _ = VERBS[words[1]]
        parameters = inspect.signature(getattr(importlib.import_module(module), words[1])).parameters
        for word in words[2:]:
            option = word.split("=")[0]
            if not option.startswith("--"):
                assert not re.match(r"recipes/.*[^$]\.yaml$", word) or "$" in word or (ROOT / word).is_file(), words
            elif "." in option:
                assert "overrides" in parameters, words
                assert option[2:] in (cfg_keys() if words[1] == "audet" else recipe_keys()), words
            else:
                assert option == "--help" or option[2:].replace("-", "_") in parameters, words


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", prose):
        assert re.match(r"https?://|mailto:", target) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "recipe-keys"], ids=lambda p: p.name)
def test_a_page_can_be_read_in_one_sitting(page):
    """At most 200 lines; a list of keys is as long as it is."""
    assert len(TEXTS[page].splitlines()) <= 200


def test_the_index_lists_every_page():
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\)", TEXTS[ROOT / "docs" / "index.md"]))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in [*PAGES, *TUTORIALS]}
    assert pages - {"index.md"} - listed <= {"results.md", "benchmarks.md"}


def test_every_recipe_key_is_listed_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| `(.*?)` \| \S", TEXTS[ROOT / "docs" / "recipe-keys.md"], re.M))
    defaults = {f"{s}.{k}": v for s, content in as_dict(Recipe()).items() for k, v in content.items()}
    assert set(rows) == set(recipe_keys())
    assert {key: yaml.safe_load(text) for key, text in rows.items()} == defaults


FLAGS = [
    row
    for page in ("flags", "flags-model")
    for row in re.findall(r"^\| (`[^|]*) \|(.*)\|$", TEXTS[ROOT / "docs" / f"{page}.md"], re.M)
]


def test_every_published_flag_has_one_row():
    flags = [flag for row, _ in FLAGS if row.startswith("`--") for flag in re.findall(r"--\w+", row)]
    assert len(flags) == len(set(flags)) == 304  # options that the published parser declares


@pytest.mark.parametrize("row", FLAGS, ids=lambda row: row[0].split("`")[1])
def test_what_became_of_a_published_flag(row):
    here = row[1].strip()
    term = re.match(r"term `(\w+)`: (.*?)(;|$)", here)
    keys = re.findall(rf"`((?:{'|'.join(as_dict(Recipe()))})\.\w+)", here)
    assert here.startswith("gone: ") or term or keys or "`mien " in here
    assert set(keys) <= set(recipe_keys())
    if term:
        options = {field.name for field in dataclasses.fields(TERM_OPTIONS[term[1]])}
        assert set(re.findall(r"`(\w+)`", term[2])) <= options


def test_the_published_command_is_a_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(
        re.findall(r"^```yaml\n(.*?)^```$", TEXTS[ROOT / "docs" / "flags.md"], re.M | re.S)[0]
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.guidance.weight, recipe.guidance.layers, recipe.optim.lr) == (9, [5], 0.002)


FORBIDDEN = r"(?<![\w.])/(work|root|home|tmp)/"


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.name)
def test_no_path_of_one_machine(page):
    assert not re.search(FORBIDDEN, TEXTS[page])


def test_project_files_agree():
    import tomllib

    from mien import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"] == __version__
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert citation["authors"] == project["authors"]
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert f"[{__version__}]" in TEXTS[ROOT / "CHANGELOG.md"]
    assert all(f"`mien {verb}`" in TEXTS[ROOT / "CHANGELOG.md"] for verb in VERBS)


OLD_WORDS = [
    r"look-?alikes?", r"laid alike", r"lies? alike", r"as they lie", r"drawn (faces?|people|heads?|truth)", r"in the box", r"floors?",
    r"faint(est|ly)?", r"surest", r"too (modest|sure)", r"luck of", r"leans? (up|down)wards", r"(mis)?taken for", r"published flags?",
    r"fitted (store|faces?)", r"`fitted`",
]  # fmt: skip
"""Words that once stood for a term of the field; docs/glossary.md has the terms."""


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.name)
def test_the_documents_use_the_terms_of_the_field(page):
    found = re.findall(rf"(?i)\b(?:{'|'.join(OLD_WORDS)})(?!\w)", TEXTS[page])
    assert not found, found


def test_paragraphs_are_single_lines():
    """A paragraph is one line: an editor wraps it, and a change shows what changed."""
    wrapped = []
    for page, text in TEXTS.items():
        plain = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
        lines = plain.split("\n")
        wrapped += [
            f"{page.name}: {second[:60]}"
            for first, second in pairwise(lines)
            if re.match(r"[A-Za-z(*\[`]", first) and re.match(r"[A-Za-z(\[`]", second)
        ]
    assert not wrapped, wrapped[:10]
