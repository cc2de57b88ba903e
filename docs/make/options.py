"""docs/options.md: every option with its default and meaning, from the code, and when to touch it, from `advice`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from docs.make import advice
from docs.make.parsers import parser_of
from sglang_seer.__main__ import COMMANDS
from sglang_seer.config import SeerConfig
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.schedule import Rules
from sglang_seer.schedule.placement import PlacementRules

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Every option

Made from the code by `./run docs`. An unknown key is an error everywhere. What to set when: [tuning](tuning.md).
"""
DOCUMENTED = tuple(name for name in COMMANDS if name != "bench")


def page() -> str:
    """The whole page. Raises ValueError for an option without a meaning or without advice."""
    parts = [
        HEAD,
        "## Of an engine\n\n"
        "`--seer-config`, `SGLANG_SEER_CONFIG`, or `seer_config` of `sgl.Engine`: a JSON or TOML file, or inline JSON.\n",
        config_table(SeerConfig, advice.ENGINE),
        "## Of a rollout over many engines\n\n"
        "`RolloutConfig(...)`, `rollout --config` (a JSON file, or inline), `seer:` in veRL's router file, `seer_rollout:` in slime's.\n",
        config_table(RolloutConfig, advice.ROLLOUT),
        "### `placement`\n",
        config_table(PlacementRules, advice.PLACEMENT),
        "### `rules`\n",
        config_table(Rules, advice.RULES),
        "## Environment\n",
        table(("variable", "meaning"), [(f"`{name}`", text) for name, text in advice.ENVIRONMENT.items()]),
        "## Commands\n\n`python -m sglang_seer bench NAME --help` tells a benchmark's.\n",
        *(command_section(name) for name in DOCUMENTED),
    ]
    return "\n".join(parts)


def config_table(config: type[Any], when: Mapping[str, str]) -> str:
    """A line for each field of a struct or dataclass."""
    default, meant = defaults(config), meanings(config)
    check(config.__name__, "docstring", default, meant)
    check(config.__name__, "docs/make/advice.py", default, when)
    lines = [(f"`{name}`", value, meant[name], when[name]) for name, value in default.items()]
    return table(("key", "default", "meaning", "when to touch it"), lines)


def check(config: str, place: str, fields: Iterable[str], described: Iterable[str]) -> None:
    """Raises ValueError where a place does not describe just the fields."""
    missing, unknown = sorted({*fields} - {*described}), sorted({*described} - {*fields})
    if missing or unknown:
        raise ValueError(f"{config} in its {place}: wanted every field, saw none of {missing}, and unknown {unknown}")


def defaults(config: type[Any]) -> dict[str, str]:
    """As they are written in JSON; an object's are its own."""
    values: dict[str, object] = msgspec.to_builtins(config())
    return {name: "" if isinstance(value, dict) else f"`{json.dumps(value)}`" for name, value in values.items()}


def meanings(config: type[Any]) -> dict[str, str]:
    """From a docstring of sentences `name: meaning.`"""
    text = re.sub(r"\s+", " ", config.__doc__ or "")
    _, *pieces = re.split(r"(?:^|(?<=[.] ))([a-z_]+): ", text)
    return {name: meaning.strip().replace("|", "\\|") for name, meaning in zip(pieces[::2], pieces[1::2], strict=True)}


def command_section(name: str) -> str:
    """The arguments of `python -m sglang_seer NAME`."""
    module, meaning = COMMANDS[name]
    parser = parser_of(import_module(module).main)
    lines = [
        (argument(action), shown(action), (action.help or "").replace("|", "\\|").replace("%%", "%"))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    return f"### `{name}`\n\n{meaning[0].upper()}{meaning[1:]}.\n\n" + table(("argument", "default", "meaning"), lines)


def argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest.upper()}`"
    value = "" if action.nargs == 0 else " " + str(action.metavar or action.dest.upper())
    return f"`{action.option_strings[-1]}{value}`" + (" ..." if action.nargs == "+" else "")


def shown(action: argparse.Action) -> str:
    """The default, without this checkout's folder; nothing where there is none."""
    if action.required:
        return "required"
    if action.default is None or action.default is False or action.default == []:
        return ""
    return f"`{str(action.default).replace(f'{ROOT}/', '')}`"


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
