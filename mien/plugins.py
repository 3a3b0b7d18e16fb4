"""What other packages add to Mien's tables, through entry points; a plugin is loaded when its name is used, never before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from mien.errors import DataError, MienError

GROUPS = {
    "mien.losses": "term of the loss",
    "mien.cues": "cue",
    "mien.readers": "dataset",
    "mien.metrics": "alignment score",
}
"""Entry-point group -> what one of its names is (CONTRIBUTING.md has an example of each)."""
_USED: dict[str, str] = {}
_TOLD: set[str] = set()


class Plugin(NamedTuple):
    """One name that a package adds."""

    group: str
    name: str
    entry: EntryPoint
    package: str
    """Name and version of the package."""

    @property
    def title(self) -> str:
        """For a message."""
        return f"plugin '{self.name}' ({GROUPS[self.group]}) of {self.package}"


def found(group: str) -> tuple[Plugin, ...]:
    """Every plugin of a group that is installed, in the order of the path that Python searches."""
    return _found(group, tuple(sys.path))


@cache
def _found(group: str, path: tuple[str, ...]) -> tuple[Plugin, ...]:
    plugins = []
    for entry in entry_points(group=group):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unnamed package"
        plugins.append(Plugin(group, entry.name, entry, package))
    return tuple(plugins)


def reason_against(plugin: Plugin, own: Collection[str]) -> str | None:
    """Why a plugin is refused: a name that Mien has itself, or that another package adds too; None where it may be used."""
    if plugin.name in own:
        return "Mien has that name itself; the plugin is not used"
    others = {one.package for one in found(plugin.group) if one.name == plugin.name} - {plugin.package}
    return f"{', '.join(sorted(others))} adds that name too; uninstall one of them" if others else None


def names(group: str, own: Collection[str]) -> list[str]:
    """What may be named: Mien's own names, then those that plugins add."""
    return [*own, *sorted({one.name for one in found(group)} - set(own))]


def added(group: str, name: str, own: Collection[str], kind: type) -> Any:
    """What a package adds under a name that Mien lacks; None where no package does.

    Args:
        group: key of GROUPS.
        name: of the entry point.
        own: Mien's own names, which no plugin may take.
        kind: what the entry point must be.

    Raises:
        DataError: two packages add the name, it cannot be loaded, or it is of another kind; one line with the package.

    """
    there = [one for one in found(group) if one.name == name]
    if not there or name in own:
        return None
    plugin = there[0]
    reason = reason_against(plugin, own)
    if reason:
        raise DataError(f"{plugin.title}: {reason}.")
    return loaded(plugin, kind)


def loaded(plugin: Plugin, kind: type) -> Any:
    """The object of a plugin; DataError where it cannot be loaded or is no `kind`."""
    try:
        value = plugin.entry.load()
    except Exception as error:  # whatever the import of somebody else's module raises
        raise DataError(f"{plugin.title} cannot be loaded ({_short(error)}); repair or uninstall it.") from error
    if not isinstance(value, kind):
        raise DataError(
            f"{plugin.title} is a {type(value).__name__}, not a {kind.__module__}.{kind.__name__}; see CONTRIBUTING.md."
        )
    _USED[f"{plugin.group}:{plugin.name}"] = plugin.package
    return value


def usable(group: str, own: Collection[str], kind: type) -> dict[str, Any]:
    """Everything that plugins add to a group whose names nobody has to give; what cannot be used is told once, and left out."""
    objects = {}
    for plugin in found(group):
        reason = reason_against(plugin, own)
        try:
            if reason:
                raise DataError(f"{plugin.title}: {reason}.")
            objects[plugin.name] = loaded(plugin, kind)
        except DataError as error:
            tell(str(error))
    return objects


def tell_refused(group: str, own: Collection[str]) -> None:
    """Say once which plugins are not used since Mien has their name itself."""
    for plugin in found(group):
        if plugin.name in own:
            tell(f"{plugin.title}: {reason_against(plugin, own)}.")


def tell(line: str) -> None:
    """A line on stderr, once in a process."""
    if line not in _TOLD:
        _TOLD.add(line)
        print(f"mien: {line}", file=sys.stderr)


def called(what: str, function: Callable[..., Any], *values: Any) -> Any:
    """What a plugin's function returns; its own mistakes are one line that names it, and no traceback."""
    try:
        return function(*values)
    except MienError:
        raise
    except Exception as error:
        raise DataError(f"{what} failed ({_short(error)}); it is a plugin: tell its authors.") from error


def used() -> dict[str, str]:
    """`group:name` of every plugin that was loaded in this process -> its package with version, for a run folder."""
    return dict(_USED)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
