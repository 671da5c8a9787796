"""What the pages tell to type, and the same at toy size: on digits, with narrow networks and a few steps."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from attar import cli
from attar.methods import methods
from attar.methods.base import Method
from attar.recipes import recipes
from attar.recipes import study_names as studies

ROOT = Path(__file__).parents[2]
RECIPES = recipes()
HISTORY = ("LOG.md", "changes.md", "cli.md", "settings.md", "strategies.md", "decisions/")
"""Pages of what was done once, and those made of the code itself, whose own words are in tools/docs.py."""
CANNOT = {
    r"^make \w+$": "it is what runs these tests; there is such a target",
    r"^python tools/docs.py": "tests/docs/test_site.py runs it",
    r"^hf auth login": "it asks for a token",
    r"^(uv )?pip install ": "it takes what is installed from the network",
    r"^(ATTAR_DATA=FOLDER )?python benchmarks/\w+\.py": "it measures for minutes; there is such a file",
    r"--weights \w+": "released weights come from the network; tests/models has the reading of them",
    r"^attar submit ": "it asks for a cluster; tests/api/test_submitting.py runs its tasks on this machine",
    r"^attar evaluate (syn|logged_files|res_)": "other people's files; tests/interop makes some like them",
}
"""Commands that are not run, and why."""
QUICK = ("--help", "list", "show", "verify", "report", "export", "import", "push")
TOY_MODELS = {"trajectories": "convnet-d2-w8", "teacher": "convnet-d2-w8-batch", "pool": "convnet-d2-w8-batch"}
OF_A_TRAINING = ["train.epochs=2"]
OF_A_STUDY = [
    "data.source=digits",
    "data.train_per_class=12",
    'models=["convnet-d2-w8-batch"]',
    "train.epochs=2",
    "train.milestones=[0.5]",
    "seeds=1",
]
OF_A_JUDGEMENT = [*OF_A_TRAINING, "evaluate.full_epochs=1"]
OF_TEACHERS = [
    *("squeeze.epochs=2", "squeeze.warmup_epochs=0", "squeeze.more_models=[]", "squeeze.weights=null"),
    *("method.sides=[1,1]", "method.layer=auto"),
]
OF_KNOWLEDGE = {
    "none": [],
    "teacher": OF_TEACHERS,
    "pool": [*OF_TEACHERS, "squeeze.num_members=2", "squeeze.member_epochs=[]"],
    "trajectories": [
        "squeeze.epochs=2",
        "squeeze.num_experts=2",
        "method.num_steps=2",
        "method.expert_epochs=1",
        "method.max_start_epoch=1",
        "method.initial_max_start_epoch=null",
        "method.lr_images=1",
    ],
}


@cache
def attar_itself() -> Any:
    """The command line, whose commands make their flags once."""
    return typer.main.get_command(cli.app)


@dataclass(frozen=True)
class Places:
    """What the words in capitals stand for."""

    folder: Path
    """FOLDER: class folders of digits."""
    run: Path
    """RUN, runs/mine: a run folder that is complete; runs/other: one beside it, with -other behind its name."""
    exported: Path
    """PATH: other people's images."""
    out: Path
    """DIR, OUT: an empty folder."""
    study: Path
    """FILE.yaml: a study."""


def commands() -> dict[str, list[str]]:
    """Every command that a page tells to type, with the pages."""
    found: dict[str, list[str]] = {}
    written = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tools" / "docs.py"]
    for page in [*written, *sorted((ROOT / "docs").rglob("*.md"))]:
        name = str(page.relative_to(ROOT))
        if not any(part in name for part in HISTORY):
            for line in commands_of(page.read_text("utf-8")):
                found.setdefault(line, []).append(name)
    return found


def commands_of(text: str) -> list[str]:
    """Commands in blocks of code, and those in a sentence that have arguments; comments and brackets left out."""
    program = r"(?:ATTAR_DATA=\S+ )?(?:attar|torchrun|python|pip|make|hf|uv|conda|docker) "
    told = re.findall(rf"^ {{4}}({program}.*)$", text, re.MULTILINE)
    for language, fence in re.findall(r"^```(\w*).*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "bash", "console"):
            told += [line for line in fence.splitlines() if re.match(program, line)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ {4}.*$", "", prose, flags=re.MULTILINE)
    inline = [" ".join(one.split()) for one in re.findall(rf"`({program}[^`]+)`", prose)]
    told += [line for line in inline if len(line.split()) > 2 or not line.startswith("attar")]
    return [re.sub(r"\[(--.*?)\]", r"\1", re.split(r"\s+#", line)[0]).strip() for line in told]


def cannot(line: str) -> str | None:
    """Why a command is not run, or None."""
    return next((why for pattern, why in CANNOT.items() if re.search(pattern, line)), None)


def is_quick(line: str) -> bool:
    """Whether it takes less than a second or so."""
    words = shlex.split(line)
    return words[1] in QUICK or "--list" in words


def toy(line: str, places: Places) -> list[str]:
    """The words behind `attar` of the same command at toy size."""
    line = line.replace("compare RUN RUN", "compare RUN runs/other")  # several runs are several
    words = shlex.split(re.sub(r"^torchrun .* -m ", "", line))
    assert words[0] == "attar", f"nobody knows how to run {line!r}: teach tests/docs/toy_commands.py"
    wanted = _wanted(words)
    words = [_placed(word, places) for word in words[1:]]
    if words[0] in ("distill", "squeeze", "plan") and "--list" not in words:
        return [*words, *_smaller_run(words, wanted, places)]
    if words[0] in ("recover", "relabel"):
        return words
    if words[0] == "evaluate":
        judged = ["--models", "convnet-d2-w8", "--seeds", "1", "--resolution", "8"]
        return [*words, *judged, *_sets(OF_A_JUDGEMENT), *_out(words, places)]
    if words[0] == "bench":
        one = ["--methods", "random", "--ipc", "1", "--labels", "hard", "--seeds", "1", "--resolution", "8"]
        judged = ["--model", "convnet-d2-w8", "--full-epochs", "1", *_sets(OF_A_TRAINING)]
        return [*words, *one, *judged, *_out(words, places)]
    if words[0] == "study":
        name = words[1] if words[1] in studies() else str(places.study)
        given = [word.replace("=RUN", f"={places.run}") for word in words[2:]]
        return [words[0], name, *given, *_sets(OF_A_STUDY), *_out(words, places)]
    if words[0] in ("train", "continual"):
        smaller = ["--model", "convnet-d2-w8", "--resolution", "8", *_sets(OF_A_TRAINING)]
        return [*words, *smaller, *_out(words, places)]
    return [*words, "--dry-run"] if words[0] == "push" else words


def _wanted(words: list[str]) -> tuple[str, str | None]:
    """Method and recipe that the command would take."""
    name = _option(words, "--method") or ("teddy" if "--pool" in words else "auto")
    recipe = _option(words, "--recipe")
    if recipe is None and words[1] in ("distill", "squeeze", "plan") and len(words) > 2:
        ipc = _option(words, "--ipc")
        fitting = [one.name for one in RECIPES.values() if one.suits(words[2], name, int(ipc) if ipc else None)]
        recipe = fitting[0] if fitting else None
    if recipe in RECIPES:
        return RECIPES[recipe].sections["run"]["method"], recipe
    return ("tesla" if name == "auto" else name), recipe


def _placed(word: str, places: Places) -> str:
    stands_for = {
        **dict.fromkeys(("SOURCE", "cifar10", "cifar100", "tiny-imagenet", "imagenet-1k"), "digits"),
        **dict.fromkeys(("mnist", "medmnist:pathmnist", "hf:OWNER/NAME"), "digits"),
        **dict.fromkeys(
            ("pictures.zip", "pathmnist.npz", "OUT/distilled.npz", "wds:shards/train-{000..146}.tar"),
            str(places.folder),
        ),
        **dict.fromkeys(("NAME", "METHOD"), "tesla"),
        **dict.fromkeys(("RUN", "DISTILLED", "runs/mine", "runs/demo"), str(places.run)),
        **dict.fromkeys(("DIR", "OUT", "runs/network"), str(places.out)),
        **dict.fromkeys(("FOLDER", "FOLDER/cifar10"), str(places.folder)),
        "OWNER/NAME": "OWNER/NAME",
        "runs/other": f"{places.run}-other",
        "PATH": str(places.exported),
        "FORMAT": "imagefolder",
    }
    first, slash, rest = word.partition("/")
    return stands_for.get(word) or (stands_for[first] + slash + rest if slash and first.isupper() else word)


def _smaller_run(words: list[str], wanted: tuple[str, str | None], places: Places) -> list[str]:
    name, recipe = wanted
    kind = methods()[name]
    pixels = "method.features=pixels" in words
    knowledge = "none" if pixels else kind.knowledge
    given = [one for one in OF_KNOWLEDGE[knowledge] if _is_setting_of(kind, one)]
    given += [*OF_A_JUDGEMENT, "evaluate.seeds=1", "source.train_per_class=12"]
    model = TOY_MODELS.get(knowledge, "convnet-d2-w8")
    given += [f"squeeze.model={model}"] * (knowledge != "none") + [f'evaluate.models=["{model}"]']
    if kind.defaults.get("recover", {}).get("iterations", 1):
        given += ["recover.iterations=2", "recover.num_snapshots=2"]
    out = [] if words[0] == "plan" else ["--out", str(places.out / "run")]
    asked = ["--recipe", "tesla-digits-ipc1" if recipe == "NAME" else recipe] if recipe else []
    return ["--ipc", "2", "--method", name, *asked, "--resolution", "8", *out, *_sets(given)]


def _is_setting_of(kind: type[Method], assignment: str) -> bool:
    """Whether a method has what is assigned, where it is one of a method's own settings."""
    section, _, rest = assignment.partition(".")
    return section != "method" or rest.partition("=")[0] in kind.Settings.model_fields


def _out(words: list[str], places: Places) -> list[str]:
    return [] if "--out" in words else ["--out", str(places.out / "out")]


def _option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def _sets(assignments: list[str]) -> list[str]:
    return [word for one in assignments for word in ("--set", one)]
