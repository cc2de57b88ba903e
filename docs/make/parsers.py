"""A command's own argparse parser, without running the command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch


class _Parsed(BaseException):
    """Ends a command where it has its arguments; a BaseException, so that no handler of the command's takes it."""


def parsed(main: Callable[[list[str]], int], argv: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The parser that `main` makes, and what it makes of the arguments; the command goes no further.

    Raises SystemExit as argparse does for arguments it refuses, and ValueError for a command that parses nothing.
    """
    seen: list[Any] = []
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        seen.extend([self, parse_args(self, args, namespace)])
        raise _Parsed

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main(list(argv))
        except _Parsed:
            return seen[0], seen[1]
    raise ValueError(f"{main.__module__}: wanted a command that parses its arguments, saw one that ended")


def parser_of(main: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser alone, also where arguments are required."""
    seen: list[argparse.ArgumentParser] = []

    def stop(self: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        seen.append(self)
        raise _Parsed

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Parsed:
            return seen[0]
    raise ValueError(f"{main.__module__}: wanted a command that parses its arguments, saw one that ended")
