"""A network asked about many large images answers as if it saw them together."""

import pytest
import torch

from attar.models import parts
from attar.models.parts import in_parts


@pytest.mark.parametrize(("height", "width", "sizes"), [(8, 8, [7]), (32, 16, [2, 2, 2, 1]), (64, 64, [1] * 7)])
def test_no_more_pixels_than_may_be_at_once(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(parts, "PIXELS_AT_ONCE", 1024)
    images, seen = torch.rand(7, 3, height, width), []

    def answer(some: torch.Tensor) -> torch.Tensor:
        seen.append(len(some))
        return some.amax(dim=(2, 3))

    assert in_parts(answer, images).equal(images.amax(dim=(2, 3)))
    assert seen == sizes
