"""Images by their spectrum: what is optimised are Fourier coefficients, scaled so that every frequency moves alike.

    u = M F⁻¹(s · v)          pixels = sigmoid(u), then normalised
    s_k = g / max(|k|, 1 / side)

v: the variables, real and imaginary part of each frequency k from 0 across; F⁻¹: the real inverse Fourier transform,
orthonormal; M: (3, 3), over the channels; |k| in cycles per pixel; side: the longer one.

Why s. The amplitudes of photographs fall as 1 / |k|. A network's gradient by pixels has nearly as much of high
frequencies as of low ones, so that steps along it fill images with grain, Adam's too. By v, an equal step at each
frequency changes the image by 1 / |k|, as photographs differ from each other. It is descent under another metric: the
minima are the same, the way is not, nor where it ends.

Why M. The three channels of photographs are nearly one, and Adam, which moves each variable alike, would make strong
colours of them. M is a square root of the covariance of ImageNet's colours, so that v has decorrelated ones of one
variance. Images that have not three channels do without.

Why the sigmoid. Pixels stay in 0..1 and none is cut, which would end its gradient.

g and the length of M make unit noise v into u of unit variance at any size, so that a learning rate means the same at
each. Everything can be inverted: `encode` gives a spectrum of images. In the columns k = 0 and k = 1/2 across, two
coefficients stand for one, and the transform takes their mean.

Source: Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017, doi 10.23915/distill.00007
(preconditioning, decorrelated colours); Mordvintsev, Pezzotti, Schubert and Olah, "Differentiable Image
Parameterizations", Distill 2018, doi 10.23915/distill.00012. The colours are those of their program lucid
(`color_correlation_svd_sqrt`). g and the length of M are ours: theirs make a rate depend on the size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.task import Task

_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""A square root of the covariance of ImageNet's red, green and blue (lucid)."""
_BEGIN = 0.01
"""Deviation of the noise that images begin as: nearly grey."""
_MARGIN = 2.0**-10
"""How far inside 0..1 pixels are encoded: a quarter of a grey value, which rounding to 8 bits undoes."""


def noise(task: Task, rng: torch.Generator) -> Tensor:
    """The spectrum (c, h, w // 2 + 1, 2) of an image that is nearly grey."""
    channels, height, width = task.shape
    return _BEGIN * torch.randn(channels, height, width // 2 + 1, 2, generator=rng)


def decode(spectrum: Tensor, task: Task) -> Tensor:
    """Normalised images (n, c, h, w) of spectra (n, c, h, w // 2 + 1, 2); differentiable, float32 or float64."""
    with torch.autocast(spectrum.device.type, enabled=False):
        scaled = torch.view_as_complex(spectrum.contiguous()) * _scale(task, spectrum)
        planes = torch.fft.irfft2(scaled, s=task.shape[1:], norm="ortho")
        return task.normalization.normalize(_mixed(planes, _colours(task, planes)).sigmoid())


def encode(images: Tensor, task: Task) -> Tensor:
    """Spectra (n, c, h, w // 2 + 1, 2) whose `decode` are these normalised images (n, c, h, w).

    Pixels of 0 and 1 come back a quarter of a grey value inside.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = task.normalization.pixels(images).clamp(_MARGIN, 1 - _MARGIN).logit()
        planes = _mixed(logits, torch.linalg.inv(_colours(task, logits)))
        return torch.view_as_real(torch.fft.rfft2(planes, norm="ortho") / _scale(task, planes))


def _scale(task: Task, like: Tensor) -> Tensor:
    """s (h, w // 2 + 1), such that unit noise has unit variance."""
    height, width = task.shape[1:]
    down, across = (torch.fft.fftfreq(side, dtype=like.dtype, device=like.device) for side in (height, width))
    across = across[: width // 2 + 1].abs()
    scale = 1 / torch.hypot(down[:, None], across).clamp_min(1 / max(height, width))
    # a coefficient within has a mirror image that is not stored; of two on an edge the mean counts
    power = torch.where((across == 0) | (across == 0.5), 1.0, 4.0).to(like) * scale.square()
    return scale / (power.sum() / (height * width)).sqrt()


def _colours(task: Task, like: Tensor) -> Tensor:
    """M (c, c), the rows of which have the squared length 1 on average."""
    if task.channels != len(_COLOURS):
        return torch.eye(task.channels, dtype=like.dtype, device=like.device)
    colours = torch.tensor(_COLOURS, dtype=like.dtype, device=like.device)
    return colours / colours.square().sum(1).mean().sqrt()


def _mixed(planes: Tensor, colours: Tensor) -> Tensor:
    """Planes (n, c, h, w), the channels of each pixel times a matrix (c, c)."""
    return (colours @ planes.flatten(2)).view_as(planes)
