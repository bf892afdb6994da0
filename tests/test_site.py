"""The documentation as a site: strict about every link, self-contained, and the same text as on a git host."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
TOP = {"README.md": "index.html", "CHANGELOG.md": "changelog.html", "CONTRIBUTING.md": "contributing.html"}
PAGES = [*TOP, *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build` of the repository in `folder`, as `make site` does it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def test_a_link_or_a_page_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    for name in ("mkdocs.yml", *TOP):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "examples", "cli", "workers", "model", "farm"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("cluster.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "docs" / "data.md").open("a", encoding="utf-8") as page:
        page.write("[a](no-page.md) [b](../farm/no_file.py) [c](study.md#no-anchor) [d](#nor-here) [e](/study.md)\n")
    with (tmp_path / "README.md").open("a", encoding="utf-8") as page:
        page.write("[f](docs/data.md#no-heading) [g](report.md)\n")
    (tmp_path / "docs" / "orphan.md").write_text("# Nobody leads here\n", encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    pages, anchors = ("no-page.md", "no_file.py", "/study.md", "orphan.md", "report.md"), ("#no-anchor", "#nor-here")
    faults = (*pages, *anchors, "#no-heading")
    assert [fault for fault in faults if fault not in built.stderr] == []
    told = re.sub(r"\n *- ", " ", built.stderr).splitlines()  # a list goes on in lines of its own
    other = [line for line in told if line.startswith("WARNING") and not any(fault in line for fault in faults)]
    assert other == [], "the build fails for these alone"
    assert "index.md links to report.md, which does not exist" in built.stderr  # it is in docs/, not beside README.md


class Read(HTMLParser):
    """What a reader sees of a page: its text, between the marks of its structure."""

    MARKS = frozenset(re.findall(r"\w+", "ol ul li pre table tr th td h1 h2 h3 h4 em strong a blockquote"))
    OWN = ("headerlink", "md-")  # what the theme adds

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._inside_own = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        if not self._inside_own and tag in ("a", "button") and any(word in kind for word in self.OWN):
            self._inside_own = tag
        elif tag in self.MARKS and not self._inside_own:
            self.seen.append(f" <{tag}> ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside_own:
            self._inside_own = ""
        elif tag in self.MARKS and not self._inside_own:
            self.seen.append(f" </{tag}> ")

    def handle_data(self, data: str) -> None:
        if not self._inside_own:
            self.seen.append(data)


def read(html: str) -> list[str]:
    reader = Read()
    reader.feed(html)
    return "".join(reader.seen).split()


def article(html: str) -> str:
    return html[html.index("<article") : html.index("</article>")].partition(">")[2]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_as_on_a_git_host(site: Path, page: str) -> None:
    """Python-Markdown and CommonMark part over lists, tables and indented code; a page must suit both."""
    source = (ROOT / page).read_text(encoding="utf-8")
    there = read(MarkdownIt("commonmark").enable("table").render(source))
    built = TOP.get(page) or page.removeprefix("docs/").replace("README.md", "index.html").replace(".md", ".html")
    assert read(article((site / built).read_text(encoding="utf-8"))) == there


def test_the_site_names_no_other_server_but_in_links_to_click(site: Path) -> None:
    loads = re.compile(r"""<(?!a\b)\w[^>]*\s(?:src|href|action|poster|data)\s*=\s*["']?((?:https?:)?//[^"'\s>]*)""")
    styles = re.compile(r"""(?:url\(|@import\s)["']?((?:https?:)?//[^"')]*)""")
    named = [
        (path.relative_to(site).as_posix(), found)
        for path in site.rglob("*")
        if path.suffix in (".html", ".css") and path.relative_to(site).parts[0] != "source"
        for found in (loads if path.suffix == ".html" else styles).findall(path.read_text(encoding="utf-8"))
    ]
    assert named == []


def test_a_reader_without_a_server_finds_a_page_by_its_words(site: Path, chromium: Browser) -> None:
    with chromium.tab() as tab:
        tab.open(site / "machines" / "rent.html")
        typed = """
            const field = document.querySelector(".md-search__input");
            field.focus(); field.value = "hardware twins";
            field.dispatchEvent(new Event("keyup")); field.dispatchEvent(new Event("input"));
            new Promise((done, fail) => { const look = (left) => {
                const links = [...document.querySelectorAll(".md-search-result__link")].map((a) => a.href);
                links.length ? done(links) : left ? setTimeout(look, 100, left - 1) : fail("nothing found");
            }; look(300); })
        """
        found = tab.evaluate(typed)
        assert any("/method.html" in link for link in found), found
        assert [url for url in tab.requests if not url.startswith(("file://", "data:", "blob:"))] == []
        assert tab.errors == []


def test_every_page_is_in_the_search(site: Path) -> None:
    index: dict[str, Any] = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert len(pages) == len(PAGES)
