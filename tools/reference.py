"""Pages of the site that follow from the code: every table of names, every key of a recipe, the help of every command."""

import contextlib
import dataclasses
import inspect
import io
import typing
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from docstring_parser import parse_from_object


def first_line(thing: Any) -> str:
    """The first sentence of a docstring; of a lambda nothing."""
    text = inspect.getdoc(thing) or ""
    return " ".join(text.split("\n\n")[0].split())


def cell(text: object) -> str:
    """Text in a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def rows(heads: tuple[str, ...], lines: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    table = [heads, ("---",) * len(heads), *lines]
    return "\n".join("| " + " | ".join(cell(one) for one in line) + " |" for line in table)


def kind_of(hint: Any) -> str:
    """A type as a person writes it: whole number, one of a, b, c, list of ..., or null."""
    plain = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in plain:
        return plain[hint]
    if origin is typing.Literal:
        return " / ".join(f"`{one}`" for one in inner)
    if origin in (list, tuple):
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return f"{kind_of(inner[0])} to {kind_of(inner[1])}"
    if inner:
        return " or ".join(kind_of(one) for one in inner)
    return {"Path": "path", "Any": "anything"}.get(getattr(hint, "__name__", ""), str(hint))


def fields_of(config: type) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of a dataclass of settings, from its annotations and the text below each."""
    hints = get_type_hints(config)
    texts = {
        one.arg_name: one.description or ""
        for kind in reversed(config.__mro__[:-1])
        for one in parse_from_object(kind).params
    }
    found = []
    for field in dataclasses.fields(config):
        whole = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        default = "required" if whole is dataclasses.MISSING else f"`{'null' if whole is None else whole}`"
        found.append((field.name, kind_of(hints[field.name]), default, texts.get(field.name, "")))
    return found


def keys() -> str:
    """A page with every key of a recipe and every option of a term."""
    from mien.config import Recipe
    from mien.losses.options import TERM_OPTIONS, Term

    parts = [
        "# Keys of a recipe\n\nWhat it is for stands in [training](../training.md); here is the typed tree that the program reads. "
        "Any key may be given on the command line as `--section.key value`."
    ]
    for section, kind in get_type_hints(Recipe).items():
        table = rows(
            ("key", "type", "default", "meaning"), [(f"`{section}.{k}`", *rest) for k, *rest in fields_of(kind)]
        )
        parts.append(f"## {section}\n\n{table}")
    shared = [(f"`{k}`", *rest) for k, *rest in fields_of(Term)]
    parts.append(f"## Every term of loss.terms\n\n{rows(('key', 'type', 'default', 'meaning'), shared)}")
    own = {one.name for one in dataclasses.fields(Term)}
    options = [
        (f"`{name}`", f"`{k}`", *rest)
        for name, kind in TERM_OPTIONS.items()
        for k, *rest in fields_of(kind)
        if k not in own
    ]
    parts.append(f"## Options of the terms\n\n{rows(('term', 'key', 'type', 'default', 'meaning'), options)}")
    return "\n\n".join(parts) + "\n"


def tables() -> str:
    """A page with every table of names that a setting or a command may take."""
    from mien.cues.config import CUE_KINDS
    from mien.cues.render import CONTROLS, CUES
    from mien.datasets import DATASETS
    from mien.explain import EXPLAINERS
    from mien.faces.detect import PROVIDERS
    from mien.losses.alignment import CHANNELS, SIMILARITIES
    from mien.losses.attribution import ATTRIBUTIONS
    from mien.losses.classification import CLASSIFICATION
    from mien.losses.options import TERM_OPTIONS
    from mien.metrics.alignment import HIGHER_IS_BETTER, SCORES
    from mien.models import HEADS
    from mien.schema import PREPROCESSING, SCHEMES

    parts = [
        "# Tables of names\n\nEach name is a value of a setting, an option or a function's argument. The tables are those of the "
        "program; `mien doctor` lists what plugins add."
    ]

    def add(title: str, intro: str, table: Mapping[str, Any], says: Callable[[str], str] | None = None) -> None:
        told = says or (lambda name: first_line(table[name]) or "")
        lines = [(f"`{name}`", told(name)) for name in table]
        parts.append(f"## {title}\n\n{intro}\n\n{rows(('name', 'what'), lines)}")

    add(
        "Cues",
        "`cue.kind`, `guidance.cue`. [More](../cues.md).\n\n![Every kind of cue](../cues.png)",
        CUES,
        CUE_KINDS.__getitem__,
    )
    needs = "needs other faces or the mean cue"

    def control(name: str) -> str:
        return "the cue itself" if name == "none" else first_line(CONTROLS[name]) or needs

    def dataset(name: str) -> str:
        reader = DATASETS[name]
        return f"{first_line(reader.records)} {reader.size} px, {reader.channels} channels unless said."

    add("Controls", "`cue.control`: what replaces the cue on purpose.", CONTROLS, control)
    add("Explainers", "`--explain`, `--methods`, `explain=`. [More](../explanations.md).", EXPLAINERS,
        lambda name: first_line(EXPLAINERS[name].function))  # fmt: skip
    add("Attributions", "`guidance.attribution`: what is pulled. [More](../guidance.md#attribution).", ATTRIBUTIONS)
    add("Similarities", "`guidance.similarity`.", SIMILARITIES)
    add("Channels", "`guidance.channels`.", CHANNELS)
    add("Classification losses", "`loss.classification`. [More](../losses.md).", CLASSIFICATION)
    add("Further terms", "`loss.terms`; options in [keys](keys.md#options-of-the-terms).", TERM_OPTIONS,
        lambda name: ", ".join(f"`{k}`" for k, *_ in fields_of(TERM_OPTIONS[name])[3:]) or "no options of its own")  # fmt: skip
    add("Heads", "`model.head`. [More](../models.md#heads).", HEADS)
    add("Alignment scores", "Columns of `mien evaluate`. [More](../metrics.md).", SCORES,
        lambda name: f"{first_line(SCORES[name])} {'Higher' if HIGHER_IS_BETTER[name] else 'Lower'} is better.")  # fmt: skip
    add("Datasets", "`mien prepare NAME`. [More](../datasets.md).", DATASETS, dataset)
    add("Face providers", "`--faces`. [More](../faces.md).", PROVIDERS)
    add("Label schemes", "`data.scheme`.", SCHEMES, lambda name: ", ".join(SCHEMES[name]))
    add("Preprocessing", "`model.preprocessing`.", PREPROCESSING, lambda name: str(PREPROCESSING[name]))
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """A page with the help of every verb, from the parser."""
    from mien.cli import VERBS, main

    parts = ["# Commands\n\nWhat `mien COMMAND --help` prints."]
    for verb, (_, summary) in VERBS.items():
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([verb, "--help"])
        parts.append(
            f"## mien {verb}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{shown.getvalue().rstrip()}\n```"
        )
    return "\n\n".join(parts) + "\n"
