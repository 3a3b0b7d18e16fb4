"""Hooks of the site (mkdocs.yml): reference pages from the code itself, and links that leave the docs folder as plain words."""

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import reference as generated

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mien"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def folders() -> dict[str, list[str]]:
    """Folder of the package, or `mien` for its root -> its modules, as they are imported."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1].startswith("__") and parts[-1] != "__init__":
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.setdefault(parts[1] if len(parts) > 2 else "mien", []).append(name)
    return found


def reference(folder: str, modules: list[str]) -> str:
    """A page with every public name of a folder's modules, from their docstrings."""
    title = "mien" if folder == "mien" else f"mien.{folder}"
    return f"# {title}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {f"reference/{name}.md": reference(name, modules) for name, modules in folders().items()}
    written = {f"reference/{name}.md": getattr(generated, name)() for name in ("commands", "tables", "keys")}
    for path, text in {**pages, **written}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """Generated pages stand at the end of the last part of the navigation."""
    config.nav[-1]["Look up"] += [f"reference/{name}.md" for name in folders()]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository, which the site does not hold, become the file's name."""
    return without_outside(markdown, page.file.src_uri.count("/"))


def without_outside(markdown: str, depth: int) -> str:
    """Markdown of a page that lies `depth` folders below docs, with links that go further up as plain words."""

    def plain(link: re.Match[str]) -> str:
        up = link[2].count("../")
        return link[0] if up <= depth else f"{link[1]} (`{link[2].replace('../', '')}`)"

    return OUTSIDE.sub(plain, markdown)
