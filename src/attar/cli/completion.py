"""What the shell offers when a name is typed: read from the catalogue, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attar.marks import Completes


def completer(kind: Completes) -> Callable[[str], list[str]]:
    """A function that gives the names of a kind that begin as what has been typed."""

    def complete(incomplete: str) -> list[str]:
        head, comma, rest = incomplete.rpartition(",")
        return [head + comma + name for name in _names(kind) if name.startswith(rest)]

    return complete


def _names(kind: Completes) -> Iterator[str]:
    from attar import catalogue

    match kind:
        case "":
            return
        case "settings":
            yield from (f"{name}=" for name in catalogue.setting_names())
        case "names":
            for one in ("methods", "strategies", "protocols", "recipes", "models"):
                yield from _names(one)
            yield from catalogue.section_names()
        case _:
            yield from (name for name, _ in catalogue.names(kind) if not name.isupper() and ":" not in name)
