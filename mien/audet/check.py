"""A cfg file -> everything that is known before a tensor is made, or all of its mistakes in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mien.audet.blocks import BLOCKS, AnyBlock, Shape, sources
from mien.audet.cfg import (
    LOST,
    Block,
    CfgError,
    Entry,
    Mistake,
    Place,
    Section,
    Wrong,
    nearest,
    parse,
    render,
    settings_of,
    unknown,
)  # fmt: skip
from mien.audet.joints import Report, check_joints, check_options, published_image_weights
from mien.audet.options import GENERAL, NETS, NetOptions
from mien.audet.spec import Cfg, NetSpec, Wired
from mien.values import settings_text


def read_cfg(path: Path, overrides: Sequence[str] = ()) -> Cfg:
    """Cfg of a file, changed by ["--training.max_epochs", "3", ...] (`override_keys` lists them).

    Raises:
        CfgError: every mistake as `path:line: message`, in one error.
        UsageError: no such file.

    """
    return cfg_of(settings_text(path, "cfg", "recipes/audet/"), str(path), overrides)


def cfg_of(text: str, source: str = "cfg", overrides: Sequence[str] = ()) -> Cfg:
    """As `read_cfg`, of a text; `source` is what stands before the line numbers of its mistakes."""
    sections, mistakes = parse(text, source)
    report = Report(mistakes, [])
    _change(sections, overrides, mistakes)
    last = Place(len(text.splitlines()) or 1, source)
    sections = _known(sections, last, mistakes)
    named = {section.name: section for section in sections}
    general = _general(named.get("General"), report)
    nets = _nets(named, general["data"].image_size, report)
    if (image_weights := published_image_weights(general["loss"], named.get("General"), report)) is not None:
        general["loss"] = image_weights
    cfg = Cfg(**general, nets=nets, text=render(sections))
    if "General" in named:
        check_options(cfg, named["General"], report)
    check_joints(cfg, named, last, report)
    if mistakes:
        raise CfgError(mistakes)
    warnings = sorted(set(report.warnings), key=lambda warning: warning.place.line)
    return replace(cfg, warnings=tuple(map(str, warnings)))


def _known(sections: list[Section], last: Place, mistakes: list[Mistake]) -> list[Section]:
    """Sections of valid names; one is missing only where none could have been meant for it."""
    valid = ("General", *NETS)
    odd = [section for section in sections if section.name not in valid]
    mistakes += [Mistake(s.place, unknown("section", s.name, valid)) for s in odd if s.name != LOST]
    meant = {section.name for section in sections} | {nearest(section.name, valid) for section in odd}
    for name in ("General", "Encoder", "AUPredictor"):
        if name not in meant and LOST not in meant:
            mistakes.append(Mistake(last, f"the section {{{name}}} is missing."))
    return [section for section in sections if section.name in valid]


def _general(section: Section | None, report: Report) -> dict[str, Any]:
    """Options by the position of their blocks; the defaults where a block has mistakes, so that the rest is still checked."""
    made: dict[str, Any] = {name: kind() for name, kind in GENERAL.items()}
    if section is None:
        return made
    if not 3 <= len(section.blocks) <= len(GENERAL):
        text = "{General} has three blocks by position, training, data and loss options, and may have a fourth, run options"
        report.mistakes.append(Mistake(section.place, f"{text}; {len(section.blocks)} stand here."))
    for (name, kind), block in zip(GENERAL.items(), section.blocks, strict=False):
        made[name] = settings_of(block, kind, f"the {name} options", *report) or made[name]
    return made


def _nets(named: dict[str, Section], size: int, report: Report) -> dict[str, NetSpec]:
    """The nets whose every block is right."""
    nets: dict[str, NetSpec] = {}
    for name in NETS:
        if name not in named or not named[name].blocks:
            continue
        sides, outside = (size, size), None
        if name not in ("Encoder", "Image Discriminator"):
            if "Encoder" not in nets:
                _typed_blocks(named[name], report)  # without the embedding's shape there is no more to check
                continue
            sides = nets["Encoder"].output[1:]
            outside = nets["Encoder"].blocks if name == "Decoder" else None
        spec = _net(named[name], sides, report, outside)
        if spec is not None:
            nets[name] = spec
    return nets


HINT = (
    " {AUPredictor} sees as many leading channels of the embedding as its [net] says; an attention that it takes counts among them "
    "(recipes/audet/with_attention_1_branch.cfg: 128, where the published file says 64)."
)
"""For the published cfgs with attention, whose predictor is given z1 alone."""


def _net(
    section: Section, sides: tuple[int, int], report: Report, outside: list[Wired] | None = None
) -> NetSpec | None:
    """A net whose every block is right; `outside` are the encoder's blocks, where [skip] may take their output."""
    before = len(report.mistakes)
    options, typed = _typed_blocks(section, report)
    if options is None or None in typed or len(report.mistakes) > before:
        return None  # a block without settings was told where its header was read
    start = Shape(options.channels, *sides)
    wired: list[Wired] = []
    for index, (block, settings) in enumerate(zip(section.blocks[1:], typed, strict=True)):
        try:
            wired.append(_wire(block, cast(AnyBlock, settings), index, start, wired, outside))
        except Wrong as wrong:
            hint = HINT if (section.name, block.type) == ("AUPredictor", "select_subset") else ""
            report.mistakes.append(Mistake(block.place, f"[{block.type}] {wrong}{hint}"))
            return None  # what follows has no shape
    return NetSpec(section.name, options, start, wired, section.place)


def _typed_blocks(section: Section, report: Report) -> tuple[NetOptions | None, list[AnyBlock | None]]:
    """The section's [net] and its other blocks as settings."""
    head, *blocks = section.blocks
    if head.type != "net":
        text = f"{{{section.name}}} begins with [{head.type}]; its first block must be [net]."
        report.mistakes.append(Mistake(head.place, text))
        return None, []
    if not blocks:
        text = f"{{{section.name}}} has no block behind [net]; [identity] is one that does nothing."
        report.mistakes.append(Mistake(section.place, text))
    return settings_of(head, NetOptions, "[net]", *report), [_typed(block, report) for block in blocks]


def _typed(block: Block, report: Report) -> AnyBlock | None:
    if block.type == "net":
        report.mistakes.append(Mistake(block.place, "a second [net] in a section; only the first block may be one."))
        return None
    if block.type not in BLOCKS:
        if block.type:
            report.mistakes.append(Mistake(block.place, unknown("block", block.type, BLOCKS)))
        return None
    return settings_of(block, BLOCKS[block.type], f"[{block.type}]", *report)


def _wire(
    block: Block, settings: AnyBlock, index: int, start: Shape, wired: list[Wired], outside: list[Wired] | None
) -> Wired:
    if block.type == "timm" and index > 0:
        raise Wrong("must be the first block of its net.")
    found = sources(settings, index)
    inputs = [_input(source, start, wired, outside) for source in found]
    return Wired(block.type, settings, found, inputs, settings.shape(inputs), block.place)


def _input(source: int, start: Shape, wired: list[Wired], outside: list[Wired] | None) -> Shape:
    """Shape of what a source of `mien.audet.blocks.sources` gives."""
    if source >= -1:
        return start if source < 0 else wired[source].output
    if outside is None:
        raise Wrong("takes a block of the {Encoder}, which only the {Decoder} can.")
    if -2 - source >= len(outside):
        raise Wrong(f"encoder_layer is {-2 - source}, but the {{Encoder}} has the blocks 0 to {len(outside) - 1}.")
    return outside[-2 - source].output


TARGETS: dict[str, tuple[str, int]] = {
    **{name: ("General", position) for position, name in enumerate(GENERAL)},
    **{name.lower().replace(" ", "_"): (name, 0) for name in NETS},
}
"""First word of an override -> section and block."""


def override_keys() -> list[str]:
    """Every key that the command line can change, as section.key."""
    kinds: dict[str, Any] = {**GENERAL, **{name.lower().replace(" ", "_"): NetOptions for name in NETS}}
    return [f"{section}.{key}" for section, kind in kinds.items() for key in kind.__dataclass_fields__]


def _change(sections: list[Section], overrides: Sequence[str], mistakes: list[Mistake]) -> None:
    """Put overrides into the sections, in place."""
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option, value in zip(words[::2], words[1::2], strict=False):
        place = Place(0, option)
        if option[2:] not in override_keys():
            mistakes.append(Mistake(place, unknown("key", option[2:], override_keys()).split(" Valid:")[0]))
            continue
        target, key = option[2:].split(".")
        name, position = TARGETS[target]
        section = next((section for section in sections if section.name == name), None)
        if section is not None and target == "run" and len(section.blocks) == position:
            section.blocks.append(Block("run_options", {}, section.place))
        if section is None or len(section.blocks) <= position:
            mistakes.append(Mistake(place, f"the cfg has no {{{name}}} that could be changed."))
            continue
        section.blocks[position].entries[key] = Entry(value, place)
    if len(words) % 2:
        mistakes.append(Mistake(Place(0, words[-1]), "needs a value."))
