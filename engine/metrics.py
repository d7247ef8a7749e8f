"""What operators watch, in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from engine.media.pool import MediaPool
from engine.sip.stack import Stack


class EngineCollector:
    """Reads the figures where they live, when they are asked for: nothing on a call's path counts twice."""

    def __init__(self, stack: Stack, pool: MediaPool, calls: Callable[[], int]) -> None:
        self._stack = stack
        self._pool = pool
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("switchhook_calls", "Live calls", value=self._calls())
        yield GaugeMetricFamily("switchhook_sip_sessions", "SIP sessions", value=self._stack.session_count)
        yield GaugeMetricFamily(
            "switchhook_sip_transactions", "SIP transactions", value=self._stack.transaction_count
        )
        drops = CounterMetricFamily("switchhook_sip_dropped", "SIP messages not acted on", labels=["reason"])
        for reason, count in self._stack.counters.items():
            drops.add_metric([reason], count)
        yield drops
        yield from self._media()

    def _media(self) -> Iterator[Metric]:
        names = (
            "ticks",
            "late_ticks",
            "skipped_ticks",
            "packets_received",
            "packets_sent",
            "packets_dropped",
        )
        for name in names:
            family = CounterMetricFamily(
                f"switchhook_media_{name}", f"Media worker: {name}", labels=["worker"]
            )
            for worker, report in self._pool.reports.items():
                family.add_metric([str(worker)], getattr(report, name))
            yield family


def render(collector: EngineCollector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
