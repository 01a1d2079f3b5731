"""What mkdocs does beyond its own: pages from outside docs/, and links to files that are no pages."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
#: Pages that are at home elsewhere in the repository, and their place on the site.
ELSEWHERE = {
    ROOT / "CHANGELOG.md": "project/changelog.md",
    ROOT / "CONTRIBUTING.md": "project/contributing.md",
    ROOT / "examples/support_desk/README.md": "tutorial/support-desk.md",
}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Each decision has its place in the navigation."""
    (decisions,) = (part["Decisions"] for part in config.nav or [] if "Decisions" in part)
    decisions += [f"decisions/{page.name}" for page in sorted((DOCS / "decisions").glob("[0-9]*.md"))]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=path.read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository become links of the site; what is no page of it is named only."""
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
        return str(found["text"]) if file.exists() else found[0]  # mkdocs tells of what is nowhere

    return _LINK.sub(link, text)
