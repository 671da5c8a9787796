"""What goes by a name: attar's own classes, those of other packages, and what a program hands over.

Our own are found in the files of their room, so that a new one is a file and nothing else. Another package names what
it brings in its pyproject.toml, and is found once it is installed:

    [project.entry-points."attar.methods"]
    means = "outside_method:MatchedMeans"

The groups are attar.methods, attar.knowledge, attar.models, attar.strategies, attar.codecs, attar.sources,
attar.readers and attar.protocols. Python functions take the classes and functions themselves, too. Needs no torch;
code of other packages runs when its name, or all of a group, is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol, TypeVar

from attar.errors import ConfigError, unknown

_ROOMS: Mapping[str, str] = {
    "attar.methods": "attar.methods",
    "attar.knowledge": "attar.squeeze.knowledge",
    "attar.models": "attar.models.factory",
    "attar.strategies": "attar.training.strategies",
    "attar.codecs": "attar.labels.codecs",
    "attar.sources": "attar.data.named",
    "attar.readers": "attar.data.readers",
    "attar.protocols": "attar.protocols",
}
"""Where the registry of each group is made."""


class Named(Protocol):
    """What has a name of its own."""

    @property
    def name(self) -> str:
        """As it is typed."""


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T]):
    """Things of one kind by name: ours, then those of other packages, then those that were handed over.

    Args:
        group: the name of the entry points.
        what: one of them in a word, for errors.
        own: finds ours.
        accept: makes of an object and the name that its package gives it (empty where a program hands it over) one
            of the kind, or raises ConfigError with what it lacks.
    """

    _made: ClassVar[dict[str, Registry[Any]]] = {}

    def __init__(self, group: str, what: str, own: Callable[[], Iterable[T]], accept: Callable[[Any, str], T]) -> None:
        self.group, self.what, self._own, self._accept = group, what, own, accept
        self._added: dict[str, T] = {}
        self._loaded: dict[str, T] = {}
        Registry._made[group] = self

    def __getitem__(self, name: str) -> T:
        return self.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._added or name in outside(self.group)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    @classmethod
    def of(cls, group: str) -> Registry[Any]:
        """The registry of a group; the modules of its room are imported for it."""
        importlib.import_module(_ROOMS[group])
        return cls._made[group]

    @cached_property
    def own(self) -> dict[str, T]:
        """Those of attar itself, by name."""
        return {thing.name: thing for thing in sorted(self._own(), key=lambda thing: thing.name)}

    def all(self) -> dict[str, T]:
        """Every one that can be had, by name; what another package names and cannot load is left out."""
        found = dict(self.own)
        for name in outside(self.group):
            try:
                found.setdefault(name, self.find(name))
            except ConfigError:
                continue
        return found | self._added

    def names(self) -> list[str]:
        """Every name; no other package is imported for it."""
        return list(dict.fromkeys([*self.own, *outside(self.group), *self._added]))

    def find(self, name: str, beside: Sequence[str] = ()) -> T:
        """The one of this name; ConfigError with the nearest names, of which `beside` are further ones."""
        if name in self.own:
            return self.own[name]
        if name in self._added:
            return self._added[name]
        points = outside(self.group).get(name, ())
        if not points:
            raise unknown(self.what, name, [*beside, *self.names()])
        if len(points) > 1:
            raise ConfigError(
                f"{' and '.join(map(package, points))} both bring a {self.what} {name!r}",
                expected="one of that name",
                fix="uninstall one of them",
            )
        if name not in self._loaded:
            self._loaded[name] = self._load(points[0])
        return self._loaded[name]

    def was_given(self, name: str) -> bool:
        """Whether a program has handed over the one of this name."""
        return name in self._added

    def add(self, thing: Any) -> str:
        """Take what a program hands over, in place of an earlier one of its name; returns the name."""
        found = self._accept(thing, "")
        if found.name in self.own or found.name in outside(self.group):
            if self.find(found.name) is found:
                return found.name
            raise ConfigError(
                f"there is a {self.what} {found.name!r} already",
                expected="a name that is not taken",
                fix=f"give {getattr(thing, '__qualname__', type(thing).__qualname__)} another one",
            )
        self._added[found.name] = found
        return found.name

    def _load(self, point: EntryPoint) -> T:
        try:
            return self._accept(point.load(), point.name)
        except ConfigError:
            raise
        except Exception as error:  # whatever another package's code raises
            raise ConfigError(
                f"the {self.what} {point.name!r} of {package(point)} can't be loaded: {type(error).__name__}: {error}",
                expected=f"{point.value} of that package",
                fix="upgrade that package, or uninstall it",
            ) from error


def outside(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """What other packages bring to a group, by name, none of it loaded."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in _points(group):
        if point not in (known := found.get(point.name, ())):
            found[point.name] = (*known, point)
    return found


@cache
def _points(group: str) -> Sequence[EntryPoint]:
    """Looked for once in a process, as that takes 10 ms and more."""
    return sorted(entry_points(group=group), key=lambda point: point.name)


def package(point: EntryPoint) -> str:
    """The package that an entry point is of, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def summary(point: EntryPoint) -> str:
    """A line on what an entry point is, without loading it."""
    told = point.dist.metadata["Summary"] if point.dist and "Summary" in point.dist.metadata else None
    return f"{told} ({package(point)})" if told else f"of {package(point)}"


def handed_over(group: str, value: Any) -> Any:
    """A name as it is; of anything else, the name under which it is from now on known."""
    return value if isinstance(value, str) else Registry.of(group).add(value)


def found_here_alone(group: str, name: str) -> bool:
    """Whether this program gave what has this name, so that no other process finds it."""
    return Registry.of(group).was_given(name)


def classes_in(room: str, kind: type[Any]) -> list[Any]:
    """The finished classes of a kind that the files of a package define: not abstract, not private, with a name."""
    found = []
    for info in pkgutil.iter_modules(importlib.import_module(room).__path__):
        module = importlib.import_module(f"{room}.{info.name}")
        found += [thing for thing in vars(module).values() if _is_finished(thing, kind, module.__name__)]
    return found


def require_class(thing: Any, kind: type[Any], what: str, has: Sequence[str] = ("name",)) -> Any:
    """A class that is whole, or ConfigError with what it lacks."""
    if not inspect.isclass(thing) or not issubclass(thing, kind):
        raise ConfigError(f"{thing!r} is no {what}", expected=f"a name, or a subclass of {kind.__name__}")
    lacks = sorted(getattr(thing, "__abstractmethods__", ()))
    lacks += [name for name in has if not hasattr(thing, name)]
    if lacks:
        raise ConfigError(f"the {what} {thing.__qualname__} lacks {', '.join(lacks)}", fix="define it in the class")
    return thing


def _is_finished(thing: Any, kind: type[Any], module: str) -> bool:
    return (
        inspect.isclass(thing)
        and issubclass(thing, kind)
        and thing.__module__ == module
        and not inspect.isabstract(thing)
        and not thing.__name__.startswith("_")
        and isinstance(getattr(thing, "name", None), str)
    )
