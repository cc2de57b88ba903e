"""Seer's live status as Prometheus metrics on SGLang's own /metrics.

SGLang runs prometheus_client in its multiprocess mode: each process writes files of its own in the folder
PROMETHEUS_MULTIPROC_DIR, which must be set before prometheus_client is imported, and the HTTP process adds them up.
Counters are summed over processes; of a gauge the newest value counts, as of SGLang's own. So only the rank that writes
SGLang's statistics writes here, under the same labels. What is shown is what /server_info shows, at most once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sglang_seer.engine.measures import MEASURES, PREFIX, Measure

LEAST_INTERVAL_S = 1.0
Values = dict[tuple[str, ...], float]


def labels_of(scheduler: Any) -> dict[str, Any] | None:
    """Labels of SGLang's metrics in a scheduler that writes them; None where metrics are off or another rank writes."""
    # SGLang 0.5.12 has no such record.
    context = getattr(scheduler, "metrics_collector_context", None)
    if context is None or context.collector is None or not context.is_stats_logging_rank:
        return None
    labels = dict(context.collector.labels)
    # Stages of a pipeline decide alike.
    return None if labels.get("pp_rank") else labels


class Metrics:
    """The metrics of one scheduler process."""

    def __init__(
        self,
        labels: Mapping[str, Any],
        read: Callable[[], Mapping[str, Any]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Register every measure and write what is known now.

        labels: of every metric. read: the status, as in /server_info.
        """
        # Not before PROMETHEUS_MULTIPROC_DIR is set, and not where metrics are off.
        import prometheus_client

        self._labels = dict(labels)
        self._read = read
        self._clock = clock
        self._written: dict[str, Values] = {}
        self._collectors: dict[str, Any] = {}
        for measure in MEASURES:
            names = [*self._labels, *measure.labels]
            if measure.kind == "counter":
                collector: Any = prometheus_client.Counter(PREFIX + measure.name, measure.text, names)
            else:
                collector = prometheus_client.Gauge(
                    PREFIX + measure.name, measure.text, names, multiprocess_mode="mostrecent"
                )
            self._collectors[measure.name] = collector
        self._due_s = 0.0
        self.write()

    def update(self) -> None:
        """Write if the last time is long enough ago; called at steps and while idle."""
        if self._clock() >= self._due_s:
            self.write()

    def write(self) -> None:
        """Write the status as it is now."""
        self._due_s = self._clock() + LEAST_INTERVAL_S
        status = self._read()
        for measure in MEASURES:
            self._write(measure, measure.read(status))

    def _write(self, measure: Measure, values: Values) -> None:
        before = self._written.get(measure.name, {})
        collector = self._collectors[measure.name]
        for names, value in values.items():
            child = collector.labels(*self._labels.values(), *names)
            if measure.kind == "counter":
                # A total that began anew, as that of a bus that was joined again, counts from nothing.
                known = before.get(names, 0.0)
                child.inc(value - known if value >= known else value)
            else:
                child.set(value)
        if measure.kind == "gauge":
            for names in before.keys() - values.keys():
                collector.labels(*self._labels.values(), *names).set(0.0)
        self._written[measure.name] = {**before, **values}
