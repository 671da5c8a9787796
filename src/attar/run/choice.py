"""What `auto` chooses: the first rule that fits the images. Measured by `python benchmarks/default.py`."""

from __future__ import annotations

from dataclasses import dataclass

from attar.task import Task


@dataclass(frozen=True)
class Rule:
    """Where a method is chosen: up to these numbers, where there are any."""

    method: str
    why: str
    max_px: int | None = None
    max_images: int | None = None
    """Synthetic images, of all classes together."""

    def fits(self, task: Task, ipc: int) -> bool:
        """Whether the images are within its numbers."""
        size_px, num = max(task.height_px, task.width_px), task.num_classes * ipc
        return (self.max_px is None or size_px <= self.max_px) and (self.max_images is None or num <= self.max_images)


RULES = (
    Rule(
        "tesla",
        "up to 64 px and 1,000 synthetic images, trajectory matching makes the strongest images known",
        max_px=64,
        max_images=1000,
    ),
    Rule(
        "rded",
        "beyond 64 px or 1,000 images trajectory matching costs too much; the real patches that a teacher is surest of "
        "cost little and train well with its labels",
    ),
)


def choose_method(task: Task, ipc: int) -> tuple[str, str]:
    """Choose a method by resolution, classes and images per class; returns its name and why."""
    rule = next(rule for rule in RULES if rule.fits(task, ipc))
    size_px = max(task.height_px, task.width_px)
    facts = f"{size_px} px, {task.num_classes} classes, {ipc} image{'s' * (ipc > 1)} per class"
    return rule.method, f"{rule.method} for {facts}: {rule.why}"
