"""Write how many parameters each network has, and which normalisation: `python tools/networks.py [FAMILY ...]`.

Writes src/attar/models/sizes.json, from which `attar list models` and `attar show` answer without torch. Networks are
built without memory, those of attar for 10 classes at 32 px, those of torchvision and timm for 1,000 classes at 224 px;
what cannot be built so is left out. Run it with a newer torchvision or timm; timm's take about ten minutes.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch

from attar.described import EXAMPLE, IMAGENET, norms_of
from attar.models import factory
from attar.models.names import FAMILIES, library_names

SIZES = Path(__file__).parents[1] / "src" / "attar" / "models" / "sizes.json"


def sizes(family: factory.Family) -> dict[str, tuple[int, str]]:
    """Parameters and normalisation of every network of a family that can be built."""
    own = family == "attar"
    names, shown = (factory.names("attar"), EXAMPLE) if own else (library_names(family), IMAGENET)
    found = {}
    for name in names:
        try:
            with torch.device("meta"):
                model = factory.bare(family, name, shown)
            found[name] = factory.num_parameters(model), norms_of(model)
        except Exception as error:  # the libraries' own, of any kind
            print(f"left out: {family}:{name}: {type(error).__name__}", file=sys.stderr)
    return found


def main() -> None:
    """Replace the families that are named, or all."""
    warnings.simplefilter("ignore")
    known = json.loads(SIZES.read_text("utf-8")) if SIZES.exists() else {}
    families: tuple[factory.Family, ...] = ("attar", *FAMILIES)
    for family in sys.argv[1:] or families:
        known[family] = sizes(family)
        lines = (
            f'"{family}": {{\n' + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in own.items()) + "\n}"
            for family, own in known.items()
        )
        SIZES.write_text("{" + ",\n".join(lines) + "}\n", "utf-8")


if __name__ == "__main__":
    main()
