"""What the site does beyond mkdocs: pages of the repository's top, and links to files that are no pages.

A link in a page is written as it works in a checkout, and is followed from where the page lies in the repository. The
site has every file that a page links to, as plain text, so it needs no git host. A link that leads nowhere is a
warning, which `mkdocs build --strict` takes for an error.
"""

import html
import logging
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
TOP = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
BEFORE_MKDOCS = 1  # mkdocs follows links itself, with priority 0

log = logging.getLogger("mkdocs.hooks.links")


class Repository(Treeprocessor):
    """Turns a page as it is read in the repository into one of the site. `page` and `files` are those at hand."""

    page: Page
    files: Files
    config: MkDocsConfig

    def run(self, root: Element) -> None:
        for element, key in [*((a, "href") for a in root.iter("a")), *((img, "src") for img in root.iter("img"))]:
            element.set(key, self.followed(element.get(key) or ""))
        for code in (code for cell in root.iter("td") for code in cell.iter("code")):
            code.text = (code.text or "").replace(r"\|", "|")  # as git hosts show it; Python-Markdown keeps the \

    def followed(self, url: str) -> str:
        scheme, host, path, query, anchor = urlsplit(url)
        if scheme or host or not path:
            return url
        source = self.page.file.abs_src_path
        target = (Path(source or ROOT).parent / path).resolve()
        if not target.is_relative_to(ROOT) or not target.exists():
            log.warning("%s links to %s, which does not exist", self.page.file.src_uri, url)
            return url
        site = self.place(target)
        return urlunsplit(("", "", posixpath.relpath(site, posixpath.dirname(self.page.file.src_uri)), query, anchor))

    def place(self, target: Path) -> str:
        """Where the site has a file or folder of the repository."""
        name = target.relative_to(ROOT).as_posix()
        if name in TOP:
            return TOP[name]
        if name == "docs" or name.startswith("docs/"):
            return posixpath.relpath(f"{name}/README.md" if target.is_dir() else name, "docs")
        uri = f"source/{name}.html"
        if self.files.get_file_from_path(uri) is None:
            self.files.append(File.generated(self.config, uri, content=_shown(target, name)))
        return uri


def _shown(target: Path, name: str) -> str:
    """A file as a page that shows its text, or the names in a folder."""
    names = (path.name for path in target.iterdir() if path.is_file()) if target.is_dir() else ()
    text = "\n".join(sorted(names)) if target.is_dir() else target.read_text(encoding="utf-8")
    return (
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(name)}</title><pre>{html.escape(text)}</pre>"
    )


class _Registered(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.treeprocessors.register(repository, "repository", BEFORE_MKDOCS)


repository = Repository()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.markdown_extensions.append(_Registered())  # type: ignore[arg-type]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for name, uri in TOP.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    repository.page, repository.config, repository.files = page, config, files
    return markdown
