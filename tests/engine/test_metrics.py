"""Seer's metrics on SGLang's own /metrics, the dashboard that shows them, and a real Prometheus that gathers them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from sglang_seer.demo.servers import HOST, pick_port
from sglang_seer.engine.measures import MEASURES, PREFIX
from sglang_seer.engine.metrics import Metrics, labels_of

from .conftest import Engine
from .test_equality import bodies
from .test_sharing import SAMPLES, EngineOf, split, until

DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "grafana" / "seer.json"
NAMES = re.compile(r"sglang_seer_\w+")
# Those that `rollout --metrics-port` serves are tested there.
ROLLOUT = "sglang_seer_rollout_"
PROMETHEUS_START_S = 120.0
BYTES = ("sent_bytes", "received_bytes")


def expressions() -> list[str]:
    """Of all panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [one for one in found if ROLLOUT not in one]


def scraped(engine: Engine) -> dict[str, dict[tuple[str, ...], float]]:
    """Seer's samples by name, each by the labels that SGLang's own metrics do not have."""
    answer = requests.get(engine.server.plan.url + "/metrics", timeout=30)
    assert answer.status_code == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    families = list(text_string_to_metric_families(answer.text))
    common = {
        frozenset(sample.labels)
        for family in families
        if family.name == "sglang:num_running_reqs"
        for sample in family.samples
    }
    (shared,) = common
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.startswith("sglang_seer_"):
            assert shared <= set(sample.labels)
            own = tuple(value for name, value in sample.labels.items() if name not in shared)
            assert own not in found.setdefault(sample.name, {}), "written by two processes"
            found[sample.name][own] = sample.value
    return found


@pytest.fixture(scope="module")
def busy(engine_of: EngineOf, prompts: list[list[int]]) -> Engine:
    """An engine that has done all that is counted: drafts, plain steps, a refused hint, text over a bus that fails."""
    engines = [engine_of(name) for name in ("ipc", "ipc-fuzzed")]
    split(bodies(prompts[::5], SAMPLES, limit=300), engines)
    until(lambda: bool(split(bodies(prompts[::6], SAMPLES), engines)) and _everything_went_wrong(engines[1]))
    plain = bodies(prompts[:1], 2, limit=20, frequency_penalty=0.5)
    plain[0]["sampling_params"]["custom_params"] = {"seer": {"group": ["no name"]}}
    engines[1].generate_all(plain)
    return engines[1]


def _everything_went_wrong(engine: Engine) -> bool:
    bus = engine.status()["bus"]
    return bool(bus["dropped_messages"] and bus["dropped_items"] and bus["repairs"])


def test_a_scrape_agrees_with_server_info(busy: Engine) -> None:
    """Written at most a second later than counted, also while nothing runs.

    Engines on a bus never fall silent, so not all numbers stand still at the same time.
    """
    agreed: set[str] = set()
    before = busy.status()["bus"]

    def agrees() -> bool:
        status, seen, after = busy.status(), scraped(busy), busy.status()["bus"]
        counters, drafts, budget, bus = status["counters"], status["drafts"], status["budget"], status["bus"]
        single = {
            "groups": status["groups"],
            "admissions_total": counters["admitted"],
            "finished_responses_total": counters["finished"],
            "finished_elsewhere_total": counters["finished_elsewhere"],
            "estimated_tokens_total": counters["estimated_tokens"],
            "estimate_error_tokens_total": counters["estimate_error_tokens"],
            "retractions_total": counters["retractions"],
            "queue_decisions_total": counters.get("decisions", 0),
            "draft_seconds_total": pytest.approx(budget["draft_s"]),
            "verify_seconds_total": pytest.approx(budget["verify_s"]),
            "verify_timed_steps_total": budget["timed_steps"],
            "index_tokens": drafts["tokens"],
            "bus_up": 1,
            "bus_repairs_total": bus["repairs"],
            "bus_lag_seconds": pytest.approx(bus["lag_ms"] / 1e3),
        }
        tables = {
            "mode": {("off",): 0, ("observe",): 0, ("on",): 1},
            "drafted_tokens_total": _by_depth(drafts["drafted_by_depth"]),
            "accepted_tokens_total": _by_depth(drafts["accepted_by_depth"]),
            "steps_total": {
                (name.removeprefix("steps_of_width_"),): count
                for name, count in counters.items()
                if name.startswith("steps_of_width_")
            },
            "plain_path_steps_total": {("penalty",): counters["plain_path_for_penalty"]},
            "refused_total": {("malformed_hints",): 1, ("bus_text",): counters.get("bus_refused", 0)},
            "bus_queued_tokens": {("in",): bus["queued_in_tokens"], ("out",): bus["queued_out_tokens"]},
            "bus_dropped_messages_total": {(name,): count for name, count in bus["dropped_messages"].items()},
            "bus_dropped_items_total": {(name,): count for name, count in bus["dropped_items"].items()},
        }
        wanted = {**{name: {(): value} for name, value in single.items()}, **tables}
        pairs = {name: (seen.get("sglang_seer_" + name), value) for name, value in wanted.items()}
        agreed.update(name for name, (scrape, value) in pairs.items() if scrape == value)
        different = {name: pair for name, pair in pairs.items() if name not in agreed}
        print(different)
        ways = seen.get("sglang_seer_bus_bytes_total", {})
        bounds = [(before[name], ways.get((name[: -len("_bytes")],), -1), after[name]) for name in BYTES]
        return not different and all(least <= value <= most for least, value, most in bounds)

    until(agrees)
    status = busy.status()
    # What is compared is not nothing.
    assert sum(status["drafts"]["accepted_by_depth"]) > 0
    assert status["counters"]["admitted"] >= status["counters"]["finished"] > 0
    assert status["counters"]["estimate_error_tokens"] > 0
    assert status["budget"]["draft_s"] > 0


def _by_depth(counts: list[int]) -> dict[tuple[str, ...], int]:
    return {(str(depth),): count for depth, count in enumerate(counts, 1)}


def test_every_metric_of_the_dashboard_is_scraped_and_none_is_forgotten(busy: Engine) -> None:
    shown = {name for one in expressions() for name in NAMES.findall(one)}
    seen = scraped(busy)
    assert shown - seen.keys() == set()
    assert {name for name in seen if not name.endswith("_created")} - shown == set()


def test_every_metric_is_documented() -> None:
    lines = (DASHBOARD.parents[2] / "docs" / "metrics.md").read_text().splitlines()
    found = {line.split("`")[1].partition("{")[0] for line in lines if line.startswith("| `")}
    assert found == {PREFIX + one.name + "_total" * (one.kind == "counter") for one in MEASURES}


def test_a_stock_engine_says_that_seer_is_off(stock: Engine) -> None:
    seen = scraped(stock)
    assert seen["sglang_seer_mode"] == {("off",): 1, ("observe",): 0, ("on",): 0}
    assert seen["sglang_seer_admissions_total"] == {(): 0}


def test_without_enable_metrics_there_are_none(engine_of: EngineOf) -> None:
    url = engine_of("seer").server.plan.url
    assert "sglang_seer_" not in requests.get(url + "/metrics", timeout=30).text


def scheduler(*, rank: bool = True, collector: bool = True, pp_rank: int = 0) -> Any:
    """What a scheduler says of its metrics."""
    labels = {"model_name": "m", "tp_rank": 0, "pp_rank": pp_rank}
    context = SimpleNamespace(
        collector=SimpleNamespace(labels=labels) if collector else None, is_stats_logging_rank=rank
    )
    return SimpleNamespace(metrics_collector_context=context)


def test_one_rank_writes_and_nobody_where_metrics_are_off() -> None:
    assert labels_of(scheduler()) == {"model_name": "m", "tp_rank": 0, "pp_rank": 0}
    assert labels_of(scheduler(rank=False)) is None
    assert labels_of(scheduler(pp_rank=1)) is None
    assert labels_of(scheduler(collector=False)) is None


def test_without_metrics_the_client_is_not_imported() -> None:
    code = """
import sys
from types import SimpleNamespace
from sglang_seer.engine.metrics import labels_of
context = SimpleNamespace(collector=None, is_stats_logging_rank=True)
assert labels_of(SimpleNamespace(metrics_collector_context=context)) is None
print("prometheus_client" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "False", done.stderr


def test_totals_only_rise_and_are_written_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    for kind in ("Counter", "Gauge"):
        original = getattr(prometheus_client, kind)
        monkeypatch.setattr(prometheus_client, kind, partial(original, registry=registry))
    now, reads = [0.0], [0]
    status: dict[str, Any] = {"mode": "on", "counters": {"admitted": 3}, "bus": {"state": "running", "sent_bytes": 9}}

    def read() -> dict[str, Any]:
        reads[0] += 1
        return status

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value("sglang_seer_" + name, {"model_name": "m", **labels})

    metrics = Metrics({"model_name": "m"}, read, clock=lambda: now[0])
    assert value("admissions_total") == 3
    status["counters"]["admitted"] = 5
    for _ in range(100):
        now[0] += 0.005
        metrics.update()
    assert (reads[0], value("admissions_total")) == (1, 3)
    now[0] += 1.0
    metrics.update()
    assert (reads[0], value("admissions_total")) == (2, 5)
    # A bus that was joined again counts from nothing; one that is gone is not up.
    status["bus"]["sent_bytes"] = 2
    metrics.write()
    assert value("bus_bytes_total", direction="sent") == 11
    assert value("bus_up") == 1
    del status["bus"]
    metrics.write()
    assert value("bus_up") == 0


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """URL of a real server that scrapes the target every other second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    config = {"scrape_configs": [{"job_name": "engines", "static_configs": [{"targets": [target]}]}]}
    (folder / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "2s"}, **config}))
    place = f"{HOST}:{pick_port(None)}"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={place}"], stdout=log, stderr=log)
    try:
        yield f"http://{place}"
    finally:
        process.kill()
        process.wait()


def test_a_real_prometheus_answers_every_panel(busy: Engine, prompts: list[list[int]], tmp_path: Path) -> None:
    with prometheus(busy.server.plan.url.removeprefix("http://"), tmp_path) as url:

        def answer(expression: str) -> Any:
            for name, value in (("$__rate_interval", "30s"), ("$model", ".*"), ("$instance", ".*")):
                expression = expression.replace(name, value)
            found = requests.get(url + "/api/v1/query", params={"query": expression}, timeout=30)
            assert found.status_code == 200, found.text
            return found.json()["data"]["result"]

        _until_up(answer)
        busy.generate_all(bodies(prompts[:2], 2, limit=50))
        # Rates need two scrapes.
        until(lambda: not (missing := [one for one in expressions() if not answer(one)]) or print(missing))
        total = sum(busy.status()["drafts"]["drafted_by_depth"])
        until(lambda: float(answer("sum(sglang_seer_drafted_tokens_total)")[0]["value"][1]) == total)


def _until_up(answer: Callable[[str], Any]) -> None:
    deadline_s = time.monotonic() + PROMETHEUS_START_S
    while True:
        try:
            if [one["value"][1] for one in answer("up")] == ["1"]:
                return
        except (requests.RequestException, AssertionError):
            pass
        assert time.monotonic() < deadline_s, "prometheus scraped nothing"
        time.sleep(0.2)
