"""A slow handler behind a queue: publishers never wait for it, and every event is accounted for."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, process_time, sleep
from typing import Any

import pytest

from llmgine.errors import ConfigurationError
from llmgine.messages import Event
from llmgine.observability import ObservabilityHandler
from llmgine.observability.queued import QueuedHandler
from llmgine.observability.sink import MUTE_AFTER, HandlerStats


@dataclass
class Numbered(Event):
    number: int = 0
    publisher: int = 0


class Gated(ObservabilityHandler):
    """Handles events while its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.busy = threading.Event()
        self.numbers: list[int] = []
        self.threads: set[int] = set()
        self.closed = 0

    def handle(self, event: Event) -> None:
        self.busy.set()
        assert self.gate.wait(60)
        self.threads.add(threading.get_ident())
        self.numbers.append(getattr(event, "number", -1))

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


def test_publishers_do_not_wait_and_the_order_is_theirs() -> None:
    slow = Gated()
    handler = QueuedHandler(slow)
    for number in range(100):
        handler.handle(Numbered(number))  # with the gate shut
    assert (slow.numbers, handler.waiting) == ([], 100)
    slow.gate.set()
    assert handler.close(60) == 0
    assert (slow.numbers, slow.closed) == (list(range(100)), 1)
    assert len(slow.threads) == 1
    assert threading.get_ident() not in slow.threads


def test_what_does_not_fit_is_dropped_and_counted_and_reported_once_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Gated()
    handler = QueuedHandler(slow, maxsize=3)
    for number in range(10):
        handler.handle(Numbered(number))
    assert handler.stats() == HandlerStats("Gated", 10, 0, {"queue full": 7}, waiting=3)
    assert [record.getMessage() for record in caplog.records] == [
        "Gated does not get all events (queue full, 3 wait). They are counted, and this is not logged again for now."
    ]
    slow.gate.set()
    _until(lambda: len(caplog.records) == 2)
    assert caplog.records[1].getMessage() == "Gated has caught up; it did not get 7 events"
    slow.gate.clear()
    for number in range(5):
        handler.handle(Numbered(number))
    assert len(caplog.records) == 3  # another outage
    slow.gate.set()
    assert handler.close(60) == 0
    assert slow.numbers == [0, 1, 2, 0, 1, 2]
    assert handler.stats() == HandlerStats("Gated", 15, 0, {"queue full": 9})


def test_closing_keeps_its_deadline_and_says_what_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    slow = Gated()
    handler = QueuedHandler(slow)
    for number in range(5):
        handler.handle(Numbered(number))
    assert slow.busy.wait(60)
    begun = monotonic()
    assert handler.close(0.1) == 5
    assert monotonic() - begun < 10
    assert slow.closed == 0  # not while it is busy
    assert handler.stats() == HandlerStats("Gated", 5, 0, {"out of time": 4}, waiting=1)
    assert handler.close(0.1) == 1
    slow.gate.set()
    assert handler.close(60) == 0
    assert (slow.numbers, slow.closed) == ([0], 1)


def test_an_event_after_the_end_is_dropped_and_counted() -> None:
    slow = Gated()
    handler = QueuedHandler(slow)
    assert handler.close() == 0
    handler.handle(Event())
    assert handler.stats() == HandlerStats("Gated", 1, 0, {"closed": 1})
    assert slow.closed == 1


def test_what_the_handler_raises_stays_in_its_thread_is_logged_once_and_mutes_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(ObservabilityHandler):
        def handle(self, event: Event) -> None:
            raise SystemExit("no") if getattr(event, "number", 0) % 2 else OSError("full")

        def close(self) -> None:
            raise OSError("still full")

    handler = QueuedHandler(Failing())
    for number in range(MUTE_AFTER + 10):
        handler.handle(Numbered(number))
    assert handler.close(60) == 0
    assert handler.stats() == HandlerStats("Failing", MUTE_AFTER + 10, MUTE_AFTER, {"muted": 10}, muted=True)
    assert [record.getMessage().split(":")[0].split(",")[0] for record in caplog.records] == [
        "Failing failed on Numbered",
        "Failing failed on Numbered",
        f"Failing failed {MUTE_AFTER} times in a row",
        "Failing could not be closed",
        f"Failing failed {MUTE_AFTER // 2} times with OSError",
        f"Failing failed {MUTE_AFTER // 2} times with SystemExit",
        "Failing was not shown 10 events while it was muted",
    ]


def test_where_no_thread_can_be_started_events_are_dropped_and_closing_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    slow = Gated()
    handler = QueuedHandler(slow)
    monkeypatch.setattr("threading.Thread.start", start)
    handler.handle(Event())
    assert handler.stats() == HandlerStats("Gated", 1, 0, {"no thread": 1})
    assert handler.close() == 0
    assert slow.closed == 1
    assert handler.close() == 0
    assert slow.closed == 1


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_queue_without_room_is_refused(maxsize: int) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        QueuedHandler(Gated(), maxsize)


def test_from_many_threads_every_event_is_handled_or_counted_and_each_threads_order_is_kept() -> None:
    @dataclass
    class Collecting(ObservabilityHandler):
        seen: list[Numbered] = field(default_factory=list[Numbered])

        def handle(self, event: Event) -> None:
            assert isinstance(event, Numbered)
            self.seen.append(event)

    collecting = Collecting()
    handler = QueuedHandler(collecting, maxsize=50)
    start = threading.Barrier(8)

    def publish(publisher: int) -> None:
        start.wait()
        for number in range(500):
            handler.handle(Numbered(number, publisher))
            assert handler.waiting <= 50

    threads = [threading.Thread(target=publish, args=(publisher,)) for publisher in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handler.close(60) == 0
    stats = handler.stats()
    assert (stats.seen, stats.waiting) == (4000, 0)
    assert len(collecting.seen) + stats.dropped.get("queue full", 0) == 4000
    for publisher in range(8):
        numbers = [event.number for event in collecting.seen if event.publisher == publisher]
        assert numbers == sorted(set(numbers))


def test_an_idle_thread_uses_no_cpu_and_keeps_no_event_alive() -> None:
    slow = Gated()
    slow.gate.set()
    handler = QueuedHandler(slow)
    event = Numbered(1)
    known = weakref.ref(event)
    handler.handle(event)
    _until(lambda: handler.waiting == 0)
    del event
    _until(lambda: (gc.collect(), known())[1] is None)
    before = process_time()
    sleep(0.3)
    assert process_time() - before < 0.1
    handler.close()


def test_a_handler_may_close_its_own_queue() -> None:
    class Closing(ObservabilityHandler):
        unfinished = -1

        def handle(self, event: Event) -> None:
            self.unfinished = handler.close()

    closing = Closing()
    handler = QueuedHandler(closing)
    handler.handle(Event())
    _until(lambda: handler.waiting == 0)
    assert closing.unfinished == 0
    assert handler.close(60) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_each_process_handles_its_own_events(tmp_path: Path) -> None:
    class Writing(Gated):
        def handle(self, event: Event) -> None:
            super().handle(event)
            with (tmp_path / str(os.getpid())).open("a") as file:
                file.write(f"{self.numbers[-1]}\n")

    slow = Writing()
    handler = QueuedHandler(slow)
    handler.handle(Numbered(1))
    handler.handle(Numbered(2))
    assert slow.busy.wait(60)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            slow.gate.set()
            handler.handle(Numbered(3))
            status = handler.close(30) + (handler.stats() != HandlerStats("Writing", 1))
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert (tmp_path / str(child)).read_text() == "3\n"
    slow.gate.set()
    assert handler.close(60) == 0
    assert (tmp_path / str(os.getpid())).read_text() == "1\n2\n"


_PROGRAM = """
import sys, time
from llmgine.messages import Event
from llmgine.observability import ObservabilityHandler, ObservabilityManager

class Slow(ObservabilityHandler):
    def handle(self, event):
        time.sleep(float(sys.argv[1]))
        print("handled", flush=True)
    def close(self):
        print("closed", flush=True)

manager = ObservabilityManager()
manager.register_handler(Slow(), slow=True)
for _ in range(3):
    manager.observe_event(Event())
"""


def test_what_waits_at_the_end_of_the_program_is_handled_then() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM, "0.05"], capture_output=True, text=True, check=True)
    assert (ended.stdout.split(), ended.stderr) == (["handled"] * 3 + ["closed"], "")


def test_a_handler_that_never_ends_does_not_keep_the_program_from_ending() -> None:
    program = _PROGRAM.replace(
        "manager =", "import llmgine.observability.queued as q; q.CLOSE_TIMEOUT = 0.2\nmanager ="
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "60"], capture_output=True, text=True, check=True, timeout=30
    )
    assert (ended.stdout, "Slow does not get all events (out of time" in ended.stderr) == ("", True)


def _until(condition: Any) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        sleep(0.001)
