"""Two processes train one network: with the bits of one where that can be, and in step with each other always."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import crew
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import StochasticDepth

from attar.errors import ArtifactError, ConfigError
from attar.runtime.checkpoint import read_tensors
from attar.runtime.events import read_events
from attar.runtime.processes import Processes
from attar.runtime.team import Team, form_team, split_ranks
from attar.training.distributed import most_processes, synchronize_norms
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, find
from launching import launch, start

AGREE = ("ce", "dlb", "ps-kd", "dlb+ddgsd", "dlb+ps-kd")
COMMAND = ["-m", "attar", "train", "digits", "--strategy", "dlb", "--model", "convnet-d2-w8-batch", "--quiet", "--json"]
SAVING_EVERY_EPOCH = "from attar import cli; from attar.training import loop; loop.CHECKPOINT_EVERY_S = 0.0; cli.run()"
"""What `-m attar` does, but that checkpoints are not 20 seconds apart."""
COMMAND += [word for setting in ("batch_size=64", "augment_per=image") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind, and what each said of the scenes in `said-RANK.json`."""
    folder = tmp_path_factory.mktemp("crew")
    crew.train("dlb", Team(), folder / "alone.safetensors")
    ended = start([crew.__file__, str(folder)], 2)
    assert [code for code, _ in ended] == [0, 0], ended
    return folder


def said(folder: Path, scene: str) -> list[str]:
    return [json.loads((folder / f"said-{rank}.json").read_text())[scene] for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("scene", AGREE)
def test_without_batch_norm_two_processes_train_as_one_does(scene: str, folder: Path, tmp_path: Path) -> None:
    found, expected = crew.train(scene, Team(), tmp_path / "one.safetensors")
    state, note = read_tensors(folder / f"{scene}-0.safetensors")
    assert note["losses"] == pytest.approx(found.losses, abs=1e-5)
    for key, value in expected.items():
        assert torch.allclose(state[key], value, atol=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("scene", crew.SCENES)
def test_both_end_with_the_same_bits(scene: str, folder: Path) -> None:
    one, two = ((folder / f"{scene}-{rank}.safetensors").read_bytes() for rank in (0, 1))
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("scene", crew.SCENES)
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(scene: str, folder: Path) -> None:
    unbroken, resumed = ((folder / f"{scene}{end}.safetensors").read_bytes() for end in ("", "-resumed"))
    assert unbroken == resumed


@pytest.mark.slow
def test_the_checkpoint_holds_the_memories_of_both(folder: Path) -> None:
    tensors, note = read_tensors(folder / "batch.safetensors")
    assert note["made_by"]["processes"] == 2
    mine, other = ({key: tensors[f"strategy-{rank}.dlb.{key}"] for key in ("indices", "logits")} for rank in (0, 1))
    assert len(mine["indices"]) == len(mine["logits"]) == 2
    assert len(other["indices"]) == len(other["logits"]) == 2
    assert not set(mine["indices"].tolist()) & set(other["indices"].tolist())
    assert not torch.equal(mine["logits"], other["logits"])
    assert "strategy.past" in read_tensors(folder / "ps-kd.safetensors")[0]


@pytest.mark.slow
def test_each_remembers_the_logits_of_its_own_last_batch(folder: Path) -> None:
    # 18 = 4 + 4 + 4 + 4 + 2, the last two of which the first process has; four epochs
    assert said(folder, "watched") == [f"{4 * 5 - 1} steps", f"{4 * 5 - 4} steps"]


@pytest.mark.slow
def test_another_number_of_processes_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="processes: was 2, now") as caught:
        crew.train("dlb", Team(), folder / "dlb.safetensors")
    assert "number" in caught.value.expected
    for words in said(folder, "of_one"):
        assert words.startswith("ArtifactError")
        assert "now 2" in words


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_stops_both_at_the_same_step(folder: Path) -> None:
    assert "DivergedError training train has diverged: the loss is nan at epoch 1, step 1" in said(folder, "lost")[0]
    assert len(set(said(folder, "lost"))) == 1


@pytest.mark.slow
def test_gradients_and_statistics_are_means_over_processes(folder: Path) -> None:
    assert said(folder, "averages") == [
        "2 [[2.0, 2.0], [5.0, 5.0], [7.0, 7.0]] [1.5, 1.5] 0.0",
        "2 [[2.0, 2.0], [5.0, 5.0], [7.0, 7.0]] [1.5, 1.5] 1.0",
    ]


@pytest.mark.slow
def test_a_process_that_leaves_in_the_middle_of_an_epoch_is_told_of_by_the_other(folder: Path) -> None:
    stays, leaves = said(folder, "gone")
    assert leaves == "StopError "
    assert stays.startswith("AttarError another process is gone")


@pytest.mark.slow
def test_processes_on_one_gpu_are_refused_in_all_of_them(folder: Path) -> None:
    words = "2 processes have 1 GPU, and each that trains with others needs one of its own"
    assert said(folder, "devices") == [f"{words} | None"] * 2


@pytest.mark.slow
def test_batch_norm_is_not_synchronised_on_a_cpu(folder: Path) -> None:
    for words in said(folder, "norms"):
        assert words.startswith("ConfigError train.sync_batch_norm is set, and torch has no synchronised BatchNorm")
    found, _ = crew.train("norms", Team(), folder / "norms-alone.safetensors")  # one process has all images
    assert len(found.losses) == 4


def pretended_gpu() -> Any:
    return SimpleNamespace(device=torch.device("cuda", 0))


def test_synchronised_norms_share_their_tensors_with_those_that_come_back() -> None:
    model, team = crew.make_net("batch"), Team(0, 2)
    before = dict(model.named_modules())
    restore = synchronize_norms(model, TrainSection(sync_batch_norm=True), pretended_gpu(), team)
    replaced = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    assert replaced == [name for name, module in before.items() if isinstance(module, nn.BatchNorm2d)] != []
    for name in replaced:
        for key, tensor in before[name].state_dict(keep_vars=True).items():
            assert model.get_submodule(name).state_dict(keep_vars=True)[key] is tensor
    model.eval()
    restore()
    assert dict(model.named_modules()) == before
    assert not any(module.training for module in model.modules())


def test_norms_that_do_more_than_normalise_are_refused() -> None:
    class Active(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match="Active cannot be synchronised"):
        synchronize_norms(nn.Sequential(Active(4)), TrainSection(sync_batch_norm=True), pretended_gpu(), Team(0, 2))


@pytest.mark.parametrize(
    ("changes", "norm", "expected"),
    [
        ({}, "instance", 4),
        ({"strategy": "dlb"}, "instance", 2),
        ({"strategy": "dlb+ps-kd"}, "instance", 2),
        ({"strategy": "ddgsd", "ddgsd": {"mu": 0}}, "instance", 2),
        ({"strategy": "ddgsd"}, "instance", 1),
        ({"strategy": "dlb+byot"}, "instance", 1),
        ({"strategy": "mixskd"}, "instance", 1),
        ({"mixup": 0.5}, "instance", 1),
        ({}, "batch", 1),
        ({"batch_size": 1}, "instance", 1),
        ({"batch_size": 100}, "instance", 10),
    ],
)
def test_as_many_share_a_training_as_leave_it_what_it_is(changes: dict[str, Any], norm: str, expected: int) -> None:
    settings = TrainSection(**{"batch_size": 8} | changes)
    strategy = find(settings.strategy, STRATEGIES.all())(settings, 20)
    assert most_processes(crew.make_net(norm), strategy) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(nn.Dropout(0.5), 1), (nn.Dropout(0.0), 4), (StochasticDepth(0.1, "row"), 1), (nn.LayerNorm(4), 4)],
)
def test_a_network_that_draws_is_not_shared(layer: nn.Module, expected: int) -> None:
    strategy = find("ce", STRATEGIES.all())(TrainSection(batch_size=8), 20)
    assert most_processes(nn.Sequential(nn.Linear(4, 4), layer), strategy) == expected


def test_a_gpu_team_speaks_by_gloo_and_sums_by_nccl_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[list[int], str, torch.device | None]] = []

    def new_group(ranks: list[int], timeout: Any, backend: str, device_id: torch.device | None = None) -> str:
        made.append((ranks, backend, device_id))
        return f"{backend} {ranks}"

    monkeypatch.setattr(torch.distributed, "new_group", new_group)
    gpu = torch.device("cuda", 3)
    members = form_team(Processes(3, 5, 3), [range(2), range(2, 4), range(4, 5)], gpu)
    assert members == Team(1, 2, "gloo [2, 3]", "nccl [2, 3]")
    groups = [([0, 1], None), ([2, 3], gpu)]
    assert made == [one for ranks, on in groups for one in ((ranks, "gloo", None), (ranks, "nccl", on))]
    assert form_team(Processes(4, 5, 4), [range(2), range(4, 5)], gpu) == Team()
    assert form_team(Processes(3, 5, 3), [range(2), range(4, 5)], gpu) is None


@given(num=st.integers(1, 40), most=st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_ranks_are_split_evenly_and_within_what_items_take(num: int, most: list[int]) -> None:
    most = most[:num]
    runs = split_ranks(num, most)
    ranks = [rank for run in runs for rank in run]
    assert ranks == list(range(len(ranks)))
    assert len(ranks) <= num
    for run, largest in zip(runs, most, strict=True):
        assert min(largest, num // len(most)) <= len(run) <= largest


@pytest.mark.slow
def test_the_command_shares_its_batches_and_the_first_process_writes_and_speaks(tmp_path: Path) -> None:
    words = [*COMMAND, "--set", "epochs=2", "--out", str(tmp_path)]
    (code, told), (other_code, other) = start(words, 2)
    assert (code, other_code, other) == (0, 0, ""), (told, other)
    assert json.loads(told)["epochs"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "events.jsonl", "model.safetensors"]
    events = read_events(tmp_path / "events.jsonl")
    assert [event["step"] for event in events if event["event"] == "epoch"] == [1, 2]
    assert len(events) == len((tmp_path / "events.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_three_processes_stopped_and_resumed_equal_unbroken_bit_for_bit(tmp_path: Path) -> None:
    # the sums of three are in an order, which is that of DDP's buckets
    ended = start([crew.__file__, str(tmp_path)], 3)
    assert [code for code, _ in ended] == [0, 0, 0], ended
    assert (tmp_path / "wide.safetensors").read_bytes() == (tmp_path / "wide-resumed.safetensors").read_bytes()
    found, expected = crew.train("wide", Team(), tmp_path / "one.safetensors")
    for rank in range(3):
        state, note = read_tensors(tmp_path / f"wide-{rank}.safetensors")
        assert note["losses"] == pytest.approx(found.losses, abs=1e-5)
        assert all(torch.allclose(state[key], value, atol=1e-5) for key, value in expected.items())


@pytest.mark.slow
def test_killed_and_started_again_equals_unbroken(tmp_path: Path) -> None:
    words = [*COMMAND, "--set", "epochs=60"]
    assert [code for code, _ in start([*words, "--out", str(tmp_path / "unbroken")], 2)] == [0, 0]
    running = launch(["-c", SAVING_EVERY_EPOCH, *words[2:], "--out", str(tmp_path / "killed")], 2)
    deadline_s = time.monotonic() + 240
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    for process in running:
        process.kill()
    for process in running:
        process.communicate()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert 0 < read_tensors(tmp_path / "killed" / "checkpoint.safetensors")[1]["epoch"] < 60
    assert [code for code, _ in start([*words, "--out", str(tmp_path / "killed")], 2)] == [0, 0]
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "killed"))
    assert one == two
