"""What the numbers of action units mean: occurrence, intensity, letters, probability, percent or marks; decided from all values.

The store keeps intensities from 0 to 5. A unit that is only known to be there or not stands as 5 or 0, so that "active" means
2 and more everywhere (`metrics.action_units.ACTIVE`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Literal, get_args

from mien.errors import UsageError, unknown_name
from mien.schema import ACTION_UNITS

Scale = Literal["intensity", "occurrence", "letters", "probability", "percent", "signed", "marks"]
SCALES: tuple[str, ...] = get_args(Scale)

PRESENT = 5.0
"""Stored for a unit that is there, without a coded strength."""
NEGATIVE = {-1.0, -2.0, -8.0, -9.0, -99.0, -999.0, -9999.0}
HIGH = {9.0, 88.0, 99.0, 777.0, 888.0, 999.0, 9999.0}
"""Codes of "not coded"; those to 99 only where no percent can be meant."""
LETTERS = dict(zip("abcde", (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
"""FACS: A trace, B slight, C marked, D severe, E maximum."""
WORDS = {"true": 1.0, "yes": 1.0, "y": 1.0, "present": 1.0, "false": 0.0, "no": 0.0, "n": 0.0, "absent": 0.0}
SIGNS = {"x", "\u2713", "\u2714", "\u2611", "\u25cf", "*"}
"""What a coder marks a cell with: a cross, a tick, a dot."""
MARKS = {"x", "yes"}
"""How signs, and words for "there", are counted before the scale is known."""
UNKNOWN_WORDS = {
    "", "nan", "na", "n/a", "<na>", "none", "null", "-nan(ind)", "nan(ind)", "-nan", "?", ".", "-", "--", "missing", "unknown",
    "uncoded", "not coded", "n.c.", "nc",
}  # fmt: skip
STRAY = 0.01
"""Share of the values above 0 that may lie beyond a scale: those are slips, whose rows are left out."""
SURE_ONES = 8
"""So many 1 and nothing higher: a unit that is coded 0 and 1, also among units with intensities."""

FACS_WORDS = {
    "inner brow raiser": "AU1", "inner brow raise": "AU1", "outer brow raiser": "AU2", "outer brow raise": "AU2",
    "brow lowerer": "AU4", "brow furrow": "AU4", "upper lid raiser": "AU5", "upper lid raise": "AU5", "cheek raiser": "AU6",
    "cheek raise": "AU6", "lid tightener": "AU7", "lid tighten": "AU7", "nose wrinkler": "AU9", "nose wrinkle": "AU9",
    "upper lip raiser": "AU10", "upper lip raise": "AU10", "lip corner puller": "AU12", "dimpler": "AU14", "dimple": "AU14",
    "lip corner depressor": "AU15", "lower lip depressor": "AU16", "chin raiser": "AU17", "chin raise": "AU17",
    "lip puckerer": "AU18", "lip pucker": "AU18", "lip stretcher": "AU20", "lip stretch": "AU20", "lip funneler": "AU22",
    "lip tightener": "AU23", "lip tighten": "AU23", "lip pressor": "AU24", "lip press": "AU24", "lips part": "AU25",
    "jaw drop": "AU26", "mouth stretch": "AU27", "lip suck": "AU28",
}  # fmt: skip
"""Names of FACS, and those of commercial programs, in lower case."""

NAME = re.compile(
    r"(?:^|.*[^a-z])(?:f?au|action[ _.-]?unit)[ _.-]*0*(\d{1,2})(?:\.0)?[ _.(-]*"
    r"(r|c|i|int|intensity|occ|occurrence|presence|present|p|prob|probability|score)?[)]?$"
)
NUMBER_AND_WORDS = re.compile(r"(?:f?au|action[ _.-]?unit)[ _.-]*0*(\d{1,2})[ _.:(-]+([a-z][a-z _-]*)\)?$")
"""Both, as FaceReader writes them: Action Unit 12 - Lip Corner Puller."""
KINDS = {None: 1, "c": 2, "occ": 2, "occurrence": 2, "presence": 2, "present": 2}
"""What follows the number -> rank: intensities first, then plain names, occurrences, probabilities."""


def unit_of(name: str) -> tuple[str, int] | None:
    """Action unit that a column's name stands for (AU01, au1, AU01_r, "AU 1", face.AU12_intensity) and the rank of its kind,
    0 an intensity, 1 not said, 2 an occurrence, 3 a probability; None for other names and units without a place in Mien.
    """
    plain = name.strip().strip("'\"` ").lower()
    if re.search(r"\d\W+f?au[ _.-]*\d", plain):  # AU1,AU2,AU4: the name of a vector
        return None
    if (both := NUMBER_AND_WORDS.match(plain)) and FACS_WORDS.get(
        re.sub(r"[\W_]+", " ", both[2]).strip()
    ) == f"AU{int(both[1])}":
        return f"AU{int(both[1])}", 1
    if (word := re.sub(r"[\W_]+", " ", plain).strip()) in FACS_WORDS:
        return FACS_WORDS[word], 1
    found = NAME.match(plain)
    if found is None or f"AU{int(found[1])}" not in ACTION_UNITS:
        return None
    kind = found[2]
    return f"AU{int(found[1])}", 0 if kind in ("r", "i", "int", "intensity") else KINDS.get(kind, 3)


def unit_columns(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Action unit -> column, and the columns that look like units and are not taken.

    Of several columns of a unit the one with intensities is taken (OpenFace: AU01_r before AU01_c). Bare numbers are units
    where at least three columns are such and nothing else names a unit. A unit coded apart for left and right is not taken.
    """
    columns = list(names)
    lateral = {
        m[1] for name in columns if (m := re.fullmatch(r"au[ _.-]?0*(\d+)[ _.-]?l(?:eft)?", name.strip().lower()))
    }
    found: dict[str, tuple[int, str]] = {}
    alike = [name for name in columns if re.search(r"(?i)(^|[^a-z])f?au[ _.-]*\d", name.strip()) or unit_of(name)]
    for name in alike:
        unit = unit_of(name)
        if unit is None or (unit[1] == 0 and unit[0][2:] in lateral and name.strip().lower().endswith("r")):
            continue
        if unit[0] not in found or unit[1] < found[unit[0]][0]:
            found[unit[0]] = (unit[1], name)
    bare = [name for name in columns if re.fullmatch(r"0*[1-9]\d?", name.strip()) and f"AU{int(name)}" in ACTION_UNITS]
    if not found and len(bare) >= 3:
        return {f"AU{int(name)}": name for name in bare}, []
    taken = {unit: found[unit][1] for unit in ACTION_UNITS if unit in found}
    return taken, [name for name in alike if name not in taken.values()]


@lru_cache(maxsize=2**16)
def value_of(cell: Hashable) -> float | str | None:
    """A cell as a number, the letters A to E as text, None where it is empty or says "unknown"; other text stays text."""
    if cell is None or isinstance(cell, bool):
        return None if cell is None else float(cell)
    if isinstance(cell, int | float):
        return None if math.isnan(cell) else float(cell)
    text = str(cell).strip().lower().removesuffix("%").rstrip()
    if text in UNKNOWN_WORDS:
        return None
    if text in WORDS:
        return WORDS[text]
    try:
        value = float(text.replace(",", ".")) if text.count(",") == 1 and "." not in text else float(text)
    except ValueError:
        return text
    return None if math.isnan(value) else value


def count_values(cells: Iterable[Hashable], into: Counter[float | str]) -> None:
    """Add the known values of cells to a count, numbers rounded to two places, marks as one of MARKS."""
    for cell in cells:
        value = value_of(cell)
        if isinstance(value, float):
            into["yes" if value == 1 and isinstance(cell, str) and cell.strip()[:1].isalpha() else round(value, 2)] += 1
        elif value is not None:
            into["x" if value in SIGNS else value] += 1


def decide(counts: Mapping[str, Counter[float | str]], asked: Mapping[str, Scale], where: str) -> dict[str, Scale]:
    """Scale of every unit from the counts of its known values; `asked` (`read_scale`) goes before.

    Nothing but marks, also beside 0, means marks. Letters A to E mean letters. Only 1 and -1: signed (there, absent). No value
    above 1: occurrence if all are 0 and 1, probability otherwise. Up to 5: intensity, but occurrence for a unit with at least eight
    1 and nothing higher or between, as some units of BP4D are coded. Above 20 and up to 100: percent. A percent of values beyond
    are slips.

    Raises:
        UsageError: values that fit none of these, with the option that settles it.

    """
    every = {value for values in counts.values() for value in values}
    if every & MARKS and every <= MARKS | ({0.0} if "x" in every else set()):
        return {unit: asked.get(unit, "marks") for unit in counts}
    counts = {unit: _as_ones(values) for unit, values in counts.items()}
    numbers: Counter[float] = Counter()
    for unit in counts:
        numbers.update({value: n for value, n in counts[unit].items() if isinstance(value, float)})
    sure = {value: n for value, n in numbers.items() if value not in NEGATIVE and value not in HIGH}
    letters = any(isinstance(value, str) and value in LETTERS for unit in counts for value in counts[unit])
    above = sum(n for value, n in sure.items() if value > 0)

    def beyond(most: float) -> int:
        return sum(n for value, n in sure.items() if value > most)

    kind: Scale
    between = beyond(1) - beyond(5)  # a lone 7 among 0 and 1 is a slip, and no strength
    if letters:
        kind = "letters"
    elif set(numbers) - (NEGATIVE - {-1.0}) - HIGH == {1.0, -1.0}:
        kind = "signed"
    elif beyond(1) <= (STRAY * above if between else max(1, STRAY * above)):
        whole = all(value in (0.0, 1.0) for value in sure if 0 <= value <= 1)
        kind = "occurrence" if whole else "probability"
    elif beyond(5) <= max(1, STRAY * above):
        kind = "intensity"
    elif 20 < max(sure) <= 100:
        kind = "percent"
    else:
        raise UsageError(
            f"{where}: action units go up to {max(sure):g}, which is neither 0 and 1, 0 to 5, A to E nor percent: "
            f"say what they are, --au-scale {'|'.join(SCALES)}, or --au-scale AU1=occurrence,AU12=intensity, or scale them to 0 to 5."
        )
    return {unit: asked.get(unit) or _own(kind, counts[unit]) for unit in counts}


def _as_ones(values: Counter[float | str]) -> Counter[float | str]:
    """The count with words for "there" as 1."""
    found = Counter({value: n for value, n in values.items() if value != "yes"})
    if values["yes"]:
        found[1.0] += values["yes"]
    return found


def named_scales(columns: Mapping[str, str], counts: Mapping[str, Counter[float | str]]) -> dict[str, Scale]:
    """Scales that names of columns tell (AU01_r, AU01_c, AU01_prob), where no value contradicts; `columns` is unit -> column."""
    kinds: dict[int, Scale] = {0: "intensity", 2: "occurrence", 3: "probability"}
    ranks = {unit: found[1] for unit, name in columns.items() if (found := unit_of(name)) is not None}
    hints = {unit: kinds[rank] for unit, rank in ranks.items() if rank in kinds}
    plain = {unit: kind for unit, kind in hints.items() if not counts[unit] or set(counts[unit]) - MARKS}
    return {unit: kind for unit, kind in plain.items() if all(intensity(v, kind) is not None for v in counts[unit])}


def _own(kind: Scale, values: Counter[float | str]) -> Scale:
    """The scale of one unit among others of a scale."""
    known = {value for value in values if isinstance(value, float) and value not in NEGATIVE and value not in HIGH}
    zero_and_one = known <= {0.0, 1.0}
    return "occurrence" if kind == "intensity" and zero_and_one and values[1.0] >= SURE_ONES else kind


def read_scale(text: str | None) -> dict[str, Scale]:
    """`--au-scale` as unit -> scale: one word for all units, or pairs such as ``AU1=occurrence,AU12=intensity``."""
    scales: dict[str, Scale] = {}
    for pair in filter(None, (part.strip() for part in (text or "").split(","))):
        name, sign, word = pair.rpartition("=")
        if word not in SCALES:
            raise unknown_name("scale of action units", word, SCALES)
        unit = unit_of(name) if sign else None
        if sign and unit is None:
            raise unknown_name("action unit", name, ACTION_UNITS)
        scales |= dict.fromkeys([unit[0]] if unit else ACTION_UNITS, word)  # type: ignore[arg-type]
    return scales


@lru_cache(maxsize=2**16)
def intensity(cell: Hashable, scale: Scale) -> float | None:
    """A cell as an intensity from 0 to 5, NaN where it is unknown, None where it is none of the scale.

    Occurrences, and probabilities from 0.5 or percents from 50 on, are 5, below 0; signed are 1 there, -1 absent, 0 unknown. Of marks
    an empty cell is NaN, too; `beside_marks` says which are absent.
    """
    value = value_of(cell)
    if scale == "marks":
        return math.nan if value is None else {0.0: 0.0}.get(value, PRESENT if value in SIGNS | {1.0} else None)  # type: ignore[arg-type]
    if scale == "signed" and value in (-1.0, 0.0, 1.0):
        return PRESENT * float(value) if value == 1.0 else 0.0 if value else math.nan
    if value is None or value in NEGATIVE or (value in HIGH and not (scale == "percent" and float(value) <= 100)):
        return math.nan
    if isinstance(value, str):
        return LETTERS.get(value) if scale == "letters" else None
    most = {"occurrence": 1, "probability": 1, "percent": 100, "signed": 0}.get(scale, 5)
    if not 0 <= value <= most or (scale == "occurrence" and value not in (0.0, 1.0)):
        return None
    return value if most == 5 else PRESENT * (value >= most / 2)


def beside_marks(values: list[float], kinds: Iterable[Scale]) -> list[float]:
    """Intensities of a face's units; a cell without a mark is absent, 0, unless no unit of the face is known."""
    if all(map(math.isnan, values)):
        return values
    return [0.0 if kind == "marks" and math.isnan(value) else value for value, kind in zip(values, kinds, strict=True)]


def note(scales: Mapping[str, Scale]) -> str:
    """What a store remembers: intensity, occurrence, or unit=kind pairs where both occur."""
    kinds = {unit: "intensity" if scale in ("intensity", "letters") else "occurrence" for unit, scale in scales.items()}
    return (
        next(iter(set(kinds.values())))
        if len(set(kinds.values())) == 1
        else ",".join(f"{u}={k}" for u, k in kinds.items())
    )


def with_intensity(noted: str | None, units: Iterable[str]) -> list[str]:
    """Those units whose strength was coded, by the note of a store; all without one."""
    if noted is None or "=" not in noted:
        return [] if noted == "occurrence" else list(units)
    kinds = dict(pair.split("=") for pair in noted.split(","))
    return [unit for unit in units if kinds.get(unit, "intensity") == "intensity"]


def told(scales: Mapping[str, Scale], counts: Mapping[str, Counter[float | str]], asked: bool) -> str:
    """One line: what the numbers were taken for, and how to say otherwise."""
    words = {
        "intensity": "intensity 0 to 5", "occurrence": "occurrence 0 and 1", "letters": "letters A to E",
        "probability": "probability, present from 0.5 on", "percent": "percent, present from 50 on",
        "signed": "signed, 1 is there and -1 absent",
        "marks": "marks, a cell without one is absent, and unknown where its row has none",
    }  # fmt: skip
    groups: dict[str, list[str]] = {}
    for unit, scale in scales.items():
        groups.setdefault(words[scale], []).append(unit)
    line = "action units: " + "; ".join(f"{', '.join(units)} as {scale}" for scale, units in groups.items())
    low = [unit for unit, scale in scales.items() if scale == "intensity" and 0 < max_known(counts[unit]) <= 1]
    if low and not asked:
        line += f"; never above 1: {', '.join(low)} (--au-scale {low[0]}=occurrence if that is meant)"
    if not asked and "occurrence" in scales.values() and any(values[-1.0] for values in counts.values()):
        line += "; -1 is unknown (--au-scale signed if it means absent, and 0 unknown)"
    return line if asked or low else f"{line} (--au-scale says otherwise)"


def max_known(values: Counter[float | str]) -> float:
    """Largest number that is no code of "not coded", 0 without one."""
    return max((v for v in values if isinstance(v, float) and v not in HIGH), default=0.0)
