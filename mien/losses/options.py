"""Settings of the loss: classification and further terms. Imports no torch, so that recipes and `--help` stay light."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from mien import plugins
from mien.errors import UsageError, unknown_name
from mien.values import Range, plain_numbers, plain_words, short

NUMBERS = Range(-1e6, 1e6)
"""Where every number of a term lies; each has narrower limits of its own."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True)
class Term:
    """What every further term of the loss has."""

    weight: float = 1.0
    """Factor of the term in the sum."""
    start_epoch: int = 1
    """First epoch (from 1) with the term."""
    end_epoch: int | None = None
    """Last epoch with the term; None for all."""

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            _check(NUMBERS.holds(value), f"{key} is {short(value)}; it must be {NUMBERS}.")
        _check(self.weight >= 0, f"weight is {self.weight}; it must be at least 0.")
        _check(self.start_epoch >= 1, f"start_epoch is {self.start_epoch}; epochs count from 1.")
        last = self.end_epoch
        _check(last is None or last >= 1, f"end_epoch is {last}; epochs count from 1.")
        _check(
            last is None or last >= self.start_epoch, f"end_epoch {last} lies before start_epoch {self.start_epoch}."
        )

    def active(self, epoch: int) -> bool:
        """Whether the term counts in an epoch (from 1)."""
        return self.start_epoch <= epoch <= (self.end_epoch or epoch)


@dataclass(frozen=True)
class Focal(Term):
    """Options of focal."""

    alpha: float = 1.0
    """Factor of the focal loss."""
    gamma: float = 2.0
    """How strongly it turns down easy faces; 0 is the cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.alpha >= 0, f"alpha is {self.alpha}; it must be at least 0.")
        _check(self.gamma >= 0, f"gamma is {self.gamma}; it must be at least 0.")


@dataclass(frozen=True)
class Ordinal(Term):
    """Options of ordinal_mean and ordinal_variance."""

    order: list[str] | None = None
    """Class names from one end to the other; None: from unpleasant to pleasant, see docs/losses.md."""
    epsilon: float = 0.01
    """Room before the penalty begins, in squared class steps."""
    barrier: bool = False
    """Log barrier in place of the squared excess."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.epsilon >= 0, f"epsilon is {self.epsilon}; it must be at least 0.")


@dataclass(frozen=True)
class Unimodality(Term):
    """Options of unimodality."""

    order: list[str] | None = None
    """Class names from one end to the other; None: from unpleasant to pleasant, see docs/losses.md."""
    on: Literal["logits", "probabilities"] = "logits"
    """Scores that must rise towards the label and fall behind it."""


@dataclass(frozen=True)
class ScoreMargin(Term):
    """Options of score_margin."""

    margin: float = 0.0
    """By how much the label's logit must lead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.margin >= 0, f"margin is {self.margin}; it must be at least 0.")


@dataclass(frozen=True)
class CostSensitive(Term):
    """Options of cost_sensitive."""

    on: Literal["logits", "probabilities"] = "logits"
    """Scores whose differences are the costs."""
    norm: Literal["none", "max", "sum", "mean"] = "max"
    """What the leads and the lags of a face are divided by."""
    confusion: Literal["linear", "exp"] = "exp"
    """Cost of a difference d: d or exp(d)."""
    top: int | None = None
    """Only this many most costly classes; None for all."""
    reduce: Literal["mean", "sum"] = "mean"
    """Over the classes of a face."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.top is None or self.top >= 1, f"top is {self.top}; it must be at least 1.")


@dataclass(frozen=True)
class HighEntropy(Term):
    """Options of high_entropy."""

    kind: Literal["max_entropy", "kl_uniform", "generalised"] = "max_entropy"
    """Confidence penalty, divergence of the uniform distribution from the prediction, or the family between them."""
    alpha: float = 0.5
    """Of `generalised`, between 0 (confidence penalty) and 1 (divergence from uniform), both left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 < self.alpha < 1, f"alpha is {self.alpha}; it must lie between 0 and 1, both left out.")


@dataclass(frozen=True)
class WeightSparsity(Term):
    """Options of weight_sparsity."""

    of: Literal["head", "all"] = "head"
    """Parameters of the head, or of the whole net."""


@dataclass(frozen=True)
class OrthogonalWeights(Term):
    """Options of orthogonal_weights."""

    kind: Literal["soft", "double_soft", "mutual_coherence", "srip"] = "soft"
    """How far the Gram matrix is from the identity: squared sum, both Gram matrices, largest entry, spectral norm."""
    iterations: int = 5
    """Of the power iteration (`srip`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.iterations >= 1, f"iterations is {self.iterations}; it must be at least 1.")


@dataclass(frozen=True)
class Sparse(Term):
    """Options of sparse_weights."""

    norm: Literal["l1", "l2", "inf"] = "l1"
    """Norm of the lowest entries."""
    share: float = 1.0
    """Share p of the entries of a row, lowest by absolute value, that should vanish."""
    limit: float = 0.0
    """Norm c that is allowed."""
    average: bool = False
    """Divide l1 and l2 by the number of entries."""
    barrier: bool = False
    """Log barrier in place of the squared excess."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 < self.share <= 1, f"share is {self.share}; it must lie above 0 and be at most 1.")
        _check(self.limit >= 0, f"limit is {self.limit}; it must be at least 0.")


@dataclass(frozen=True)
class SparseLayer(Sparse):
    """Options of sparse_features and sparse_attention."""

    layer: int = -1
    """Layer counted from 1 (shallow); -1 is the last."""


@dataclass(frozen=True)
class AttentionEntropy(Term):
    """Options of attention_entropy."""

    layer: int = -1
    """Layer whose attention it is where the net has none of its own."""


@dataclass(frozen=True)
class AttentionSize(AttentionEntropy):
    """Options of attention_size."""

    low: float = 0.1
    """Smallest mean of the attention."""
    high: float = 0.4
    """Largest mean of the attention."""
    barrier: bool = False
    """Log barrier in place of the squared excess; raise loss.barrier_start then, see docs/losses.md."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 <= self.low < self.high <= 1, f"low {self.low} and high {self.high} must hold 0 <= low < high <= 1.")


@dataclass(frozen=True)
class BlockFeatures(Term):
    """Options of block_features."""

    layers: list[int] = field(default_factory=lambda: [-1])
    """Layers counted from 1 (shallow); -1 is the last."""
    barrier: bool = False
    """Log barrier in place of the absolute value."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(bool(self.layers), "layers is empty; name at least one layer, for example [-1].")


@dataclass(frozen=True)
class OrthogonalFeatures(BlockFeatures):
    """Options of orthogonal_features."""

    same: bool = True
    """Pull faces of one class together."""
    different: bool = False
    """Push faces of different classes to right angles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.same or self.different, "same and different are both false; nothing is left to do.")


TERM_OPTIONS: dict[str, type[Term]] = {
    "cross_entropy": Term,
    "focal": Focal,
    "squared": Term,
    "absolute": Term,
    "ordinal_mean": Ordinal,
    "ordinal_variance": Ordinal,
    "unimodality": Unimodality,
    "score_margin": ScoreMargin,
    "cost_sensitive": CostSensitive,
    "high_entropy": HighEntropy,
    "weight_sparsity": WeightSparsity,
    "orthogonal_weights": OrthogonalWeights,
    "sparse_weights": Sparse,
    "sparse_features": SparseLayer,
    "sparse_attention": SparseLayer,
    "attention_size": AttentionSize,
    "attention_entropy": AttentionEntropy,
    "orthogonal_features": OrthogonalFeatures,
    "block_features": BlockFeatures,
    "au_segmentation": Term,
}
"""Name of a further term -> its options; the functions are in `mien.losses.terms.TERMS`."""


def read_term(entry: Any) -> tuple[str, Term]:
    """Name and checked options of one entry {name, weight, start_epoch, ...} of `loss.terms`.

    Raises:
        UsageError: no mapping, no name, an unknown name or option (with the nearest valid one), a value of the wrong type
            or out of range.

    """
    import jsonargparse

    if not isinstance(entry, dict) or "name" not in entry:
        raise UsageError(f"loss.terms: {short(entry)} is no term; write it as {{name: high_entropy, weight: 0.1}}.")
    name = str(entry["name"])
    kind, options = term_options(name), {key: value for key, value in entry.items() if key != "name"}
    valid = [f.name for f in dataclasses.fields(kind)]
    for key in options:
        if key not in valid:
            raise UsageError(f"loss.terms: {unknown_name(f'option of {name}', str(key), valid)}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, None)
    try:
        hints = typing.get_type_hints(kind)
        with plain_words(hints, options):
            plain_numbers(options, hints)
            return name, kind(**parser.parse_object(options).as_dict())
    except UsageError as error:
        raise UsageError(f"loss.terms: {name}: {error}") from error


class AddedTerm(NamedTuple):
    """A term of another package: the object of an entry point `mien.losses` (CONTRIBUTING.md)."""

    options: type[Term]
    """A frozen dataclass; its fields are the keys of a recipe."""
    loss: Callable[[Any, Any], Any]
    """(mien.losses.terms.Step, options) -> scalar tensor with gradient, lower is better."""


def added_term(name: str) -> AddedTerm | None:
    """The term that a plugin adds under a name; None where none does, DataError for a plugin that cannot be used."""
    found = plugins.added("mien.losses", name, TERM_OPTIONS, AddedTerm)
    return None if found is None else typing.cast(AddedTerm, found)


def term_options(name: str) -> type[Term]:
    """Options of a term, Mien's own or a plugin's; UsageError for an unknown name."""
    if name in TERM_OPTIONS:
        return TERM_OPTIONS[name]
    found = added_term(name)
    if found is None:
        raise UsageError(f"loss.terms: {unknown_name('term', name, plugins.names('mien.losses', TERM_OPTIONS))}")
    return found.options


def options_of(entry: dict[str, Any]) -> Term:
    """Options of an entry that `LossConfig` has checked and completed."""
    return term_options(entry["name"])(**{key: value for key, value in entry.items() if key != "name"})


@dataclass(frozen=True)
class LossConfig:
    """Classification loss and further terms; the total is their weighted sum with the guidance.

    Raises UsageError for an unknown term or option.
    """

    classification: Literal["cross_entropy", "focal", "squared", "absolute"] = "cross_entropy"
    """cross_entropy, focal, or squared / absolute error of the probabilities; see docs/losses.md."""
    weight: float = 1.0
    """Factor of the classification loss; 0 trains with the other terms alone."""
    label_share: float = 0.5
    """Share of the labels' head in the classification loss of data.targets both; the rest is that of the votes' head."""
    focal_alpha: float = 1.0
    """Factor of the focal loss."""
    focal_gamma: float = 2.0
    """How strongly the focal loss turns down easy faces; 0 is the cross-entropy."""
    terms: list[dict[str, Any]] = field(default_factory=list)
    """Further terms, each {name, weight, start_epoch, end_epoch, options of the term}; docs/losses.md lists them."""
    barrier_start: float = 1.0
    """Sharpness t of log barriers in the first epoch."""
    barrier_factor: float = 1.01
    """Factor of t from epoch to epoch."""
    barrier_most: float = 10.0
    """Largest t."""

    def __post_init__(self) -> None:
        read = [read_term(entry) for entry in self.terms]
        whole = [{"name": name, **dataclasses.asdict(term)} for name, term in read]
        object.__setattr__(self, "terms", whole)  # config.yaml tells every option

    def sharpness(self, epoch: int) -> float:
        """Sharpness t of every log barrier in an epoch (from 1): start * factor^(epoch - 1), at most `barrier_most`.

        The defaults are the published ones of Belharbi et al. 2024 (`elb_init_t`, `elb_mulcoef`, `elb_max_t`). It depends
        on the epoch alone, so a resumed run continues with the same t.
        """
        if (epoch - 1) * math.log(
            self.barrier_factor
        ) > 500:  # the power is no float soon; the limits of t are far below
            return self.barrier_most
        return min(self.barrier_start * self.barrier_factor ** (epoch - 1), self.barrier_most)
