"""What of slime is used, which versions were tested, and which settings are refused."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sglang_seer.patches.lines import ALLOW_UNTESTED_ENV, SUPPORTED
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.desk import engines_alike
from sglang_seer.rollout.link import EngineFacts

TESTED_SLIME = ("0.3.1",)
# Parameters that are used, by module and function.
USED = {
    ("utils.types", "Sample.append_response_tokens"): (
        *("args", "tokens", "log_probs", "trainable", "meta_info", "text", "update_terminal_info"),
    ),
    ("rollout.sglang_rollout", "GenerateState"): ("args",),
    ("rollout.sglang_rollout", "generate"): ("args", "sample", "sampling_params"),
    ("rollout.sglang_rollout", "generate_rollout"): ("args", "rollout_id", "data_source", "evaluation"),
    ("utils.async_utils", "run"): ("coro",),
    ("utils.processing_utils", "load_tokenizer"): ("name_or_path",),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """From slime's `--custom-config-path`. seer_rollout: keys of RolloutConfig. seer_allow_dropped_groups: keep
    over-sampling although the groups that take longest are thrown away."""

    rollout: RolloutConfig
    allow_dropped_groups: bool

    @classmethod
    def of(cls, args: Any) -> Settings:
        """Raises ValueError for a key or value that is none."""
        given = getattr(args, "seer_rollout", None) or {}
        if not isinstance(given, Mapping):
            raise ValueError(f"seer_rollout: got {type(given).__name__}, wanted keys of the rollout's config")
        config = RolloutConfig.of({**given, "logprobs": True})
        return cls(config, bool(getattr(args, "seer_allow_dropped_groups", False)))


def slime(module: str) -> Any:
    """A module of slime."""
    return importlib.import_module(f"slime.{module}")


def tracing() -> Any:
    """slime's traces; they moved after 0.3.1."""
    return slime("observability.trace_utils" if counts_response() else "utils.trace_utils")


@cache
def counts_response() -> bool:
    """Whether `max_new_tokens` holds for the whole response, as in slime's main after 0.3.1, or for each call."""
    return importlib.util.find_spec("slime.observability") is not None


def check(args: Any) -> Settings:
    """Raises one ValueError with every reason why a rollout with these arguments cannot be served."""
    if reasons := (*framework_reasons(), *setting_reasons(args)):
        raise ValueError("sglang_seer.integrations.slime: " + "; ".join(reasons))
    return Settings.of(args)


@cache
def framework_reasons() -> tuple[str, ...]:
    """Against the slime that is there. A checkout that is not installed has no version: its functions are looked at."""
    reasons = []
    try:
        seen: str | None = version("slime")
    except PackageNotFoundError:
        seen = None
    if seen is not None and seen not in TESTED_SLIME and not allows_untested():
        reasons.append(
            f"slime {seen} was not tested; tested: {', '.join(TESTED_SLIME)} ({ALLOW_UNTESTED_ENV}=1 tries it)"
        )
    for (module, name), wanted in USED.items():
        try:
            found: Any = slime(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            reasons.append(f"slime.{module}: wanted {name}: {error}")
            continue
        missing = set(wanted) - set(inspect.signature(found).parameters)
        if missing:
            reasons.append(f"slime.{module}.{name}: wanted parameters {', '.join(sorted(missing))}")
    return tuple(reasons)


def setting_reasons(args: Any) -> list[str]:
    """Against slime's arguments."""
    reasons = []
    try:
        allow_dropped_groups = Settings.of(args).allow_dropped_groups
    except ValueError as error:
        return [str(error)]
    if not getattr(args, "sglang_router_ip", None) or not getattr(args, "sglang_router_port", None):
        reasons.append(
            f"sglang_router_ip and sglang_router_port: got {getattr(args, 'sglang_router_ip', None)!r} and "
            f"{getattr(args, 'sglang_router_port', None)!r}, wanted slime's router, which names the engines"
        )
    wanted, asked = getattr(args, "rollout_batch_size", None), getattr(args, "over_sampling_batch_size", None)
    partial = getattr(args, "partial_rollout", False)
    if wanted and asked and asked > wanted and not partial and not allow_dropped_groups:
        reasons.append(
            f"over_sampling_batch_size {asked} with rollout_batch_size {wanted} and no --partial-rollout: the groups "
            "that take longest are thrown away, and the lengths trained on are biased; wanted equal sizes, "
            "--partial-rollout, or `seer_allow_dropped_groups: true` in --custom-config-path"
        )
    if getattr(args, "prefill_num_servers", None):
        reasons.append("prefill_num_servers: chunks go to engines directly, wanted engines that prefill and decode")
    return reasons


def engine_reasons(facts: Mapping[str, EngineFacts]) -> list[str]:
    """Against the engines, by URL."""
    reasons = []
    versions = {url: str(one.signature["version"]) for url, one in facts.items()}
    untested = {seen for seen in versions.values() if seen not in SUPPORTED}
    if untested and not allows_untested():
        reasons.append(
            f"SGLang {', '.join(sorted(untested))} was not tested; tested: {', '.join(SUPPORTED)} "
            f"({ALLOW_UNTESTED_ENV}=1 tries it)"
        )
    if (unlike := engines_alike({url: one.seer for url, one in facts.items()})) is not None:
        reasons.append(unlike)
    return reasons


def allows_untested() -> bool:
    return os.environ.get(ALLOW_UNTESTED_ENV) == "1"
