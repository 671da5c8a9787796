"""Write how many parameters each network has, and which normalisation: `python tools/networks.py [LIBRARY ...]`.

Writes src/attar/models/sizes.json, from which `attar list models` and `attar show` answer without torch. Networks of
torchvision and timm are built without memory for 1,000 classes at 224 px; what cannot be built so is left out. Run it
with a newer torchvision or timm; timm's take about ten minutes.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from attar.described import IMAGENET, norms_of
from attar.models import factory
from attar.models.names import FAMILIES, library_names

Library = Literal["torchvision", "timm"]
SIZES = Path(__file__).parents[1] / "src" / "attar" / "models" / "sizes.json"


def sizes(family: Library) -> dict[str, tuple[int, str]]:
    """Parameters and normalisation of every network of a library that can be built."""
    found = {}
    for name in library_names(family):
        try:
            model = built(family, name)
            found[name] = factory.num_parameters(model), norms_of(model)
        except Exception as error:  # the libraries' own, of any kind
            print(f"left out: {family}:{name}: {type(error).__name__}", file=sys.stderr)
    return found


def built(family: Library, name: str) -> torch.nn.Module:
    """A network without memory for its weights."""
    for without_memory in (torch.device("meta"), _Weights()):
        with suppress(RuntimeError), without_memory:
            return factory.bare(family, name, IMAGENET)
    raise RuntimeError(f"{name} cannot be built without memory")


class _Weights(TorchFunctionMode):
    """Weights alone are without memory: builders such as RegNet's reckon with other tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **({**(kwargs or {}), "device": "meta"} if func is torch.empty else kwargs or {}))


def main() -> None:
    """Replace the libraries that are named, or all."""
    warnings.simplefilter("ignore")
    known = json.loads(SIZES.read_text("utf-8")) if SIZES.exists() else dict[str, Any]()
    for family in FAMILIES:
        if family in sys.argv[1:] or not sys.argv[1:]:
            known[family] = sizes(family)
        lines = (
            f'"{family}": {{\n' + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in own.items()) + "\n}"
            for family, own in known.items()
        )
        SIZES.write_text("{" + ",\n".join(lines) + "}\n", "utf-8")


if __name__ == "__main__":
    main()
