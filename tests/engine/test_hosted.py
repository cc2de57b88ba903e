"""What is mended where another launcher started SGLang's HTTP server."""

from types import SimpleNamespace

import pytest
from sglang.srt.entrypoints import http_server

from sglang_seer.engine.hosted import repair_server_info

STATES = [{"memory_usage": {"token_capacity": 6144}}]


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        # A record of ports, as veRL 0.9.1 hands it over.
        (SimpleNamespace(nccl_port=1), {"max_total_num_tokens": 6144}),
        ({"max_total_num_tokens": 7, "other": 1}, {"max_total_num_tokens": 7, "other": 1}),
    ],
)
def test_server_info_can_be_told(monkeypatch: pytest.MonkeyPatch, seen: object, wanted: object) -> None:
    state = SimpleNamespace(scheduler_info=seen)
    monkeypatch.setattr(http_server, "get_global_state", lambda: state)
    repair_server_info(STATES)
    assert state.scheduler_info == wanted
