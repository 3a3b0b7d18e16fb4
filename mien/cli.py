"""The command line: a verb is a function, its signature is the syntax. No logic lives here."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

from mien import __version__
from mien.errors import MienError, UsageError, unknown_name
from mien.values import escaped, option_values, plain_words

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("mien.demo", "synthesise faces, train unguided and guided, compare on unseen identities, write a report"),
    "synthesize": ("mien.synthetic.synthesize", "render synthetic faces with exact truth into a prepared store"),
    "prepare": ("mien.datasets.prepare", "read a dataset (fer2013, rafdb, affectnet, ...) into a prepared store"),
    "check": ("mien.datasets.check", "audit a prepared store: counts, duplicates, leaks, coverage"),
    "parquet": ("mien.data.parquet", "write a prepared store as Parquet for other tools: one file, or a file a part"),
    "folds": ("mien.datasets.folds", "deal a store's faces into folds and write the published fold file"),
    "cues": ("mien.cues.verb", "draw or render cues: AU maps, landmark heatmaps, controls"),
    "guides": ("mien.cues.guides", "write guide images of the guided spatial transformers as PNG files"),
    "train": ("mien.training.loop", "train a recipe into a run folder; resumes where it was stopped"),
    "crossval": ("mien.crossval", "train and score a recipe on every fold; resumes, and gathers the folds as one run"),
    "evaluate": (
        "mien.evaluation.evaluate",
        "score a run: accuracy, calibration, alignment with uninformative and mismatched-cue baselines",
    ),
    "audit": (
        "mien.audit.run",
        "is any expression model right, sure, fair, robust, and does its explanation tell the truth: one page",
    ),
    "audet": ("mien.audet", "action units from disentangled embeddings: check, train, score and examine a cfg"),
    "explain": ("mien.predict.explain", "explain photos with the bundled model or a run: overlays and a manifest"),
    "export": (
        "mien.export",
        "write a run as one ONNX, TorchScript or torch.export graph: pixels in, probabilities and maps out",
    ),
    "publish": (
        "mien.export.publish",
        "write a run in the form of the Hugging Face Hub, into a folder or onto the Hub",
    ),
    "predict": (
        "mien.predict",
        "expressions in photos, folders, videos or from a camera: a table, and pictures with maps",
    ),
    "summarize": (
        "mien.predict.summarize",
        "rows of mien predict per person of a video: shares of time, onsets, action units, blinks, a timeline",
    ),
    "serve": ("mien.web", "a page on this computer: photos and synthetic faces, bars and maps side by side"),
    "calibrate": (
        "mien.calibrate",
        "temperature and abstain threshold of a run, or class offsets from labelled photos",
    ),
    "box": ("mien.box", "build the bundled model from FER-2013, or score a model end to end"),
    "compare": (
        "mien.audit.compare",
        "runs and models of others on the same faces: paired tests, margin, Holm, CSV and LaTeX",
    ),
    "report": ("mien.report", "one self-contained HTML page that compares runs"),
    "reproduce": ("mien.reproduce", "train and score a table of the papers, beside the published numbers"),
    "figures": ("mien.report.figures", "pictures of the papers as PNG: strips, mean maps, curves and dots of tables"),
    "models": ("mien.faces.models", "get or list the landmark models that photos need"),
    "doctor": ("mien.shell", "what is installed, which devices and models are there, what would work"),
    "completion": ("mien.shell", "a script that completes commands and options in bash, zsh or fish"),
}

RESUMED = ("demo", "compare", "synthesize", "prepare", "train", "crossval", "audit", "audet", "reproduce", "box")
"""Verbs that go on where they were stopped; another starts over."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 for data errors, 2 for usage errors."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # the program itself, not a call of this function: a stop from outside is as Ctrl-C
        signal.signal(signal.SIGTERM, _stop)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(
                errors="backslashreplace"
            )  # a terminal or a file that knows fewer letters than we write
        if sys.stdout is not None and sys.stdout.isatty():
            sys.stdout = typing.cast(typing.TextIO, _Escaping(sys.stdout))
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_help())
            return 0
        if words[0] == "--version":
            print(f"mien {__version__}")
            return 0
        if words[0] not in VERBS:
            raise unknown_name("command", words[0], VERBS)
        module, summary = VERBS[words[0]]
        function: Callable[..., Any] = getattr(importlib.import_module(module), words[0])
        positional, named = _parse(words[0], summary, function, words[1:])
        function(*positional, **named)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is told here, not by the interpreter
    except MienError as error:
        print(f"mien: {escaped(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe went away
        return 0
    except OSError as error:  # no permission, disk full: a person's matter, not a defect
        print(f"mien: {escaped(str(error))}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        if arguments is None:
            signal.signal(signal.SIGINT, _at_once)  # a second Ctrl-C, while what is left is tidied up
        kept = "what was finished is kept, the same command resumes"
        print(f"mien: stopped; {kept if words[0] in RESUMED else 'the same command starts over'}.", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0


class _Escaping:
    """A terminal to which names of files are written: none of them can send it commands."""

    def __init__(self, stream: typing.TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of any stream; control characters are escaped."""
        return self._stream.write(escaped(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is under way ends as with Ctrl-C, so that files and processes are tidied up."""


def _stop(number: int, frame: Any) -> None:
    raise Terminated


def _at_once(number: int, frame: Any) -> None:
    os._exit(130)


def _help() -> str:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in VERBS.items())
    return (
        f"mien {__version__}: facial-expression models that look where a FACS expert would look.\n"
        f"usage: mien COMMAND ... (mien COMMAND --help)\n\n{rows}\n\n"
        "Mien recognises expressions, not what a person feels. Inferring emotions at work or in education is prohibited in the EU."
    )


def _parse(verb: str, summary: str, function: Callable[..., Any], words: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Parse words by the function's signature: positionals before *, options after it, a `recipe_overrides` rest last."""
    import jsonargparse
    from docstring_parser import parse

    parser = jsonargparse.ArgumentParser(
        prog=f"mien {verb}", description=summary, allow_abbrev=False, exit_on_error=False
    )
    if "overrides" in inspect.signature(function).parameters and {"-h", "--help"} & set(words):
        parser.epilog = _override_help(inspect.getmodule(function))
    hints = typing.get_type_hints(function)
    helps = {p.arg_name.lstrip("*"): p.description or "" for p in parse(function.__doc__ or "").params}
    positional, named, rest = [], [], None
    for parameter in inspect.signature(function).parameters.values():
        name, kind = parameter.name, hints[parameter.name]
        text = " ".join(helps.get(name, "").split())
        required = parameter.default is inspect.Parameter.empty
        if name == "overrides":
            rest = name
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            # a camera takes the place of files, a file of rows that of runs
            least = "*" if {"camera", "rows"} & set(hints) else "+"
            parser.add_argument(name, type=kind, nargs=least, help=text)
            positional.append(name)
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            option = f"--{name.replace('_', '-')}"
            if kind is bool:
                parser.add_argument(option, action="store_true", help=text)
            elif required:
                parser.add_argument(option, type=kind, required=True, help=text)
            else:
                parser.add_argument(option, type=kind, default=parameter.default, help=text)
            named.append(name)
        else:
            parser.add_argument(
                name, type=kind, help=text, **({} if required else {"nargs": "?", "default": parameter.default})
            )
            positional.append(name)
    own, extra = _split_overrides(words, [f"--{n.replace('_', '-')}" for n in named]) if rest else (words, [])
    valid = ["--help", *(f"--{name.replace('_', '-')}" for name in named)]
    for word in own:
        if word.startswith("--") and len(word) > 2 and word.split("=")[0] not in valid:
            raise unknown_name(f"option of 'mien {verb}'", word.split("=")[0], valid)
    given = {option.replace("-", "_"): value for option, value in option_values(own).items()}
    shown = {name: f"--{name.replace('_', '-')}" for name in named}
    try:
        with plain_words(hints, given, names=shown):
            values = parser.parse_args(own)
    except UsageError as error:
        raise UsageError(f"{error} See `mien {verb} --help`.") from error
    flat: list[Any] = []
    for name in positional:
        value = values[name]
        flat += value if isinstance(value, list) and _is_variadic(function, name) else [value]
    options = {name: values[name] for name in named}
    if rest:
        options[rest] = extra
    return flat, options


def _override_help(module: Any) -> str:
    """Every key that a verb's overrides can change: what its module lists as `override_keys`, or the keys of a recipe."""
    if hasattr(module, "override_keys"):
        return f"Keys of a cfg, each also --section.key VALUE (docs/audet-cfg.md): {', '.join(module.override_keys())}."
    from mien.config import recipe_keys

    return f"Recipe keys, each also --section.key VALUE (docs/recipe-keys.md): {', '.join(recipe_keys())}."


def _is_variadic(function: Callable[..., Any], name: str) -> bool:
    return inspect.signature(function).parameters[name].kind is inspect.Parameter.VAR_POSITIONAL


def _split_overrides(words: list[str], known: list[str]) -> tuple[list[str], list[str]]:
    """Separate `--section.key value` recipe overrides from a verb's own words."""
    own: list[str] = []
    extra: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        name = word.split("=")[0]
        if word.startswith("--") and "." in name and name not in known:
            take = 1 if "=" in word else 2
            extra += words[position : position + take]
            position += take
        else:
            own.append(word)
            position += 1
    return own, extra


if __name__ == "__main__":
    sys.exit(main())
