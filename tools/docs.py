"""Write the pages of the site that are made of other files.

    python tools/docs.py            write them all
    python tools/docs.py --check    write nothing, and fail where a file that is kept in git is out of date

    docs/recipes.md              in git; of the recipe files
    README.md, docs/architecture.md, mkdocs.yml    in git; tables of methods and the navigation, of the first lines of
                                 docs/methods/*.md (# NAME, NAME: WHAT) and of the catalogue
    src/attar/catalogue.json     in git; of the classes of methods, strategies and settings, for `attar list` and `show`
    docs/reference/python.md     made for each build; of the functions of `attar`
    docs/reference/cli.md        made for each build; of the options of `attar`
    docs/reference/settings.md   made for each build; of the fields of the settings' classes
    docs/reference/strategies.md made for each build; of what the strategies' files say of themselves
    docs/decisions/README.md     made for each build; of the pages beside it
    docs/notebooks/NAME.md       made for each build; of NAME.ipynb

`make docs` runs this, then the site's builder.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
ROOT = DOCS.parent
CATALOGUE = ROOT / "src" / "attar" / "catalogue.json"
BETWEEN = (r"(?<=<!-- methods: python tools/docs\.py -->\n).*?(?=<!-- /methods -->)", re.DOTALL)
"""Where a page has its table of methods."""
IN_NAV = (r"(?<=  - Methods: # python tools/docs\.py\n)(?: {6}- .*\n)+", 0)
"""The methods' pages in the navigation."""
SOURCES = {
    "digits": "Digits, bundled",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "Tiny-ImageNet, 64 px",
    "imagenet-1k": "ImageNet-1K",
    "imagenette": "A folder of your own: ten classes of ImageNet at 64 px",
    "grey": "A folder of your own: grey images of 28 px",
}
"""Headings of the page of recipes, in this order."""
RECIPES_HEAD = """# Recipes

A recipe is a YAML file with every setting that makes one row of a paper's table, or a run that fits two CPU cores, with
the published number, the one reached here and the cost in its header. This page is made of those headers by
`make docs`.

    attar distill digits --recipe tesla-digits-ipc1
    attar distill cifar10 --data-dir DIR --recipe tesla-cifar10-ipc10
    attar show tesla-cifar10-ipc10
    attar plan cifar10 --data-dir DIR --recipe tesla-cifar10-ipc10

A recipe fits any source: `attar distill FOLDER --recipe tesla-cifar10-ipc1-cpu`. Beside it, `--set` changes
any setting. A file of your own serves as well: `--recipe my.yaml`. Where source, method and images per class are those
of a bundled recipe, attar takes it unasked; `--recipe none` prevents that.

"published" is the paper's accuracy in percent, under the paper's protocol, often the best of all epochs. "reached" is
ours, at the last epoch. Costs of what was not run yet are estimates for one GPU.
"""
SETTINGS_HEAD = """# Settings

Every option is a field of a typed section. On the command line it is `--set section.name=value`, in a recipe or in
`config.yaml` a line under its section, in Python a key of `settings`. The name alone is enough where it is in one
section only. Defaults here are the library's; a method or a recipe may have others, which `attar show NAME` prints.
"""
FUNCTIONS = (
    *("open", "distill", "resume", "submit", "load", "evaluate", "train", "continual", "plan", "study", "plan_study"),
    "bench",
    *("list_methods", "list_models", "list_recipes", "list_datasets", "list_strategies"),
    *("compare", "experts", "verify", "write_report", "export", "import_", "push"),
)
PYTHON_HEAD = """# Python

The same commands as the [command line](cli.md), with typed results. All are functions of `attar`; torch is imported at
the first call. Options that are no argument here go into `settings`, as on the command line into `--set`. Where an
argument is a setting too, its default is what the recipe or the method says.

```python
import attar

made = attar.distill("digits", ipc=1, settings={"recover.iterations": 50})
judged = attar.evaluate(made.distilled, "digits", seeds=5)
print(judged.verdict)
```

Real images may also be in memory: arrays, tensors, a torch `Dataset`, a `Dataset` or `DatasetDict` of
Hugging Face's library, by split or without. Networks are names, an `nn.Module`, or a function that makes one of a task;
methods and strategies are names or classes. A run from images in memory goes on when the same are handed over again: it
is their content that counts.

```python
made = attar.distill((images, labels), ipc=1, out="runs/mine")  # uint8 or floats in 0..1, NCHW or NHWC
made = attar.distill({"train": train_set, "test": test_set}, ipc=1)  # torch datasets, without augmentation
source = attar.open("cifar10", data_dir="data", resolution=16)  # look first: source.task, source.train, source.test
made = attar.distill(source, ipc=1, model=my_network)
image, label = made.load()[0]  # len() and iteration, too
```
"""
STRATEGIES_HEAD = """# Training strategies

What a batch is made of and what is added to the supervised loss, on real and on distilled images alike.

    attar train RUN --source SOURCE --strategy dlb
    attar train digits --strategy dlb+ddgsd --set cutmix=0.5
    attar train digits --strategy ps-kd --label-noise 0.4 --noise-kind pairflip
    attar show dlb

Several are joined by `+`. CutMix, MixUp, CutOut, RandAugment and wrong labels are settings of the section
[train](settings.md#train), and go with all of them. Views that come with stored labels are mixed already, and are not
mixed again.

    torchrun --nproc-per-node 2 -m attar train SOURCE --strategy dlb --model resnet32-cifar --out runs/network

Several processes share every batch; `batch_size` counts the images of all. Without BatchNorm, dropout and mixing the
result is that of one process, to float tolerance. BatchNorm has the statistics of its process. The same command goes on
where it was stopped, with as many processes.
[What agrees, and what not](../decisions/0014-batches-shared-by-processes.md).
"""
Row = tuple[str, Mapping[str, Any]]


def recipes_page(recipes: Iterable[Row]) -> str:
    """The page of recipes: one table for each source."""
    known = list(SOURCES)
    rows = sorted(recipes, key=lambda row: (known.index(_source(row)), row[1]["run"]["method"], row[1]["run"]["ipc"]))
    parts = [RECIPES_HEAD]
    for source, found in groupby(rows, _source):
        parts.append(f"\n## {SOURCES[source]}\n\n| recipe | method | IPC | published | reached | cost |\n")
        parts.append("|---|---|---:|---|---|---|\n")
        parts += [_recipe(name, values) for name, values in found]
    return "".join(parts)


def with_methods() -> dict[Path, str]:
    """The files that name every method and its page, brought up to date."""
    from attar.described import contents

    told = {path.name: path.read_text("utf-8").partition("\n")[0] for path in sorted((DOCS / "methods").glob("*.md"))}
    heads = [(page, *line.removeprefix("# ").split(": ", 1)) for page, line in told.items()]
    heads.sort(key=lambda head: head[1])
    page_of = {name: page for page, of, _ in heads for name in of.split(", ")}
    in_short = [f"| {_linked(of, f'docs/methods/{page}')} | {what} |\n" for page, of, what in heads]
    in_full = [
        f"| {_linked(name, f'methods/{page_of[name]}')} | `{one['knowledge']}` | {one['summary']} |\n"
        for name, one in sorted(contents()["methods"].items())
        if name in page_of
    ]
    parts = {
        ROOT / "README.md": (*BETWEEN, "| method | what it makes |\n|---|---|\n" + "".join(in_short)),
        DOCS / "architecture.md": (
            *BETWEEN,
            "| method | knowledge | what it makes |\n|---|---|---|\n" + "".join(in_full),
        ),
        ROOT / "mkdocs.yml": (*IN_NAV, "".join(f"      - {of}: methods/{page}\n" for page, of, _ in heads)),
    }
    return {
        path: re.sub(pattern, lambda _, new=new: new, path.read_text("utf-8"), count=1, flags=flags)
        for path, (pattern, flags, new) in parts.items()
    }


def _linked(names: str, page: str) -> str:
    return f"[{', '.join(f'`{name}`' for name in names.split(', '))}]({page})"


def cli_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    import typer

    from attar.cli import EPILOG, app

    root = typer.main.get_command(app)
    commands: dict[str, Any] = root.commands  # type: ignore[attr-defined]
    parts = [f"# Command line\n\nWhat `attar COMMAND --help` prints.\n\n{EPILOG.replace('--debug', '`--debug`')}\n"]
    for name, command in commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join([f"attar {name}", *command.collect_usage_pieces(context)]).translate({123: None, 125: None})
        about = command.help.replace("\\[", "[")
        parts.append(f"\n## attar {name}\n\n{about}\n\n```text\n{usage}\n```\n\n| | |\n|---|---|\n")
        told = (param.get_help_record(context) for param in command.get_params(context) if param.name != "help")
        rows = [(names.removesuffix(" <str>").removesuffix(" <list[str]>"), text) for names, text in filter(None, told)]
        parts += [f"| `{_cell_text(names)}` | {_cell_text(text)} |\n" for names, text in rows]
    return "".join(parts)


def python_page() -> str:
    """Every function of `attar`: signature, what it does, and its options."""
    import inspect

    import attar
    from attar.config import options
    from attar.options import section_of

    parts = [PYTHON_HEAD]
    for name in FUNCTIONS:
        function = getattr(attar, name)
        about, _, _ = inspect.cleandoc(function.__doc__).partition("\n\nArgs:")
        _, _, raises = inspect.cleandoc(function.__doc__).partition("\n\nRaises")
        more = f"\n\nRaises{raises}" if raises else ""
        parts.append(f"\n## attar.{name}\n\n```python\n{_call(name, function)}\n```\n\n{about}{more}\n")
        if not hasattr(function, "options"):
            continue
        parts.append("\n| argument | default | meaning |\n|---|---|---|\n")
        described = {option.name: option for option in options(function.options)}
        for argument in inspect.signature(function).parameters:
            option, section = described[argument], section_of(function.options, argument)
            setting = f" Setting `{section}.{argument}`." if section else ""
            parts.append(f"| `{argument}` | `{_cell_text(option.default)}` | {_setting(option)}{setting} |\n")
    return "".join(parts)


def _call(name: str, function: Any) -> str:
    """A signature as it is typed, over several lines where one is too short."""
    import inspect

    signature = inspect.signature(function)
    words = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(one.name if one.default is one.empty else f"{one.name}={one.default!r}")
    returned = str(signature.return_annotation).strip("'")
    line = f"attar.{name}({', '.join(words)}) -> {returned}"
    wrapped = textwrap.fill(", ".join(words) + ",", 96, initial_indent="    ", subsequent_indent="    ")
    return line if len(line) <= 100 else f"attar.{name}(\n{wrapped}\n) -> {returned}"


def catalogue_text() -> str:
    """What `attar list` and `attar show` answer from."""
    from attar.described import contents

    return json.dumps(contents(), indent=1, ensure_ascii=False) + "\n"


def settings_page() -> str:
    """Every setting of every section and method: type, default, meaning."""
    from attar.config import options
    from attar.described import study_options
    from attar.interop.settings import ForeignSettings
    from attar.methods import methods
    from attar.run.settings import sections_of
    from attar.squeeze.knowledge import kinds as kinds_of_knowledge
    from attar.training.section import TrainSection

    training = {(option.name, option.default) for option in options(TrainSection)}
    named = sections_of(methods()["random"]) | {"foreign": ForeignSettings}
    named = {name: kind for name, kind in named.items() if name not in ("squeeze", "method")}
    kinds = list(named.items())
    kinds += [
        (f"squeeze: {name}", kind.Settings) for name, kind in kinds_of_knowledge().items() if kind.Settings.model_fields
    ]
    kinds += [(f"method: {name}", kind.Settings) for name, kind in methods().items()]
    parts = [SETTINGS_HEAD]
    for title, kind in kinds:
        also = issubclass(kind, TrainSection) and kind is not TrainSection
        fields = [one for one in options(kind) if not (also and (one.name, one.default) in training)]
        about = _cell_text((kind.__doc__ or "").splitlines()[0]) + also * " And all of [train](#train), as there:"
        head = "| setting | default | meaning |\n|---|---|---|\n" if fields else ""
        parts.append(f"\n## {title}\n\n{about}\n\n{head}")
        parts += [f"| `{one.name}` | `{one.default}` | {_setting(one)} |\n" for one in fields]
    parts.append("\n## study\n\nThe file of a [study](../studies.md). `train` holds the fields of [train](#train).\n\n")
    parts.append("| field | default | meaning |\n|---|---|---|\n")
    parts += [f"| `{one.name}` | `{one.default}` | {_setting(one)} |\n" for one in study_options()]
    return "".join(parts)


def strategies_page() -> str:
    """Every training strategy: objective, source and settings."""
    from attar.catalogue import describe, names

    parts = [STRATEGIES_HEAD]
    for name, summary in names("strategies"):
        told = describe(name)
        source = f"\n\nSource: {told['notes']['source']}." if told["notes"]["source"] else ""
        parts.append(f"\n## {name}\n\n{summary[0].upper()}{summary[1:]}.{source}\n")
        if objective := told["objective"].strip("\n"):
            parts.append(f"\n```text\n{objective}\n```\n")
        if fields := told["sections"].get("train"):
            parts.append("\n| setting | default | meaning |\n|---|---|---|\n")
            parts += [
                f"| `train.{one['name']}` | `{one['default']}` | {_cell_text(one['meaning'])} |\n" for one in fields
            ]
    return "".join(parts)


def decisions_page(files: Iterable[Path]) -> str:
    """The list of decisions, the newest first."""
    titles = [(file, file.read_text("utf-8").partition("\n")[0].removeprefix("# ")) for file in files]
    lines = [f"- {file.stem[:4]} [{title}]({file.name})" for file, title in reversed(titles)]
    return "\n".join(["# Decisions", "", "What was decided, why, and what was left.", "", *lines, ""])


def notebook_page(path: Path) -> str:
    """A notebook as Markdown, its pictures within."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    note = f"The [notebook]({path.name}) itself runs top to bottom on a CPU in under five minutes.\n{{ .attar-note }}"
    title, _, rest = _text(cells[0]["source"]).partition("\n")
    return "\n\n".join([title, note, rest.strip(), *(part for cell in cells[1:] for part in _cell(cell))]) + "\n"


def pages() -> dict[Path, str]:
    """All that is made, by path."""
    decisions = DOCS / "decisions"
    made = {
        DOCS / "recipes.md": recipes_page(_recipes()),
        CATALOGUE: catalogue_text(),
        DOCS / "reference" / "cli.md": cli_page(),
        DOCS / "reference" / "python.md": python_page(),
        DOCS / "reference" / "settings.md": settings_page(),
        DOCS / "reference" / "strategies.md": strategies_page(),
        decisions / "README.md": decisions_page(sorted(decisions.glob("0*.md"))),
    }
    return (
        made
        | with_methods()
        | {path.with_suffix(".md"): notebook_page(path) for path in sorted(DOCS.glob("notebooks/*.ipynb"))}
    )


def _recipes() -> list[Row]:
    import yaml

    files = sorted((DOCS.parent / "src" / "attar" / "recipes").glob("*.yaml"))
    return [(file.stem, yaml.safe_load(file.read_text("utf-8"))) for file in files]


def _source(row: Row) -> str:
    name, values = row
    named = (values.get("when") or {}).get("source")
    return named or max((source for source in SOURCES if f"-{source}-" in f"{name}-"), key=len)


def _recipe(name: str, values: Mapping[str, Any]) -> str:
    reached = values["reached"].partition(";")[0] if values["reached"].startswith("not run") else values["reached"]
    cost = re.sub(r"^estimate for one (?:GPU, |(.+ GPU)(?=, ))", lambda found: found[1] or "", values["cost"])
    cells = [f"`{name}`", values["run"]["method"], values["run"]["ipc"], values["published"], reached, cost]
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |\n"


def _cell_text(text: str) -> str:
    """One cell of a table."""
    return " ".join(text.replace("\\[", "[").replace("|", "/").split())


def _setting(option: Any) -> str:
    return f"{_cell_text(option.meaning)} *{_cell_text(option.type)}*"


def _cell(cell: Mapping[str, Any]) -> list[str]:
    text = _text(cell["source"])
    if cell["cell_type"] == "markdown":
        return [text]
    return [f"```python\n{text}\n```", *filter(None, map(_output, cell.get("outputs", [])))]


def _output(output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{_text(data['image/png']).replace(chr(10), '')})"
    text = _text(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def main() -> int:
    """Write the pages, or check those in git."""
    if "--check" in sys.argv[1:]:
        kept = {DOCS / "recipes.md": recipes_page(_recipes()), CATALOGUE: catalogue_text(), **with_methods()}
        stale = [path for path, text in kept.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in stale:
            sys.stderr.write(f"{path} is not what the code and the recipes say; to fix: python tools/docs.py\n")
        return bool(stale)
    for path, text in pages().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
