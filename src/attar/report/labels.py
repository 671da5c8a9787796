"""What the labels of a distilled dataset are and what they weigh, in a few sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attar.errors import ArtifactError
from attar.labels.plan import LabelPlan
from attar.plain import is_number
from attar.report.collect import ReportData, mapping
from attar.report.formats import count, size

FP16_BYTES = 2
COUNTS = ("num_classes", "num_images", "num_epochs")
MOST = 10**8


def label_story(data: ReportData) -> str:
    """Kind, codec, bytes, error and share of the whole size; empty where nothing is known of the labels."""
    labels = mapping(data.description.get("labels"))
    tell = {"hard": _hard, "soft": _soft, "epochs": _epochs, "online": _online}.get(str(labels.get("kind")))
    return " ".join([*tell(data, labels), *_share(data)]) if tell else ""


def _hard(data: ReportData, labels: Mapping[str, Any]) -> Iterator[str]:
    yield "Hard labels: training is told the class of each image."


def _soft(data: ReportData, labels: Mapping[str, Any]) -> Iterator[str]:
    num_bytes = FP16_BYTES * len(data.class_names)
    yield f"Soft labels: the probabilities of all classes, one label an image, {count(num_bytes)} bytes each (float16)."


def _epochs(data: ReportData, labels: Mapping[str, Any]) -> Iterator[str]:
    if data.outside and not data.outside.ours:
        num = labels["num_epochs"] if isinstance(labels.get("num_epochs"), int) else 1
        yield f"Soft labels by epoch, as another program stored them: a teacher’s logits on {count(num)} augmented"
        yield "views of each image."
        return
    stored = dict(mapping(labels.get("stored")))
    if not all(isinstance(stored.get(name), int) and 0 < stored[name] <= MOST for name in COUNTS):
        raise ArtifactError(
            "attar.json does not say how many labels are stored",
            expected=f"`labels.stored` with {', '.join(COUNTS)}",
            fix="attar verify names what is damaged",
        )
    plan = LabelPlan.from_json(stored)
    kept = f", {plan.keep} numbers a label" if plan.keep else ""
    views = f"{count(plan.num_epochs)} augmented view{'s' if plan.num_epochs != 1 else ''} of each image"
    yield f"Soft labels by epoch: the teacher’s logits on {views}, {count(plan.bytes_per_label)} bytes per image and"
    yield f"epoch (codec {plan.codec}{kept})."
    yield from _read_back(mapping(labels.get("error")))
    asked = data.settings.get("train", {}).get("epochs")
    epochs = max(plan.num_epochs, round(asked) if is_number(asked) else 0)
    if epochs > plan.num_epochs:
        yield f"Training for {count(epochs)} epochs takes them again in other pairings."
    fp16 = FP16_BYTES * plan.num_classes * plan.num_images * epochs
    if plan.total_bytes < fp16:
        times = f"{fp16 / plan.total_bytes:.3g} times as much"
        yield f"Full float16 logits for every epoch of training would take {size(fp16)}, {times}."


def _read_back(error: Mapping[str, Any]) -> Iterator[str]:
    if all(is_number(error.get(name)) for name in ("max_abs", "kl_1", "kl_20")):
        yield f"Read back, no centred logit is off by more than {error['max_abs']:.2g}; the mean KL divergence of the"
        yield f"probabilities is {error['kl_1']:.2g} at temperature 1 and {error['kl_20']:.2g} at 20."


def _online(data: ReportData, labels: Mapping[str, Any]) -> Iterator[str]:
    yield "Soft labels made in training: the teacher comes along and labels augmented views of the images."


def _share(data: ReportData) -> Iterator[str]:
    """What images, labels and the rest are of the size that is quoted."""
    sizes = data.sizes_bytes
    total = sizes.get("total") or sum(sizes.values())
    names = ("images", "labels", "teacher", "whitening")
    parts = [f"{name} {100 * sizes[name] / total:.1f} %" for name in names if sizes.get(name)]
    if total and parts:
        yield f"The {size(total)} that are quoted count all that training needs: {', '.join(parts)}."
