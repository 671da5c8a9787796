"""What an event is of: an expert, a chunk of images, the training of a student. Its name is for a person.

In the log of a run the name is `item` and the fields are `about`, lest a number of theirs be taken for a measured one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from attar.plain import Count, Share, Text, Truth, Whole, exact
from attar.results.records import Labels

Kind = Literal["network", "expert", "member", "chunk", "student", "cell"]


@exact
@dataclass(frozen=True)
class Item:
    """Something that numbers over steps are of.

    `kind` is `network` (a teacher, or what `attar train` trains), `expert`, `member` of a pool, `chunk` of images,
    `student` in an evaluation or `cell` of a study.
    """

    name: Text
    """For a person; no two items of a stage share it."""
    kind: Kind = "network"
    family: Text = ""
    """What a person calls all of those that differ by their number or seed only; empty: it stands alone."""
    number: Count | None = None
    network: Text | None = None
    """The network that is trained, by its name."""
    group: Text | None = None
    """Of what kind the images are that a student is trained on; with `labels` and `augmented` as those of a record."""
    labels: Labels | None = None
    augmented: Truth = True
    state: Count | None = None
    """Step of recover after which these images were as they are; None: after the last."""
    arrival: Count | None = None
    """Step of continual learning, from 1."""
    strategy: Text | None = None
    """With `variant` and `label_noise`: the place in a study."""
    variant: Text | None = None
    label_noise: Share | None = None
    seed: Whole | None = None

    @property
    def short_name(self) -> str:
        """For a person who knows the network."""
        return f"{self.family}/seed {self.seed}" if self.kind == "student" else self.name

    def fields(self) -> dict[str, Any]:
        """Fields of an event: `item`, the name, and `about`, all else that says something."""
        told = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return {"item": told.pop("name", ""), "about": told}


NO_ITEM = Item("")
"""Of a stage whose work is one."""


@cache
def _checker() -> TypeAdapter[Item]:
    return TypeAdapter(Item)


def item_of(event: Mapping[str, Any]) -> Item | None:
    """The item of an event, NO_ITEM where it names none; None where its fields make no sense."""
    name, about = event.get("item"), event.get("about", {})
    try:
        return _checker().validate_python({**about, "name": "" if name is None else name})
    except (TypeError, ValidationError):
        return None


def chunk_item(number: int) -> Item:
    """A chunk of the images that are recovered."""
    return Item(f"chunk {number}", "chunk", "chunk", number)
