"""A distilled dataset as a dataset repository of the Hugging Face hub, with the user's own token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from attar.artifacts.checksums import NAME, read_sums
from attar.artifacts.description import locate
from attar.artifacts.verify import verify
from attar.errors import ArtifactError, AttarError, ConfigError, ResourceError

_REPLACED = ("data/*", "pixels-*", "labels-*", "teacher/*", "whitening.safetensors")
"""Files of an earlier upload that go, where this one has none of their names."""
_REFUSED = {401: "does not know the token", 403: "does not let the token write there"}


@dataclass(frozen=True)
class Push:
    """What went to the hub, or would go: repository, address, files by name with their bytes."""

    repository: str
    url: str
    files: dict[str, int]
    dry_run: bool


class Hub(Protocol):
    """What is asked of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        """Make a repository where there is none."""

    def upload_folder(self, **options: Any) -> Any:
        """Upload a folder as one commit."""


def push(
    distilled: Path, repository: str, *, private: bool = False, dry_run: bool = False, hub: Hub | None = None
) -> Push:
    """Upload a distilled dataset, whole, as one commit; files of an earlier one that it lacks are removed there.

    Args:
        distilled: its folder, or a run folder that holds one.
        repository: OWNER/NAME; made where there is none.
        private: only the owner sees a repository that is made.
        dry_run: say what would go, and ask nothing of the hub.
        hub: the hub, with a token; None takes huggingface_hub's, with the token of `hf auth login` or HF_TOKEN.

    Raises:
        ArtifactError: no distilled dataset, or damaged.
        ConfigError: no such name, no token, or the hub refuses it.
        ResourceError: the hub cannot be reached.
    """
    _require_name(repository)
    folder = locate(distilled)
    files = _files(folder)
    done = Push(repository, f"hf:{repository}", files, dry_run)
    if dry_run:
        return done
    hub = hub or _signed_in()
    try:
        made = hub.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=str(folder),
            allow_patterns=list(files),
            delete_patterns=list(_REPLACED),
            commit_message="Add a dataset distilled with attar",
        )
    except Exception as error:  # of the hub's client and of what it stands on
        raise _told(error, repository) from error
    return Push(repository, str(made), files, dry_run)


def _require_name(repository: str) -> None:
    owner, slash, name = repository.partition("/")
    word = r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?"
    sound = all(re.fullmatch(word, part, re.ASCII) and "--" not in part and ".." not in part for part in (owner, name))
    if not slash or not sound or len(name) > 96 or name.endswith(".git"):
        raise ConfigError(
            f"{repository!r} is no name of a repository",
            expected="OWNER/NAME, of letters, digits, '-', '_' and '.'",
            fix="for example me/cifar10-distilled",
        )


def _files(folder: Path) -> dict[str, int]:
    """Files that make the dataset, checked byte by byte, and nothing that lies beside them."""
    found = verify(folder)
    if found.problems:
        raise ArtifactError(
            f"{folder} is damaged: {found.problems[0]}", fix="`attar verify` tells all that is wrong; make it again"
        )
    return {name: (folder / name).stat().st_size for name in (*sorted(read_sums(folder)), NAME)}


def _signed_in() -> Hub:
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise ConfigError(
            "there is no Hugging Face token on this machine",
            expected="one that may write",
            fix="run `hf auth login`, or set HF_TOKEN",
        )
    hub: Any = HfApi(token=token, library_name="attar")
    return cast("Hub", hub)


def _told(error: Exception, repository: str) -> AttarError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if status in _REFUSED:
        return ConfigError(
            f"the hub {_REFUSED[status]}: {first}",
            expected=f"a token that may write to {repository}",
            fix="run `hf auth login` with such a token, or give a repository of your own",
        )
    return ResourceError(
        f"{repository} could not be uploaded: {first}", fix="see that the hub can be reached, and run the command again"
    )
