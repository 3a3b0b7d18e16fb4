"""Which column of a table means what: names that people give to pictures, labels, people, boxes, points and action units."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mien.data.au_scale import unit_columns
from mien.datasets.table_boxes import BOXES, target_of
from mien.datasets.words import find_expression
from mien.errors import UsageError
from mien.faces.landmark_tables import point_columns
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS

PLAIN = (
    "image", "id", "expression", "subject", "split", "left", "top", "right", "bottom", "width", "height", "yaw", "pitch", "roll",
    "box_xyxy", "box_xywh", "same_person", "same_actions",
)  # fmt: skip
POINTS = tuple(f"{axis}{k}" for axis in "xy" for k in range(LANDMARKS))
TARGETS = (*PLAIN, *ACTION_UNITS, *POINTS)
"""What a column can mean; beside these, attr.NAME and the patterns landmarks_x=lmx_{} landmarks_y=lmy_{}."""

NAMES = {
    "image": (
        "image", "img", "imagebytes", "imgbytes", "imagepath", "imgpath", "path", "filepath", "file", "filename",
        "picture", "photo", "imagename", "imgname",
        "imagefile", "pic", "subdirectoryfilepath", "input", "bytes", "jpg", "jpeg", "png", "pixels",
        "pixelvalues", "imagedata", "imageid", "name", "url", "imageurl", "imgurl", "fname", "pth", "fichier", "archivo", "bild",
    ),
    "expression": (
        "expression", "emotion", "label", "class", "emotionlabel", "expressionlabel", "labelname", "classname", "expr", "exp",
        "target", "category", "categories", "emotionclass", "dominantemotion", "labels", "labelid", "classid", "emotions", "emotionid",
        "emotionidx", "emotioncode", "labelidx", "labelindex", "labelcode", "expressionid", "expressioncode", "exprid", "classidx",
        "groundtruth", "emo", "feeling", "affect", "emocion", "emozione", "emocao", "gefuhl", "ausdruck", "sentiment",
        "表情", "情绪", "情感", "标签",
    ),
    "subject": (
        "subject", "person", "subjectid", "personid", "identity", "identityid", "participant", "participantid", "subj", "actor",
        "actorid", "speaker", "individual", "subjectname", "personname", "user", "userid", "sub", "sujet", "sujeto", "persona",
        "personne", "proband", "patient", "patientid", "actorname",
    ),
    "split": ("split", "usage", "set", "inset", "partition", "subset", "phase", "datasplit", "splitname", "traintest"),
    "yaw": ("yaw",), "pitch": ("pitch",), "roll": ("roll",),
}  # fmt: skip
"""Target -> names in lower case without blanks and signs, the plainest first."""

BOX_TARGETS = {"left", "top", "right", "bottom", "width", "height", "box_xyxy", "box_xywh"}

RATERS = re.compile(
    r"(rater|annotator|coder|vote|voter|expert|judge|annot|annotation|worker|label|emotion|expression)[ _.-]?(\d+|[a-h])$"
)
SHARE_WORDS = (
    "p", "prob", "probs", "probability", "score", "scores", "emotion", "expression", "vote", "votes", "soft", "label", "labels",
    "softlabel", "n", "num", "count", "counts", "share", "percent", "pct", "conf", "confidence", "softmax", "annotators",
)  # fmt: skip
"""What stands beside the expression in names of such columns: p(happy), soft_label_sad, n_anger, Fear (%)."""
FEWEST_SHARES = 4
"""So many columns named after expressions are shares or counts of votes."""


UNIT_TARGETS = ACTION_UNITS

AFFECT = ("valence", "arousal", "fold")
"""Columns that are kept as attributes of this name."""


class Columns(NamedTuple):
    """What a table's columns mean."""

    targets: dict[str, str]
    """Target -> column."""
    shares: dict[str, str]
    """Expression -> column of its votes or probability; empty without."""
    raters: tuple[str, ...]
    """Columns with one annotator's label each."""
    left: tuple[str, ...]
    """Columns that are not taken."""
    units_left: tuple[str, ...]
    """Those of them that look like action units."""


def named_targets(names: Sequence[str], said: Mapping[str, str]) -> dict[str, str]:
    """Target -> column of what is said, and of what the names of columns say by themselves."""
    found = _plain(names, said)
    return unit_columns([name for name in names if name not in found.values()])[0] | found | dict(said)


def resolve(pairs: Sequence[str], names: Sequence[str], path: Path, header: bool = True) -> Columns:
    """Meaning of the columns `names`: the pairs ``target=column`` of a user first, then what their names say, which are numbers
    without meaning where there is no `header`.

    UsageError for a pair or column that there is not, and for a table without pictures, with the nearest names.
    """
    said = _said(pairs, path)
    free = [name for name in names if name not in said.values()]
    found = _plain(free, said) | said
    affect = {name.strip().lower(): name for name in free if name.strip().lower() in AFFECT}
    found = {f"attr.{word}": name for word, name in affect.items() if f"attr.{word}" not in found} | found
    for target, column in found.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"'{path}' has no column '{column}' for {target}.{hint} Columns: {', '.join(names[:12])}.")
    if "image" not in found and "id" not in found:
        raise UsageError(
            f"'{path}' has no column 'image': name the one with the pictures, e.g. --columns image={names[0]} "
            f"(columns: {', '.join(names[:12])})."
        )
    if "image" not in found:
        found["image"] = found["id"]
    units, units_left = unit_columns(
        [name for name in free if name not in found.values() and (header or not name.isdigit())]
    )
    found = {unit: column for unit, column in units.items() if unit not in found} | found
    missing = [point for point in POINTS if point not in found]
    if 0 < len(missing) < len(POINTS):
        raise UsageError(f"'{path}' has landmarks without '{missing[0]}': all of x0 ... x67 and y0 ... y67 are needed.")
    free = [name for name in free if name not in found.values()]
    shares, raters = _shares(free), _raters(free)
    left = [name for name in free if name not in shares.values() and name not in raters]
    return Columns(found, shares, raters, tuple(left), tuple(name for name in units_left if name in left))


def _said(pairs: Sequence[str], path: Path) -> dict[str, str]:
    """Target -> column of the pairs of a user."""
    wanted: dict[str, str] = {}
    for pair in pairs:
        target, sign, column = pair.partition("=")
        if not sign or not column:
            raise UsageError(f"column pair '{pair}' is not target=column, e.g. image=path.")
        if target in ("landmarks_x", "landmarks_y") and "{}" in column:
            wanted.update({f"{target[-1]}{k}": column.replace("{}", str(k)) for k in range(LANDMARKS)})
        elif target in TARGETS or target.startswith("attr."):
            wanted[target] = column
        else:
            near = difflib.get_close_matches(target, (*TARGETS, "landmarks_x", "landmarks_y"), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(
                f"unknown column target '{target}' for '{path}'.{hint} Valid: {', '.join(PLAIN)}, AU1 ..., x0 ..., attr.NAME."
            )
    return wanted


def _plain(names: Sequence[str], said: Mapping[str, str]) -> dict[str, str]:
    """Target -> column by the columns' names."""
    bare: dict[str, str] = {}
    for name in names:
        plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
        bare.setdefault(re.sub(r"[\W_]+", "", plain).lower(), name)
    found = {"id": bare["id"]} if "id" in bare and "id" not in said else {}
    for target, words in NAMES.items():
        word = next((word for word in words if word in bare and bare[word] not in found.values()), None)
        if target not in said and word is not None:
            found[target] = bare[word]
    points = {} if any(target in POINTS for target in said) else point_columns(names)
    if len(points) == len(POINTS):
        found |= points
    for targets, forms in BOXES:
        columns = next((form for form in forms if all(word in bare for word in form)), None)
        taken = {*found.values()}
        if columns and not BOX_TARGETS & {*said} and not any(bare[word] in taken for word in columns):
            found |= {target: bare[word] for target, word in zip(targets, columns, strict=True)}
            break
    one = next(((kind, name) for word, name in bare.items() if (kind := target_of(word)) is not None), None)
    if one is not None and not BOX_TARGETS & {*found, *said}:
        found[one[0]] = one[1]
    return found


def _shares(names: Sequence[str]) -> dict[str, str]:
    """Expression -> column, where at least four columns are named after expressions."""
    found: dict[str, str] = {}
    for name in names:
        words = [word for word in re.findall(r"[^\W\d_]+", name.lower()) if word not in SHARE_WORDS]
        expression = find_expression(words[0]) if len(words) == 1 else None
        if expression in EXPRESSIONS:
            found.setdefault(expression, name)
    return found if len(found) >= FEWEST_SHARES else {}


def _raters(names: Sequence[str]) -> tuple[str, ...]:
    """Columns of annotators: at least two with one word and a number or letter each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if found := RATERS.match(name.strip().lower()):
            groups.setdefault(found[1], []).append(name)
    best = max(groups.values(), key=len, default=[])
    return tuple(best) if len(best) > 1 else ()
