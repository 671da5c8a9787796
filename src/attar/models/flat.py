"""A network as a function of one parameter vector: what trajectories are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attar.errors import ConfigError


class FlatModel:
    """A module called with its parameters as one vector.

    Args:
        module: a network without buffers that training changes; BatchNorm with running statistics is
            refused, since a parameter vector cannot carry them.
    """

    def __init__(self, module: nn.Module) -> None:
        buffers = [name for name, _ in module.named_buffers()]
        if buffers:
            raise ConfigError(
                f"the network keeps state beside its parameters ({', '.join(buffers[:3])}...)",
                expected="a network whose parameters are all there is, as trajectory matching needs",
                fix="choose instance, group, layer or no normalisation, for example convnet-d3-w128",
            )
        self.module = module
        self._names = [name for name, _ in module.named_parameters()]
        self._shapes = [parameter.shape for parameter in module.parameters()]
        self._sizes = [parameter.numel() for parameter in module.parameters()]
        self.size = sum(self._sizes)

    def __call__(self, vector: Tensor, images: Tensor) -> Tensor:
        """Logits (b, classes) for images (b, c, h, w) under parameters `vector` (p,)."""
        logits: Tensor = functional_call(self.module, self.unflatten(vector), (images,))
        return logits

    def at(self, vector: Tensor) -> nn.Module:
        """The network under parameters `vector` (p,), for what takes a module, such as `penultimate`."""
        return _At(self, vector)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Parameters by name, as views into `vector` (p,)."""
        pieces = vector.split(self._sizes)
        return {name: piece.view(shape) for name, piece, shape in zip(self._names, pieces, self._shapes, strict=True)}

    def vector(self) -> Tensor:
        """Copy the module's own parameters into one vector (p,)."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.module.parameters()])


class _At(nn.Module):
    def __init__(self, flat: FlatModel, vector: Tensor) -> None:
        super().__init__()
        self.network, self._flat, self._vector = flat.module, flat, vector

    def forward(self, images: Tensor) -> Tensor:
        return self._flat(self._vector, images)
