"""What an event is of: an expert, a chunk of images, the training of a student. Its name is for a person.

In the log of a run the name is `item` and the fields are `about`, lest a number of theirs be taken for a measured one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from attar.plain import COUNT, SHARE, TEXT, TRUTH, WHOLE, Field, one_of, problem
from attar.results.records import Labels

Kind = Literal["network", "expert", "member", "chunk", "student", "cell"]


@dataclass(frozen=True)
class Item:
    """Something that numbers over steps are of.

    `kind` is `network` (a teacher, or what `attar train` trains), `expert`, `member` of a pool, `chunk` of images,
    `student` in an evaluation or `cell` of a study.
    """

    name: str
    """For a person; no two items of a stage share it."""
    kind: Kind = "network"
    family: str = ""
    """What a person calls all of those that differ by their number or seed only; empty: it stands alone."""
    number: int | None = None
    network: str | None = None
    """The network that is trained, by its name."""
    group: str | None = None
    """Of what kind the images are that a student is trained on; with `labels` and `augmented` as those of a record."""
    labels: Labels | None = None
    augmented: bool = True
    state: int | None = None
    """Step of recover after which these images were as they are; None: after the last."""
    arrival: int | None = None
    """Step of continual learning, from 1."""
    strategy: str | None = None
    """With `variant` and `label_noise`: the place in a study."""
    variant: str | None = None
    label_noise: float | None = None
    seed: int | None = None

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
_FIELDS: Mapping[str, Field] = {
    "kind": one_of(Kind),
    "family": TEXT,
    "number": COUNT,
    "network": TEXT,
    "group": TEXT,
    "labels": one_of(Labels),
    "augmented": TRUTH,
    "state": COUNT,
    "arrival": COUNT,
    "strategy": TEXT,
    "variant": TEXT,
    "label_noise": SHARE,
    "seed": WHOLE,
}


def item_of(event: Mapping[str, Any]) -> Item | None:
    """The item of an event, NO_ITEM where it names none; None where its fields make no sense."""
    name, about = event.get("item"), event.get("about", {})
    if not (name is None or isinstance(name, str)) or problem(about, _FIELDS):
        return None
    return Item(name or "", **about)


def chunk_item(number: int) -> Item:
    """A chunk of the images that are recovered."""
    return Item(f"chunk {number}", "chunk", "chunk", number)
