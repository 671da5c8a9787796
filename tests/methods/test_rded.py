"""RDED and the patches it shares with sre2l, against a teacher whose loss is known."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from attar.config import build
from attar.errors import ConfigError
from attar.methods.base import whole_pixels
from attar.methods.patches import (
    Patches,
    PatchSettings,
    amid_mean,
    cut,
    draw_boxes,
    grid_of,
    ranked,
    spread_out,
    stitch,
)
from attar.methods.rded import Rded, RdedSettings
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.runtime.seeding import generator
from attar.stages.recover import RecoverSettings
from attar.task import Normalization, Task
from pretended import pretended_device, without_float64

NORM = Normalization((0.5, 0.4, 0.6), (0.25, 0.3, 0.2))


def task(size=16, width=None):
    return Task(("a", "b", "c"), 3, size, width or size, NORM)


class Real:
    """Noise; the red channel says which class it is."""

    def __init__(self, per_class=12, size=16, width=None):
        self.labels = torch.arange(3).repeat(per_class)
        pixels = torch.rand(3 * per_class, 3, size, width or size, generator=generator(0, "real"))
        pixels[:, 0] = self.labels.view(-1, 1, 1) / 4
        self._images = NORM.normalize(pixels)

    def images(self, indices):
        return self._images[indices]


class Teacher:
    """The greener the crop, the surer of its class, whichever that is; counts what it was shown."""

    def __init__(self):
        self.shown = 0

    def logits(self, images):
        self.shown += len(images)
        return torch.stack([images[:, 1].mean((1, 2))] * 2 + [-images[:, 1].mean((1, 2))], 1)

    def features(self, images):
        return images.mean((2, 3))


def rded(ipc=2, size=16, width=None, **settings):
    return Rded(RdedSettings(**settings), task(size, width), ipc)


def images_of(method, picked, real=None, teacher=None, seed=0):
    real = real or Real(size=method.task.height_px, width=method.task.width_px)
    return method.init(picked, real, teacher or Teacher(), partial(generator, seed)).variables["images"]


@pytest.mark.parametrize("pick", ["sure", "spread"])
def test_an_image_is_a_function_of_seed_and_place_whatever_the_chunks(pick):
    places = torch.arange(9)
    whole = images_of(rded(3, pick=pick), places)
    alone = torch.cat([images_of(rded(3, pick=pick), place) for place in places.flip(0).split(1)]).flip(0)
    assert torch.equal(alone, whole)
    one = rded(3, pick=pick)
    assert torch.equal(torch.cat([images_of(one, part) for part in places.split(4)]), whole)
    assert not torch.equal(images_of(one, places, seed=1), whole), "another seed is not answered from memory"


def test_a_class_is_scored_once_and_only_if_it_is_asked_for():
    method, teacher = rded(2, crops_per_image=4), Teacher()
    images_of(method, torch.tensor([0]), teacher=teacher)
    assert teacher.shown == 12 * 4
    images_of(method, torch.tensor([3, 1]), teacher=teacher)
    assert teacher.shown == 2 * 12 * 4


def test_classes_are_right():
    found = rded(3).init(torch.tensor([4, 0, 8]), Real(), Teacher(), partial(generator, 0))
    assert found.labels.tolist() == [1, 0, 2]
    red = NORM.pixels(found.variables["images"])[:, 0]
    assert torch.allclose(red, (found.labels / 4.0).view(-1, 1, 1).expand_as(red), atol=1e-5)


@pytest.mark.parametrize(("label", "sign"), [(0, 1), (2, -1)])
def test_the_surest_crop_of_each_image_and_the_surest_images_are_chosen(label, sign):
    real, settings = Real(), PatchSettings(crops_per_image=6)
    patches = Patches(settings, task(), torch.arange(3).repeat(4))
    chosen = patches.choose(label, real, Teacher(), generator(0))

    rng, members = generator(0), (real.labels == label).nonzero().squeeze(1)
    drawn = members[torch.randperm(12, generator=rng)]
    boxes = draw_boxes(12 * 6, (16, 16), settings.crop_min_scale, rng).view(12, 6, 4)
    green = torch.stack([cut(real.images(drawn), boxes[:, k : k + 1], (16, 16))[:, 1].mean((1, 2)) for k in range(6)])
    best, crop = (sign * green).max(0)
    order = best.argsort(descending=True)[:4]
    assert chosen.indices.tolist() == drawn[order].tolist()
    assert torch.equal(chosen.boxes, boxes[order, crop[order]])


def test_only_some_candidates_are_looked_at_but_never_too_few():
    for candidates, looked_at in ((5, 5), (1, 4), (300, 12)):
        teacher = Teacher()
        settings = PatchSettings(candidates=candidates, crops_per_image=1)
        chosen = Patches(settings, task(), torch.arange(3).repeat(4)).choose(1, Real(), teacher, generator(0))
        assert teacher.shown == looked_at
        assert len(set(chosen.indices.tolist())) == 4


def test_a_class_with_too_few_images_gives_more_than_one_crop_of_each():
    real = Real(per_class=3)
    patches = Patches(PatchSettings(patches_per_image=4, crops_per_image=1), task(), torch.arange(3).repeat(2))
    chosen = patches.choose(0, real, Teacher(), generator(0))
    assert sorted(chosen.indices.bincount(minlength=9)[real.labels == 0].tolist()) == [2, 3, 3]
    cuts = {(i, *box) for i, box in zip(chosen.indices.tolist(), chosen.boxes.tolist(), strict=True)}
    assert len(cuts) == 8, "no crop twice"
    assert images_of(rded(3, patches_per_image=4), torch.arange(9), real).isfinite().all()


def test_ranks_run_through_all_images_before_a_second_crop():
    losses = torch.tensor([[3.0, 1.0, 2.0], [0.5, 9.0, 9.0]])
    assert ranked(losses, 2).tolist() == [[1, 0], [0, 1], [0, 2], [1, 1]]


def test_each_tile_is_the_patch_of_its_rank_and_uneven_sizes_fit():
    real, method = Real(size=17, width=12), rded(2, 17, 12, patches_per_image=4)
    images = images_of(method, torch.arange(6), real)
    chosen = Patches(method.settings, task(17, 12), method.labels()).choose(1, real, Teacher(), _class_rng(1))
    for place, rank in ((1, 0), (4, 1)):
        for k, (top, bottom, left, right) in enumerate([(0, 9, 0, 6), (0, 9, 6, 12), (9, 17, 0, 6), (9, 17, 6, 12)]):
            part = chosen[torch.tensor([rank + 2 * k])]
            patch = cut(real.images(part.indices), part.boxes[:, None], (bottom - top, right - left))
            assert torch.equal(images[place, :, top:bottom, left:right], patch[0])


def _class_rng(label):
    return generator(0, "class", label)


def test_stitch_goes_row_by_row():
    tiles = [torch.full((1, 1, 2, 3), float(k)) for k in range(9)]
    image = stitch(tiles)
    assert image.shape == (1, 1, 6, 9)
    assert image[0, 0, ::2, ::3].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_cut_of_its_own_size_is_exact_and_others_are_resized_as_torch_does():
    images = torch.randn(2, 3, 9, 9, generator=generator(0))
    boxes = torch.tensor([[[1, 2, 4, 5], [0, 0, 9, 9]], [[3, 3, 4, 5], [2, 0, 6, 6]]])
    found = cut(images, boxes, (4, 5))
    assert torch.equal(found[0], images[0, :, 1:5, 2:7])
    assert torch.equal(found[2], images[1, :, 3:7, 3:8])
    assert torch.equal(found[3:], F.interpolate(images[1:, :, 2:8, 0:6], (4, 5), mode="bilinear", antialias=True))


def test_patches_are_shown_amid_the_mean():
    shown = amid_mean(torch.ones(1, 1, 2, 3), (5, 6))
    assert shown.shape == (1, 1, 5, 6)
    assert float(shown.sum()) == 6
    assert torch.equal(shown[0, 0, 1:3, 1:4], torch.ones(2, 3))


def test_boxes_lie_inside_keep_the_proportions_and_cover_the_areas_asked_for():
    boxes = draw_boxes(2000, (40, 80), 0.25, generator(0))
    top, left, height, width = boxes.unbind(1)
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + height).max()) == 40
    assert int((left + width).max()) == 80
    assert ((width - 2 * height).abs() <= 1).all()
    area = height * width / 3200
    assert float(area.min()) == pytest.approx(0.25, abs=0.02)
    assert float(area.mean()) == pytest.approx(0.625, abs=0.02)
    assert draw_boxes(3, (4, 4), 1, generator(0)).tolist() == [[0, 0, 4, 4]] * 3


def test_spread_takes_the_surest_of_each_cluster():
    centres = torch.tensor([[0.0, 0], [100, 0], [0, 100]])
    member = torch.tensor([1, 1, 0, 1, 2, 0, 2, 2])
    features = centres[member] + torch.randn(8, 2, generator=generator(0))
    assert spread_out(features, 3, generator(0)).tolist() == [0, 2, 4]


def test_spread_fills_up_among_duplicates():
    features = torch.tensor([[1.0], [1.0], [1.0], [2.0], [1.0]])
    assert spread_out(features, 4, generator(0)).tolist() == [0, 1, 2, 3]
    assert spread_out(features, 5, generator(0)).tolist() == [0, 1, 2, 3, 4]


def test_clusters_are_found_in_the_features_of_a_device_without_float64():
    features = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.1, 9.0]])
    with pretended_device() as device, without_float64():
        assert spread_out(features.to(device), 2, generator(0)).tolist() == [0, 2]


def test_spread_stays_among_the_surer_half_and_shows_more_of_the_class():
    real, labels = Real(per_class=60), torch.arange(3).repeat(5)
    found = {}
    for pick in ("sure", "spread"):
        found[pick] = Patches(PatchSettings(pick=pick), task(), labels).choose(0, real, Teacher(), generator(0))
    half = Patches(PatchSettings(), task(), torch.arange(3).repeat(30)).choose(0, real, Teacher(), generator(0))
    assert set(found["spread"].indices.tolist()) <= set(half.indices.tolist())

    def shown(chosen):
        return Teacher().features(cut(real.images(chosen.indices), chosen.boxes[:, None], (16, 16)))

    assert torch.pdist(shown(found["spread"])).mean() > torch.pdist(shown(found["sure"])).mean()


def test_auto_stitches_from_64_px_on():
    assert [grid_of(PatchSettings(), task(*size)) for size in ((8,), (63,), (64, 63), (64,), (224,))] == [1, 1, 1, 2, 2]
    assert grid_of(PatchSettings(patches_per_image=9), task(28)) == 3
    with pytest.raises(ConfigError, match="patches_per_image"):
        build({"method": RdedSettings}, {"method": {"patches_per_image": 3}})


def test_what_is_handed_over_is_whole_pixels():
    method = rded(2, patches_per_image=4)
    done = method.finish(method.init(torch.arange(6), Real(), Teacher(), partial(generator, 0)), None)
    pixels = NORM.pixels(done.images) * 255
    assert done.exact_8bit
    assert torch.allclose(pixels, pixels.round(), atol=1e-3)
    assert torch.equal(whole_pixels(done.images, NORM), done.images)
    beyond = NORM.normalize(torch.tensor([-0.3, 1.3, 0.5]).view(1, 3, 1, 1))
    assert (NORM.pixels(whole_pixels(beyond, NORM)).flatten() * 255).round().tolist() == [0, 255, 128]


def test_iterations_are_refused_before_any_work():
    settings = RdedSettings()
    (problem,) = Rded.problems(settings, {"recover": RecoverSettings(iterations=10)})
    assert "rded makes its images at once" in problem
    assert "recover.iterations must be 0; sre2l can begin with them" in problem
    assert Rded.problems(settings, {"recover": RecoverSettings(**Rded.defaults["recover"])}) == []


def test_the_teacher_left_to_auto_suits_the_resolution():
    assert [Rded.default_model(task(size)) for size in (32, 64, 65, 224)] == ["resnet18-small"] * 2 + ["resnet18"] * 2


def test_sre2l_can_begin_with_the_same_images():
    method, places = Sre2l(Sre2lSettings(start="patches"), task(), 3), torch.tensor([7, 2, 0])
    assert torch.equal(images_of(method, places, Real()), images_of(rded(3), places, Real()))
    assert Sre2l.starts_from_real(method.settings)
