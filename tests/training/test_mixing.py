"""CutMix and MixUp: what becomes of images and of targets, and how often."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from attar.training.distortion import Distortion, cut_out
from attar.training.mixing import Mix, Mixed, draw_mixed
from attar.training.section import TrainSection
from attar.training.strategies import Batch, Part
from attar.training.strategies.ce import CrossEntropy

IMAGES = torch.randn(6, 3, 8, 10, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def drawn(num: int = 200, **changes: Any) -> list[Mixed]:
    settings = TrainSection(**changes)
    return [draw_mixed(settings, torch.Generator().manual_seed(seed), 6, 8, 10) for seed in range(num)]


def test_cutmix_shows_the_partner_in_the_box_and_shares_by_its_area() -> None:
    for mixed in drawn(cutmix=1):
        if mixed.box is None:
            assert mixed.share == 1
            continue
        top, left, bottom, right = mixed.box
        inside = torch.zeros(8, 10, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        expected = torch.where(inside, IMAGES[mixed.partner], IMAGES)
        assert torch.equal(mixed.images(IMAGES), expected)
        assert mixed.share == pytest.approx(1 - inside.double().mean().item())


def test_mixup_blends_images_and_targets_alike() -> None:
    for mixed in drawn(20, mixup=1):
        assert mixed.box is None
        blend = mixed.share * IMAGES + (1 - mixed.share) * IMAGES[mixed.partner]
        assert torch.allclose(mixed.images(IMAGES), blend, atol=1e-6)
        targets = F.one_hot(LABELS, 3).float()
        assert torch.allclose(mixed.targets(targets).sum(1), torch.ones(6))


def test_shares_follow_the_beta_distribution() -> None:
    even = torch.tensor([mixed.share for mixed in drawn(2000, mixup=1)])
    extreme = torch.tensor([mixed.share for mixed in drawn(2000, mixup=1, mix_alpha=0.2)])
    assert even.mean().item() == pytest.approx(0.5, abs=0.03)
    assert even.var().item() == pytest.approx(1 / 12, abs=0.01)
    assert extreme.var().item() == pytest.approx(1 / (4 * 1.4), abs=0.02)  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_as_many_batches_are_mixed_as_asked_for() -> None:
    found = drawn(2000, cutmix=0.3, mixup=0.2)
    boxed = sum(mixed.box is not None for mixed in found) / 2000
    blended = sum(mixed.box is None and mixed.share < 1 for mixed in found) / 2000
    assert boxed == pytest.approx(0.3, abs=0.04)
    assert blended == pytest.approx(0.2, abs=0.04)
    with pytest.raises(ValidationError, match="together at most 1"):
        TrainSection(cutmix=0.7, mixup=0.4)


def test_groups_are_mixed_among_themselves_and_again_when_they_come_back() -> None:
    distortion = Distortion(TrainSection(mixup=1.0, augment="none"), 3, None)
    first = distortion.mix([(2, 0, 0), (4, 0, 1)], 8, 10)
    again = distortion.mix([(4, 0, 1), (3, 0, 2)], 8, 10)
    assert first is not None
    assert again is not None
    assert torch.equal(first.images(IMAGES)[2:], again.images(torch.cat([IMAGES[2:], IMAGES[:3]]))[:4])
    assert all(int(group.partner.max()) < len(group.partner) for group in first.groups)


def test_ce_on_a_mix_is_the_mix_of_two_cross_entropies() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 3))
    (mixed,) = drawn(1, mixup=1)
    mix = Mix((mixed,))
    shown = mix.images(IMAGES)
    loss = CrossEntropy(TrainSection(), 6).loss(model, Batch(0, 0, torch.arange(6), LABELS, lambda _: shown, mix=mix))
    logits = model(shown)
    own, partners = F.cross_entropy(logits, LABELS), F.cross_entropy(logits, LABELS[mixed.partner])
    assert torch.allclose(loss, mixed.share * own + (1 - mixed.share) * partners)


def test_all_views_of_a_batch_are_of_one_mixture() -> None:
    distortion = Distortion(TrainSection(mixup=1.0, augment="none"), 3, None)
    mix = distortion.mix([(6, 0, 0)], 8, 10)
    first, second = (distortion.view(IMAGES, 0, 0, which, mix, Part.whole(torch.arange(6))) for which in (0, 1))
    assert torch.equal(first, second)


def test_cut_out_blanks_one_square_an_image_with_part_of_it_outside() -> None:
    rng = torch.Generator().manual_seed(0)
    blank = (cut_out(torch.ones(500, 2, 8, 10), rng, 4, Part.whole(torch.arange(500))) == 0).all(1)
    heights, widths = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(blank.sum((1, 2)), heights * widths)
    assert int(heights.max()) == int(widths.max()) == 4
    assert 2 <= int(heights.min()) < 4
    assert torch.equal(blank.any(0), torch.ones(8, 10, dtype=torch.bool))
