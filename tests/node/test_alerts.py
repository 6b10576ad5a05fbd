"""Alerts: what lasts long enough is noticed once, ends once, and is told to whoever asked to hear it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from node.alerts import RULES, AlertRule, Alerts, Severity
from node.clock import Clock
from node.services.alerting import TRIES, WAITING_MAX, Alerting

VALUE = AlertRule("Value", Severity.WARNING, "m", 5, 20, "It is high.", "Lower it.")
NOW = AlertRule("Now", Severity.CRITICAL, "m", 5, 0, "It is high.", "Lower it.")
BELOW = AlertRule("Below", Severity.CRITICAL, "m", "n", 0, "It is low.", "Raise it.", is_below=True)
LABEL = AlertRule("Label", Severity.WARNING, "m", 0, 0, "It is there.", "Take it away.", label=("state", "bad"))
GROWTH = AlertRule("Growth", Severity.WARNING, "m", 0, 0, "It grew.", "Stop it.", of_growth=True)


def gauges(**values: float) -> Iterator[Metric]:
    for name, value in values.items():
        yield GaugeMetricFamily(name, "", value=value)


def said(alerts: Alerts, values: Iterable[float], step_ms: int = 10_000) -> list[tuple[int, int]]:
    """How many alerts began and ended at each look."""
    looks = [alerts.observe(gauges(m=value), step_ms * number) for number, value in enumerate(values)]
    return [(len(began), len(ended)) for began, ended in looks]


def test_what_lasts_is_noticed_once() -> None:
    """After its time without a break, and it is over with the first look at which it does not hold."""
    assert said(Alerts([VALUE]), [6, 6, 5, 6, 6, 6, 6, 5, 5]) == [
        *[(0, 0)] * 5,
        (1, 0),
        (0, 0),
        (0, 1),
        (0, 0),
    ]
    assert said(Alerts([NOW]), [6, 6, 5]) == [(1, 0), (0, 0), (0, 1)]


def test_it_is_known_since_when() -> None:
    """Since it began to hold, not since it was noticed; the worst comes first."""
    alerts = Alerts([VALUE, NOW])
    said(alerts, [0, 6, 6, 6])
    assert [(each.rule.name, each.since_ms) for each in alerts.firing()] == [("Now", 10_000), ("Value", 10_000)]
    assert alerts.firing()[0].facts() == {
        "alert": "Now",
        "severity": "critical",
        "since_ms": 10_000,
        "says": "It is high.",
        "remedy": "Lower it.",
    }


def test_one_metric_is_held_against_another() -> None:
    """Where one of them is not there, nothing is said."""
    alerts = Alerts([BELOW])
    assert alerts.observe(gauges(m=1), 0) == alerts.observe(gauges(n=1), 0) == ([], [])
    assert len(alerts.observe(gauges(m=1, n=2), 0)[0]) == 1
    assert len(alerts.observe(gauges(m=2, n=2), 0)[1]) == 1


@pytest.mark.parametrize(("good", "bad", "began"), [(1, 0, 0), (0, 1, 1), (3, 2, 1)])
def test_only_samples_with_the_label_count(good: float, bad: float, began: int) -> None:
    """A state that the node is not in says nothing."""
    family = GaugeMetricFamily("m", "", labels=("state",))
    family.add_metric(["good"], good)
    family.add_metric(["bad"], bad)
    assert len(Alerts([LABEL]).observe([family], 0)[0]) == began


def test_what_counts_up_is_noticed_while_it_is_new() -> None:
    """What was there at the first look is old; after five minutes what came then is, too; counting anew is no growth."""
    alerts = Alerts([GROWTH])
    looks = said(alerts, [7, 7, 8, *[8] * 40])
    assert [number for number, look in enumerate(looks) if look != (0, 0)] == [2, 32]
    assert said(alerts, [2, 2, 2]) == [(0, 0)] * 3


class Hook:
    """A webhook that takes a notice at the third call."""

    def __init__(self) -> None:
        self.calls = 0
        self.taken: list[dict[str, object]] = []

    async def take(self, request: Request) -> Response:
        self.calls += 1
        if self.calls < TRIES:
            return Response(status_code=503)
        self.taken.append(json.loads(await request.body()))
        return Response()


def test_a_webhook_hears_what_begins_and_ends() -> None:
    """It is asked again where it did not take a notice; one that is not there holds nobody up."""
    hook, value = Hook(), [6.0]

    async def main() -> None:
        config = Config()
        config.bind = ["127.0.0.1:0"]
        async with trio.open_nursery() as nursery:
            (bound,) = await nursery.start(
                serve, Starlette(routes=[Route("/hook", hook.take, methods=["POST"])]), config
            )
            alerting = Alerting(
                Alerts([NOW]),
                lambda: gauges(m=value[0]),
                Clock(),
                (f"{bound}/hook", "http://127.0.0.1:9/nobody"),
                {"peer": "me", "network": "n"},
                look_seconds=0.02,
                pause_seconds=0.01,
            )
            nursery.start_soon(alerting.run)
            with trio.fail_after(60):
                while not hook.taken:
                    await trio.sleep(0.02)
                value[0] = 0.0
                while len(hook.taken) < 2:
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    with capture_logs() as logs:
        trio.run(main)
    assert [(each["alert"], each["state"], each["peer"]) for each in hook.taken] == [
        ("Now", "firing", "me"),
        ("Now", "resolved", "me"),
    ]
    assert [each["event"] for each in logs if each.get("alert")] == ["alert", "alert is over"]


def test_names_are_not_used_twice() -> None:
    """Whoever silences one means one."""
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.says.endswith(".") and rule.remedy.endswith(".") for rule in RULES)


def test_a_webhook_that_is_too_slow_misses_what_comes_on_top() -> None:
    """As many notices wait as there is room for; that one is missed is in the log, and holds nobody up."""
    value = [0.0]

    async def main() -> None:
        url = "http://127.0.0.1:9/nobody"
        alerting = Alerting(Alerts([NOW]), lambda: gauges(m=value[0]), Clock(), (url,), {})
        for number in range(WAITING_MAX + 1):  # it begins and ends in turns, and nobody takes a notice
            value[0] = 6.0 if number % 2 == 0 else 0.0
            alerting.look()

    with capture_logs() as logs:
        trio.run(main)
    assert [each["missed"] for each in logs if each["event"] == "a webhook is too slow"] == ["Now"]
