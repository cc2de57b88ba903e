"""README and docs as tests read them: fenced blocks, the commands in them, and commands within sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)$")
INLINE = re.compile(r"`([^`\n]+)`")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
# Programs whose commands within a sentence are commands, too.
PROGRAMS = {"python", "./run", "curl", "pip", "uv", "sglang", "pytest", "./run.sh"}
# A block without a language holds commands, so that a forgotten one is not left out.
SHELL = {"", "bash", "sh", "shell", "console"}
# Output, and options of other programs' configurations.
NO_COMMANDS = {"text"}
EXAMPLES = {"json", "toml", "yaml", "python"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is that of its first line in the page."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command line. whole: it stands in a block, to be run as it is; else a sentence mentions it.

    words: without the variables before it and without what it is piped into.
    """

    page: str
    line: int
    text: str
    whole: bool

    @property
    def words(self) -> list[str]:
        words = _split(self.text.partition(" | ")[0])
        while words and VARIABLE.match(words[0]):
            words.pop(0)
        return words

    @property
    def environment(self) -> dict[str, str]:
        found = {}
        for word in _split(self.text):
            if not VARIABLE.match(word):
                break
            name, _, value = word.partition("=")
            found[name] = value
        return found

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def _split(text: str) -> list[str]:
    return shlex.split(text.replace("\\\n", " "), comments=True)


def pages(root: Path = ROOT) -> list[Path]:
    """Pages that tell how to use what is here; the changelog tells what was."""
    found = [root / "README.md", root / "CONTRIBUTING.md", root / "cpu_platform" / "README.md"]
    return [*found, *sorted((root / "docs").glob("*.md")), *sorted((root / "examples").glob("*/README.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> list[Block]:
    """Raises ValueError for a fence that does not end."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened, lines = (number + 1, fence["language"], fence["indent"]), []
        elif opened is not None and line.strip() == "```":
            found.append(Block(name_of(page), opened[0], opened[1], "\n".join(lines) + "\n"))
            opened = None
        elif opened is not None:
            lines.append(line.removeprefix(opened[2]))
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: wanted the end of a block, saw none")
    return found


def commands(page: Path) -> Iterator[Command]:
    """Of the blocks of a page, then of its sentences."""
    for block in blocks(page):
        if block.language in SHELL:
            yield from _of_block(block)
        elif block.language not in EXAMPLES | NO_COMMANDS:
            raise ValueError(f"{block.page}:{block.line}: no such kind of block: {block.language!r}")
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        for span in INLINE.findall(line) if not inside else ():
            command = Command(name_of(page), number, span.strip(), whole=False)
            try:
                words = command.words
            except ValueError:  # no closing quotation: not a command line
                continue
            if words and words[0] in PROGRAMS and len(words) > 1:
                yield command


def _of_block(block: Block) -> Iterator[Command]:
    """A command may go on over lines: by a backslash, or within quotes."""
    begun: list[str] = []
    start = block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not begun:
            start = number
        begun.append(line)
        text = "\n".join(begun)
        try:
            words = _split(text)
        except ValueError:
            continue
        if text.rstrip().endswith("\\"):
            continue
        begun = []
        if words:
            yield from (Command(block.page, start, part.strip(), whole=True) for part in text.split(" && "))
    if begun:
        raise ValueError(f"{block.page}:{start}: a command that does not end: {begun}")
