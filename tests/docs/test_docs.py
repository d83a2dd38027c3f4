"""The pages do what they say: they build without a warning, snippets run, commands parse, every method has its page."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import pytest

from tests.docs.snippets import DOCS, ROOT, command_lines, make_targets, named, pages, parse, python_blocks
from tests.docs.snippets import run_python_blocks as run_blocks

PAGES = {named(page): page.read_text("utf-8") for page in pages()}
METHODS = {name: text for name, text in PAGES.items() if name.startswith("methods/") and name != "methods/index.md"}
ALL_METHODS = "\n".join(METHODS.values())
PACKAGES = ("head_analysis", "interventions", "probes", "experiments")
SECTIONS = ["Definition", "Paper and released code", "What is", "Cost", "Caveats", "Example", "API"]


def not_on_a_method_page() -> set[str]:
    """Exported names that belong to no method: text to interventions is told on the page of all methods."""
    return {"interventions.parse_interventions"}


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if python_blocks(text)])
def test_snippets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(PAGES[name], name)


@pytest.mark.parametrize("line", sorted({line for text in PAGES.values() for line in command_lines(text)}))
def test_command_lines_parse(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    "line",
    ["headscope head retrieval", "headscope doctor MODEL --fast", "headscope ablate --top many --out DIR"],
)
def test_wrong_command_lines_do_not_parse(line: str) -> None:
    with pytest.raises(Exception, match=r"no command 'head'|No such option|valid integer"):
        parse(line)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {target for text in PAGES.values() for target in make_targets(text)}
    assert targets >= {"demo", "docs", "bench"}
    assert not {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)}


@pytest.mark.parametrize("name", METHODS)
def test_method_pages_say_the_same_things_in_the_same_order(name: str) -> None:
    found = re.findall(r"^## (.+)", METHODS[name], re.MULTILINE)
    assert len(found) == len(SECTIONS)
    assert all(have.startswith(want) for have, want in zip(found, SECTIONS, strict=True)), found
    assert python_blocks(METHODS[name])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_method_page(package: str) -> None:
    names = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    linked = set(re.findall(r"\]\[([\w.]+)\]", ALL_METHODS))
    assert names - linked == names & not_on_a_method_page()


def test_every_operator_is_in_the_table_of_what_edits_say() -> None:
    import interventions

    edits = [name for name in interventions.__all__ if _edits(getattr(interventions, name))]
    assert {"ACT", "Ablate", "Steer", "VHR"} <= set(edits)
    table = PAGES["methods/index.md"].split("## What every edit says")[1]
    assert not [name for name in edits if f"`{name}`" not in table]


def _edits(value: object) -> bool:
    return isinstance(value, type) and (hasattr(value, "begin") or hasattr(value, "where"))


def test_every_page_stands_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    assert sorted(re.findall(r"(\S+\.md)$", nav, re.MULTILINE)) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_external_links_are_well_formed(name: str) -> None:
    for link in re.findall(r"https?://[^\s)>\]\"`]+", PAGES[name]):
        parts = urlparse(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
        if parts.netloc == "arxiv.org":
            assert re.fullmatch(r"/abs/\d{4}\.\d{5}", parts.path), link


def test_errors_that_are_explained_are_raised() -> None:
    explained = re.findall(r"```text\n(.*?)\n```", PAGES["troubleshooting.md"], re.DOTALL)
    assert len(explained) >= 15
    messages = _messages(ROOT / "headscope") + _messages(ROOT / "experiments")
    patterns = [".*".join(map(re.escape, text.split("…"))) for text in explained]
    missing = [text for text, p in zip(explained, patterns, strict=True) if not any(re.search(p, m) for m in messages)]
    assert not missing


def _messages(folder: Path) -> list[str]:
    """Every text in a folder's code, as it stands there, `…` for what is filled in."""
    nodes = (node for file in folder.rglob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    return [text for node in nodes if (text := _text(node))]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_has_every_command_and_option(generated: ModuleType) -> None:
    page = generated.on_page_markdown(PAGES["cli.md"])
    for path, command in generated.commands():
        section = re.split(rf"^## `{' '.join(path)}`$", page, flags=re.MULTILINE)[1].split("\n## ")[0]
        for parameter in command.params:
            words = [parameter.name] if parameter.param_type_name == "argument" else parameter.opts
            assert all(word in section for word in words), (path, words)
    assert "<code>--phase &lt;prefill&#124;decode&gt;</code>" in page


def test_a_part_that_is_not_known_is_refused(generated: ModuleType) -> None:
    with pytest.raises(KeyError, match="weather"):
        generated.on_page_markdown("<!-- generated: weather -->")


def test_the_newest_results_are_shown(generated: ModuleType, tmp_path: Path) -> None:
    assert "No results are kept" in generated.newest_results(tmp_path)
    for stem, text in (("2026-01-02-a", "old"), ("2026-03-04-a", "new"), ("2026-05-06-a-small", "a trial")):
        (tmp_path / f"{stem}.md").write_text(f"# Benchmarks\n\n{text}\n")
    assert generated.newest_results(tmp_path) == "new"


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    # not --quiet, under which warnings are not counted and nothing is strict
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    assert {name.replace(".md", ".html") for name in PAGES} <= built
    fetched = r"<(?:script|img|iframe)[^>]+src=\"?https?://|<link[^>]+stylesheet[^>]+https?://"
    assert not [name for name in built if re.search(fetched, (tmp_path / name).read_text("utf-8"))]
