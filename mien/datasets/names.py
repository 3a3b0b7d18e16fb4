"""Expression and person from the name of a file: regular expressions of the user, and presets for published sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mien.data.arrow import Skipped
from mien.datasets.words import Labels, named, read_labels
from mien.errors import UsageError
from mien.files import name_of
from mien.schema import Record


class Preset(NamedTuple):
    """How a published set names its files."""

    expression: str | None
    """Regular expression with one group; None where another file says it."""
    codes: Mapping[str, str]
    """What the group may be, lower case -> expression; "" leaves the picture out."""
    subject: str
    """Regular expression with one group."""


def _codes(text: str) -> dict[str, str]:
    """Pairs such as ``ne Neutral``, with commas between; a code alone is left out."""
    return {words[0]: words[1] if len(words) > 1 else "" for words in map(str.split, text.split(","))}


_TWO = "ne Neutral,ha Happiness,su Surprise,fe Fear,an Anger,di Disgust,sa Sadness,co Contempt"

PRESETS: dict[str, Preset] = {
    "jaffe": Preset(r"(?i)(?:^|/)[A-Z]{2}[.-]([A-Z]{2})\d+[.-]", _codes(_TWO), r"(?i)(?:^|/)([A-Z]{2})[.-][A-Z]{2}\d"),
    "kdef": Preset(
        r"(?i)(?:^|/)[AB][FM]\d\d(AF|AN|DI|HA|NE|SA|SU)(?:S|FL|FR|HL|HR)[._ -]",
        _codes(_TWO.replace("fe ", "af ")), r"(?i)(?:^|/)[AB]([FM]\d\d)[A-Z]{3,4}[._ -]",
    ),
    "rafd": Preset(
        r"Rafd\d+_\d+_[A-Za-z]+_[a-z]+_([a-z]+)_(?:frontal|left|right)", {}, r"Rafd\d+_(\d+)_",
    ),
    "ckplus": Preset(None, {}, r"(?:^|/)(S\d{3})_\d{3}_\d+"),
    "nimstim": Preset(
        r"(?:^|/)\d\d[FM]_([A-Z]{2})_[A-Z]", _codes(_TWO + ",sp Surprise,ca Neutral"), r"(?:^|/)(\d\d[FM])_[A-Z]{2}_",
    ),
    "faces": Preset(
        r"(?:^|/)\d{1,3}_[ymo]_[mf]_([nadfhs])_[ab]",
        _codes("n Neutral,a Anger,d Disgust,f Fear,h Happiness,s Sadness"), r"(?:^|/)(\d{1,3})_[ymo]_[mf]_",
    ),
    "ravdess": Preset(
        r"(?:^|/)\d\d-\d\d-(\d\d)(?:-\d\d){4}", _codes(
            "1 Neutral,2 Neutral,3 Happiness,4 Sadness,5 Anger,6 Fear,7 Disgust,8 Surprise"
        ), r"(?:^|/)(?:\d\d-){6}(\d\d)",
    ),
    "cremad": Preset(
        r"(?:^|/)\d{4}_[A-Z]{3}_([A-Z]{3})_[A-Z]{2}",
        _codes("neu Neutral,hap Happiness,sad Sadness,ang Anger,fea Fear,dis Disgust"), r"(?:^|/)(\d{4})_[A-Z]{3}_[A-Z]{3}_",
    ),
    "bu3dfe": Preset(r"(?:^|/)[FM]\d{4}_([A-Z]{2})\d\d", _codes(_TWO), r"(?:^|/)([FM]\d{4})_[A-Z]{2}\d\d"),
}  # fmt: skip
"""Name for `--expression-pattern` and `--subject-pattern` -> what it means."""

SURE = 0.9
"""Share of file names that must fit a preset before it is proposed."""


def with_text(items: Iterable[Record | Skipped]) -> Iterator[Record | Skipped]:
    """Items whose names are text; of a file whose name is not UTF-8 the reason, under a name that can be written."""
    for item in items:
        words = (
            item if isinstance(item, Skipped) else (item.id, item.subject or "", *map(str, item.attributes.values()))
        )
        try:
            "".join(words).encode()
        except UnicodeEncodeError:
            item = Skipped(name_of(item.id), "its name is not UTF-8; rename it")
        yield item


def with_names(
    items: Iterable[Record | Skipped],
    expression_pattern: str | None,
    subject_pattern: str | None,
    labels: str | None = None,
) -> Iterator[Record | Skipped]:
    """Records with the expression, the subject, or both that the patterns find in their ids (relative paths).

    A pattern is a preset's name or a regular expression with exactly one group; a preset of expressions finds the subject too
    unless `subject_pattern` is given. Where a pattern does not match, or finds no expression, the picture is skipped.
    """
    if expression_pattern is None and subject_pattern is None:
        yield from items
        return
    words = read_labels(labels)
    preset = PRESETS.get(expression_pattern or "")
    if preset is not None:
        words = {**preset.codes, **words}
        expression = None if preset.expression is None else re.compile(preset.expression)
    else:
        expression = _compiled(expression_pattern, "expression")
    who = subject_pattern or (expression_pattern if preset is not None else None)
    subject = re.compile(PRESETS[who].subject) if who in PRESETS else _compiled(who, "subject")
    for item in items:
        yield item if isinstance(item, Skipped) else _named(item, expression, subject, words, who)


def _named(
    item: Record, expression: re.Pattern[str] | None, subject: re.Pattern[str] | None, words: Labels, who: str | None
) -> Record | Skipped:
    if expression is not None:
        found = expression.search(item.id)
        label = named(found[1], words) if found else None
        if found is None:
            return Skipped(item.id, f"the expression pattern '{expression.pattern}' does not match")
        if label is None:
            return Skipped(
                item.id, f"'{found[1]}', found by the expression pattern, is no expression (--labels {found[1]}=...)"
            )
        if not label:
            return Skipped(item.id, "its class is left out")
        item = item._replace(expression=label)
    if subject is not None:
        found = subject.search(item.id)
        if found is None:
            return Skipped(item.id, f"the subject pattern '{who}' does not match")
        item = item._replace(subject=found[1].upper() if who in PRESETS else found[1])
    return item


def _compiled(pattern: str | None, kind: str) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{kind} pattern '{pattern}' is no regular expression: {error}.") from error
    if compiled.groups != 1:
        raise UsageError(
            f"{kind} pattern '{pattern}' must have exactly one group, e.g. '(S\\d+)_'; presets: {', '.join(PRESETS)}."
        )
    return compiled


def people_line(items: Iterable[Record | Skipped]) -> str:
    """One line where no face has a subject although the names say whom they show, with the option; empty otherwise."""
    faces = [item for item in items if isinstance(item, Record)]
    if any(face.subject for face in faces) or (name := people_preset([face.id for face in faces])) is None:
        return ""
    return (
        f"subjects: none is known, but names such as '{faces[0].id}' say whom they show: --subject-pattern {name} keeps each person "
        "in one part."
    )


def people_preset(names: Sequence[str]) -> str | None:
    """The preset whose people nine tenths of these relative paths, ten at least, name; None without one."""
    for name, preset in PRESETS.items():
        found = [match[1] for path in names if (match := re.search(preset.subject, path)) is not None]
        if len(names) >= 10 and len(found) >= SURE * len(names) and len(set(found)) > 1:
            return name
    return None


def preset_of(names: Iterable[str]) -> str | None:
    """The preset that nine tenths of these relative paths fit; None without one."""
    paths = list(names)
    for name, preset in PRESETS.items():
        pattern = re.compile(preset.expression or preset.subject)
        if paths and sum(pattern.search(path) is not None for path in paths) >= SURE * len(paths):
            return name
    return None
