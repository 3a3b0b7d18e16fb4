"""What expressions and splits are called in folders and tables of others, and what a user says that they are called."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

from mien.errors import UsageError
from mien.schema import EXPRESSIONS

SPLIT_WORDS = {
    "train": (
        "train",
        "training",
        "trn",
        "trainval",
        "learn",
        "entrainement",
        "entrenamiento",
        "addestramento",
        "treino",
    ),
    "valid": (
        "valid",
        "val",
        "validation",
        "validate",
        "dev",
        "devel",
        "development",
        "vld",
        "publictest",
        "validacion",
    ),
    "test": ("test", "testing", "tst", "privatetest", "holdout", "heldout", "eval", "evaluation", "prueba", "teste"),
}
"""Split -> what it is called in the wild, in letters only. Two of them depend on their neighbours, see `splits_of`."""


def split_of_name(stem: str) -> str | None:
    """Split that a word of a file's name, without suffix, says: test_labels, train-00000-of-00002."""
    return next((split for word in re.split(r"[\W_\d]+", stem) if (split := find_split(word)) is not None), None)


FOLD = re.compile(r"(?:.*[^a-z])?(?:k|cv)?[ _-]?folds?[ _.-]*0*(\d{1,2})", re.IGNORECASE)
"""A folder or file of one fold of a dataset: fold_1, Fold-02, 5fold1."""


def fold_number(name: str) -> int | None:
    """Number of the fold that a name says; None without one."""
    found = FOLD.fullmatch(name.strip())
    return int(found[1]) if found else None


SPLIT_CODES = {"tr": "train", "va": "valid", "te": "test", "训练集": "train", "验证集": "valid", "测试集": "test"}
"""Words that mean a split beside others of splits only."""

BESIDE_SPLIT = (
    "set",
    "split",
    "data",
    "dataset",
    "part",
    "fold",
    "fer",
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "faces",
)
"""What may stand beside the word: train_set, FER2013Train, Validation Images."""

_SPLIT_BY_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}

SYNONYMS = {
    "Neutral": ("neutral", "ne", "neu", "natural", "calm", "neutrality"),
    "Happiness": ("happiness", "happy", "ha", "hap", "joy", "smile", "smiling", "happines", "joyful"),
    "Surprise": ("surprise", "surprised", "su", "sur", "suprise", "suprised", "surprising", "astonished"),
    "Fear": ("fear", "fearful", "afraid", "fe", "scared", "fea", "frightened", "terrified"),
    "Anger": ("anger", "angry", "an", "ang", "furious", "mad"),
    "Disgust": ("disgust", "disgusted", "di", "dis"),
    "Sadness": ("sadness", "sad", "sa", "unhappy", "sorrow"),
    "Contempt": ("contempt", "contemptuous", "co", "con"),
}
"""Expression -> words for it in the folders and tables of published datasets, lower case."""

_BY_WORD = {word: name for name, words in SYNONYMS.items() for word in words}

NUMBERINGS = {
    "fer2013": dict(
        zip("0123456", ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"), strict=True)
    ),
    "rafdb": dict(
        zip("1234567", ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"), strict=True)
    ),
    "affectnet": dict(
        zip(
            "01234567",
            ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"),
            strict=True,
        )
    ),
    "ferplus": dict(
        zip(
            "01234567",
            ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt"),
            strict=True,
        )
    ),
}
"""Dataset -> number -> expression, as released; also what `--labels NAME` means."""

LEAVE_OUT = ("", "skip", "none", "null")
"""What stands behind = for a class that is to be left out."""

Labels = Mapping[str, str]
"""`label_key` of a word -> expression, "" to leave it out."""


def letters(name: str) -> list[str]:
    """Words of a name in lower case without accents: HappyFaces_01 -> happy, faces."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", plain).lower())


def find_split(name: str) -> str | None:
    """The split that a word stands for ("Validation", "train_set", "val2017", "hold-out"), None for anything else."""
    words = letters(name)
    for some in (words, [word for word in words if word not in BESIDE_SPLIT]):
        found = _SPLIT_BY_WORD.get("".join(some)) or _SPLIT_BY_WORD.get("".join(some).removesuffix("set"))
        if found is not None:
            return found
    return None


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Word -> split, of those words that are one. PublicTest is the test part where PrivateTest was kept back, and "eval" the
    validation part where there is a test part, too.
    """
    words = set(names)
    found = {word: split for word in words if (split := find_split(word)) is not None}
    if words - set(found) and all(word.strip().lower() in SPLIT_CODES for word in words - set(found)):
        found |= {word: SPLIT_CODES[word.strip().lower()] for word in words - set(found)}
    bare = {word: "".join(letters(word)) for word in found}
    evaluations = {word for word in found if bare[word].startswith("eval")}
    if "test" in {found[word] for word in set(found) - evaluations}:
        found |= dict.fromkeys(evaluations, "valid")
    if "test" not in found.values():
        found |= {word: "test" for word in found if bare[word] == "publictest"}
    return found


def split_in_name(name: str) -> str | None:
    """The only split that a word of a name says: x_train, FacesTest, facestest; None for none and for several."""
    ends = (re.search(r"(train|training|test|testing|valid|validation)$", word) for word in letters(name))
    words = [*letters(name), *(end[1] for end in ends if end is not None)]
    found = {split for word in words if (split := find_split(word)) is not None}
    return found.pop() if len(found) == 1 else None


NOISE = (
    "face",
    "faces",
    "facial",
    "emotion",
    "emotions",
    "expression",
    "expressions",
    "image",
    "images",
    "pictures",
    "class",
    "label",
)
"""What may stand beside an expression in a name: "angry faces", emotion_sad."""


@lru_cache(maxsize=4096)
def find_expression(word: str) -> str | None:
    """The expression that a word stands for ("happy", "Fearful", "03_sad", "angry faces", sad_4), None for anything else."""
    found = _BY_WORD.get(re.sub(r"^[\d\W_]+(?=[A-Za-z])", "", word.strip()).lower())
    if found is None:
        rest = [part for part in letters(word) if part not in NOISE]
        found = _BY_WORD.get(rest[0]) if len(rest) == 1 and len(rest[0]) > 2 else None
    return found


def unknown_expression(word: str) -> str:
    """One line on a word that is no expression: the nearest one, or what to do about a bare number."""
    if word.strip().isdigit():
        return f"'{word}' is a number, and every dataset numbers its classes differently: use names"
    near = difflib.get_close_matches(word.lower(), _BY_WORD, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"'{word}' is no expression{hint} (names: {', '.join(EXPRESSIONS)})"


@lru_cache(maxsize=4096)
def label_key(word: str) -> str:
    """A label as `--labels` compares it: whole numbers without zeros in front (03, 3.0 -> 3), letters in one form and case."""
    text = unicodedata.normalize("NFC", word.strip()).casefold()
    found = re.fullmatch(r"([+-]?)0*(\d+)(?:[.,]0*)?(?:e[+]?0+)?", text)
    return f"{found[1].replace('+', '')}{found[2]}" if found else text


def read_labels(text: str | None) -> dict[str, str]:
    """`--labels`: ``1=Surprise,2=Fear,8=skip``, or the name of a numbering (NUMBERINGS); UsageError for a bad pair."""
    if text is None or not text.strip():
        return {}
    if text.strip().lower() in NUMBERINGS:
        return dict(NUMBERINGS[text.strip().lower()])
    words = {}
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        value, sign, word = pair.rpartition("=")
        name = "" if word.strip().lower() in LEAVE_OUT else find_expression(word)
        if not sign or name is None:
            raise UsageError(
                f"label pair '{pair}': {unknown_expression(word)}; write value=expression, e.g. 0=Anger, value=skip to "
                f"leave a class out, or one of {', '.join(NUMBERINGS)} for their numbers."
            )
        words[label_key(value)] = name
    return words


def named(word: str, labels: Labels) -> str | None:
    """Expression of a word: what `labels` say, "" to leave it out, else `find_expression`; None where neither knows it."""
    found = labels.get(label_key(word))
    return found if found is not None else find_expression(word)


def numberings_of(numbers: Iterable[str]) -> list[str]:
    """Names of the numberings that these labels, all of them numbers, may be, first of all from the same least one on.

    Those above 7 exclude none (AffectNet's 8 to 10 are no expressions).
    """
    keys = {label_key(word) for word in numbers}
    if not keys or not all(key.isdigit() for key in keys):
        return []
    low = {key for key in keys if int(key) < 8}
    if not low:
        return []
    fits = [name for name, table in NUMBERINGS.items() if low <= set(table)]
    return [name for name in fits if min(low) == min(NUMBERINGS[name])] or fits


def label_remedy(words: Iterable[str]) -> str:
    """What to add to a command whose labels mean nothing here."""
    keys = sorted({word.strip() for word in words}, key=lambda word: (len(word), word))
    fits = numberings_of(keys)
    if fits and all(key.isdigit() for key in map(label_key, keys)):
        known = "; ".join(f"--labels {name} if {_shown(NUMBERINGS[name])}" for name in fits)
        return f"say what the numbers mean: {known}; or --labels {_open_pairs(keys)}"
    return f"say what they mean: --labels {_open_pairs(keys)} (an expression each, or skip)"


def skip_pairs(words: Iterable[str]) -> str:
    """Pairs for the shell that leave these words out."""
    return _quoted(",".join(f"{key}=skip" for key in sorted({word.strip() for word in words})[:12]))


def _quoted(pairs: str) -> str:
    return shlex.quote(pairs) if re.search(r"[\s()'\"&;|<>*?$`!#]", pairs) else pairs


def _open_pairs(keys: list[str]) -> str:
    """Pairs for the shell; what a word of a name says already is filled in."""
    pairs = ",".join(f"{key}={expression_in(key) or '...'}" for key in keys[:12])
    return _quoted(pairs)


def expression_in(word: str) -> str | None:
    """The only expression among the words of a name ("class_angry", "sad faces (300)"); None for none and for several."""
    found = {name for part in letters(word) if len(part) > 2 and (name := find_expression(part)) is not None}
    return found.pop() if len(found) == 1 else None


def _shown(table: Mapping[str, str]) -> str:
    return ", ".join(f"{number} is {name}" for number, name in table.items())
