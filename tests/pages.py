"""The manual's pages and the README: their blocks, the files that they name, and the commands in them.

A block is run by a test, unless a line before it says why not: `<!-- not run: needs a GPU -->`. Then it is parsed.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
EXTEND = [DOCS / "extend" / f"{name}.md" for name in ("index", "loss", "modifier", "sampler", "head")]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL
)
# A name in backticks in the paragraph before a block is that of its file.
FILE = re.compile(r"`([\w./-]+\.(?:yaml|py|csv|txt))`[^`]*?\n\n```(?:yaml|python|csv|text)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `why` says why no test runs it, or is empty."""

    language: str
    content: str
    why: str


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks of a page in these languages."""
    found = [Block(match["language"], match["content"], match["why"] or "") for match in BLOCK.finditer(text)]
    return [block for block in found if block.language in languages]


def files(text: str) -> dict[str, str]:
    """Contents of the files that a page names before a block."""
    return dict(FILE.findall(text))


def commands(block: Block) -> list[list[str]]:
    """The words of each `dmlbench` command of a block, without the program and variables before it."""
    lines = block.content.replace("\\\n", " ").splitlines()
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    own = [words[next((n for n, word in enumerate(words) if "=" not in word), 0) :] for words in parts]
    return [words[1:] for words in own if words[:1] == ["dmlbench"]]


def write_files(text: str, folder: Path) -> None:
    """Write a page's files below a folder, as a user would."""
    for name, content in files(text).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
