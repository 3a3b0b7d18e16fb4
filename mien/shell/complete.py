"""Scripts that complete `mien` in bash, zsh and fish, made from the verbs and their signatures."""

from __future__ import annotations

import importlib
import inspect
import typing

from mien.cli import VERBS

Words = dict[str, dict[str, tuple[str, ...]]]
"""Verb -> option -> the values that it can have; empty where any goes."""


def words() -> Words:
    """Every verb with its options, as its signature has them."""
    found: Words = {}
    for verb, (module, _) in VERBS.items():
        function = getattr(importlib.import_module(module), verb)
        hints = typing.get_type_hints(function)
        found[verb] = {"--help": ()}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "overrides":
                found[verb][f"--{name.replace('_', '-')}"] = choices(hints[name])
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found[verb][""] = (*found[verb].get("", ()), *choices(hints[name]))
    return found


def choices(hint: object) -> tuple[str, ...]:
    """Values of a Literal, also of one that may be None; empty for any other type."""
    if typing.get_origin(hint) is typing.Literal:
        return tuple(str(value) for value in typing.get_args(hint))
    return tuple(word for part in typing.get_args(hint) for word in choices(part))


def script(shell: str) -> str:
    """The script for one shell."""
    known = words()
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](known)


def _cases(known: Words) -> str:
    """Branches of a shell's `case "$verb $before"`: values behind an option, else the verb's options and words."""
    rows = []
    for verb, options in known.items():
        rows += [
            f'    "{verb} {option}") list="{" ".join(values)}" ;;'
            for option, values in options.items()
            if option and values
        ]
        rows.append(f'    "{verb} "*) list="{" ".join([*(o for o in options if o), *options.get("", ())])}" ;;')
    return "\n".join(rows)


def _bash(known: Words) -> str:
    return f"""_mien() {{
  local now="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}" list=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(known)} --version --help" -- "$now"))
    return
  fi
  case "$verb $before" in
{_cases(known)}
  esac
  COMPREPLY=($(compgen -W "$list" -- "$now"))
}}
complete -o default -F _mien mien
"""


def _zsh(known: Words) -> str:
    return f"autoload -Uz bashcompinit && bashcompinit\n{_bash(known)}"


def _fish(known: Words) -> str:
    rows = ["complete -c mien -n __fish_use_subcommand -f"]
    for verb, options in known.items():
        rows.append(f"complete -c mien -n __fish_use_subcommand -f -a {verb}")
        inside = f"-n '__fish_seen_subcommand_from {verb}'"
        for option, values in options.items():
            if option:
                rows.append(
                    f"complete -c mien {inside} -l {option[2:]}" + (f" -x -a '{' '.join(values)}'" if values else "")
                )
            elif values:
                rows.append(f"complete -c mien {inside} -a '{' '.join(values)}'")
    return "\n".join(rows) + "\n"
