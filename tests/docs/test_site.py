"""The site: what is made of other files is up to date, links lead somewhere, and nothing is fetched from the net."""

import inspect
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import attar

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "docs.py"), run_name="docs")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = (
    "decisions/README.md",
    "reference/cli.md",
    "reference/python.md",
    "reference/settings.md",
    "reference/strategies.md",
    "notebooks/first-set.md",
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDS_BUILDER = pytest.mark.skipif(find_spec("zensical") is None, reason="the group `docs` is not installed")


def nav(entry) -> list[str]:
    """Pages of the navigation, or of a part of it."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in nav(part)]


def test_the_table_of_recipes_is_what_the_recipe_files_say():
    kept = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    assert kept == TOOL["recipes_page"](TOOL["_recipes"]()), "to fix: python tools/docs.py"


@pytest.mark.parametrize("path", TOOL["with_methods"](), ids=lambda path: path.name)
def test_what_names_every_method_is_up_to_date(path):
    assert path.read_text("utf-8") == TOOL["with_methods"]()[path], "to fix: python tools/docs.py"
    assert all(f"{name}.md" in path.read_text("utf-8") for name in ("tesla", "rded"))


def test_a_recipe_that_changes_changes_its_row():
    rows = TOOL["_recipes"]()
    changed = [(name, {**values, "published": "99.9 % | proven"}) for name, values in rows]
    assert TOOL["recipes_page"](changed).count("| 99.9 % / proven |") == len(rows)


def test_every_page_is_in_the_navigation_or_in_the_list_of_decisions():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = set(nav(config["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    decisions = {page for page in pages if re.match(r"decisions/\d{4}-", page)}
    assert listed - set(MADE) == pages - decisions - set(MADE), "to fix: nav in mkdocs.yml"
    assert set(MADE) <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|data:|#", target)]
    for target in targets:
        path = (page.parent / target.partition("#")[0]).resolve()
        made = any(str(path).endswith(name) for name in MADE)
        assert made or path.exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_list_is_one_for_the_site_as_well_as_for_github(page):
    """Python-Markdown wants four spaces before what goes on in an item, and an empty line before the first item."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"\n\n {1,3}\S", text), "indent it by four spaces"
    begun = re.search(r"^(?!\s|[-*] |\d+\. )\S.*\n(?:[-*]|\d+\.) ", text, re.MULTILINE)
    assert not begun, f"an empty line is wanted after {begun and begun[0]!r}"


def test_the_list_of_decisions_has_each_once_the_newest_first():
    files = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    numbers = re.findall(r"^- (\d{4}) \[.+\]\(\1-", TOOL["decisions_page"](files), re.MULTILINE)
    assert numbers == [file.name[:4] for file in reversed(files)]


def test_the_pages_of_options_and_settings_have_all_of_them():
    cli, settings = TOOL["cli_page"](), TOOL["settings_page"]()
    assert "## attar distill" in cli
    assert re.search(r"^\| `--ipc .*` \| Synthetic images per class", cli, re.MULTILINE)
    assert re.search(r"^\| `dlb\.tau` \| `3` \| .+ \*float\* \|$", settings, re.MULTILINE)
    for title in ("run", "train", "method: sre2l", "squeeze: trajectories"):
        assert f"\n## {title}\n" in settings
    assert all(line.count(" | ") == 2 for line in settings.splitlines() if line.startswith("| `"))


def test_the_reference_has_every_public_function_and_what_it_returns():
    python, results = TOOL["python_page"](), (ROOT / "docs" / "reference" / "results.md").read_text("utf-8")
    public = {name for name in attar.__all__ if not name.startswith("_")}
    functions = {name for name in public if inspect.isfunction(getattr(attar, name))}
    assert set(re.findall(r"^## attar\.(\w+)$", python, re.MULTILINE)) == functions
    shown = set(re.findall(r"^::: attar[\w.]*\.(\w+)$", results, re.MULTILINE))
    returned = " ".join(str(inspect.signature(getattr(attar, name)).return_annotation) for name in functions)
    types = set(re.findall(r"[A-Z]\w+", returned))
    assert types - shown - {"Path"} == set(), "what a function returns stands among the results"
    assert public - functions <= shown


def test_a_notebook_becomes_a_page_with_its_pictures():
    page = TOOL["notebook_page"](ROOT / "docs" / "notebooks" / "first-set.ipynb")
    assert page.startswith("# A first distilled dataset\n")
    assert page.count("```python\n") == 6
    assert page.count("](data:image/png;base64,") == 2
    assert page.count("```") % 2 == 0


class Fetched(HTMLParser):
    """What a browser would fetch for a page: scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, built strictly in a copy of what it is made of."""
    tmp_path = tmp_path_factory.mktemp("site")
    for name in ("docs", "src", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "CHANGELOG.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run([sys.executable, str(tmp_path / "tools" / "docs.py")], check=True)
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "site"


@pytest.mark.slow
@NEEDS_BUILDER
def test_the_site_builds_strictly_and_fetches_nothing_from_the_net(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text("utf-8"))
        assert [url for url in reader.found if re.match(r"(https?:)?//", url)] == [], page.name


@pytest.mark.slow
@NEEDS_BUILDER
def test_the_search_works_on_a_page_that_is_opened_from_a_disk(site):
    driver = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(BROWSERS)}")
    fetched = []
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = opened.new_page()
        page.on("request", lambda request: fetched.append(request.url))
        page.goto((site / "methods" / "sre2l.html").as_uri())
        page.wait_for_timeout(500)
        page.keyboard.press("Control+k")
        box = page.get_by_placeholder("Search").last
        box.press_sequentially("label budget", delay=50)
        page.get_by_text(re.compile(r"^\d+ results$")).wait_for()
        assert box.input_value() == "label budget"
        assert page.get_by_text("Labels, and what they cost").count() >= 1
        opened.close()
    assert [url for url in fetched if url.startswith("http")] == []


@pytest.mark.slow
@NEEDS_BUILDER
def test_a_broken_link_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](nowhere.md)\n", "utf-8")
    (tmp_path / "mkdocs.yml").write_text("site_name: test\nnav: [index.md]\n", "utf-8")
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "does not exist" in done.stdout + done.stderr
