"""The page in a real browser. Skipped where playwright or a Chromium is not installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.report.compare import write_comparison
from attar.report.page import write_report
from attar.report.several import read_judged

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def page_file(make_run: Callable[..., Path]) -> Path:
    names = tuple(f"a class with quite a long name, number {i}" for i in range(10))
    beside = {"by_class": True, "strips": 5, "watched": True}
    return write_report(make_run(class_names=names, source="w" * 90, ipc=10, num_frames=30, experts=40, **beside))


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Callable[..., Any]]:
    """Open the page, or another, wait for the player, and fail at the end of the test on anything logged or refused."""
    contexts, problems = [], []

    def open_page(path: Path = page_file, *, width: int = 1280, motion: str = "reduce", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion=motion, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:80]}"))
        page.on("request", lambda request: problems.extend(_foreign(request.url)))
        page.goto(path.as_uri())
        if 'data-film="' in path.read_text("utf-8"):
            page.wait_for_selector("[data-ready]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _foreign(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:")) else [f"asked for {url}"]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits_its_width_and_every_image_loads(visit: Callable[..., Any], width: int) -> None:
    page = visit(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 100
    assert min(widths) > 0


def test_an_interrupted_run_fits_a_phone(visit: Callable[..., Any], make_run: Callable[..., Path]) -> None:
    page = visit(write_report(make_run(complete=False, evaluated=False)), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", [390, 1280])
def test_networks_chunks_and_steps_fit_too(
    visit: Callable[..., Any], make_run: Callable[..., Path], width: int
) -> None:
    networks = tuple(f"a-network-with-a-long-name-{i}" for i in range(3))
    path = write_report(make_run(networks=networks, chunks=15, continual=5, iterations=20))
    assert visit(path, width=width).evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_comparison_fits_too(
    visit: Callable[..., Any], make_run: Callable[..., Path], tmp_path: Path, width: int
) -> None:
    names = ("a-network-with-a-long-name-0", "a-network-with-a-long-name-1")
    task = {"classes": 3, "task": "t", "shape": [1, 8, 8], "source": "f", "ipc": 1, "method": "m" * 30}
    runs = []
    for _ in range(2):
        runs.append(make_run(networks=names))
        evaluation = json.loads((runs[-1] / "evaluation.json").read_text("utf-8"))
        (runs[-1] / "evaluation.json").write_text(json.dumps(evaluation | {"judged": task}), "utf-8")
    page = visit(write_comparison(read_judged(runs, {}), tmp_path / "page.html"), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".chart").count() == 4, "by bytes, for two networks and two kinds of labels"
    (dot,) = page.locator(".chart").first.locator(".line.dot").all()[:1]
    assert dot.evaluate("(path) => getComputedStyle(path).strokeLinecap") == "round"


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1280, "dark")])
def test_without_a_script_all_is_there_and_nothing_that_needs_one(
    visit: Callable[..., Any], page_file: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    text = page_file.read_text("utf-8").replace('data-film="', 'data-other="')  # nothing will make the player ready
    (tmp_path / "page.html").write_text(text, "utf-8")
    page = visit(tmp_path / "page.html", width=width, java_script_enabled=False, color_scheme=scheme)
    assert page.locator(".copy").count() > 2
    assert page.locator(".copy:visible").count() == 0
    assert page.locator(".contents a:visible").count() > 8
    assert page.locator("#settings table").first.is_hidden()
    page.locator("#settings summary").click()
    assert page.locator("#settings table").first.is_visible()
    assert page.locator("#classes .matrix").first.is_visible()
    with page.expect_download() as saved:
        page.locator("#measurements .download a").click()
    assert saved.value.suggested_filename.endswith("-measurements.csv")
    assert Path(saved.value.path()).read_text("utf-8").startswith("trained on,group,labels")


def test_a_link_of_the_contents_unfolds_what_it_leads_to(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator("#settings table").first.is_hidden()
    page.locator('.contents a[href="#settings"]').click()
    page.locator("#settings table").first.wait_for(state="visible")
    assert page.evaluate("document.getElementById('settings').getBoundingClientRect().top") < 900


def test_a_command_is_copied(visit: Callable[..., Any]) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    command = page.locator("#again .command").first
    command.locator(".copy").click()
    command.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == command.locator("code").text_content()


def test_wide_tables_say_that_they_scroll(visit: Callable[..., Any]) -> None:
    hint = "(box) => getComputedStyle(box, '::after').content"
    narrow, wide = (visit(width=width).locator("#measurements .scroll").first for width in (390, 1280))
    assert "scroll sideways" in narrow.evaluate(hint)
    assert narrow.evaluate("(box) => box.scrollWidth > box.clientWidth")
    assert wide.evaluate(hint) == "none"


def test_the_scrubber_changes_the_shown_frame(visit: Callable[..., Any]) -> None:
    page = visit()
    drawn = "document.querySelector('.stage canvas').toDataURL()"
    last, text = page.evaluate(drawn), page.inner_text(".step")
    scrubber = page.locator(".scrubber")
    scrubber.focus()
    page.keyboard.press("Home")
    assert page.inner_text(".step") == "step 0" != text
    assert page.evaluate(drawn) != last
    assert scrubber.get_attribute("aria-valuetext") == "step 0"
    page.keyboard.press("End")
    assert page.evaluate(drawn) == last


def test_the_frame_is_marked_in_the_loss_curve(visit: Callable[..., Any]) -> None:
    page = visit()
    cursor = page.locator("#synthesis .cursor").first
    assert cursor.get_attribute("x1") == "100%"
    page.locator(".scrubber").focus()
    page.keyboard.press("Home")
    assert cursor.get_attribute("x1") == "0%"
    plot = page.locator("#synthesis .plot > svg").first
    plot.hover()
    assert 45 < float(cursor.get_attribute("x1").rstrip("%")) < 55
    page.mouse.move(0, 0)
    assert cursor.get_attribute("x1") == "0%"


def test_play_and_pause_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    button = page.locator(".play")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-label") == "Pause"
    page.wait_for_selector('.film:not([data-frame="0"])')
    page.keyboard.press("Space")
    assert button.get_attribute("aria-label") == "Play"
    held = page.locator(".film").get_attribute("data-frame")
    page.wait_for_timeout(600)
    assert page.locator(".film").get_attribute("data-frame") == held


def test_it_plays_once_by_itself_unless_motion_is_unwelcome(
    visit: Callable[..., Any], make_run: Callable[..., Path]
) -> None:
    path = write_report(make_run(num_frames=6))
    moving = visit(path, motion="no-preference")
    moving.locator(".film").scroll_into_view_if_needed()
    moving.wait_for_selector(".film.playing")
    moving.wait_for_selector('.film:not(.playing)[data-frame="5"]')
    still = visit(path)
    still.locator(".film").scroll_into_view_if_needed()
    still.wait_for_timeout(400)
    assert still.locator(".film").get_attribute("data-frame") == "5"
    assert still.locator(".play").get_attribute("aria-label") == "Play"


def test_dark_mode_has_its_own_colours_and_enough_contrast(visit: Callable[..., Any]) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        colours = page.evaluate(
            """() => [".subtitle", ".caption", ".ours .score b", ".lead"].map((s) =>
                getComputedStyle(document.querySelector(s)).color)"""
        )
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for colour in colours:
            assert contrast(colour, grounds[scheme]) >= 4.5
    assert grounds["light"] != grounds["dark"]


def contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio of two `rgb(r, g, b)` colours, 1..21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
