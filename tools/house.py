"""Count the house: files, lines, public names, rooms and the arrows between them.

    python tools/house.py              the working tree
    python tools/house.py REVISION...  these revisions, in columns

A public name is a class, function, method or module constant whose name and whose owners' names do not begin with an
underscore. A room is a folder of the package, or a module beside them; an arrow is that one imports another.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path("src") / "attar"


def sources(revision: str | None) -> dict[Path, str]:
    """The package's modules by path, of a revision or of the working tree."""
    if revision is None:
        return {path.relative_to(PACKAGE): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    packed = subprocess.run(["git", "archive", revision, str(PACKAGE)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = [file for file in archive if file.isfile() and file.name.endswith(".py")]
        texts = {file.name: archive.extractfile(file) for file in files}
        return {Path(name).relative_to(PACKAGE): file.read().decode() for name, file in texts.items() if file}


def public_names(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Names that a module or class gives to others."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name
            if isinstance(node, ast.ClassDef):
                yield from public_names(node)
        elif isinstance(tree, ast.Module) and isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            yield from (name for name in names if not name.startswith("_"))


def room(path: Path) -> str:
    """The room that a module lies in."""
    return path.parts[0].removesuffix(".py")


def arrows(files: dict[Path, str]) -> set[tuple[str, str]]:
    """Which room imports which."""
    found = set()
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module] if node.module != "attar" else [f"attar.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                parts = module.split(".")
                if parts[0] == "attar" and len(parts) > 1 and parts[1] != room(path):
                    found.add((room(path), parts[1]))
    return found


def counts(revision: str | None) -> dict[str, int]:
    """All counts of one revision."""
    files = sources(revision)
    lines = [line for text in files.values() for line in text.splitlines()]
    trees = [ast.parse(text) for text in files.values()]
    top = [name for tree in trees for name in public_names(tree)]
    return {
        "files": len(files),
        "lines": len(lines),
        "lines of code": sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines),
        "public names": len(top),
        "public classes and functions": sum(
            isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            for tree in trees
            for node in tree.body
        ),
        "rooms": len({room(path) for path in files if path.name != "__init__.py" or len(path.parts) > 1}),
        "arrows": len(arrows(files)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", nargs="*", help="as git names them; none: the working tree")
    revisions = parser.parse_args().revisions or [None]
    columns = [counts(revision) for revision in revisions]
    print(f"{'':<30}" + "".join(f"{revision or 'now':>14}" for revision in revisions))
    for name in columns[0]:
        print(f"{name:<30}" + "".join(f"{column[name]:>14,}" for column in columns))


if __name__ == "__main__":
    main()
