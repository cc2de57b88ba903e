"""Server arguments that a launcher builds before SGLang has loaded Seer (main process).

Its SEER is no name that SGLang's checks know then. So such a launcher names NGRAM, which is the same to all code that
runs until plugins are loaded, and Seer takes it over. What SGLang fills in for NGRAM alone is undone: the arguments
become those that `--scheduler-policy seer` makes.
"""

from __future__ import annotations

import logging
from typing import Any

from sglang.srt.speculative.spec_registry import get_spec

from sglang_seer.config import mode_from_environment, parse_config
from sglang_seer.engine.launch import ALGORITHM, activate, config_of, fail, mark
from sglang_seer.patches.adapter import line
from sglang_seer.plugin import config_from_environment

logger = logging.getLogger("sglang_seer")

STAND_IN = "NGRAM"
# What SGLang fills in for NGRAM where nothing was asked for; a user who asks for the very same cannot be told apart.
FILLED_IN = {"max_running_requests": 48, "speculative_num_draft_tokens": 12}


def take_over_ngram(server_args: Any) -> None:
    """Before `ServerArgs.check_server_args`, the first that becomes of a record once plugins are loaded.

    Nothing happens where Seer built the record, is not on, or only schedules: NGRAM is SGLang's own then. Raises
    ValueError for what Seer refuses.
    """
    if server_args.speculative_algorithm != STAND_IN or config_of(server_args) is not None:
        return
    if mode_from_environment() != "on" or not parse_config(config_from_environment()).speculation:
        return
    arguments = vars(server_args)
    undone = [name for name, value in FILLED_IN.items() if arguments[name] == value]
    arguments.update(dict.fromkeys(("speculative_algorithm", *undone)))
    try:
        mark(server_args, activate(arguments, None))
    except ValueError as error:
        fail([str(error)])
    get_spec(ALGORITHM).handle_server_args(server_args)
    logger.warning(
        "seer: these server arguments were built before Seer was loaded: takes the place of %s, with %d tokens a step "
        "in verification; SGLang's defaults for %s are undone: %s",
        STAND_IN,
        server_args.speculative_num_draft_tokens,
        STAND_IN,
        ", ".join(f"{name} = {FILLED_IN[name]}" for name in undone) or "none was set",
    )


def hint() -> str:
    """What launchers that build their arguments early are to name on this line."""
    return f'speculative_algorithm="{STAND_IN if line.TAKES_OVER_NGRAM else ALGORITHM}"'
