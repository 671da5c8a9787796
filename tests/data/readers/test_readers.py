from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from attar import registry
from attar.data.examples import Found
from attar.data.named.base import of_arrays
from attar.data.readers import READERS, recognised
from attar.data.readers.base import Reader
from attar.data.sources import open_source
from attar.errors import ConfigError
from attar.options import Reading
from attar.runtime.events import Events


def read(path: str, how: Reading, events: Events) -> Found:
    pixels = np.array(list(Path(path).read_bytes()), np.uint8).reshape(-1, 4, 4)
    return Found(("even", "odd"), {"train": of_arrays(pixels, [i % 2 for i in range(len(pixels))], "image")})


RAW = Reader("raw", "RAW", "bytes of images of 4x4 px", read, lambda path: path.suffix == ".raw")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "_points", lambda group: [point for point in points if point.group == group])
    return points


def test_another_package_brings_a_reader(tmp_path: Path, installed: list[EntryPoint]) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(range(160)))
    assert recognised(tmp_path / "x.raw") is None
    installed.append(EntryPoint("raw", f"{__name__}:RAW", "attar.readers"))
    assert open_source(str(tmp_path / "x.raw")).task.class_names == ("even", "odd")
    installed[0] = EntryPoint("other", f"{__name__}:read", "attar.readers")
    with pytest.raises(ConfigError, match="is no reader"):
        READERS.find("other")


def test_every_reader_says_what_it_reads() -> None:
    for reader in READERS.own.values():
        assert reader.shown
        assert reader.summary
        assert not reader.fits(Path("no such file"))
