"""What MkDocs also does: formulas become MathML, two files of the root become pages, reports are copied."""

import re
import shutil
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`\n]+)`\$")
LINK = re.compile(r"\]\((?!https?://|#)(docs/)?([^)\s]+)\)")
COPIED = ("reports/*/*", "reports/*/*/*", "examples/*.ipynb")
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}  # these are empty below docs/


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every committed report, its page, figures and tables, and the notebooks."""
    for path in _copied():
        if path.suffix != ".md":
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Copy the reports' Markdown as it is: as a file of the manual it would become a page."""
    for path in (path for path in _copied() if path.suffix == ".md"):
        shutil.copyfile(path, Path(config.site_dir, path.relative_to(ROOT)))


def _copied() -> list[Path]:
    return sorted(path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file())


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Read a page of the root; write formulas as MathML, which browsers draw without a script."""
    if page.file.src_uri in PAGES:
        text = (ROOT / PAGES[page.file.src_uri]).read_text(encoding="utf-8")
        return LINK.sub(lambda link: f"]({_target(link, config.extra['repository'])})", text)
    markdown = BLOCK.sub(lambda found: f'<div class="math">{convert(found[1], display="block")}</div>', markdown)
    return INLINE.sub(lambda found: convert(found[1]), markdown)


def _target(link: re.Match[str], repository: str) -> str:
    """Where a link of a file of the root leads from a page: to another page, or to the repository."""
    return link[2] if link[1] else f"{repository}/blob/main/{link[2]}"
