"""What every method and every strategy must hold to, for tests in this repository and in others.

    from attar.testing import check_method, check_strategy

    def test_the_method_keeps_the_contract():
        check_method(MyMethod)

A check raises AssertionError. Images are three classes of noise at 8 px, knowledge is made up; it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attar.config import options
from attar.data.loading import TensorSet
from attar.losses.class_statistics import LayerStatistics
from attar.methods.base import Member, Method, Optimised, Segment, Synthetic
from attar.models.convnet import ConvNet
from attar.models.flat import FlatModel
from attar.runtime import seeding
from attar.runtime.engine import Engine
from attar.task import Normalization, Task
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, Strategy

TASK = Task(("a", "b", "c"), 1, 8, 8, Normalization((0.4,), (0.3,)))
IPC = 2


class _MadeUpImages:
    """Real images: eighteen of three classes, noise around three means."""

    def __init__(self) -> None:
        self.labels = torch.arange(3).repeat_interleave(6)
        noise = torch.randn(18, 1, 8, 8, generator=seeding.generator(0, "real"))
        self._images = noise + self.labels.view(-1, 1, 1, 1)

    def images(self, indices: Tensor) -> Tensor:
        """Images (b, 1, 8, 8) of indices (b,)."""
        return self._images[indices]


class _MadeUpTeacher:
    """A `Teacher`: a small network with BatchNorm and random weights, and labels that follow the pixels."""

    def __init__(self) -> None:
        with seeding.scoped(0, "teacher"):
            self.model: nn.Module = ConvNet(3, 1, 8, 8, depth=1, width=4, norm="batch").eval()
        self.models = (self.model,)

    def all_classes(self) -> nn.Module:
        """The network: it knows no other classes."""
        return self.model

    def logits(self, images: Tensor) -> Tensor:
        """Logits (b, 3)."""
        found: Tensor = self.model(images)
        return found

    def features(self, images: Tensor) -> Tensor:
        """A third of the pixels (b, 22)."""
        return images.flatten(1)[:, ::3]

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, 3) of the first three pixels."""
        return images.flatten(1)[:, :3].softmax(1)


class _MadeUpPool(_MadeUpTeacher):
    """A `Pool`: three copies of the teacher, each with statistics of its own."""

    num_members, num_in_memory = 3, 2

    def member(self, k: int, classes: bool = False) -> Member:
        """Member `k`."""
        noise = torch.rand(4, 4, generator=seeding.generator(k, "statistics"))
        of_class = (noise[2].expand(3, 4), noise[3].expand(3, 4)) if classes else ()
        return Member(self.model, (LayerStatistics(noise[0], noise[1], *of_class),))


class MadeUpExperts:
    """`Trajectories`: two experts of three epochs."""

    learning_rate, num_experts, num_epochs = 0.05, 2, 3

    def __init__(self) -> None:
        with seeding.scoped(0, "flat"):
            self.flat = FlatModel(ConvNet(3, 1, 8, 8, depth=1, width=4))
        steps = 0.05 * torch.randn(2, 4, self.flat.size, generator=seeding.generator(0, "experts"))
        self._points = self.flat.vector() + steps.cumsum(dim=1)

    def segment(self, expert: int, first: int, last: int) -> Segment:
        """What lies between two epochs of an expert."""
        assert 0 <= first < last <= self.num_epochs, "a segment that no expert has"
        return Segment(self._points[expert, first], self._points[expert, last], f"expert {expert}")

    def labeller(self, epochs: Sequence[int]) -> _Epoch:
        """The first expert as it was after the last of these epochs."""
        return _Epoch(self.flat, self._points[0, epochs[-1]])


class _Epoch:
    """An expert as it was after an epoch."""

    def __init__(self, flat: FlatModel, theta: Tensor) -> None:
        self._flat, self._theta = flat, theta

    def logits(self, images: Tensor) -> Tensor:
        return self._flat(self._theta, images).detach()

    def soft_labels(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(1)


_KNOWLEDGE: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "teacher": _MadeUpTeacher,
    "pool": _MadeUpPool,
    "trajectories": MadeUpExperts,
}
"""What makes up knowledge, by the kinds that attar itself has."""


def check_method(
    kind: type[Method],
    settings: Mapping[str, Any] | None = None,
    knowledge: Callable[[], Any] | None = None,
) -> None:
    """Check that a method keeps the contract of `attar.methods.base`.

    Args:
        kind: the method.
        settings: what differs from its defaults; the images have 8 px, and experts three epochs.
        knowledge: makes up what it is given; needed for a kind of knowledge that is none of attar's own.
    """
    check_explained(kind)
    case = MethodCase(kind, settings or {}, knowledge)
    for check in case.checks():
        check()


def check_explained(kind: type[Method]) -> None:
    """The method and each of its settings say what they are."""
    assert kind.summary, f"{kind.name} has no summary"
    assert kind.source or kind.name == "random", f"{kind.name} has no source: a paper, or who made it"
    for option in options(kind.Settings):
        assert len(option.meaning) > 10, f"the setting {option.name} has no docstring"


class MethodCase:
    """A method with settings, and what each part of the contract asks of it."""

    def __init__(
        self, kind: type[Method], settings: Mapping[str, Any], knowledge: Callable[[], Any] | None = None
    ) -> None:
        short = {"expert_epochs": 1} if "expert_epochs" in kind.Settings.model_fields else {}
        self.kind, self.settings = kind, kind.Settings(**{**short, **settings})
        self._knowledge = knowledge or _KNOWLEDGE[kind.needs(self.settings)]

    def checks(self) -> list[Callable[[], None]]:
        """All that this method can be asked."""
        found = [self.begins_alike, self.hands_over_plain_tensors]
        if self.kind.separable:
            found.append(self.begins_a_chunk_as_part_of_the_whole)
        if issubclass(self.kind, Optimised):
            found += [self.has_a_finite_repeatable_gradient, self.decodes_an_image_for_each_label]
        return found

    def make(self) -> tuple[Any, Any]:
        """The method anew, and its knowledge."""
        return self.kind(self.settings, TASK, IPC), self._knowledge()

    def begin(self, method: Any, knowledge: Any, seed: int = 0) -> Synthetic:
        """All images as they begin."""
        picked, rngs = torch.arange(len(method.labels())), partial(seeding.generator, seed)
        state: Synthetic = method.init(picked, _MadeUpImages(), knowledge, rngs)
        return state

    def begins_alike(self) -> None:
        """`init` gives as many finite images of each class, and the same ones for the same generators."""
        found = [self.begin(*self.make()), self.begin(*self.make())]
        assert found[0].labels.bincount().tolist() == [IPC] * 3, "as many images of each class"
        assert found[0].labels[:3].tolist() == [0, 1, 2], "round by round through the classes"
        method, knowledge = self.make()
        images = method.finish(found[0], knowledge).images[:]
        assert images.shape == (6, *TASK.shape), f"{tuple(images.shape)} is not the shape of six images"
        assert images.isfinite().all(), "images are finite"
        for name, value in found[0].variables.items():
            assert torch.equal(found[1].variables[name], value), f"{name} is a function of the generators alone"

    def begins_a_chunk_as_part_of_the_whole(self) -> None:
        """An image does not depend on which others are in its chunk."""
        (method, knowledge), (fresh, _) = self.make(), self.make()
        rngs = partial(seeding.generator, 0)
        whole = method.init(torch.arange(6), _MadeUpImages(), knowledge, rngs)
        part = fresh.init(torch.arange(2, 5), _MadeUpImages(), knowledge, rngs)
        assert torch.equal(part.labels, whole.labels[2:5]), "labels of the chunk"
        found, wanted = (one.finish(state, knowledge).images[:] for one, state in ((fresh, part), (method, whole)))
        assert torch.equal(found, wanted[2:5]), "images of the chunk"

    def has_a_finite_repeatable_gradient(self) -> None:
        """`gradient` is of every variable, finite, the same twice, and leaves the state alone."""
        method, knowledge = self.make()
        state = self.begin(method, knowledge)
        before = {name: value.clone() for name, value in state.variables.items()}
        picked, real = torch.arange(len(state.labels)), _MadeUpImages()
        found = [method.gradient(state, picked, real, knowledge, seeding.generator(1)) for _ in range(2)]
        gradients, metrics = found[0]
        assert "loss" in metrics, "a metric is called loss"
        assert set(gradients) == set(state.variables), "a gradient for each variable"
        assert set(state.variables) <= set(method.learning_rates()), "a learning rate for each variable"
        for name, value in gradients.items():
            assert value.shape == state.variables[name].shape, f"{name}: a gradient of its shape"
            assert value.isfinite().all(), f"{name}: a finite gradient"
            assert torch.equal(value, found[1][0][name]), f"{name}: the same gradient for the same generator"
            assert torch.equal(state.variables[name], before[name]), f"{name}: as it was before"

    def decodes_an_image_for_each_label(self) -> None:
        """`decode` gives an image for each label, which the variables have a gradient to."""
        method, knowledge = self.make()
        state = self.begin(method, knowledge)
        for value in state.variables.values():
            value.requires_grad_()
        images = method.decode(state)
        assert images.shape == (len(state.labels), *TASK.shape), "an image for each label"
        found = torch.autograd.grad(images.square().sum(), list(state.variables.values()), allow_unused=True)
        assert any(value is not None and bool((value != 0).any()) for value in found), "differentiable"

    def hands_over_plain_tensors(self) -> None:
        """`finish` gives float images, classes, and probabilities where there are soft labels."""
        method, knowledge = self.make()
        done = method.finish(self.begin(method, knowledge), knowledge)
        images = done.images[:]
        assert images.dtype == torch.float32, "images are float32"
        assert images.shape == (6, *TASK.shape), "an image for each label"
        assert not images.requires_grad, "no graph hangs on the images"
        assert done.labels.dtype == torch.int64, "classes are int64"
        if done.soft_labels is not None:
            assert done.soft_labels.shape == (6, 3), "probabilities of each class"
            assert torch.allclose(done.soft_labels.sum(1), torch.ones(6)), "probabilities add up to 1"
        if done.learning_rate is not None:
            assert 0 < done.learning_rate < float("inf"), "a learnt rate is a rate"


def check_strategy(kind: type[Strategy], **settings: Any) -> None:
    """Check that a strategy can train a small network: finite, the same twice, and from the middle on.

    `settings` are of the section `train`. The strategy must be known by its name (`attar.strategies`).
    """
    assert kind.summary, f"{kind.name} has no summary"
    assert kind.name in STRATEGIES, f"{kind.name} is not known: name it as an entry point, or STRATEGIES.add it"
    for option in options(kind.Settings) if kind.Settings else ():
        assert len(option.meaning) > 10, f"the setting {option.name} has no docstring"
    given = TrainSection(**{"strategy": kind.name, "epochs": 3, "batch_size": 6, "augment": "none", **settings})
    real = _MadeUpImages()
    data = TensorSet(real.images(torch.arange(18)), real.labels)
    found = []
    for _ in range(2):
        with seeding.scoped(0, "student"):
            model = ConvNet(3, 1, 8, 8, depth=2, width=4)
        before = [value.clone() for value in model.state_dict().values()]
        fit(model, data, given, seed=0, engine=Engine("cpu"))
        found.append(list(model.state_dict().values()))
    assert all(value.isfinite().all() for value in found[0]), "weights stay finite"
    assert any(not torch.equal(old, new) for old, new in zip(before, found[0], strict=True)), "weights are trained"
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True)), "the same for the same seed"
