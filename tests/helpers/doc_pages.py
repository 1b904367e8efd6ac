"""Parses the documentation: fenced blocks, the commands in them, links, headings, and names in backticks."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?:(?P<above>[^\n]*)\n)?(?P<indent>[ ]*)```(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$", re.M | re.S
)
_MARKER = re.compile(r"<!-- not run: (.*) -->")
_NAME = re.compile(r"# ([\w/]+\.(?:py|yaml))\b")


@dataclass(frozen=True)
class Block:
    """A fenced block; `reason` is what the marker above it says, `name` the file that its first line calls it."""

    where: str
    language: str
    code: str
    reason: str | None

    @property
    def name(self) -> str | None:
        named = _NAME.match(self.code)
        return named[1] if named else None


def blocks(text: str, page: str = "page") -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start("language")) + 1
        marker = _MARKER.fullmatch((fence["above"] or "").strip())
        code = re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.M)
        found.append(Block(f"{page}:{line}", fence["language"].strip(), code, marker[1] if marker else None))
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub(r"\g<above>", text)


def headings(text: str) -> set[str]:
    """Anchors of a page's headings."""
    return {slugify(re.sub(r"[`*]", "", title), "-") for title in re.findall(r"^#+ (.*)$", prose(text), re.M)}


def spans(text: str) -> list[str]:
    """Everything in backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text: str) -> list[str]:
    """Targets of links and images inside the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def rows(text: str, heading: str) -> Iterator[list[str]]:
    """Cells of the first table below a heading, line by line."""
    section = text.split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.M)
    assert table, f"no table below {heading}"
    for line in table[0].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def commands(code: str) -> list[list[str]]:
    """The commands of a shell script, word by word, without comments, redirections and VARIABLE=value in front."""
    found: list[list[str]] = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        found.append(words)
        for word in lexer:
            if set(word) <= set("&|;"):
                words = []
                found.append(words)
            elif set(word) <= set("<>"):
                next(lexer)
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)
    return [words for words in found if words]
