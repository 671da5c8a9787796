"""What recipes call published is published: a table of facts, read from papers and from the authors' code.

A recipe that claims published settings, whole or in part, has a row for each value that it claims. Sources: METHODS of
the papers; for SRe2L its scripts (recover*.sh, relabel.sh, train_FKD.sh, squeeze_cifar.py, relabel_cifar.py) and those
of its authors' tiny-imagenet repository (train_rn18.sh, train_kd.sh); for RDED argument.py, validation/main.py and
scripts/; for trajectory matching the table in MTT's appendix, buffer.py, distill.py and TESLA's README, and
configs/ of DATM and PAD; for distribution matching main_DM.py and utils.py; for FADRM its scripts (recover/, relabel/,
validate/), recover.py and train_fkd.py; for NCFM config/ and pretrain_script.py; for CIM argument.py, condense.py and
scripts/.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from attar.run.settings import recipes, resolve

RECIPES = recipes()
CLAIM = re.compile(
    r"as\s+(#\s+)?published|authors'\s+(#\s+)?(scripts|settings)|SRe2L's\s+scripts|authors\s+(#\s+)?publish|those\s+of\s+SRe2L"
)
"""How a recipe says that its settings are somebody else's."""

Facts = dict[str, Any]


def facts(*parts: Facts, **more: Any) -> Facts:
    """Facts of several parts; `section__field` in place of `section.field`."""
    return {key: value for part in parts for key, value in part.items()} | {
        key.replace("__", "."): value for key, value in more.items()
    }


# --- SRe2L and RDED -----------------------------------------------------------------------------------------------

TEACHER_32 = facts(
    squeeze__epochs=200,
    squeeze__batch_size=128,
    squeeze__optimizer="sgd",
    squeeze__learning_rate=0.1,
    squeeze__momentum=0.9,
    squeeze__weight_decay=5e-4,
    squeeze__schedule="cosine",
    squeeze__schedule_by="epoch",
    squeeze__warmup_epochs=0,
    squeeze__augment="flip_crop",
    squeeze__augment_per="image",
)
TEACHER_64 = facts(
    squeeze__epochs=50,
    squeeze__batch_size=256,
    squeeze__optimizer="sgd",
    squeeze__learning_rate=0.2,
    squeeze__momentum=0.9,
    squeeze__weight_decay=1e-4,
    squeeze__schedule="cosine",
    squeeze__schedule_by="epoch",
    squeeze__warmup_epochs=5,
    squeeze__warmup_start=0.01,
    squeeze__augment="rrc_flip",
    squeeze__augment_per="image",
)
RELEASED = {"squeeze.model": "resnet18", "squeeze.weights": "IMAGENET1K_V1"}
RECOVER = facts(
    method__first_weight=10.0,
    method__alpha_tv=0.0,
    method__alpha_l2=0.0,
    method__curriculum=0.0,
    method__start="noise",
    recover__optimizer="adam",
    recover__momentum=0.5,
    recover__schedule="cosine",
    recover__chunk_size=100,
)
RECOVER_32 = facts(
    RECOVER,
    method__alpha_bn=0.01,
    method__lr_images=0.25,
    method__crop=False,
    method__flip=False,
    method__roll_px=4,
    recover__iterations=1000,
)
CROPS = facts(method__crop=True, method__flip=True, method__crop_min_scale=0.08)
LONG = {"recover.iterations": 4000}
RECOVER_64 = facts(RECOVER, CROPS, LONG, method__alpha_bn=1.0, method__lr_images=0.1, method__roll_px=4)
RECOVER_224 = facts(RECOVER, CROPS, LONG, method__alpha_bn=0.01, method__lr_images=0.25, method__roll_px=32)
ADAMW = facts(
    train__optimizer="adamw",
    train__learning_rate=1e-3,
    train__weight_decay=0.01,
    train__schedule="cosine",
    train__schedule_by="epoch",
    train__warmup_epochs=0,
    train__temperature_squared=False,
)
STUDENT_32 = facts(
    ADAMW,
    relabel__mix="mixup",
    relabel__mix_alpha=0.8,
    train__epochs=400,
    train__decay_norms=True,
    train__cosine_part=1.0,
    train__temperature=30.0,
)
STUDENT_64 = facts(
    relabel__labels="online",
    relabel__mix="none",
    relabel__min_scale=0.08,
    train__epochs=100,
    train__batch_size=256,
    train__accumulate=1,
    train__optimizer="sgd",
    train__learning_rate=0.2,
    train__momentum=0.9,
    train__weight_decay=1e-4,
    train__decay_norms=True,
    train__schedule="cosine",
    train__schedule_by="epoch",
    train__warmup_epochs=5,
    train__warmup_start=0.01,
    train__temperature=20.0,
    train__temperature_squared=True,
)
STUDENT_224 = facts(
    ADAMW,
    relabel__mix="cutmix",
    relabel__mix_alpha=1.0,
    relabel__min_scale=0.08,
    relabel__epochs=300,
    train__epochs=300,
    train__batch_size=512,
    train__accumulate=2,
    train__decay_norms=False,
    train__cosine_part=1.0,
    train__temperature=20.0,
)
RDED = facts(
    ADAMW,
    method__candidates=300,
    method__crops_per_image=5,
    method__crop_min_scale=0.08,
    method__pick="sure",
    relabel__mix="cutmix",
    relabel__mix_alpha=1.0,
    train__epochs=300,
    train__accumulate=1,
    train__decay_norms=False,
    train__cosine_part=0.5,
    train__temperature=20.0,
    evaluate__test_every=10,
)
WHOLE = facts(method__patches_per_image=1, relabel__min_scale=1.0, relabel__shuffle_patches=1)
STITCHED = facts(method__patches_per_image=4, relabel__min_scale=0.5, relabel__shuffle_patches=2)


def blocks(rate: float, roll: int, sides: tuple[float, ...], *, epochs: int, part: float) -> Facts:
    """FADRM's rate, roll, sides of its blocks of 500 steps, and the epochs and the part of the cosine of students."""
    return facts(
        ADAMW,
        RECOVER,
        CROPS,
        method__start="patches",
        method__residual=0.5,
        method__sides=sides,
        method__alpha_bn=0.01,
        method__lr_images=rate,
        method__roll_px=roll,
        recover__iterations=500 * len(sides),
        recover__second_beta=0.9,
        relabel__mix="cutmix",
        relabel__mix_alpha=1.0,
        relabel__min_scale=0.08,
        train__epochs=epochs,
        train__batch_size=8,
        train__accumulate=2,
        train__decay_norms=False,
        train__cosine_part=part,
        train__temperature=20.0,
        evaluate__test_every=10,
    )


# --- Trajectory matching ------------------------------------------------------------------------------------------


def matched(steps: int, epochs: int, starts: int, *, zca: bool, batch: int | None = None, rate: float = 0.01) -> Facts:
    """N, M, T+, whitening, synthetic batch and first β of one row; experts, matching and judging are as everywhere."""
    return facts(
        source__zca=zca,
        squeeze__num_experts=100,
        squeeze__epochs=50,
        squeeze__batch_size=256,
        squeeze__learning_rate=0.01,
        squeeze__augment="dsa",
        squeeze__augment_per="operation",
        method__num_steps=steps,
        method__expert_epochs=epochs,
        method__max_start_epoch=starts,
        method__batch_size=batch,
        method__initial_rate=rate,
        method__augment="dsa",
        method__augment_per="operation",
        method__labels="hard",
        recover__iterations=5000,
        recover__momentum=0.5,
        train__epochs=1000,
        train__batch_size=256,
        train__optimizer="sgd",
        train__momentum=0.9,
        train__weight_decay=5e-4,
        train__schedule="step",
        train__augment="dsa",
        train__augment_per="operation",
        evaluate__seeds=5,
        evaluate__use_learned_rate=True,
        evaluate__best_over_run=True,
    )


WIDTH_32, WIDTH_64 = {"squeeze.model": "convnet-d3-w128"}, {"squeeze.model": "convnet-d4-w128"}
IMAGENET_64 = facts(
    matched(10, 3, 10, zca=False, batch=100),
    WIDTH_64,
    source__resolution=64,
    squeeze__num_experts=50,
    method__labels="expert",
    recover__iterations=10_000,
)
OURS_IN_WIDER_SETS = ("method.num_steps", "method.max_start_epoch", "method.batch_size")
"""TESLA publishes a command for one image a class of ImageNet-1K alone."""
IMAGENET_64_WIDER = {key: value for key, value in IMAGENET_64.items() if key not in OURS_IN_WIDER_SETS}


def aligned(starts: tuple[int | None, int], labels: float, limit: float, images: float, *, zca: bool) -> Facts:
    """T+ at the beginning and the end, rates of labels and images, and the limit of the loss in one row of DATM's."""
    return facts(
        matched(80, 2, starts[1], zca=zca),
        WIDTH_32,
        method__initial_max_start_epoch=starts[0],
        method__start="right",
        method__labels="learnt",
        method__label_start="expert",
        method__label_momentum=0.9,
        method__lr_labels=labels,
        method__max_loss=limit,
        method__lr_images=images,
        recover__iterations=10_000,
        train__batch_size=128,
    )


# --- Distribution matching ----------------------------------------------------------------------------------------

STUDENT_DSA = facts(
    train__epochs=1000,
    train__batch_size=256,
    train__optimizer="sgd",
    train__learning_rate=0.01,
    train__momentum=0.9,
    train__weight_decay=5e-4,
    train__schedule="step",
    train__milestones=(0.5,),
    train__augment="dsa",
    train__augment_per="operation",
)
DM = facts(
    STUDENT_DSA,
    method__network="convnet-d3-w128",
    method__num_real=256,
    method__start="real",
    method__lr_images=1.0,
    method__augment="dsa",
    recover__iterations=20_000,
    recover__optimizer="sgd",
    recover__momentum=0.5,
)

NCFM = facts(
    WIDTH_32,
    squeeze__num_experts=20,
    squeeze__epochs=60,
    squeeze__batch_size=128,
    squeeze__learning_rate=0.01,
    squeeze__momentum=0.9,
    squeeze__weight_decay=5e-4,
    method__num_real=1024,
    method__num_frequencies=4096,
    method__tiles=2,
    method__amplitude=0.5,
    method__weight=300.0,
    method__calibration=1.0,
    method__augment="color_crop_cutout",
    recover__iterations=20_000,
    recover__optimizer="adam",
    recover__momentum=0.9,
    recover__second_beta=0.999,
)
CIM = facts(
    method__candidates=300,
    method__lr_images=0.01,
    method__augment="flip_crop_cutout",
    recover__iterations=200,
    recover__optimizer="adam",
    recover__momentum=0.9,
    recover__second_beta=0.999,
    recover__weight_decay=0.01,
    recover__schedule="constant",
    relabel__labels="online",
    train__soft_loss="mse",
)

PUBLISHED: dict[str, Facts] = {
    **{f"ncfm-cifar10-ipc{i}": NCFM for i in (1, 10, 50)},
    **{f"cim-cifar10-ipc{i}": CIM for i in (10, 50)},
    "cim-imagenet-1k-ipc10": facts(RELEASED, CIM, method__layer="layer3"),
    **{f"dm-cifar10-ipc{i}": DM for i in (1, 10, 50)},
    **{f"sre2l-cifar100-ipc{i}": facts(TEACHER_32, RECOVER_32, STUDENT_32, train__batch_size=128) for i in (10, 50)},
    "sre2l-cifar10-ipc10": facts(TEACHER_32, RECOVER_32, STUDENT_32),
    "sre2l-cifar10-ipc50": facts(TEACHER_32, RECOVER_32, STUDENT_32, train__batch_size=128),
    **{f"sre2l-tiny-imagenet-ipc{i}": facts(TEACHER_64, RECOVER_64, STUDENT_64) for i in (50, 100)},
    **{f"sre2l-imagenet-1k-ipc{i}": facts(RELEASED, RECOVER_224, STUDENT_224) for i in (10, 50, 200)},
    "sre2l-imagenette-cpu": {"method.start": "noise"},
    "rded-cifar10-ipc10": facts(RDED, WHOLE, train__batch_size=50, evaluate__test_resize_px=None),
    "rded-cifar10-ipc50": facts(RDED, WHOLE, train__batch_size=100, evaluate__test_resize_px=None),
    **{
        f"rded-tiny-imagenet-ipc{i}": facts(
            TEACHER_64, RDED, WHOLE, relabel__labels="online", train__batch_size=100, evaluate__test_resize_px=72
        )
        for i in (10, 50)
    },
    **{
        f"rded-imagenet-1k-ipc{i}": facts(RELEASED, RDED, STITCHED, relabel__labels="online", train__batch_size=batch)
        for i, batch in ((10, 100), (50, 200))
    },
    **{
        f"fadrm-imagenet-1k-ipc{i}": facts(RELEASED, blocks(0.25, 32, (0.893, 1, 0.893, 1), epochs=300, part=part))
        for i, part in ((10, 0.5), (50, 1.0))
    },
    "fadrm-tiny-imagenet-ipc50": facts(TEACHER_64, blocks(0.01, 4, (1, 1), epochs=300, part=1.0)),
    "fadrm-cifar100-ipc50": facts(TEACHER_32, blocks(0.25, 4, (1, 1, 1, 1), epochs=1000, part=1.0)),
    "fadrm-plus-cifar100-ipc10": facts(TEACHER_32, blocks(0.25, 4, (1, 1, 1, 1), epochs=1000, part=0.5)),
    **{f"teddy-imagenet-1k-ipc{i}": facts(RELEASED, CROPS, STUDENT_224) for i in (10, 50)},
    "teddy-tiny-imagenet-ipc50": facts(TEACHER_64, CROPS, STUDENT_64),
    "tesla-cifar10-ipc1": facts(matched(50, 2, 2, zca=True), WIDTH_32),
    "tesla-cifar10-ipc10": facts(matched(30, 2, 20, zca=True), WIDTH_32),
    "tesla-cifar10-ipc50": facts(matched(30, 2, 40, zca=False, rate=0.001), WIDTH_32),
    "tesla-cifar100-ipc1": facts(matched(20, 3, 20, zca=True), WIDTH_32),
    "tesla-cifar100-ipc10": facts(matched(20, 2, 20, zca=False), WIDTH_32),
    "tesla-cifar100-ipc50": facts(matched(80, 2, 40, zca=True, batch=125), WIDTH_32),
    "tesla-tiny-imagenet-ipc1": facts(matched(10, 2, 10, zca=False), WIDTH_64),
    "tesla-tiny-imagenet-ipc10": facts(matched(20, 2, 40, zca=False, batch=200), WIDTH_64),
    "tesla-tiny-imagenet-ipc50": facts(matched(20, 2, 40, zca=False, batch=300), WIDTH_64),
    "tesla-imagenet-1k-ipc1": IMAGENET_64,
    "tesla-cifar10-ipc1-datm": aligned((None, 4), 5.0, 1.1, 100.0, zca=True),
    "tesla-cifar10-ipc10-datm": facts(aligned((10, 20), 2.0, 1.0, 100.0, zca=True), method__growth=0.1),
    "tesla-cifar10-ipc50-datm": facts(aligned((20, 40), 2.0, 1.0, 1000.0, zca=True), method__growth=0.2),
    "tesla-cifar10-ipc10-pad": facts(
        aligned((10, 20), 2.0, 1.0, 100.0, zca=False), method__growth=0.1, method__leave_out=0.5
    ),
    **{f"tesla-imagenet-1k-ipc{i}": IMAGENET_64_WIDER for i in (10, 50)},
}


def text_of(name: str) -> str:
    return (resources.files("attar.recipes") / f"{name}.yaml").read_text("utf-8")


def value_at(settings: Any, path: str) -> Any:
    section, _, field = path.partition(".")
    return getattr(settings.sections[section], field)


def test_every_recipe_that_claims_published_settings_has_its_facts_here() -> None:
    claiming = {name for name in RECIPES if CLAIM.search(text_of(name))}
    assert claiming == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_called_published_is(name: str) -> None:
    settings = resolve({"run": {"source": "digits"}}, recipe=RECIPES[name])
    found = {path: value_at(settings, path) for path in PUBLISHED[name]}
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("tesla-")])
def test_states_on_the_way_are_kept_where_the_best_of_them_is_published(name: str) -> None:
    settings = resolve({"run": {"source": "digits"}}, recipe=RECIPES[name])
    every = settings.recover.iterations / (settings.recover.num_states + 1)
    assert every == (2000 if "imagenet-1k" in name else 500)
