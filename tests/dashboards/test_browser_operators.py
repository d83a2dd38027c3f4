"""The pages on interventions and probes in a real browser: an intervention is run, its slider moved, and how it looks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.cli import run as command
from tests.dashboards.conftest import saved
from tests.dashboards.test_browser import _PATIENCE, Watched, browser, pytestmark, served, shots, wide

__all__ = ["browser", "pytestmark", "shots", "wide"]  # fixtures, and why the module is slow

PAGES = {
    "interventions": "/interventions?model=zoo:needle&operators=Ablate&Ablate.heads=L0H6,L0H1",
    "interventions-image": "/interventions?model=zoo:scenes&operators=VHR,VAR&prompt=scene+3",
    "probes": "/probes?run=layers",
    "probes-heads": "/probes?run=heads",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("operators") / "runs"
    folder.mkdir()
    rows = [{"prompt": f"The {role} sold the {word}", "label": word} for word in ("lamp", "bell") for role in ROLES]
    path = folder.parent / "words.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    quick = ("--draws", "8", "--folds", "3", "--baselines", "random", "--json")
    words = ["probe", "--set", str(path), *quick]
    assert command([*words, "--site", "resid_pre,attn_out", "--bits", "--out", str(folder / "layers")]) == 0
    assert command([*words, "--by", "head", "--draws", "2", "--out", str(folder / "heads")]) == 0
    saved(folder, "seen", model="zoo:scenes")
    with served(folder) as address:
        yield address


ROLES = "baker sailor teacher farmer painter doctor miller tailor hunter singer builder shepherd".split()


def test_an_intervention_is_run_and_moved(site, wide):
    tab = Watched(wide, f"{site}/interventions?model=zoo:needle&operators=Scale&Scale.heads=L0H6")
    tab.page.get_by_role("heading", name="With operators").wait_for(timeout=_PATIENCE)
    slider = tab.page.get_by_role("slider", name=re.compile("Scale"))
    slider.focus()
    for _ in range(200):  # a press while the page is made again does not count
        if tab.address.get("Scale.factor") == ["0"]:
            break
        slider.press("ArrowLeft")
        tab.page.wait_for_timeout(100)
    assert tab.address["Scale.factor"] == ["0"]
    tab.settle()
    assert tab.page.get_by_text("Scale(heads='L0H6', factor=0.0)").count() >= 1
    tab.page.get_by_text(re.compile(r"\d of \d+ places differ")).wait_for(timeout=_PATIENCE)
    assert tab.page.locator("del").count() >= 1
    tab.page.reload()
    tab.settle()
    assert tab.address["Scale.factor"] == ["0"]
    assert tab.page.get_by_text("Scale(heads='L0H6', factor=0.0)").count() >= 1
    assert tab.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen(site, browser, shots: Path, scheme, width):
    phone = {"is_mobile": True, "user_agent": "Mozilla/5.0 (Linux; Android 15) Mobile"} if width < 500 else {}
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **phone)
    wrong = {}
    for name, page in PAGES.items():
        tab = Watched(context, site + page)
        height = tab.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        tab.page.set_viewport_size({"width": width, "height": min(height, 6000)})
        tab.page.wait_for_timeout(1000)
        tab.page.screenshot(path=shots / f"{name}-{scheme}-{width}.png")
        needed = tab.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
        wrong[name] = tab.wrong + ([f"{needed} px wide"] if needed > width else [])
        tab.page.close()
    context.close()
    assert wrong == {name: [] for name in PAGES}
