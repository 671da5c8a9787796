"""Names of a checkpoint's tensors brought to those of a network that computes the same.

Programs that train on CIFAR call the same ResNet's parts differently:

    stem                conv1, bn1; conv1.0, conv1.1; stem.0, stem.1
    stages              layer1.0; conv2_x.0
    within a block      conv1, bn1; residual_function.0, residual_function.1
    other shortcuts     downsample.0; shortcut.0
    last layer          fc, linear, classifier, head; of the other names only where nothing else is called so

Both sides are written in one of these ways and meet there. Shapes are compared by who loads them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor


def _stage(found: re.Match[str]) -> str:
    return f"stage{int(found[1]) + 1}."


_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^(?:stem|conv1)\.0\.", "conv1."),
        (r"^(?:stem|conv1)\.1\.", "bn1."),
        (r"^stem\.(?=weight$|bias$)", "conv1."),
        (r"^conv([2-5])_x\.", r"stage\1."),
        (r"^layer([1-4])\.", _stage),
        (r"\.residual_function\.0\.", ".conv1."),
        (r"\.residual_function\.1\.", ".bn1."),
        (r"\.residual_function\.3\.", ".conv2."),
        (r"\.residual_function\.4\.", ".bn2."),
        (r"\.residual_function\.6\.", ".conv3."),
        (r"\.residual_function\.7\.", ".bn3."),
        (r"\.(?:shortcut|downsample)\.", ".shortcut."),
        (r"^(?:fc|linear|classifier|head|last_linear|output|logits)\.(?=weight$|bias$)", "fc."),
    )
)


def renamed(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """The state under the names `expected`, as far as its own names say which is which; the others are left alone."""
    expected = set(expected)
    ours = _unique({name: _common(name) for name in expected - state.keys()})
    theirs = _unique({name: _common(name) for name in state if name not in expected})
    found = {theirs[common]: ours[common] for common in ours.keys() & theirs.keys()}
    return {found.get(name, name): value for name, value in state.items()}


def without_prefix(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Strip what every name begins with (`module.`, `_orig_mod.`, `model.`) until names meet those of the network."""
    known = {*expected, *map(_common, expected)}
    while state and not any(name in known or _common(name) in known for name in state):
        heads = {name.partition(".")[0] for name in state}
        if len(heads) > 1 or not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return dict(state)


def _common(name: str) -> str:
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name


def _unique(common: Mapping[str, str]) -> dict[str, str]:
    """Names by what they have in common with the other side's, where that is one name's alone."""
    counts = Counter(common.values())
    return {value: name for name, value in common.items() if counts[value] == 1}
