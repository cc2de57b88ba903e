"""Where a response ends inside an accepted run: where it would have ended one token at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def end_inside_run(check: Callable[[Any, int], None], request: Any, run_tokens: int) -> None:
    """Ask SGLang's own check after each token of a run that it may judge otherwise as a whole.

    Asked once for a run, it looks for stop strings in the order of the request and not of the text, finds those behind
    an end of text, searches longer windows, and older lines look at the limit before anything else.

    check: `Req.update_finish_state` of 0.5.23. run_tokens: how many of the newest output tokens it has not seen. The
    run stays whole, as its KV is there; `finished_len` says what counts, as SGLang has it for runs.
    """
    parameters = request.sampling_params
    searches = parameters.stop_strs or parameters.stop_regex_strs
    may_differ = searches or len(request.output_ids) >= parameters.max_new_tokens
    if run_tokens < 2 or not may_differ or request.finished() or request.to_finish:
        check(request, run_tokens)
        return
    output = request.output_ids
    run = output[-run_tokens:]
    del output[-run_tokens:]
    for place, token in enumerate(run, start=1):
        output.append(token)
        check(request, 1)
        if request.finished():
            if request.finished_len is None:
                request.finished_len = len(output)
            output.extend(run[place:])
            return
