"""Classes of a net of others, matched by name with the expressions of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mien.data.store import Store
from mien.datasets.words import NUMBERINGS, find_expression
from mien.errors import UsageError, unknown_name
from mien.schema import SCHEMES, IntArray, class_index

POLARITY = {name.lower(): name for name in SCHEMES["polarity-3"]}


def read_classes(classes: Sequence[str] | Mapping[int, str] | str | None) -> tuple[str, ...]:
    """Words of a net's classes in the order of its answers.

    Names in order, number -> name, name -> number, names separated by commas, or the name of a published order (fer2013, rafdb,
    affectnet, ferplus). UsageError for none, fewer than two, numbers with a gap, or a set.
    """
    if classes is None:
        raise UsageError(
            "the names of the net's classes are not known; give classes=('angry', ...), or --classes angry,..., in the order of its "
            "answers."
        )
    if isinstance(classes, str) and classes.lower() in NUMBERINGS:
        words = tuple(NUMBERINGS[classes.lower()].values())
    elif isinstance(classes, str):
        if "," not in classes:
            raise unknown_name("order of classes", classes, NUMBERINGS)
        words = tuple(word.strip() for word in classes.split(","))
    elif isinstance(classes, Mapping):
        words = _in_order(classes)
    elif isinstance(classes, set | frozenset):
        raise UsageError(
            "classes are a set, which has no order; give them as a list, in the order of the net's answers."
        )
    else:
        words = tuple(str(word) for word in classes)
    if len(words) < 2:
        raise UsageError(f"classes {words}: a net that names expressions has at least two.")
    return words


def _in_order(classes: Mapping[Any, Any]) -> tuple[str, ...]:
    """Words of number -> word, or of word -> number (`class_to_idx` of torchvision), in order; UsageError where a number lacks."""
    numbered = {str(key).strip(): str(word) for key, word in classes.items()}
    if not all(key.isdigit() for key in numbered):
        numbered = {str(number).strip(): str(word) for word, number in classes.items()}
    keys = sorted(int(key) for key in numbered if key.isdigit())
    if len(keys) < len(classes) or keys not in (list(range(len(keys))), list(range(1, len(keys) + 1))):
        raise UsageError(
            f"classes are numbered {few(list(numbered))}; give number -> name for every answer, from 0 on."
        )
    return tuple(word for _, word in sorted(numbered.items(), key=lambda item: int(item[0])))


def expressions_of(words: Sequence[str]) -> tuple[str, ...]:
    """Name of each class: the expression that its word stands for, or the word itself where it stands for none.

    UsageError where fewer than two words stand for an expression, or two stand for the same one.
    """
    polar = [POLARITY.get(word.strip().lower()) for word in words]
    if "Positive" in polar and "Negative" in polar:
        names = [own or word for own, word in zip(polar, words, strict=True)]
    else:
        names = [find_expression(word) or word for word in words]
    every = {name for scheme in SCHEMES.values() for name in scheme}
    known = [name for name in names if name in every]
    if len(known) < 2:
        what = f"only {known[0]} of" if known else "none of"
        raise UsageError(
            f"{what} the classes {few(words)} is an expression; give at least two as English names (angry, happy, ...), "
            "in the order of the net's answers."
        )
    for name in names:
        own = [word for word, other in zip(words, names, strict=True) if other == name]
        if len(own) > 1:
            raise UsageError(f"classes {' and '.join(own)} both stand for {name}; name each class once.")
    return tuple(names)


def few(words: Sequence[str], most: int = 12) -> str:
    """Words as a list, the first ones where they are many."""
    left = len(words) - most
    return ", ".join(map(str, words[:most])) + (f" and {left} more" if left > 0 else "")


def scheme_of(classes: Sequence[str]) -> str:
    """The label scheme that these names come closest to: polarity-3, basic-8 where Contempt is among them, else basic-7."""
    if {"Positive", "Negative"} <= set(classes):
        return "polarity-3"
    return "basic-8" if "Contempt" in classes else "basic-7"


def labels_for(store: Store, classes: Sequence[str]) -> IntArray:
    """(N,) index into `classes` of every face, -1 where it has no expression or one that these classes do not hold."""
    index = class_index(scheme_of(classes))
    scheme = list(SCHEMES[scheme_of(classes)])
    place = {name: k for k, name in enumerate(classes)}
    of = {expression: place.get(scheme[k], -1) for expression, k in index.items()}
    return np.array([of.get(name or "", -1) for name in store.expression], dtype=np.int64)


def class_table(model_words: Sequence[str], classes: Sequence[str], store: Store) -> str:
    """How classes and faces were matched, a line a class, and which faces have no class in the model."""
    labels = labels_for(store, classes)
    width = max(5, *(len(word) for word in model_words))
    lines = [f"  {'model':<{width}}  expression    faces"]
    for k, (word, name) in enumerate(zip(model_words, classes, strict=True)):
        count = int((labels == k).sum())
        lines.append(f"  {word:<{width}}  {name:<12}{count:>7}{'' if count else '  (surplus: answers count as wrong)'}")
    left = Counter(str(name) for name in store.expression[labels < 0] if name)
    for name, count in sorted(left.items()):
        lines.append(f"  {'-':<{width}}  {name:<12}{count:>7}  (missing in the model: these faces are left out)")
    return "\n".join(lines)


def kept_of(words: Sequence[str], names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Places of the classes that a label scheme has, and a line about those that no scheme has, which cannot be scored."""
    scheme = SCHEMES[scheme_of(names)]
    keep = [k for k, name in enumerate(names) if name in scheme]
    left = [word for k, word in enumerate(words) if k not in keep]
    if not left:
        return [], []
    return keep, [f"classes that are no expression are left out: {few(left)}; probabilities are among the others."]


def kept_names(
    names: tuple[str, ...], words: tuple[str, ...], keep: Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and words of the classes that are kept; all where `keep` is empty."""
    return (tuple(names[k] for k in keep), tuple(words[k] for k in keep)) if keep else (names, words)
