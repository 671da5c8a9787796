"""Two hosts, made of network namespaces, that torchrun brings together: the bytes of one process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attar
from launching import LONGEST_S

HOSTS = {"attar-a": "10.213.77.1", "attar-b": "10.213.77.2"}
SETTINGS = {
    "squeeze.model": "convnet-d1-w4-batch",
    "squeeze.epochs": 1,
    "recover.iterations": 2,
    "recover.chunk_size": 7,
    "source.train_per_class": 6,
    "relabel.labels": "teacher",
    "train.epochs": 1,
    "evaluate.full_epochs": 1,
    "evaluate.seeds": 1,
}
COMMAND = ["distill", "digits", "--method", "sre2l", "--ipc", "2", "--recipe", "none", "--thorough", "--workers", "1"]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def enter(name: str) -> list[str]:
    """What comes before a command that runs in a network namespace."""
    return ["ip", "netns", "exec", name]


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Names of two network namespaces with a cable between them, and their addresses."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) to make hosts with")
    made = [f"{name}-{os.getpid()}" for name in HOSTS]
    try:
        try:
            for name in made:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", made[0], "type", "veth", "peer", "name", "cable", "netns", made[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no right to make network namespaces: {error.stderr.strip()}")
        for name, address in zip(made, HOSTS.values(), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield dict(zip(made, HOSTS.values(), strict=True))
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
def test_two_hosts_make_what_one_process_makes(hosts: dict[str, str], tmp_path: Path) -> None:
    first = next(iter(hosts.values()))
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:29500"]
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", *meeting]
    program = ["-m", "attar", *COMMAND, *sets, "--out", str(tmp_path / "run")]
    started = [
        subprocess.Popen(
            # both have the name of this machine, which leads to neither: who hosts the meeting is said
            [
                *enter(name),
                *launcher,
                "--local-addr",
                address,
                "--rdzv-conf",
                f"is_host={int(address == first)}",
                *program,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, address in hosts.items()
    ]
    try:
        said = [process.communicate(timeout=LONGEST_S)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    one_process = {"recipe": "none", "thorough": True, "workers": 1, "settings": SETTINGS}
    attar.distill("digits", "sre2l", 2, **one_process, out=tmp_path / "one")
    one, two = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name / "distilled").rglob("*")) if path.is_file()}
        for name in ("one", "run")
    )
    assert one == two
