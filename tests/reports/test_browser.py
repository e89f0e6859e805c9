"""The only owner of the tests of the site in a real browser: sorting, filters, theme, and nothing from the network."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robustcl.reports.folder import RunFolder
from robustcl.reports.page import save
from robustcl.reports.style import NORMS
from tests.reports.site import HOSTILE, varied

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"  # Debian's; selenium must not look for others
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
NARROW = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": False}
THREAT = f"{NORMS['linf']} 1/5"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="400"><rect width="600" height="400"/></svg>'

if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
    pytest.skip(f"needs {CHROMIUM} and {DRIVER}", allow_module_level=True)
selenium = pytest.importorskip("selenium", reason="needs the package selenium")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The site of a run with everything in it, the leaderboard first."""
    folder = tmp_path_factory.mktemp("browser")
    figure = folder / "site" / "accuracy-against-eps.svg"
    figure.parent.mkdir()
    figure.write_text(SVG)
    made = save(RunFolder(varied(folder / "runs")), folder / "site", [figure])
    return [path for path in made if path.suffix == ".html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests, as it takes long to start; it notes all that it asks for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def board(browser: Any, pages: list[Path]) -> Any:
    """The leaderboard, opened anew and without a remembered theme."""
    browser.get(pages[0].as_uri())
    browser.execute_script("localStorage.clear(); delete document.documentElement.dataset.theme")
    return browser


def rows(browser: Any) -> list[tuple[str, ...]]:
    """Encoder, scheme, data set, threat and AA of the rows that are seen."""
    script = """return [...document.querySelectorAll('#board tbody tr')].filter((row) => row.offsetParent)
        .map((row) => [row.querySelector('a').textContent, row.dataset.scheme, row.dataset.data, row.dataset.threat,
                       row.cells[6].dataset.value])"""
    return [tuple(row) for row in browser.execute_script(script)]


def wait(condition: Callable[[], bool]) -> None:
    """Until it holds; a busy machine takes its time."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited for 10 seconds"
        time.sleep(0.02)


def head(browser: Any, column: int) -> Any:
    return browser.find_elements("css selector", "#board thead th")[column]


def choose(browser: Any, name: str, text: str) -> None:
    browser.find_element("css selector", f"#filters [name={name}]").send_keys(text)


def test_a_click_sorts_and_another_turns_it_round(board: Any) -> None:
    before = rows(board)
    assert len(before) == 11
    assert [row[:2] for row in before[:2]] == [("advcl", "SLF"), (HOSTILE, "SLF")]
    head(board, 6).find_element("tag name", "button").click()
    values = [float(row[4] or -1) for row in rows(board)]
    assert values == sorted(values, reverse=True)
    assert head(board, 6).get_attribute("aria-sort") == "descending"
    head(board, 6).find_element("tag name", "button").click()
    values = [float(row[4] or 101) for row in rows(board)]
    assert values == sorted(values), "what is not finished stays at the end"
    assert head(board, 6).get_attribute("aria-sort") == "ascending"
    head(board, 0).find_element("tag name", "button").click()
    assert [row[0] for row in rows(board)] == sorted((row[0] for row in before), key=str.lower)
    assert head(board, 6).get_attribute("aria-sort") is None


def test_the_keyboard_sorts(board: Any) -> None:
    board.find_element("css selector", "#filters button[type=reset]").send_keys("\ue004\ue004")  # to the scroller, on
    focused = board.switch_to.active_element
    assert focused.tag_name == "button"
    assert focused.text.startswith("Encoder")
    outline = board.execute_script("return getComputedStyle(arguments[0]).outlineStyle", focused)
    assert outline == "solid", "who uses the keyboard sees where they are"
    focused.send_keys("\ue007")
    assert head(board, 0).get_attribute("aria-sort") == "ascending"
    focused.send_keys(" ")
    assert head(board, 0).get_attribute("aria-sort") == "descending"


def test_the_first_tab_skips_to_the_content(board: Any) -> None:
    board.find_element("tag name", "body").send_keys("\ue004")
    assert board.switch_to.active_element.text == "Skip to the content"
    board.switch_to.active_element.send_keys("\ue007")
    assert board.switch_to.active_element.get_attribute("id") == "content"


def test_filters_keep_what_fits_all_of_them(board: Any) -> None:
    choose(board, "data", "mnist")
    assert {row[2] for row in rows(board)} == {"mnist"}
    choose(board, "scheme", "SLF")
    assert [row[:3] for row in rows(board)] == [("advcl", "SLF", "mnist"), (HOSTILE, "SLF", "mnist")]
    assert board.find_element("css selector", "#filters output").text == "2 of 11 rows"
    choose(board, "text", "advcl")
    assert [row[0] for row in rows(board)] == ["advcl"]
    board.find_element("css selector", "#filters button[type=reset]").click()
    wait(lambda: len(rows(board)) == 11)
    choose(board, "threat", THREAT)
    assert {row[3] for row in rows(board)} == {THREAT}
    choose(board, "text", "nobody")
    assert rows(board) == []


def test_a_link_leads_to_an_encoder_and_back(board: Any) -> None:
    choose(board, "scheme", "AFF")
    board.find_element("link text", "advcl").click()
    wait(lambda: "/encoders/advcl.html" in board.current_url)
    assert board.find_element("tag name", "h1").text == "advcl"
    assert len(board.find_elements("css selector", ".strip img")) > 0
    assert len(board.find_elements("css selector", ".plot polyline")) == 6
    board.find_element("css selector", "nav a").click()
    wait(lambda: board.current_url.endswith("index.html"))
    assert len(rows(board)) > 0


def test_a_chosen_theme_is_remembered_on_every_page(board: Any, pages: list[Path]) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = board.execute_script(paper)
    board.find_element("id", "theme").click()
    dark = board.execute_script(paper)
    assert dark != light
    for page in (pages[1], pages[0]):
        board.get(page.as_uri())
        assert board.execute_script(paper) == dark
        assert board.find_element("id", "theme").get_attribute("aria-pressed") == "true"
    board.find_element("id", "theme").click()
    assert board.execute_script(paper) == light


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_paper(board: Any, theme: str) -> None:
    """WCAG AA: 4.5 to 1 for all text, whichever colour it has."""
    script = """document.documentElement.dataset.theme = arguments[0];
        const pixel = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const light = (colour) => { pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...pixel.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
                .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b; };
        const of = (name) => { const probe = document.createElement('span'); probe.style.color = `var(${name})`;
            document.body.append(probe); const held = light(getComputedStyle(probe).color); probe.remove();
            return held; };
        const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        return ['--ink', '--quiet', '--accent', '--warn', '--bad'].flatMap(
            (ink) => ['--paper', '--raised'].map((paper) => [ink, paper, ratio(of(ink), of(paper))]));"""
    faint = [pair for pair in board.execute_script(script, theme) if pair[2] < 4.5]
    assert faint == []


def test_a_copy_button_copies_what_it_stands_on(board: Any) -> None:
    board.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}})"
    )
    button = board.find_element("css selector", ".copy button")
    button.click()
    wait(lambda: button.text == "Copied")
    assert board.execute_script("return window.copied").startswith("@inproceedings{")


def test_no_page_is_wider_than_a_telephone(browser: Any, pages: list[Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", NARROW)
    try:
        for page in pages:
            browser.get(page.as_uri())
            browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
            width, scrolled = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
            assert width == 390
            assert scrolled <= width, page.name
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_a_script_the_page_is_whole(browser: Any, pages: list[Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages[0].as_uri())
        assert len(browser.find_elements("css selector", "#board tbody tr")) == 11
        assert not browser.find_element("id", "filters").is_displayed()
        assert not browser.find_element("id", "theme").is_displayed()
        assert browser.find_elements("css selector", "#board thead button") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_no_error_and_no_request_leaves_the_folder(browser: Any, pages: list[Path]) -> None:
    for page in pages:
        browser.get(page.as_uri())
    said = [entry for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]
    assert said == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {page.as_uri() for page in pages} <= asked
    start = ("chrome:", "chrome-untrusted:")  # the page that the browser itself begins with
    assert {url for url in asked if not url.startswith(("file://", "data:", *start))} == set()
    images = "return [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    assert browser.execute_script(images)
