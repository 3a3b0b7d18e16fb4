"""The whole of an experiment as one typed tree, read from one YAML recipe, overridden by --section.key value.

No inheritance between files, no import paths in strings; an unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from mien.cues.config import CUE_KINDS, CueConfig
from mien.data.config import AugmentConfig, DataConfig, MaskConfig
from mien.errors import UsageError, unknown_name
from mien.losses.config import GuidanceConfig, check_guidance, refuse_never
from mien.losses.options import TERM_OPTIONS, LossConfig
from mien.plugins import tell_refused
from mien.training.config import OptimConfig, RunConfig
from mien.values import (
    Range,
    from_text,
    leaf_types,
    option_values,
    plain_numbers,
    plain_words,
    sections_of,
    settings_text,
    short,
    told_where,
    wrong_value,
)  # fmt: skip

__all__ = [
    "AugmentConfig", "CueConfig", "DataConfig", "GuidanceConfig", "LossConfig", "MaskConfig", "ModelConfig", "OptimConfig",
    "Recipe", "RunConfig", "TransformerConfig", "as_dict", "check_recipe", "load_recipe", "recipe_keys",
    "recipe_parser", "with_settings",
]  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Backbone and head."""

    backbone: str = "resnet18"
    """Any timm model name with `forward_intermediates` (CNN or ViT), apvit, simple_cnn or small_resnet."""
    backbone_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Numbers of the backbone, by name, for example {patch_size: 8, embed_dim: 96, depth: 4, num_heads: 3} for a small ViT."""
    head: str = "gap"
    """From features to logits and class maps: gap (CAM), max_pool, lse, wildcat, prm, acol, mlp, flat, ts_cam, cls; docs/models.md."""
    head_options: dict[str, bool | int | float] = field(default_factory=dict)
    """Numbers of the head, by name, for example {maps: 5} for wildcat; docs/models.md lists them."""
    size: int = 112
    """Side of the square input in pixels; stored faces are resized to it."""
    output_stride: int | None = None
    """Stride of the last layer (8, 16 or 32) where the backbone supports dilation; None keeps its own."""
    stem_pool: bool = True
    """False drops the max-pooling of a ResNet stem, for faces under about 64 px."""
    channels: list[int] | None = None
    """Widths of the stages of a ResNet, None for its own; narrow nets train on a CPU."""
    drop: float = 0.0
    """Dropout before the linear layer (mlp: after each hidden layer)."""
    spatial_drop: float = 0.0
    """Probability that a whole channel of the last layer is hidden from the head."""
    self_attention: bool = False
    """Multiply the features of guidance.layers by their own channel mean before they are passed on."""
    adl: float = 0.0
    """Attention-based dropout layers (Choe and Shim 2019): probability of dropping what is attended most; 0 is off."""
    segmentation: bool = False
    """Segmentation head: a 3x3 convolution on the last layer, trained by the term au_segmentation of loss.terms."""
    pretrained: bool = False
    """Start from timm's published weights (needs the network)."""
    weights: Path | None = None
    """Backbone weights, .safetensors, a run's .ckpt or a plain state dict .pth (read without unpickling code)."""
    initial: Path | None = None
    """Whole model to start from, for transfer: a run folder, a run's .ckpt, a published state dict .pt, or demo (bundled)."""
    initial_head: Literal["keep", "new"] = "keep"
    """Head of model.initial: kept (same number of classes) or drawn anew."""
    preprocessing: Literal["imagenet", "vggface2", "vggface", "half", "grey"] = "imagenet"
    """What the weights expect: imagenet, vggface2 / vggface (RGB / BGR 0-255 less means), half (-1 to 1) or grey (the same)."""


@dataclass(frozen=True)
class TransformerConfig:
    """Spatial transformer in front of the backbone; its guide is the picture of the section `cue`."""

    kind: Literal["none", "image", "guide", "masked", "channel", "landmarks"] = "none"
    """What places the picture: nothing, a net that sees the image or the guide, or landmarks; docs/stn.md."""
    shape: Literal["affine", "similarity"] = "affine"
    """Six free numbers, or turn, one scale and shift."""
    limit: float = 0.0
    """How far each number may move from the identity (a tanh); 0 lets it move freely."""
    padding: Literal["zeros", "border"] = "zeros"
    """What lies outside the picture: zero after normalisation (published; mid-grey), or its border."""
    missing: Literal["white", "black"] = "white"
    """Guide of a face that has none: white (published; everything counts) or black."""
    moves: list[Literal["turn", "scale", "shift"]] = field(default_factory=lambda: ["turn", "scale", "shift"])
    """What kind landmarks corrects; the rest stays as it is in the picture."""
    points: Literal["all", "stable"] = "all"
    """Landmarks that kind landmarks lays onto their mean shape: all 68, or those that expressions hardly move (eye corners, nose)."""

    def __post_init__(self) -> None:
        if not self.moves:
            raise UsageError("transformer.moves is empty, so nothing would move; leave transformer.kind none instead.")


@dataclass(frozen=True)
class Recipe:
    """One experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    cue: CueConfig = field(default_factory=CueConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    second: GuidanceConfig = field(default_factory=GuidanceConfig)
    """Another guidance beside the first, for example of an attribution beside the activation; weight 0 for none."""
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def guidances(self) -> dict[str, GuidanceConfig]:
        """Section name -> guidance."""
        return {"guidance": self.guidance, "second": self.second}


@functools.cache
def recipe_parser() -> jsonargparse.ArgumentParser:
    """Parser of every recipe key as --section.key, typed and documented by the dataclasses above."""
    parser = jsonargparse.ArgumentParser(prog="mien train", exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(Recipe, None)
    return parser


def load_recipe(path: Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Recipe of a YAML file (defaults without one), overridden by ["--guidance.weight", "4", ...].

    Raises:
        UsageError: missing file, bad YAML, unknown key (with the nearest valid one) or a value of the wrong type.

    """
    tell_refused("mien.losses", TERM_OPTIONS)
    tell_refused("mien.cues", CUE_KINDS)
    text = None if path is None else settings_text(path, "recipe", "recipes/")
    recipe = copy.deepcopy(_parsed(text, str(path), tuple(overrides)))  # its lists may be changed by who gets it
    check_recipe(recipe, str(path or "command line"), option_values(overrides))
    return recipe


@functools.lru_cache(maxsize=64)
def _parsed(text: str | None, where: str, overrides: tuple[str, ...]) -> Recipe:
    """What text and overrides say; kept, because a report or a grid of runs reads the same recipe many times (.2 s each)."""
    data = {} if text is None else sections_of(text, where)
    _refuse_unknown(data, where)
    given, kinds = option_values(overrides), _kinds()
    for key in given:
        if key not in kinds:
            raise UsageError(f"command line: {unknown_name('key', key, kinds)}")
    parser, in_file = recipe_parser(), {f"{s}.{key}": value for s, keys in data.items() for key, value in keys.items()}
    with plain_words(kinds, in_file, f"{where}: "):
        plain_numbers(in_file, kinds, f"{where}: ")
        settings = parser.parse_object(data, defaults=False)  # the dataclasses have them; parsing them too takes .1 s
    with plain_words(kinds, given, source="--"):
        numbers = {key: from_text(text, key) for key, text in given.items() if not TEXT & set(leaf_types(kinds[key]))}
        plain_numbers(numbers, kinds, source="--", written=given)
        settings = parser.parse_args(list(overrides), namespace=settings, defaults=False) if overrides else settings
    for key in [key for key in kinds if key in settings]:
        if isinstance(settings[key], dict):
            items = settings[key].items()  # the command line's names may be numbers
            settings[key] = {str(name): value for name, value in items}
        if settings[key] is None and types.NoneType not in typing.get_args(kinds[key]):
            raise UsageError(f"{where}: {wrong_value(key, None, kinds[key])}")
    with told_where("command line" if text is None else where):
        return Recipe(**parser.instantiate(settings).as_dict())


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some keys, {"guidance.weight": 4.0, ...}, of the keys' own types; checked like a file.

    Raises:
        UsageError: unknown key (with the nearest valid one) or numbers out of range.

    """
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if key not in recipe_keys():
            raise unknown_name("key", key, recipe_keys())
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    parts = {section: dataclasses.replace(getattr(recipe, section), **values) for section, values in sections.items()}
    changed = dataclasses.replace(recipe, **parts)
    check_recipe(changed, "settings")
    return changed


def recipe_keys() -> list[str]:
    """Every key of a recipe as section.key."""
    return list(_kinds())


@functools.cache
def _kinds() -> dict[str, Any]:
    """Type of every key."""
    sections = {s.name: typing.get_type_hints(_section(s)) for s in dataclasses.fields(Recipe)}
    return {f"{name}.{key}": kind for name, kinds in sections.items() for key, kind in kinds.items()}


def _section(field_: dataclasses.Field[Any]) -> type[Any]:
    return typing.cast(type[Any], field_.default_factory)


def _refuse_unknown(data: dict[str, Any], where: str) -> None:
    """Unknown sections and keys are refused before parsing, so that the message can name the nearest valid one."""
    sections = {s.name: [f.name for f in dataclasses.fields(_section(s))] for s in dataclasses.fields(Recipe)}
    for name, content in data.items():
        if name not in sections:
            raise UsageError(f"{where}: {unknown_name('section', short(name), sections)}")
        if not isinstance(content, dict):
            raise UsageError(f"{where}: '{name}' is a section with keys of its own, got {short(content)}.")
        for key in content:
            if key not in sections[name]:
                raise UsageError(f"{where}: {unknown_name('key', f'{name}.{short(key)}', recipe_keys())}")


GUIDED_KINDS = ("guide", "masked", "channel")
"""Values of transformer.kind that take a guide image."""
TEXT = {str, Path}
"""Types that are taken as they are written."""
SHARE, BELOW_ONE, EPOCH, COUNT = Range(0, 1), Range(0, 1, open_high=True), Range(1, 1e5), Range(0, 1e5)
FACTOR, SEED, OPTION = Range(0, 1e6), Range(0, 2**32 - 1), Range(-1e6, 1e6)
RANGES = {
    "data.valid_fraction": BELOW_ONE, "data.folds": Range(0, 1000), "data.fold": Range(0, 999), "data.fold_seed": SEED,
    "data.teacher_share": Range(0, 1, open_low=True),
    "data.curriculum_epochs": EPOCH, "augment.flip": SHARE, "augment.rotation": Range(0, 180), "augment.translate": SHARE,
    "augment.scale": BELOW_ONE, "augment.jitter": SHARE, "augment.grayscale": SHARE, "augment.erase": SHARE,
    "augment.cutmix": SHARE, "augment.cutmix_alpha": Range(0.01, 100), "cue.sigma": Range(0, 10, open_low=True, open_high=True),
    "cue.groups": Range(0, 1000), "cue.least": Range(0, 5, open_low=True), "mask.train": SHARE,
    "mask.sigma": Range(0, 0.3, open_low=True), "mask.dilation": SHARE, "model.backbone_options": OPTION,
    "model.head_options": OPTION, "model.size": Range(16, 2048), "model.output_stride": Range(1, 64),
    "model.channels": Range(1, 8192), "model.drop": BELOW_ONE, "model.spatial_drop": BELOW_ONE, "model.adl": SHARE,
    "transformer.limit": Range(0, 10), "loss.weight": FACTOR, "loss.label_share": SHARE, "loss.focal_alpha": FACTOR,
    "loss.focal_gamma": Range(0, 100), "loss.terms": OPTION, "loss.barrier_start": Range(0.01, 1e6),
    "loss.barrier_factor": Range(1, 1000), "loss.barrier_most": Range(0.01, 1e6), "optim.lr": Range(0, 100),
    "optim.head_lr": Range(0, 1e4), "optim.transformer_lr": Range(0, 1e4), "optim.momentum": BELOW_ONE,
    "optim.weight_decay": Range(0, 10), "optim.epochs": EPOCH, "optim.sizes": Range(0, 2048), "optim.batch": Range(2, 65536),
    "optim.warmup": SHARE, "optim.step_size": EPOCH, "optim.gamma": Range(0, 10), "optim.label_smoothing": BELOW_ONE,
    "optim.clip": FACTOR, "optim.ema": BELOW_ONE, "optim.patience": COUNT, "run.seed": SEED, "run.devices": Range(1, 1024),
    "run.num_nodes": Range(1, 1024),
    "run.workers": Range(0, 1024),
    **{f"{section}.{key}": range_ for section in ("guidance", "second") for key, range_ in {
        "weight": FACTOR, "layers": Range(-100, 100), "fraction": Range(0, 1, open_low=True), "start_epoch": EPOCH,
        "end_epoch": EPOCH, "warmup_epochs": COUNT,
    }.items()},
}  # fmt: skip
"""Recipe key -> where its number, or each number in its list or mapping, lies. Every number of a recipe has one."""


def check_recipe(recipe: Recipe, where: str, overridden: Collection[str] = ()) -> None:
    """UsageError for numbers and sets of them that no training can run with, by key, before anything is read or written."""
    tree = as_dict(recipe)
    for key, range_ in RANGES.items():
        section, name = key.split(".")
        value = tree[section][name]
        if not range_.holds(value):  # NaN is refused too
            place = "command line" if key in overridden else where
            raise UsageError(f"{place}: {key} is {short(value)}; it must be {range_}.")
    if recipe.transformer.kind in GUIDED_KINDS and recipe.cue.kind == "au":
        raise UsageError(
            f"{where}: cue.kind au is drawn from the label, which a guide must not tell the net; take au_generic or landmarks."
        )
    if (
        recipe.transformer.kind in GUIDED_KINDS
        and recipe.cue.kind == "au_observed"
        and recipe.data.action_units is None
    ):
        raise UsageError(
            f"{where}: cue.kind au_observed is drawn from labelled action units, which a guide must not tell the net; give "
            "data.action_units, predictions of `mien audet predict`."
        )
    for section, guidance in recipe.guidances().items():
        check_guidance(guidance, section, where)
        refuse_never(f"{where}: {section}", guidance.weight, guidance.start_epoch, recipe.optim.epochs)
        if guidance.cue is not None and guidance.weight:
            with told_where(where):
                dataclasses.replace(recipe.cue, kind=guidance.cue)  # its own checks, for example of the control
    for term in recipe.loss.terms:
        refuse_never(f"{where}: loss.terms: {term['name']}", term["weight"], term["start_epoch"], recipe.optim.epochs)


def as_dict(recipe: Any) -> dict[str, Any]:
    """Plain data of a config dataclass, ready for YAML or JSON (paths as text)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(recipe)))
