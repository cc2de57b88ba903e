"""`./run docs`: makes what is generated of the documentation: the options page, the pictures, the tables.

Exit status: 0, with --check 1 where a file differs from what would be made, 2 where something cannot be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.tables import command as tables
from docs.make import options, pictures

ROOT = Path(__file__).resolve().parents[2]


def wanted(root: Path = ROOT) -> dict[Path, str]:
    """Files that differ from what would be made, as they should be. Raises ValueError where one cannot be made."""
    made = {root / "docs" / "options.md": options.page()}
    made |= {root / "docs" / "images" / f"{name}.svg": drawing for name, drawing in pictures.drawings().items()}
    differing = {path: text for path, text in made.items() if not path.is_file() or path.read_text() != text}
    return differing | tables.changes(root)


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Writes what differs, or only names it."""
    parser = argparse.ArgumentParser(prog="./run docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a file would change")
    options_given = parser.parse_args(argv)
    try:
        differing = wanted(root)
    except ValueError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 2
    for path, text in differing.items():
        print(f"docs: {path.relative_to(root)} {'is not current' if options_given.check else 'written'}")
        if not options_given.check:
            path.write_text(text)
    return 1 if options_given.check and differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
