"""Codebooks: which action units make an expression, and which ellipses make an action unit.

A codebook is a JSON file (`codebook_corrected.json`, `codebook_paper.json` or a user's own) with

* `drawing`: "face" (lengths in outer-eye-corner distances, axes along the eye line) or "canvas" (pixels, image axes);
* `expressions`: expression name -> list of action units; an expression that is absent has no cue (Neutral);
* `action_units`: AU name -> list of ellipses. An ellipse has `x` and `y` (landmark index -> weight, summing to 1),
  optional `dx`, `dy` and the semi-axes `ax`, `ay`: a number, or an object with `span` (landmark index -> weight,
  summing to 0), `plus`, and `least` (face) or `otherwise` (canvas). On a canvas a length may also be "w/8" or "h/10".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mien.errors import DataError, UsageError, unknown_name
from mien.files import read_json
from mien.schema import ACTION_UNITS, EXPRESSIONS, LANDMARKS, SCHEMES, scheme_classes

HERE = Path(__file__).parent
Length = float | str
Weights = tuple[tuple[int, float], ...]
Item = TypeVar("Item")
ELLIPSE_KEYS = {"x", "y", "dx", "dy", "ax", "ay", "keep_inside"}


class Axis(NamedTuple):
    """One semi-axis: max(least, span . landmarks + plus); `fallback` replaces a length that is not positive."""

    span: Weights
    plus: Length
    least: float


class Ellipse(NamedTuple):
    """Centre, offset and semi-axes of one ellipse, in the units of its codebook."""

    x: Weights
    y: Weights
    dx: Length
    dy: Length
    ax: Axis
    ay: Axis
    keep_inside: bool


@dataclass(frozen=True)
class Codebook:
    """A checked codebook."""

    name: str
    drawing: str
    """"face" or "canvas"."""
    expressions: dict[str, tuple[str, ...]]
    action_units: dict[str, tuple[Ellipse, ...]]


class Geometry(NamedTuple):
    """A codebook as tensors for one canvas and device; E distinct ellipses, 68 landmarks.

    The landmark rows are x centre, x span, y centre, y span, so that one product gives every ellipse parameter.
    """

    weights_x: Tensor
    """(2E, 68) centre rows, then span rows, for x coordinates."""
    weights_y: Tensor
    offset: Tensor
    """(E, 2) dx, dy."""
    plus: Tensor
    """(E, 2) added to the spans."""
    least: Tensor
    """(E, 2) lower bound (face) or fallback (canvas) of the semi-axes."""
    keep_inside: Tensor
    """(E,) bool: x of the centre is clamped to the canvas."""
    uses: Tensor
    """(E, 68) 1 where the ellipse needs the landmark."""


class Choice(NamedTuple):
    """What is drawn for each class. Row K stands for the label -1 and is never valid."""

    slots: Tensor
    """(K + 1, S, P) int64 ellipse numbers: S distinct action units, P ellipses each; padded by repetition."""
    members: Tensor
    """(K + 1, M) int64: the distinct ellipses of the class that no other always covers, padded by repetition."""
    drawn: Tensor
    """(K + 1,) bool: the class has action units."""


class Units(NamedTuple):
    """The U action units that a codebook draws and `schema.ACTION_UNITS` names."""

    columns: Tensor
    """(U,) int64 columns of schema.ACTION_UNITS."""
    slots: Tensor
    """(U, P) int64 ellipse numbers, padded by repetition."""
    contains: Tensor
    """(U, E) bool: the unit has the ellipse."""


def load_codebook(name: str) -> Codebook:
    """Codebook `corrected`, `paper`, or the JSON file at path `name`. UsageError if absent, DataError if malformed."""
    path = HERE / f"codebook_{name}.json" if name in ("corrected", "paper") else Path(name)
    if not path.is_file():
        raise UsageError(f"codebook file {path} does not exist; give corrected, paper or the path of a .json file.")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, _modified: int) -> Codebook:
    raw = read_json(path, "give the JSON file of a codebook (docs/cues.md)")
    if not all(isinstance(raw.get(k), dict) for k in ("expressions", "action_units")):
        raise DataError(f"codebook {path} needs the objects 'expressions' and 'action_units'.")
    drawing = raw.get("drawing", "face")
    if drawing not in ("face", "canvas"):
        raise DataError(f"codebook {path}: 'drawing' is {drawing!r}; write 'face' or 'canvas'.")
    units: dict[str, tuple[Ellipse, ...]] = {}
    for unit, ellipses in raw["action_units"].items():
        if not isinstance(ellipses, list) or not ellipses:
            raise DataError(f"codebook {path}: {unit} needs a list of ellipses.")
        units[unit] = tuple(
            _ellipse(e, drawing, f"codebook {path}: {unit} ellipse {i}") for i, e in enumerate(ellipses)
        )
    expressions: dict[str, tuple[str, ...]] = {}
    for name, members in raw["expressions"].items():
        if name not in EXPRESSIONS:
            raise DataError(f"codebook {path}: {unknown_name('expression', name, EXPRESSIONS)}")
        missing = [m for m in members if str(m) not in units] if isinstance(members, list) else [members]
        if missing:
            raise DataError(f"codebook {path}: {name} names {missing[0]}, which 'action_units' does not draw.")
        expressions[name] = tuple(map(str, members))
    return Codebook(str(raw.get("name", path.stem)), drawing, expressions, units)


def _ellipse(raw: Any, drawing: str, where: str) -> Ellipse:
    if not isinstance(raw, dict) or not {"x", "y", "ax", "ay"} <= set(raw):
        raise DataError(f"{where} needs x, y, ax and ay.")
    if set(raw) - ELLIPSE_KEYS:
        raise DataError(f"{where}: {unknown_name('key', min(set(raw) - ELLIPSE_KEYS), ELLIPSE_KEYS)}")
    return Ellipse(
        _weights(raw["x"], 1.0, f"{where}, x"),
        _weights(raw["y"], 1.0, f"{where}, y"),
        _length(raw.get("dx", 0.0), drawing, f"{where}, dx"),
        _length(raw.get("dy", 0.0), drawing, f"{where}, dy"),
        _axis(raw["ax"], drawing, f"{where}, ax"),
        _axis(raw["ay"], drawing, f"{where}, ay"),
        bool(raw.get("keep_inside", False)),
    )


def _axis(raw: Any, drawing: str, where: str) -> Axis:
    if not isinstance(raw, dict):
        return Axis((), _length(raw, drawing, where), 0.0)
    bound = "least" if drawing == "face" else "otherwise"
    allowed = {"span", "plus", bound}
    if "span" not in raw or set(raw) - allowed:
        raise DataError(f"{where} needs 'span' and may have 'plus' and '{bound}', nothing else.")
    least = _length(raw.get(bound, 0.0), "face", f"{where}, {bound}")
    return Axis(
        _weights(raw["span"], 0.0, f"{where}, span"), _length(raw.get("plus", 0.0), drawing, where), float(least)
    )


def _weights(raw: Any, total: float, where: str) -> Weights:
    try:
        pairs = tuple(sorted((int(k), float(v)) for k, v in raw.items()))
    except (AttributeError, TypeError, ValueError):
        raise DataError(f'{where} must map landmark numbers to weights, such as {{"48": 1.0}}.') from None
    if any(not 0 <= k < LANDMARKS for k, _ in pairs):
        raise DataError(f"{where} names a landmark outside 0-67.")
    if abs(sum(v for _, v in pairs) - total) > 1e-6:
        raise DataError(f"{where}: weights must sum to {total:g}.")
    return pairs


def _length(raw: Any, drawing: str, where: str) -> Length:
    if isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) < 1e6:
        return float(raw)
    if drawing == "canvas" and isinstance(raw, str) and re.fullmatch(r"[wh]/[1-9]\d*", raw):
        return raw
    raise DataError(f"{where} is {raw!r}; write a number" + (" or 'w/8'." if drawing == "canvas" else "."))


def distinct_ellipses(codebook: Codebook) -> tuple[Ellipse, ...]:
    """Every ellipse once (AU23, 24, 26 and 27 share theirs), in order of first appearance."""
    return tuple(dict.fromkeys(e for ellipses in codebook.action_units.values() for e in ellipses))


@lru_cache(maxsize=64)
def _geometry(path: str, _modified: int, image_size: tuple[int, int], device: torch.device) -> Geometry:
    ellipses = distinct_ellipses(load_codebook(path))

    def pixels(length: Length) -> float:
        if isinstance(length, float):
            return length
        return float(round(image_size[length[0] == "w"] / int(length[2:])))

    def rows(weights: list[Weights]) -> Tensor:
        table = torch.zeros(len(weights), LANDMARKS)
        for i, pairs in enumerate(weights):
            for k, value in pairs:
                table[i, k] = value
        return table

    x = rows([e.x for e in ellipses] + [e.ax.span for e in ellipses])
    y = rows([e.y for e in ellipses] + [e.ay.span for e in ellipses])
    used = (x != 0) | (y != 0)
    count = len(ellipses)
    geometry = Geometry(
        x,
        y,
        torch.tensor([[pixels(e.dx), pixels(e.dy)] for e in ellipses]),
        torch.tensor([[pixels(e.ax.plus), pixels(e.ay.plus)] for e in ellipses]),
        torch.tensor([[e.ax.least, e.ay.least] for e in ellipses]),
        torch.tensor([e.keep_inside for e in ellipses]),
        (used[:count] | used[count:]).float(),
    )
    return Geometry(*(t.to(device) for t in geometry))


def _stamp(name: str) -> int:
    return 0 if name in ("corrected", "paper") or not Path(name).is_file() else Path(name).stat().st_mtime_ns


def geometry(name: str, image_size: tuple[int, int], device: torch.device) -> Geometry:
    """Cached tensors of codebook `name` for a canvas of (height, width) pixels."""
    return _geometry(name, _stamp(name), image_size, device)


def choice(name: str, scheme: str, generic: bool, device: torch.device) -> Choice:
    """Cached table of what is drawn for each class of `scheme`; with `generic`, every action unit for every class."""
    return _choice(name, _stamp(name), scheme, generic, device)


@lru_cache(maxsize=64)
def _choice(name: str, _modified: int, scheme: str, generic: bool, device: torch.device) -> Choice:
    codebook = load_codebook(name)
    number = {e: i for i, e in enumerate(distinct_ellipses(codebook))}
    rows: list[list[tuple[int, ...]]] = []
    for label in scheme_classes(scheme):
        named = [unit for part in SCHEMES[scheme][label] for unit in codebook.expressions.get(part, ())]
        units = list(codebook.action_units) if generic else named
        rows.append(list(dict.fromkeys(tuple(number[e] for e in codebook.action_units[u]) for u in units)))
    rows.append(list(rows[0]) if generic else [])
    drawn = torch.tensor([bool(row) for row in rows])
    width = max((len(unit) for row in rows for unit in row), default=1)
    padded = [[unit + unit[:1] * (width - len(unit)) for unit in row] for row in rows]
    slots = torch.tensor(_rectangle(padded, (0,) * width))
    ellipses = distinct_ellipses(codebook)
    every = [list(dict.fromkeys(e for unit in row for e in unit)) for row in rows]
    if codebook.drawing == "face":
        every = [[e for e in row if not any(_inside(ellipses[e], ellipses[f]) for f in row)] for row in every]
    members = torch.tensor(_rectangle(every, 0))
    return Choice(slots.to(device), members.to(device), drawn.to(device))


def drawn_units(name: str, device: torch.device) -> Units:
    """Cached table of the action units of codebook `name`."""
    return _drawn_units(name, _stamp(name), device)


@lru_cache(maxsize=64)
def _drawn_units(name: str, _modified: int, device: torch.device) -> Units:
    codebook = load_codebook(name)
    number = {e: i for i, e in enumerate(distinct_ellipses(codebook))}
    units = [unit for unit in codebook.action_units if unit in ACTION_UNITS]
    rows = [tuple(number[e] for e in codebook.action_units[unit]) for unit in units]
    contains = torch.zeros(len(units), len(number), dtype=torch.bool)
    for k, row in enumerate(rows):
        contains[k, list(row)] = True
    columns = torch.tensor([ACTION_UNITS.index(unit) for unit in units], dtype=torch.int64)
    slots = torch.tensor(_rectangle([list(row) for row in rows], 0), dtype=torch.int64)
    return Units(columns.to(device), slots.to(device), contains.to(device))


def _inside(small: Ellipse, large: Ellipse) -> bool:
    """Whether `large` always covers `small`, another ellipse of a "face" codebook (as AU7 covers AU5)."""

    def shorter(one: Axis, other: Axis) -> bool:
        return one.span == other.span and float(one.plus) <= float(other.plus) and one.least <= other.least

    same_place = small[:4] == large[:4] and small != large
    return same_place and shorter(small.ax, large.ax) and shorter(small.ay, large.ay)


def _rectangle(rows: list[list[Item]], empty: Item) -> list[list[Item]]:
    """Rows of equal length, at least 1: shorter ones repeat their first item, empty ones get `empty`."""
    length = max(1, *(len(row) for row in rows))
    return [row + (row[:1] or [empty]) * (length - len(row)) for row in rows]
