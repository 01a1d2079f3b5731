"""Hooks of mkdocs: pages from outside docs/, and links to files that are not pages."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
#: Pages outside docs/, and their paths on the site.
ELSEWHERE = {
    ROOT / "CHANGELOG.md": "project/changelog.md",
    ROOT / "CONTRIBUTING.md": "project/contributing.md",
    ROOT / "examples/support_desk/README.md": "tutorial/support-desk.md",
}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add each decision to the navigation."""
    (decisions,) = (part["Decisions"] for part in config.nav or [] if "Decisions" in part)
    decisions += [f"decisions/{page.name}" for page in sorted((DOCS / "decisions").glob("[0-9]*.md"))]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=path.read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site; a link to a file that is not a page becomes its text."""
    homes = {place: path for path, place in ELSEWHERE.items()}
    home = homes.get(page.file.src_uri, DOCS / page.file.src_uri)
    parts = _CODE.split(markdown)
    return "".join(part if part.startswith("```") else _relink(part, home.parent, page, files) for part in parts)


def _relink(text: str, directory: Path, page: Page, files: Files) -> str:
    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if ":" in target:
            return found[0]
        file = (directory / target).resolve()
        inside = file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else ""
        if found_file := files.get_file_from_path(ELSEWHERE.get(file, inside)):
            away = posixpath.relpath(found_file.src_uri, posixpath.dirname(page.file.src_uri) or ".")
            return f"[{found['text']}]({away}{found['anchor'] or ''})"
        return str(found["text"]) if file.exists() else found[0]  # mkdocs reports broken links

    return _LINK.sub(link, text)
