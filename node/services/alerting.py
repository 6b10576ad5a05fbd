"""Looking at the alerts every few seconds, and telling whoever wants to know: the log, and webhooks.

A webhook gets a POST of JSON when an alert begins and when it ends:

    {"alert", "severity", "since_ms", "says", "remedy", "state": "firing" or "resolved", "peer", "network"}

Whoever does not take it within some tries misses it: what lasts is in `nocknode alerts` all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import httpx
import structlog
import trio
from prometheus_client.core import Metric

from node.alerts import Alerts, Firing
from node.clock import Clock

log = structlog.get_logger()

LOOK_SECONDS: Final = 10.0
WAITING_MAX: Final = 64  # notices of one webhook that is slow; what comes on top is dropped, and said in the log
TRIES: Final = 3
TRY_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 2.0  # before the second try, twice as long before the third


class Alerting:
    """The alerts of one node, as they come and go."""

    def __init__(
        self,
        alerts: Alerts,
        metrics: Callable[[], Iterable[Metric]],
        clock: Clock,
        webhooks: Sequence[str],
        about: Mapping[str, str],
        *,
        look_seconds: float = LOOK_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """``about``: what every notice says of this node."""
        self._alerts, self._metrics, self._clock, self._about = alerts, metrics, clock, dict(about)
        self._look_seconds, self._pause_seconds = look_seconds, pause_seconds
        self._channels = {url: trio.open_memory_channel[dict[str, Any]](WAITING_MAX) for url in webhooks}

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for url, (_, notices) in self._channels.items():
                nursery.start_soon(self._post_all, url, notices)
            while True:
                await trio.sleep(self._look_seconds)
                self.look()

    def look(self) -> None:
        """Once."""
        began, ended = self._alerts.observe(self._metrics(), self._clock.now_ms())
        for each in began:
            log.warning("alert", alert=each.rule.name, severity=each.rule.severity.value, why=each.rule.says)
            self._tell(each, "firing")
        for each in ended:
            log.info("alert is over", alert=each.rule.name)
            self._tell(each, "resolved")

    def _tell(self, firing: Firing, state: str) -> None:
        for url, (send, _) in self._channels.items():
            try:
                send.send_nowait({**firing.facts(), "state": state, **self._about})
            except trio.WouldBlock:
                log.warning("a webhook is too slow", webhook=url, missed=firing.rule.name)

    async def _post_all(self, url: str, notices: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        async with httpx.AsyncClient(timeout=TRY_SECONDS) as client:
            async for notice in notices:
                await self._post(client, url, notice)

    async def _post(self, client: httpx.AsyncClient, url: str, notice: dict[str, Any]) -> None:
        why = ""
        for number in range(TRIES):
            await trio.sleep(number * self._pause_seconds)
            try:
                (await client.post(url, json=notice)).raise_for_status()
                return
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
        log.warning("a webhook did not take an alert", webhook=url, missed=notice["alert"], why=why)
