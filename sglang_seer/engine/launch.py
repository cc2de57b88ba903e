"""From a launcher's options to server arguments that run Seer (main process)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, MutableMapping
from typing import Any, NoReturn

from sglang.srt.entrypoints.engine import Engine
from sglang.srt.server_args import ServerArgs

from sglang_seer.config import SeerConfig, mode_from_environment, parse_config
from sglang_seer.patches.adapter import line
from sglang_seer.plugin import config_from_environment, refuse
from sglang_seer.status import STATUS

logger = logging.getLogger("sglang_seer")

POLICY = "seer"
ALGORITHM = "SEER"
STOCK_POLICY = "fcfs"
_command_line = False


def add_cli_args(_result: None, parser: argparse.ArgumentParser) -> None:
    """Add our spelling to SGLang's options."""
    for action in parser._actions:
        if action.dest == "schedule_policy" and action.choices is not None:
            action.choices = [*action.choices, POLICY]
    parser.add_argument(
        "--scheduler-policy",
        dest="schedule_policy",
        choices=[POLICY],
        default=argparse.SUPPRESS,
        help="Same as --schedule-policy seer: context-aware scheduling and grouped speculative decoding.",
    )
    parser.add_argument("--seer-config", default=None, help="Seer's options: a JSON or TOML file, or inline JSON.")


def activate(arguments: MutableMapping[str, Any], config_source: Any) -> SeerConfig | None:
    """Turn `schedule_policy="seer"` (or SGLANG_SEER=on) into the server arguments that run it, in place.

    Returns the config if Seer takes part, else None. Raises ValueError for contradictions.
    """
    mode = mode_from_environment()
    policy = arguments.get("schedule_policy", STOCK_POLICY)
    if mode == "off" or (policy != POLICY and mode is None):
        if config_source is not None and mode != "off":
            raise ValueError(f"a seer config was given but the schedule policy is {policy!r}, wanted {POLICY!r}")
        if policy == POLICY:
            logger.warning("seer: SGLANG_SEER=off: running stock SGLang with policy %s", STOCK_POLICY)
            arguments["schedule_policy"] = STOCK_POLICY
        return None
    if mode == "observe":
        config = parse_config(config_source if config_source is not None else config_from_environment())
        arguments["schedule_policy"] = STOCK_POLICY if policy == POLICY else policy
        STATUS.mode, STATUS.config = mode, config
        return config
    if policy not in (POLICY, STOCK_POLICY):
        raise ValueError(f"SGLANG_SEER={mode} and schedule policy {policy!r} contradict each other: choose one")
    if arguments.get("enable_priority_scheduling"):
        raise ValueError("--enable-priority-scheduling orders requests itself: it cannot be combined with Seer")
    config = parse_config(config_source if config_source is not None else config_from_environment())
    if config.shares and not line.TELLS_WEIGHT_VERSION:
        raise ValueError(
            f"bus: SGLang {STATUS.sglang_version} does not tell its schedulers of new weights, so that text of other "
            "weights could not be told apart; wanted inproc: or SGLang 0.5.23"
        )
    arguments["schedule_policy"] = POLICY
    if config.speculation and arguments.get("speculative_algorithm") is None:
        arguments["speculative_algorithm"] = ALGORITHM
        if arguments.get("speculative_num_draft_tokens") is None:
            arguments["speculative_num_draft_tokens"] = config.draft_nodes + 1
    STATUS.mode = mode or "on"
    STATUS.config = config
    return config


def from_cli_args(original: Callable[..., ServerArgs], *positional: Any) -> ServerArgs:
    """Around `ServerArgs.from_cli_args`: a refusal ends the launcher with code 2 before any weight is read."""
    global _command_line
    _command_line = True
    namespace: argparse.Namespace = positional[-1]
    arguments = vars(namespace)
    try:
        config = activate(arguments, arguments.get("seer_config"))
    except ValueError as error:
        raise refuse([str(error)]) from None
    return mark(original(*positional), config)


def mark(server_args: ServerArgs, config: SeerConfig | None) -> ServerArgs:
    """Put the config on the record; attributes that begin with an underscore travel to the scheduler processes."""
    if config is not None:
        server_args._seer_config = config
    return server_args


def _build_server_args(**arguments: Any) -> ServerArgs:
    config = activate(arguments, arguments.pop("seer_config", None))
    return mark(ServerArgs(**arguments), config)


def server_args_class() -> None:
    """Let `sgl.Engine` build its record here."""
    Engine.server_args_class = staticmethod(_build_server_args)  # type: ignore[assignment]


def build_server_info(
    result: dict[str, Any], server_args: ServerArgs, scheduler_info: dict[str, Any]
) -> dict[str, Any]:
    """After `build_server_info`: what the launcher knows; live counters are in `internal_states`."""
    if config_of(server_args) is not None:
        result["sglang_seer"] = STATUS.as_dict()
    return result


def config_of(server_args: Any) -> SeerConfig | None:
    """The config that travelled with a record; None if Seer takes no part in that server."""
    return getattr(server_args, "_seer_config", None)


def fail(reasons: list[str]) -> NoReturn:
    """Refuse to start once arguments are resolved: code 2 for a command line, ValueError for a library call."""
    if _command_line:
        raise refuse(reasons)
    raise ValueError("sglang-seer refuses to start: " + "; ".join(reasons))
