"""`python -m sglang_seer doctor`: what would be active here, and why not; `--live URL`: what a running server does."""

from __future__ import annotations

import argparse
import json
import os
import sys

from sglang_seer.config import mode_from_environment, parse_config
from sglang_seer.plugin import EXIT_REFUSED, config_from_environment, startup_reasons
from sglang_seer.status import STATUS


def _entry_point_reasons() -> list[str]:
    from importlib.metadata import entry_points

    reasons = []
    names = [entry.name for entry in entry_points(group="sglang.srt.plugins")]
    if "seer" not in names:
        reasons.append(f"SGLang finds no plugin named seer (it finds: {names}); is sglang-seer installed?")
    allowed = os.environ.get("SGLANG_PLUGINS", "")
    if allowed and "seer" not in {name.strip() for name in allowed.split(",")}:
        reasons.append(f"SGLANG_PLUGINS={allowed} keeps SGLang from loading the plugin: add seer to it")
    return reasons


def main(argv: list[str] | None = None) -> int:
    """Print the state; 0 if Seer can run here, 2 if not. With --live: as `live.main` says."""
    parser = argparse.ArgumentParser(prog="python -m sglang_seer doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the status block as JSON")
    parser.add_argument(
        "--fingerprints", action="store_true", help="print the installed SGLang's targets, for a new ledger"
    )
    parser.add_argument(
        "--live",
        metavar="URL",
        help="ask a running server instead: what Seer does there or, with SGLANG_SEER=observe, would do; exit code 0 "
        "where it is on or observes, 1 where it does not, 2 without a usable answer",
    )
    arguments = parser.parse_args(argv)
    if arguments.live is not None:
        from sglang_seer import live

        return live.main(arguments.live, as_json=arguments.json)
    if arguments.fingerprints:
        return _print_fingerprints()
    reasons = []
    try:
        STATUS.mode = mode_from_environment() or "on request (--scheduler-policy seer)"
        STATUS.config = parse_config(config_from_environment())
    except ValueError as error:
        reasons.append(str(error))
    STATUS.reasons = reasons + startup_reasons() + _entry_point_reasons()
    if arguments.json:
        print(json.dumps(STATUS.as_dict(), indent=2))
    else:
        _print_report()
    return EXIT_REFUSED if STATUS.reasons else 0


def _print_fingerprints() -> int:
    from sglang_seer.patches import lines
    from sglang_seer.patches.contract import fingerprint_of, locate, parameters_of

    for target in lines.patch_set_for(lines.installed_version()).targets:
        node = locate(lines.package_root(), target)
        print(node if isinstance(node, str) else f"{target.path} {parameters_of(node)} {fingerprint_of(node)}")
    return 0


def _print_report() -> None:
    from sglang_seer.patches import lines

    status = STATUS.as_dict()
    print(f"sglang-seer {status['version']} with SGLang {status['sglang_version']}, mode: {status['mode']}")
    if status["config"]:
        print("config: " + ", ".join(f"{key} = {value}" for key, value in status["config"].items()))
    if STATUS.sglang_version is not None:
        patch_set = lines.patch_set_for(STATUS.sglang_version)
        print(
            f"patches for {patch_set.version}, {len(patch_set.patches)} targets, {len(patch_set.uses)} more relied on:"
        )
        for patch in patch_set.patches:
            print(f"  {patch.kind:7s} {patch.target.path}: {patch.why}")
    if STATUS.reasons:
        print("Seer cannot run here:", file=sys.stderr)
        for reason in STATUS.reasons:
            print(f"  - {reason}", file=sys.stderr)
    else:
        print("ready: start SGLang with --scheduler-policy seer")
