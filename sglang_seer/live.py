"""`python -m sglang_seer doctor --live URL`: asks a running server what Seer does there, or would do."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from sglang_seer.observe import show

ANSWER_TIMEOUT_S = 20.0
EXIT_ACTIVE, EXIT_INACTIVE, EXIT_UNUSABLE = 0, 1, 2
_SHOWN_CHARACTERS = 200


class LiveError(RuntimeError):
    """The server gave no usable answer; the text says what came instead."""


def main(url: str, *, as_json: bool) -> int:
    """Print what the server says; 0 where Seer is on or observes, 1 where it does not, 2 without a usable answer."""
    try:
        ranks = [show.report(status) for status in _statuses(url)]
    except (LiveError, ValueError) as error:
        print(f"doctor: {url}: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    if as_json:
        print(json.dumps({"url": url, "ranks": ranks}, indent=2))
    else:
        for number, found in enumerate(ranks):
            print((f"rank {number}: " if len(ranks) > 1 else "") + show.text(found))
    active = all(found["mode"] not in (None, show.OFF) for found in ranks)
    return EXIT_ACTIVE if active else EXIT_INACTIVE


def _statuses(url: str) -> list[dict[str, Any] | None]:
    """Seer's status by data-parallel rank, None for a rank without one."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise LiveError("wanted a URL such as http://127.0.0.1:30000")
    info = _asked(url.rstrip("/") + "/server_info")
    states = info.get("internal_states") if isinstance(info, dict) else None
    if not isinstance(states, list) or not states or not all(isinstance(state, dict) for state in states):
        raise LiveError(f"/server_info: wanted SGLang's internal_states, saw {str(info)[:_SHOWN_CHARACTERS]}")
    return [state.get("sglang_seer") for state in states]


def _asked(address: str) -> Any:
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read(_SHOWN_CHARACTERS).decode(errors="replace")
        raise LiveError(f"/server_info: status {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        # ValueError: the body is no JSON. URLError and timeouts are OSErrors.
        raise LiveError(f"/server_info: no answer of an SGLang server: {error}") from error
