"""What `auto` chooses: the first rule that fits the images. Measured by `python benchmarks/default.py`."""

from __future__ import annotations

from dataclasses import dataclass

from attar.task import Task


@dataclass(frozen=True)
class Rule:
    """Where a method is chosen: up to these numbers, where there are any."""

    method: str
    why: str
    min_px: int = 1
    max_px: int | None = None
    min_ipc: int = 1
    hard_only: bool = False
    """Not where soft labels are asked for."""
    soft_only: bool = False
    """Only there."""
    colour_only: bool = False
    """Not for grey images."""
    minutes_only: bool = False
    """Not where a run may take hours."""
    max_classes: int | None = None
    """Not where there are more."""
    max_images: int | None = None
    """Synthetic images, of all classes together."""
    max_px_cpu: int | None = None
    max_images_cpu: int | None = None
    """The same on a CPU, where less can be optimised in a reasonable time."""

    def fits(self, task: Task, ipc: int, *, on_cpu: bool, soft: bool = False, minutes: bool = True) -> bool:
        """Whether the images are within its numbers, and the labels and the time those that it is for."""
        if self.minutes_only and not minutes:
            return False
        if (self.hard_only if soft else self.soft_only) or (self.colour_only and task.channels == 1):
            return False
        size_px, num = max(task.height_px, task.width_px), task.num_classes * ipc
        most_px, most = (self.max_px_cpu, self.max_images_cpu) if on_cpu else (self.max_px, self.max_images)
        few = self.max_classes is None or task.num_classes <= self.max_classes
        fits = few and ipc >= self.min_ipc and size_px >= self.min_px
        return fits and (most_px is None or size_px <= most_px) and (most is None or num <= most)


RULES = (
    Rule(
        "kmeans",
        "on images so small nothing was ahead of well-chosen real ones at ten a class: this is a coreset",
        max_px=16,
        max_px_cpu=16,
        min_ipc=10,
    ),
    Rule(
        "dm",
        "within minutes on a CPU, matching mean features of random networks by images that hold four small ones was "
        "ahead of random images, of every coreset and of trajectory matching",
        min_px=24,
        max_classes=100,
        max_images=0,
        max_px_cpu=32,
        max_images_cpu=500,
        hard_only=True,
        minutes_only=True,
    ),
    Rule(
        "cim",
        "with soft labels four easy real images in each, changed until each has the features of its whole, were ahead "
        "on a CPU of random images, of the easiest ones and of trajectory matching",
        min_px=24,
        max_classes=20,
        max_images=0,
        max_px_cpu=64,
        max_images_cpu=500,
        soft_only=True,
        colour_only=True,
    ),
    Rule(
        "cim",
        "with one or two images of each of many classes four easy real images in each, changed until each has the "
        "features of its whole, were ahead on a CPU of random images under class labels, not behind under soft ones",
        min_px=24,
        max_images=0,
        max_px_cpu=64,
        max_images_cpu=200,
        soft_only=True,
        colour_only=True,
    ),
    Rule(
        "tesla",
        "trajectory matching makes the strongest images known, for few enough of them",
        max_px=64,
        max_images=1000,
        max_px_cpu=32,
        max_images_cpu=100,
    ),
    Rule(
        "dm",
        "for so many images trajectories take too long on a CPU; matching mean features of random networks was level "
        "there with the best coreset and ahead of the others",
        max_images=0,
        max_px_cpu=32,
        max_images_cpu=500,
        min_ipc=10,
        hard_only=True,
    ),
    Rule(
        "dm",
        "within minutes on a CPU, matching mean features of random networks by images that hold four small ones was "
        "far ahead of random images and of every coreset",
        max_images=0,
        max_px_cpu=64,
        max_images_cpu=100,
        hard_only=True,
        colour_only=True,
        minutes_only=True,
    ),
    Rule(
        "cim",
        "on a CPU four easy real images in each, changed until each has the features of its whole, were ahead of "
        "random images and of the easiest ones, and with 200 classes of mean features",
        min_px=24,
        max_images=0,
        max_px_cpu=64,
        max_images_cpu=500,
        hard_only=True,
        colour_only=True,
    ),
    Rule(
        "pca",
        "images so large or so many take hours to optimise on a CPU; real ones that a short training finds easy, "
        "four to an image, were ahead there of all that were stored whole",
        min_px=33,
        max_images=0,
        hard_only=True,
        colour_only=True,
    ),
    Rule(
        "easy",
        "within minutes on a CPU nothing was far ahead, of so many images, of the real ones that a teacher is surest "
        "of: this is a coreset",
        max_images=0,
        colour_only=True,
    ),
    Rule(
        "kmeans",
        "images so large or so many take hours to optimise on a CPU, and within minutes nothing was ahead of "
        "well-chosen real images: this is a coreset",
        max_images=0,
    ),
    Rule(
        "rded",
        "beyond 64 px or 1,000 images trajectory matching costs too much; the real patches that a teacher is surest of "
        "cost little and train well with its labels",
    ),
)


MEASURED = "as measured on digits, CIFAR-10, Tiny-ImageNet and ten classes of ImageNet"
"""On what the rules' words hold; another dataset may differ."""


def choose_method(task: Task, ipc: int, *, on_cpu: bool, soft: bool = False, minutes: bool = True) -> tuple[str, str]:
    """Choose a method by the images, their number, the device, whether labels are soft and whether time is short.

    Returns its name and why.
    """
    rule = next(rule for rule in RULES if rule.fits(task, ipc, on_cpu=on_cpu, soft=soft, minutes=minutes))
    height, width = task.height_px, task.width_px
    size = str(height) if height == width else f"{width}x{height}"
    facts = f"{size} px, {task.num_classes} classes, {ipc} image{'s' * (ipc > 1)} per class"
    return rule.method, f"{rule.method} for {facts}: {rule.why} ({MEASURED})"
