"""Labels stored by the published code of SRe2L: written here as it writes them, with torchvision and torch's loader."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as pictures

from attar import api
from attar.artifacts.checksums import write_sums
from attar.artifacts.verify import verify
from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views
from attar.errors import ArtifactError, ConfigError, DataError
from attar.interop.fkd import FkdLabels
from attar.interop.imagefolder import read_imagefolder
from attar.interop.loaded import Origin
from attar.interop.opening import import_foreign, open_foreign
from attar.interop.settings import ForeignSettings
from attar.interop.unpacking import NOTE, unpack_labels
from attar.labels.plan import VIEW
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.task import Normalization, Task
from attar.training.soft import soft_set

SIDE, CLASSES, IPC, BATCH, EPOCHS = 12, 4, 5, 8, 3
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = Normalization(MEAN, STD)
TASK = Task(("ant", "bee", "cat", "dog"), 3, SIDE, SIDE, SCALE)


def draw(path: Path, label: int, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = COLOURS[label] + rng.integers(-40, 40, (SIDE, SIDE, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """As SRe2L writes images: new000/class000_id000.jpg."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        for ipc in range(IPC):
            draw(tmp_path / f"syn/new{label:03d}/class{label:03d}_id{ipc:03d}.jpg", label, rng)
    return tmp_path / "syn"


def teacher(images: Tensor) -> Tensor:
    """Logits by how near the mean colour is to that of each class."""
    seen = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    colours = torch.from_numpy(COLOURS / 255).float()
    return -20 * (seen.mean((2, 3))[:, None] - colours).square().sum(2)


class Coordinates(ImageFolder):
    """An ImageFolder that says how it cropped and mirrored."""

    def __getitem__(self, index: int) -> tuple[Tensor, int, bool, Tensor]:
        path, label = self.samples[index]
        image = self.loader(path)
        top, left, height, width = transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
        crop = torch.FloatTensor((top / SIDE, left / SIDE, height / SIDE, width / SIDE))
        shown = pictures.resized_crop(image, top, left, height, width, [SIDE, SIDE])
        mirrored = bool(torch.rand(1) < 0.5)
        shown = pictures.hflip(shown) if mirrored else shown
        return pictures.normalize(pictures.to_tensor(shown), list(MEAN), list(STD)), label, mirrored, crop


def mixed(images: Tensor, mix: str | None) -> tuple[Tensor, Tensor | None, float | None, list[np.int64] | None]:
    if mix is None:
        return images, None, None, None
    partners, share = torch.randperm(len(images)), np.random.beta(1.0, 1.0)
    if mix == "mixup":
        return share * images + (1 - share) * images[partners], partners, share, None
    half = int(SIDE * np.sqrt(1 - share)) // 2
    row, column = np.random.randint(SIDE), np.random.randint(SIDE)
    box = [np.clip(edge, 0, SIDE) for edge in (row - half, column - half, row + half, column + half)]
    images = images.clone()
    images[:, :, box[0] : box[2], box[1] : box[3]] = images[partners][:, :, box[0] : box[2], box[1] : box[3]]
    return images, partners, share, box


def store(images: Path, out: Path, mix: str | None = "cutmix", seed: int = 42, draws: int = 2) -> list[Tensor]:
    """Store labels as the published code does; return what the teacher saw, by epoch and image."""
    torch.manual_seed(1)
    np.random.seed(1)
    data = Coordinates(str(images))
    rng = torch.Generator()
    rng.manual_seed(seed)
    order = torch.utils.data.RandomSampler(data, generator=rng) if draws == 2 else OneDraw(len(data), rng)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, sampler=order)
    seen = []
    for epoch in range(EPOCHS):
        (out / f"epoch_{epoch}").mkdir(parents=True)
        views = []
        for number, (shown, _, mirrored, crops) in enumerate(loader):
            view, partners, share, box = mixed(shown, mix)
            config = [crops, mirrored, partners, share, box, teacher(view).half().cpu()]
            torch.save(config, out / f"epoch_{epoch}" / f"batch_{number}.tar")
            views.append(view)
        seen.append(torch.cat(views))
    return seen


class OneDraw(torch.utils.data.Sampler[int]):
    """RandomSampler as it was before torch 1.9."""

    def __init__(self, num: int, rng: torch.Generator) -> None:
        self.num, self.rng = num, rng

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.num, generator=self.rng).tolist())

    def __len__(self) -> int:
        return self.num


def orders(seed: int = 42, draws: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randperm(CLASSES * IPC, generator=rng) for _ in range(EPOCHS * draws)][::draws]


def opened(images: Path, labels: Path, **settings: Any) -> Any:
    return read_imagefolder(images, Origin(TASK), ForeignSettings(fkd=labels, **settings))


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("mix", [None, "cutmix", "mixup"])
def test_views_and_logits_are_those_that_were_stored(tmp_path: Path, images: Path, mix: str | None, draws: int) -> None:
    seen = store(images, tmp_path / "FKD", mix, draws=draws)
    distilled = opened(images, tmp_path / "FKD").open()
    assert distilled.label_kind == "epochs"
    assert distilled.sizes["labels"] == sum(path.stat().st_size for path in (tmp_path / "FKD").rglob("*.tar"))
    data = distilled.label_store.training_set(distilled.images_at, distilled.labels, torch.device("cpu"))
    indices = torch.randperm(len(data))
    for epoch, order in enumerate(orders(draws=draws)):
        views, logits = data.batch(epoch + 2 * EPOCHS, indices)  # a longer training goes through them again
        theirs = seen[epoch][order.argsort()[indices]]
        assert torch.equal(logits, teacher(theirs).half().float())
        assert (views - theirs).abs().max() < 2.01 / 255 / 0.224  # they round to 8 bits twice on the way


def test_rows_of_several_epochs_come_in_the_order_asked_for(tmp_path: Path, images: Path) -> None:
    store(images, tmp_path / "FKD")
    labels = opened(images, tmp_path / "FKD").fkd
    epochs, indices = torch.tensor([2, 0, 1, 0]), torch.tensor([7, 3, 7, 19])
    alone = [labels.draw(epochs[i : i + 1], indices[i : i + 1]) for i in range(4)]
    together = labels.draw(epochs, indices)
    assert all(
        torch.equal(torch.cat(one), every) for one, every in zip(zip(*alone, strict=True), together, strict=True)
    )
    logits = [labels.read(epochs[i : i + 1], indices[i : i + 1]) for i in range(4)]
    assert torch.equal(torch.cat(logits), labels.read(epochs, indices))
    with pytest.raises(IndexError, match="stored epoch 3"):
        labels.read(torch.tensor([3]), torch.tensor([0]))
    with pytest.raises(ArtifactError, match="drawn by algorithm fkd"):
        Views.from_json(labels.views.to_json())


def test_labels_of_another_order_are_refused_unless_asked_for(tmp_path: Path, images: Path) -> None:
    store(images, tmp_path / "FKD", seed=7)
    with pytest.raises(ArtifactError, match="do not favour the classes"):
        opened(images, tmp_path / "FKD")
    assert opened(images, tmp_path / "FKD", fkd_seed=7).fkd.num_epochs == EPOCHS
    assert opened(images, tmp_path / "FKD", fkd_unchecked=True).fkd.num_epochs == EPOCHS


def test_labels_in_the_folder_of_the_images_are_found(tmp_path: Path, images: Path) -> None:
    store(images, tmp_path / "FKD")
    (tmp_path / "FKD").rename(images / "FKD_cutmix_fp16")
    loaded = read_imagefolder(images, Origin(TASK), ForeignSettings())
    assert loaded.fkd is not None
    assert loaded.fkd.mix == "cutmix"
    assert read_imagefolder(images, Origin(TASK)).fkd is None


def rewrite(path: Path, place: int, value: Any) -> None:
    config = torch.load(path, weights_only=False)
    config[place] = value
    torch.save(config, path)


ONES = torch.ones(BATCH, 4)
BAD: dict[str, tuple[int, Any, str]] = {
    "crops outside": (0, ONES * 0.9, "leave an image of 12x12"),
    "crops nan": (0, ONES * torch.nan, "not finite"),
    "crops shape": (0, torch.ones(BATCH, 3), "crops"),
    "mirrored": (1, torch.ones(3).bool(), "mirrored"),
    "partners": (2, torch.zeros(BATCH, dtype=torch.int64), "no permutation"),
    "box": (4, [0, 0, 13, 4], "a box of"),
    "classes": (5, torch.ones(BATCH, 5), "logits"),
    "logits": (5, torch.full((BATCH, CLASSES), torch.inf), "not finite"),
    "text": (5, "logits", "no batch of stored labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_batches_are_told(tmp_path: Path, images: Path, case: str) -> None:
    store(images, tmp_path / "FKD")
    place, value, message = BAD[case]
    rewrite(tmp_path / "FKD/epoch_1/batch_0.tar", place, value)
    with pytest.raises(ArtifactError, match=message):
        opened(images, tmp_path / "FKD")


def test_missing_and_mismatched_files_are_told(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no stored labels"):
        opened(images, tmp_path)
    store(images, tmp_path / "FKD")
    (tmp_path / "FKD/epoch_1").rename(tmp_path / "FKD/epoch_9")
    with pytest.raises(ArtifactError, match="number 1 of 3 is missing"):
        opened(images, tmp_path / "FKD")
    (tmp_path / "FKD/epoch_9").rename(tmp_path / "FKD/epoch_1")
    rewrite(tmp_path / "FKD/epoch_1/batch_0.tar", 4, None)
    with pytest.raises(ArtifactError, match="mixed by cutmix and mixup"):
        opened(images, tmp_path / "FKD")
    (images / "new003/class003_id004.jpg").unlink()
    with pytest.raises(ArtifactError, match="20 rows in epoch 0"):
        opened(images, tmp_path / "FKD")


def test_folders_are_read_by_their_numbers(tmp_path: Path, images: Path) -> None:
    loaded = read_imagefolder(images, Origin(TASK))
    assert loaded.labels.tolist() == [label for label in range(CLASSES) for _ in range(IPC)]
    assert loaded.task.class_names == TASK.class_names
    assert read_imagefolder(images).task.class_names == ("new000", "new001", "new002", "new003")
    for label in range(CLASSES):  # as RDED writes them
        (images / f"new{label:03d}").rename(images / f"{label:05d}")
    assert torch.equal(read_imagefolder(images, Origin(TASK)).labels, loaded.labels)
    (images / "00002/class002_id001.jpg").rename(images / "00001/class002_id001.jpg")
    with pytest.raises(DataError, match="of class 2 by its name, and of class 1 by its folder"):
        read_imagefolder(images, Origin(TASK))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(TASK.class_names):
            for number in range(count):
                draw(tmp_path / f"real/{split}/{name}/{number}.png", label, rng)
    return tmp_path / "real"


def test_evaluate_judges_them_with_no_step_in_between(tmp_path: Path, images: Path, source: Path) -> None:
    store(images, tmp_path / "FKD")
    toy = ["train.epochs=4", "train.batch_size=8", "train.learning_rate=0.01", "evaluate.labels=[stored, hard]"]
    result = api.evaluate(
        images,
        source,
        models=["convnet-d1-w8"],
        seeds=1,
        baselines=["random"],
        settings=[f"foreign.fkd={tmp_path / 'FKD'}", *toy],
    )
    subjects = {record.subject: record for record in result.records}
    assert set(subjects) == {"distilled", "distilled, hard labels", "random"}
    assert subjects["distilled"].labels == "soft"
    assert subjects["distilled"].protocol["temperature"] == 20  # as its authors train on it
    assert subjects["distilled"].protocol["optimizer"] == "adamw"
    assert subjects["distilled"].num_images == CLASSES * IPC
    assert subjects["distilled"].size_bytes > subjects["distilled, hard labels"].size_bytes
    assert (tmp_path / "syn-evaluation/evaluation.json").is_file()
    again = api.evaluate(
        images, source, models=["convnet-d1-w8"], seeds=1, baselines=[], settings=["train.epochs=1", "foreign.fkd=null"]
    )
    assert [record.labels for record in again.records] == ["hard"]
    with pytest.raises(ConfigError, match=r"foreign\.fkdd"):
        api.evaluate(images, source, settings=["foreign.fkdd=1"])


@pytest.mark.parametrize("mix", [None, "cutmix", "mixup"])
def test_an_import_has_the_stored_labels_and_their_views(
    tmp_path: Path, images: Path, source: Path, mix: str | None
) -> None:
    seen = store(images, tmp_path / "FKD", mix)
    told = [f"foreign.fkd={tmp_path / 'FKD'}"]
    made = import_foreign(images, tmp_path / "made", "auto", str(source), told)
    assert (made.label_kind, made.task.class_names) == ("epochs", TASK.class_names)
    assert verify(made.path).problems == []
    before = open_foreign(images, str(source), told).distilled
    theirs, ours = (soft_set(one, None, torch.device("cpu")) for one in (before, made))
    assert isinstance(theirs, ReplayedSet)
    assert isinstance(ours, ReplayedSet)
    every = torch.arange(CLASSES * IPC)
    for epoch in range(EPOCHS):
        (shown, logits), (our_view, our_logits) = theirs.batch(epoch, every), ours.batch(epoch, every)
        assert torch.equal(shown, our_view)
        torch.testing.assert_close(logits - logits.mean(1, keepdim=True), our_logits, atol=0.01, rtol=0.002)
    assert len(seen) == EPOCHS
    assert made.sizes["labels"] > EPOCHS * CLASSES * IPC * (2 * CLASSES + VIEW.itemsize)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_imported_set_is_judged_as_it_was_before(tmp_path: Path, images: Path, source: Path) -> None:
    store(images, tmp_path / "FKD")
    for path in source.rglob("*.png"):  # real images are brought to the size of the others
        with Image.open(path) as image:
            image.resize((SIDE + 4, SIDE + 2)).save(path)
    told = [f"foreign.fkd={tmp_path / 'FKD'}"]
    toy = ["train.batch_size=8", "train.learning_rate=0.01"]
    import_foreign(images, tmp_path / "made", "auto", str(source), told)
    found = [
        api.evaluate(path, source, models=["convnet-d1-w8"], seeds=2, baselines=["random"], settings=[*more, *toy])
        for path, more in ((images, told), (tmp_path / "made", []))
    ]
    before, after = ({record.subject: record for record in one.records} for one in found)
    assert after["distilled"].protocol == before["distilled"].protocol, "trained as its authors train on it"
    assert after["distilled"].values == before["distilled"].values
    assert after["random"].values == before["random"].values


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("partner", 99, "a partner is not there"),
        ("crop", 200, "a crop leaves"),
        ("share", 7.0, "a share is not in 0..1"),
    ],
)
def test_stored_views_that_make_no_sense_are_told(
    tmp_path: Path, images: Path, source: Path, field: str, value: float, says: str
) -> None:
    store(images, tmp_path / "FKD")
    made = import_foreign(images, tmp_path / "made", "auto", str(source), [f"foreign.fkd={tmp_path / 'FKD'}"])
    assert made.label_store is not None
    shard = made.label_store.paths[0]
    tensors, note = read_tensors(shard)
    views = tensors["views"].numpy().view(VIEW)[..., 0]
    views[field][0, 3] = value
    write_tensors(shard, tensors, note)
    write_sums(made.path)
    assert any(says in problem for problem in verify(made.path).problems)
    with pytest.raises(ArtifactError, match=says):
        soft_set(api.load(made.path), None, torch.device("cpu")).batch(0, torch.arange(8))  # type: ignore[attr-defined]


def test_the_store_is_read_epoch_by_epoch(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(images, tmp_path / "FKD")
    labels = opened(images, tmp_path / "FKD").fkd
    reads: list[int] = []
    whole = FkdLabels._read
    monkeypatch.setattr(FkdLabels, "_read", lambda self, epoch: reads.append(epoch) or whole(self, epoch))
    for epoch in (0, 0, 1, 1, 2, 0):
        labels.read(torch.full((3,), epoch), torch.arange(3))
    assert reads == [0, 1, 2, 0]


def test_a_published_archive_is_unpacked_once(tmp_path: Path, images: Path) -> None:
    store(images, tmp_path / "FKD")
    with tarfile.open(tmp_path / "FKD_cutmix_fp16.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "FKD", "somewhere/FKD_cutmix_fp16")
    loaded = opened(images, tmp_path / "FKD_cutmix_fp16.tar.gz")
    plain = opened(images, tmp_path / "FKD")
    assert [path.read_bytes() for path in loaded.fkd.paths] == [path.read_bytes() for path in plain.fkd.paths]
    before = {path: path.stat().st_mtime_ns for path in loaded.fkd.paths}
    again = opened(images, tmp_path / "FKD_cutmix_fp16.tar.gz").fkd.paths
    assert {path: path.stat().st_mtime_ns for path in again} == before


def archive(path: Path, name: str, *, size: int = 10, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.linkname = kind, size if kind == tarfile.REGTYPE else 0, "/etc/passwd"
        tar.addfile(member, io.BytesIO(bytes(size)))
    return path


def test_archives_of_other_names_or_bytes_are_unpacked_anew(tmp_path: Path) -> None:
    def batches(folder: Path) -> list[int]:
        return [path.stat().st_size for path in sorted(folder.rglob("*.tar"))]

    first = archive(tmp_path / "labels.v1.tar.gz", "epoch_0/batch_0.tar", size=10)
    second = archive(tmp_path / "labels.v2.tar.gz", "epoch_0/batch_0.tar", size=20)
    folders = [unpack_labels(path) for path in (first, second)]
    assert [folder.name for folder in folders] == ["labels.v1-unpacked", "labels.v2-unpacked"]
    assert [batches(folder) for folder in folders] == [[10], [20]]
    assert batches(unpack_labels(archive(first, "epoch_0/batch_0.tar", size=30))) == [30]
    (folders[0] / NOTE).write_bytes(b"{")
    assert batches(unpack_labels(first)) == [30]
    first.write_bytes(b"no archive any more")
    with pytest.raises(ArtifactError, match="cannot be unpacked"):
        unpack_labels(first)
    assert batches(folders[0]) == [30], "what was there is there until the new one is whole"
    (folders[1] / NOTE).unlink()
    with pytest.raises(ArtifactError, match="does not say which archive"):
        unpack_labels(second)


def test_hostile_archives_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.tar.gz"
    for hostile in (
        {"name": "../../epoch_0/batch_0.txt"},
        {"name": "epoch_0/batch_0.tar", "kind": tarfile.SYMTYPE},
        {"name": "epoch_0/batch_0.tar", "size": 10_000_000},
    ):
        with pytest.raises(ArtifactError, match=r"cannot be unpacked"):
            unpack_labels(archive(path, **hostile))  # type: ignore[arg-type]
        assert [file.name for file in tmp_path.iterdir()] == ["labels.tar.gz"]
    path.write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="cannot be unpacked"):
        unpack_labels(path)
    inside = unpack_labels(archive(path, "../../../epoch_0/batch_0.tar"))
    assert [file.relative_to(tmp_path).as_posix() for file in inside.rglob("*.tar")] == [
        "labels-unpacked/epoch_0/batch_0.tar"
    ]
