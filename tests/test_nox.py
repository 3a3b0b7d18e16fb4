"""The Pythons that are promised are those that are checked."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_pythons_of_the_readme_are_checked():
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    named = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert set(promised) <= set(named["PYTHONS"])
    assert project["requires-python"] == f">={named['PYTHONS'][0]}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(python in readme for python in promised)
