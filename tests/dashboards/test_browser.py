"""The dashboard in a real browser: clicks, reloads, what it fetches, and how it looks, light and dark, wide and narrow.

Screenshots go to the folder that HEADSCOPE_SCREENSHOTS names, or to a temporary one.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from dashboards.started import process_of, read_started, stop
from experiments.cli import run as command
from tests.dashboards.conftest import MARKUP, saved

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path; install the package chromium"),
]
PAGES = {
    "runs": "/?run=scored&other=removed",
    "atlas": "/atlas?run=seen",
    "head": "/head?run=scored",
    "attention": "/attention?run=scored&model=zoo:needle&answer=1",
    "image": "/attention?run=seen&model=zoo:scenes&answer=1",
    "retrieval": "/retrieval?run=scored",
}
_PATIENCE = 60_000
_PROBES = re.compile(r"http://[^/]+/\w+/_stcore/(health|host-config)")
"""Streamlit (1.67) looks for the root of the app below the path of a page opened by its address first: it is told 404."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a dashboard on a folder, while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", "from experiments.cli import main; main()", "dashboard", str(folder), "--headless"]
    root = Path(__file__).parents[2]
    server = subprocess.Popen([*words, "--port", str(port)], cwd=root, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the group is that of this server alone
        server.wait(30)


def _wait(address: str, server: subprocess.Popen) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def site(runs) -> Iterator[str]:
    with served(runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
        started = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("HEADSCOPE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Watched:
    """A page, and what went wrong on it: errors, requests that failed or went elsewhere, dialogs."""

    def __init__(self, context, address: str) -> None:
        self.page, self.wrong = context.new_page(), []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda asked: self._asked(asked.url, address))
        self.open(address)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_selector("h1", timeout=_PATIENCE)
        self.page.get_by_text("Reproduce this").wait_for(timeout=_PATIENCE)
        self.page.wait_for_timeout(300)
        self.page.wait_for_function(
            "document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'running' "
            "&& !document.querySelector('[data-testid=stSkeleton]')",
            timeout=_PATIENCE,
        )
        self.page.wait_for_timeout(500)  # for the last chart to be drawn

    @property
    def address(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.url).query)

    def _said(self, message) -> None:
        if message.type == "error" and not _PROBES.fullmatch(message.location["url"]):
            self.wrong.append(f"{message.text} {message.location['url']}")

    def _asked(self, url: str, address: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws") and urlsplit(url).hostname != urlsplit(address).hostname:
            self.wrong.append(f"fetched {url}")


@pytest.fixture
def wide(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


def cell(page, layer: int, head: int):
    """A head in the first map of a page."""
    chart = page.get_by_test_id("stVegaLiteChart").first
    return chart.locator(f'path[aria-label*="head: {head};"][aria-label*="layer: {layer};"]').first


def test_a_head_is_chosen_by_a_click_and_stays(site, wide):
    tab = Watched(wide, f"{site}/atlas?run=seen")
    assert tab.address["head"] == ["L1H2"]
    cell(tab.page, 2, 3).click()
    tab.page.wait_for_url(re.compile("head=L2H3"), timeout=_PATIENCE)
    tab.settle()
    tab.page.get_by_text("All that is known of L2H3").wait_for(timeout=_PATIENCE)
    tab.page.reload()
    tab.settle()
    assert tab.address["head"] == ["L2H3"]
    tab.page.get_by_text("All that is known of L2H3").click()
    tab.page.get_by_role("heading", name="L2H3").wait_for(timeout=_PATIENCE)
    tab.settle()
    assert urlsplit(tab.page.url).path == "/head"
    assert tab.address["head"] == ["L2H3"]
    assert tab.wrong == []


def test_the_same_head_is_clicked_again_after_another_was_chosen_in_the_list(site, wide):
    tab = Watched(wide, f"{site}/atlas?run=seen")
    cell(tab.page, 2, 3).click()
    tab.page.wait_for_url(re.compile("head=L2H3"), timeout=_PATIENCE)
    tab.settle()
    box = tab.page.get_by_label("Head", exact=False).and_(tab.page.get_by_role("combobox")).first
    box.focus()
    box.press_sequentially("L0H1")
    box.press("Enter")
    tab.page.wait_for_url(re.compile("head=L0H1"), timeout=_PATIENCE)
    tab.settle()
    cell(tab.page, 2, 3).click()
    tab.page.wait_for_url(re.compile("head=L2H3"), timeout=_PATIENCE)
    assert tab.wrong == []


def test_a_head_is_chosen_by_the_keyboard(site, wide):
    tab = Watched(wide, f"{site}/atlas?run=seen")
    box = tab.page.get_by_label("Head", exact=False).and_(tab.page.get_by_role("combobox")).first
    box.focus()
    box.press_sequentially("L0H1")
    box.press("Enter")
    tab.page.wait_for_url(re.compile("head=L0H1"), timeout=_PATIENCE)
    assert tab.wrong == []


def test_a_token_is_chosen_by_a_click(site, wide):
    tab = Watched(wide, site + PAGES["attention"])
    chart = tab.page.get_by_test_id("stVegaLiteChart").first
    chart.locator('path[aria-roledescription="rect mark"]').nth(3).click()
    tab.page.wait_for_url(re.compile("token=3(&|$)"), timeout=_PATIENCE)
    tab.settle()
    tab.page.get_by_text(re.compile("at token 3,")).first.wait_for(timeout=_PATIENCE)
    assert tab.wrong == []


def test_a_choice_goes_along_to_another_page(site, wide):
    tab = Watched(wide, f"{site}/atlas?run=seen&head=L2H1")
    tab.page.get_by_test_id("stSidebarNav").get_by_text("Head", exact=True).click()
    tab.page.get_by_role("heading", name="L2H1").wait_for(timeout=_PATIENCE)
    tab.settle()
    assert (tab.address["run"], tab.address["head"]) == (["seen"], ["L2H1"])
    assert tab.wrong == []


def test_nothing_to_deploy_and_no_other_origin(site, wide):
    tab = Watched(wide, site + PAGES["runs"])
    assert tab.page.get_by_test_id("stAppDeployButton").count() == 0
    elsewhere = urllib.request.Request(f"{site}/_stcore/host-config", headers={"Origin": "https://example.com"})
    with urllib.request.urlopen(elsewhere) as answer:
        assert answer.headers.get("Access-Control-Allow-Origin") in (None, "null")
    assert tab.wrong == []


def test_markup_in_runs_is_not_run(browser, tmp_path):
    run = saved(tmp_path / "hostile", "<b onclick=alert(1)>![x](y)", model=MARKUP)
    run.update(error=MARKUP, **{MARKUP: MARKUP})
    context = browser.new_context()
    with served(tmp_path / "hostile") as address:
        tab = Watched(context, f"{address}/")
        for page in ("atlas", "head"):
            tab.open(f"{address}/{page}")
        tab.open(f"{address}/attention?model=zoo:needle&prompt=my+own&text=the+%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
        assert tab.page.locator("img[src='x'], img[src*='example.com'], b[onclick]").count() == 0
        context.close()  # before the server ends, which the page would miss
    assert tab.wrong == []


def photographed(tab: Watched, width: int, path: Path) -> list[str]:
    """A screenshot of the whole page, which is closed then; what went wrong on it, too wide a page included."""
    height = tab.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    tab.page.set_viewport_size({"width": width, "height": min(height, 6000)})
    tab.page.wait_for_timeout(1000)
    tab.page.screenshot(path=path)
    needed = tab.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    tab.page.close()
    return tab.wrong + ([f"{needed} px wide"] if needed > width else [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen(site, browser, shots, scheme, width):
    phone = {"is_mobile": True, "user_agent": "Mozilla/5.0 (Linux; Android 15) Mobile"} if width < 500 else {}
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **phone)
    wrong = {}
    for name, page in PAGES.items():
        wrong[name] = photographed(Watched(context, site + page), width, shots / f"{name}-{scheme}-{width}.png")
    context.close()
    assert wrong == {name: [] for name in PAGES}


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Iterator[str]:
    """A dashboard on runs of sinks, of vision and of a sweep."""
    folder = tmp_path_factory.mktemp("studied") / "runs"
    small = ("--lengths=64", "--json")
    asked = {
        "sinks": ("heads", "sinks", "--model=zoo:needle", "--n=2", "--draws=2", *small),
        "looked": ("heads", "vision", "--limit=8", "--json"),
        "judged": ("eval", "chair", "--limit=8", "--draws=2", "--with", "VHR(alpha=2)", "--json"),
        "swept": ("ablate", "sweep", "--model=zoo:needle", "--depths=2", "--repeats=2", "--draws=2", *small),
    }
    for name, words in asked.items():
        assert command([*words, "--out", str(folder / name)]) == 0
    with served(folder) as address:
        yield address


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_sinks_vision_and_ablations(studied, browser, shots, scheme, width):
    phone = {"is_mobile": True, "user_agent": "Mozilla/5.0 (Linux; Android 15) Mobile"} if width < 500 else {}
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **phone)
    wrong = {}
    for name, page in {"sinks": "/sinks?run=sinks", "ablations": "/ablations?run=swept"}.items():
        wrong[name] = photographed(Watched(context, studied + page), width, shots / f"{name}-{scheme}-{width}.png")
    tab = Watched(context, f"{studied}/vision?run=looked&scene=3&by=L5H1")
    assert tab.page.get_by_text("L5H1 over the caption").count() == 0, "a scene is read only when asked"
    tab.page.get_by_role("button", name="Write a caption").click()
    tab.page.get_by_text("L5H1 over the caption").first.wait_for(timeout=_PATIENCE)
    tab.settle()
    wrong["vision"] = photographed(tab, width, shots / f"vision-{scheme}-{width}.png")
    context.close()
    assert wrong == {name: [] for name in wrong}


def test_a_sweep_is_started_reloaded_stopped_and_resumed(browser, shots, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    with served(folder) as address:
        tab = Watched(context, f"{address}/ablations?sweep-lengths=512&sweep-depths=20&sweep-repeats=10")
        try:
            tab.page.get_by_role("button", name="Start", exact=True).click()
            tab.page.get_by_text("It is running.").wait_for(timeout=_PATIENCE)
            assert tab.address["sweep"] == ["sweep-1"]
            tab.page.get_by_text(re.compile(r": [1-9]\d* of \d+ cells done")).wait_for(timeout=3 * _PATIENCE)
            tab.page.screenshot(path=shots / "sweep-running.png", full_page=True)
            tab.page.reload()
            tab.page.get_by_text("It is running.").wait_for(timeout=_PATIENCE)
            tab.page.get_by_role("button", name="Stop the sweep").click()
            tab.page.get_by_text("It was stopped.").wait_for(timeout=_PATIENCE)
            assert process_of(folder, read_started(folder, "sweep-1")) is None
            tab.page.reload()
            tab.page.get_by_text("It was stopped.").wait_for(timeout=_PATIENCE)
            tab.settle()
            tab.page.screenshot(path=shots / "sweep-stopped.png", full_page=True)
            tab.page.get_by_role("button", name="Resume", exact=True).click()
            tab.page.get_by_text("It is running.").wait_for(timeout=_PATIENCE)
            process = process_of(folder, read_started(folder, "sweep-1"))
            assert process is not None
            process.kill()
            tab.page.get_by_text("ended before it was done").wait_for(timeout=_PATIENCE)
        finally:
            if process_of(folder, read_started(folder, "sweep-1")) is not None:
                stop(folder, "sweep-1")
        context.close()
    assert tab.wrong == []
