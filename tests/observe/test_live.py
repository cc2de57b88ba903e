"""`doctor --live` against servers that answer as SGLang does, and against others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from sglang_seer import doctor
from sglang_seer.observe.record import Record, Steps, encode
from tests.observe.made import lengths, record, stepped, window

OBSERVED = record(window(stepped(lengths(0, groups=12, size=8))), drafts=[Steps(500, 700), Steps(300, 900)])


@contextmanager
def answering(body: str, status: int = 200) -> Iterator[str]:
    """A server that gives this answer to /server_info; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/server_info"
            self.send_response(status if known else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def info(*statuses: dict[str, Any] | None) -> str:
    states = [{} if status is None else {"sglang_seer": status} for status in statuses]
    return json.dumps({"internal_states": states})


def status(mode: str, **more: Any) -> dict[str, Any]:
    fields = {"version": "1.2.3", "sglang_version": "0.5.23", "mode": mode, "parts": [], "reasons": [], "counters": {}}
    return {**fields, **more}


def observing(made: Record, **more: Any) -> dict[str, Any]:
    counters = {"decisions": 40, "reordered": 30, "admissions_judged": 9, "admissions_it_would_delay": 4}
    counters |= {"retractions": 7}
    observed = {"cost_share": 0.0042, "would_refuse": [], "record": encode(made)}
    return status("observe", counters=counters, observed={**observed, **more})


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def ask(body: str, *arguments: str, status: int = 200) -> tuple[int, str, str]:
        with answering(body, status) as url:
            code = doctor.main(["--live", url, *arguments])
        return code, *capsys.readouterr()

    return ask


def test_what_seer_would_have_done(run: Run) -> None:
    code, said, _ = run(info(observing(OBSERVED)))
    assert code == 0
    for line in (
        "sglang-seer 1.2.3 on SGLang 0.5.23, mode: observe",
        "engine: policy fcfs, drafts none, 100,000 KV slots, at most 16 running",
        "observing took 0.42% of the engine's busy time",
        "queues looked at: 40, in another order: 30; admissions looked at: 9, delayed: 4; retractions suffered: 7",
        "window: 96 responses to 12 prompts",
        "simulated: stock, fcfs",
        "simulated: Seer's order and admission",
        "simulated: Seer with drafts from siblings",
        "tokens of a step with drafts, by finished siblings: 0: 1.40, 1: 3.00",
        "assumed:",
    ):
        assert line in said
    assert "do not rely" not in said


def test_as_json(run: Run) -> None:
    code, said, _ = run(info(observing(OBSERVED)), "--json")
    (found,) = json.loads(said)["ranks"]
    assert (code, found["mode"], found["queues"]) == (0, "observe", {"looked_at": 40, "other_order": 30})
    outcomes = found["prediction"]["outcomes"]
    assert list(outcomes) == ["fcfs", "seer-engine", "seer-engine-spec"]
    assert outcomes["seer-engine-spec"]["throughput"]["value"] > 1.0
    # The record itself is the server's.
    assert "record" not in said


def test_an_engine_that_the_simulation_misses(run: Run) -> None:
    """Steps that were timed ten times too long: the prediction says that it is not of this engine."""
    slow = [msgspec.structs.replace(step, seconds=10 * step.seconds) for step in OBSERVED.steps]
    code, said, _ = run(info(observing(record(*OBSERVED.windows, steps=slow))))
    assert code == 0 and "beyond 25% the simulated engine is not this one: do not rely on the prediction" in said


def test_too_little_was_seen(run: Run) -> None:
    code, said, _ = run(info(observing(record(window([])))))
    assert code == 0
    assert "no prediction: 0 responses have ended, wanted at least 16" in said


def test_what_would_be_refused(run: Run) -> None:
    refused = observing(OBSERVED, would_refuse=["LoRA (enable_lora) is not proven"])
    assert "Seer would refuse to start: LoRA (enable_lora) is not proven" in run(info(refused))[1]


def test_observing_that_failed(run: Run) -> None:
    code, said, _ = run(info(status("observe", reasons=["observing failed: KeyError: 7"])))
    assert code == 0
    assert "not active: observing failed: KeyError: 7" in said and "nothing is observed there" in said


def test_where_seer_is_on(run: Run) -> None:
    active = status(
        "on",
        parts=["scheduling", "speculation"],
        counters={"decisions": 5, "reordered": 2, "finished": 8},
        drafts={"drafted_by_depth": [5, 3], "accepted_by_depth": [4, 1], "groups": 2},
    )
    code, said, _ = run(info(active))
    assert code == 0
    assert "active: scheduling, speculation" in said
    assert "queues put in order: 5, changed: 2" in said
    assert "draft tokens verified: 8, accepted: 5" in said


def test_every_rank_is_shown(run: Run) -> None:
    code, said, _ = run(info(observing(OBSERVED), observing(record(window([])))))
    assert code == 0
    assert said.index("rank 0: sglang-seer") < said.index("window: 96") < said.index("rank 1: ") < said.index("no pred")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (info(None), "stock SGLang: no sglang-seer there"),
        (info(status("off")), "SGLANG_SEER=observe to see what Seer would do"),
        (info(status("off", reasons=["SGLang 9 is not supported"])), "not active: SGLang 9 is not supported"),
    ],
)
def test_where_it_is_not_active(run: Run, body: str, said: str) -> None:
    code, out, _ = run(body)
    assert code == 1 and said in out


@pytest.mark.parametrize(
    ("body", "status_code", "said"),
    [
        ("<html>hello</html>", 200, "no answer of an SGLang server"),
        ("[1, 2]", 200, "wanted SGLang's internal_states, saw [1, 2]"),
        ('{"version": "3"}', 200, "wanted SGLang's internal_states"),
        ("who are you", 401, "status 401: who are you"),
        (info(observing(OBSERVED, record="{}")), 200, "record: Object missing required field"),
    ],
)
def test_answers_of_no_use(run: Run, body: str, status_code: int, said: str) -> None:
    code, out, error = run(body, status=status_code)
    assert (code, out) == (2, "")
    assert said in error and error.startswith("doctor: http://127.0.0.1:") and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:30000", "wanted a URL such as http://127.0.0.1:30000"),
        ("ftp://127.0.0.1", "wanted a URL"),
        ("http://127.0.0.1:1", "no answer of an SGLang server: "),
    ],
)
def test_nobody_there(url: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--live", url]) == 2
    assert said in capsys.readouterr().err
