"""attar distills large image datasets into small synthetic ones, and trains and judges models on them.

import attar

result = attar.distill("digits", ipc=1)
tiny = attar.load(result.distilled)
print(result.verdict, tiny.images.shape)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attar.version import __version__

if TYPE_CHECKING:
    from attar.api import (
        Distillation,
        Event,
        Submitted,
        Training,
        bench,
        compare,
        continual,
        distill,
        evaluate,
        experts,
        export,
        import_,
        list_datasets,
        list_methods,
        list_models,
        list_recipes,
        list_strategies,
        load,
        open,
        plan,
        plan_study,
        push,
        resume,
        study,
        submit,
        train,
        verify,
        write_report,
    )

__all__ = [
    "Distillation",
    "Event",
    "Submitted",
    "Training",
    "__version__",
    "bench",
    "compare",
    "continual",
    "distill",
    "evaluate",
    "experts",
    "export",
    "import_",
    "list_datasets",
    "list_methods",
    "list_models",
    "list_recipes",
    "list_strategies",
    "load",
    "open",
    "plan",
    "plan_study",
    "push",
    "resume",
    "study",
    "submit",
    "train",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # torch is imported at the first use, so that `attar --help` answers at once
    if name in __all__:
        from attar import api

        return getattr(api, name)
    raise AttributeError(f"module 'attar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
