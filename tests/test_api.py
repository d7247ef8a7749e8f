"""Health and metrics over HTTP."""

from __future__ import annotations

import httpx

from engine.api.server import HttpServer, build_app
from engine.ids import SeededIds
from engine.media import protocol as p
from engine.media.pool import MediaPool
from engine.metrics import EngineCollector, render
from engine.sip.layer import Flow
from engine.sip.stack import Stack
from tests.media.test_session import FakeLink


async def test_health_says_whether_calls_are_taken_and_metrics_count() -> None:
    state: dict[str, object] = {"status": "ok", "calls": 2}
    stack = Stack(SeededIds(), send=lambda _: None, emit=lambda _: None)
    stack.receive(b"not SIP at all\r\n\r\n", Flow(("127.0.0.1", 5060), ("127.0.0.1", 5062)), 0.0)
    link = FakeLink()
    pool = MediaPool([link])
    link.on_event(p.WorkerReport(3, 1000, 2, 0, 1.5, 0.25, 7, 8, 9))
    collector = EngineCollector(stack, pool, lambda: 2)
    server = HttpServer(build_app(lambda: state, lambda: render(collector)), "127.0.0.1", 0)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url) as client:
        healthy = await client.get("/health")
        assert (healthy.status_code, healthy.json()) == (200, state)
        state["status"] = "draining"
        assert (await client.get("/health")).status_code == 503
        metrics = (await client.get("/metrics")).text
        assert (await client.get("/nothing")).status_code == 404
    await server.stop()
    assert "switchhook_calls 2.0" in metrics
    assert 'switchhook_media_late_ticks_total{worker="0"} 2.0' in metrics
    assert "switchhook_sip_dropped_total{reason=" in metrics
