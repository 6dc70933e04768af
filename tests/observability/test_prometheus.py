"""Prometheus reads over HTTP what the bus has counted, and the samples of a counter add up to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from llmgine.bus import MessageBus
from llmgine.messages import Command
from llmgine.observability.prometheus import BusCollector, MetricsServer, serve_metrics


class Ping(Command[None]):
    pass


@pytest.fixture
def server(bus: MessageBus) -> Iterator[MetricsServer]:
    server = serve_metrics(bus, port=0)
    yield server
    server.close()


def scrape(server: MetricsServer) -> dict[str, Metric]:
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def samples(family: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}


async def test_the_figures_of_the_bus_are_scraped_as_they_are(bus: MessageBus, server: MetricsServer) -> None:
    bus.register_command_handler(Ping, lambda _: None)
    for _ in range(3):
        await bus.execute(Ping())
    await bus.execute(Command())

    families = scrape(server)
    figures = bus.metrics.snapshot()
    assert {name.removeprefix("llmgine_") for name in families} == {
        name.removesuffix("_total") for kind in figures.values() for name in kind
    }
    assert samples(families["llmgine_commands_sent"]) == {("llmgine_commands_sent_total", ()): 4}
    assert samples(families["llmgine_commands_failed"]) == {("llmgine_commands_failed_total", ()): 1}
    assert families["llmgine_commands_sent"].documentation == "Commands executed"
    assert families["llmgine_registered_handlers"].type == "gauge"
    assert samples(families["llmgine_registered_handlers"]) == {("llmgine_registered_handlers", ()): 1}
    durations = families["llmgine_command_processing_duration_seconds"]
    buckets = {float(s.labels["le"]): s.value for s in durations.samples if s.name.endswith("_bucket")}
    known = figures["histograms"]["command_processing_duration_seconds"]
    assert buckets == known["buckets"]
    assert durations.type == "histogram"
    assert samples(durations)["llmgine_command_processing_duration_seconds_count", ()] == 3
    total = samples(durations)["llmgine_command_processing_duration_seconds_sum", ()]
    assert total == pytest.approx(known["sum"])


async def test_label_sets_and_what_has_none_add_up(bus: MessageBus, server: MetricsServer) -> None:
    metrics = bus.metrics
    metrics.register_counter("requests", "Requests")
    metrics.inc_counter("requests", 2, {"kind": "a"})
    metrics.inc_counter("requests", 3, {"kind": 'b"\n'})
    metrics.inc_counter("requests", 5)
    metrics.register_counter("all_labelled")
    metrics.inc_counter("all_labelled", 2, {"kind": "a"})
    metrics.register_gauge("depth")
    metrics.set_gauge("depth", 7)
    metrics.set_gauge("depth", 1, {"queue": "x"})
    metrics.register_histogram("wait_seconds")
    metrics.observe_histogram("wait_seconds", 0.2, {"queue": "x"})
    metrics.observe_histogram("wait_seconds", 3.0)
    metrics.register_histogram("labelled_seconds")
    metrics.observe_histogram("labelled_seconds", 0.2, {"queue": "x"})

    families = scrape(server)
    name = "llmgine_requests_total"
    assert samples(families["llmgine_requests"]) == {
        (name, ()): 5,
        (name, (("kind", "a"),)): 2,
        (name, (("kind", 'b"\n'),)): 3,
    }
    assert samples(families["llmgine_all_labelled"]) == {("llmgine_all_labelled_total", (("kind", "a"),)): 2}
    assert samples(families["llmgine_depth"]) == {("llmgine_depth", ()): 7, ("llmgine_depth", (("queue", "x"),)): 1}
    waits = samples(families["llmgine_wait_seconds"])
    bucket = "llmgine_wait_seconds_bucket"
    assert (waits["llmgine_wait_seconds_count", ()], waits["llmgine_wait_seconds_sum", ()]) == (1, 3.0)
    assert (waits[bucket, (("le", "2.5"),)], waits[bucket, (("le", "5.0"),)]) == (0, 1)
    assert waits[bucket, (("le", "0.25"), ("queue", "x"))] == 1
    assert waits[bucket, (("le", "+Inf"), ("queue", "x"))] == 1
    labelled = samples(families["llmgine_labelled_seconds"])
    assert ("llmgine_labelled_seconds_count", ()) not in labelled


async def test_names_that_prometheus_does_not_know_are_made_legal_and_stay_apart(
    bus: MessageBus, server: MetricsServer
) -> None:
    for name in ("a.b", "a_b", "a-b_total"):
        bus.metrics.register_counter(name)
        bus.metrics.inc_counter(name, 1, {"1st label": "ü"})
    families = scrape(server)
    found = [name for name in families if name.startswith("llmgine_a_b")]
    assert sorted(found) == ["llmgine_a_b", "llmgine_a_b_", "llmgine_a_b__"]
    assert samples(families["llmgine_a_b"]) == {("llmgine_a_b_total", (("_1st_label", "ü"),)): 1}


async def test_a_server_listens_on_this_machine_only_and_closing_frees_its_port(bus: MessageBus) -> None:
    first = serve_metrics(bus, port=0)
    assert first._server.server_address[0] == "127.0.0.1"
    with pytest.raises(OSError, match="in use"):
        serve_metrics(bus, port=first.port)
    first.close()
    second = serve_metrics(bus, port=first.port)
    assert "llmgine_commands_sent" in scrape(second)
    second.close()
    with pytest.raises(URLError):
        scrape(second)


async def test_a_collector_goes_into_any_registry(bus: MessageBus) -> None:
    registry = CollectorRegistry()
    registry.register(BusCollector(bus))
    assert registry.get_sample_value("llmgine_commands_sent_total") == 0


WITHOUT = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prometheus_client":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nowhere())
from llmgine import MessageBus
from llmgine.errors import MissingExtraError
from llmgine.observability.prometheus import serve_metrics

try:
    serve_metrics(MessageBus())
except MissingExtraError as error:
    print(error.extra, "pip install" in str(error))
"""


def test_without_the_extra_the_error_names_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["prometheus", "True"]


def test_serving_does_not_keep_the_process_alive() -> None:
    code = (
        "from llmgine import MessageBus\n"
        "from llmgine.observability.prometheus import serve_metrics\n"
        "print(serve_metrics(MessageBus(), port=0).port > 0)"
    )
    done: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "True"
