"""Runs and their effects, in memory and in databases: an effect is intended once, whoever asks, and stays known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from llmgine.bus.effect_records import Answer, EffectLedger, EffectRecord, OpenRun, Outcome, TurnRecord
from llmgine.database.stores import Database
from llmgine.errors import ResourceConflictError, StoreError
from llmgine.llm.engine import MemoryEffectLedger
from llmgine.messages import SessionID

from .conftest import Clock, Place, made

A, B = SessionID("a"), SessionID("b")
PROMPT = {"id": "p", "role": "user", "content": [{"type": "text", "text": "nul \0 and half \ud83d"}]}
TURN = TurnRecord(1, {"id": "m", "role": "assistant", "tool_calls": [{"id": "1"}]}, ("k1", "", "k2"))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[EffectLedger]:
    if request.param == "memory":
        yield MemoryEffectLedger()
        return
    with made(request.param, request, clock) as place:
        database = place.open()
        yield database.ledger
        await database.aclose()


def effect(key: str, run_id: str = "r", step: int = 1) -> EffectRecord:
    return EffectRecord(key=key, run_id=run_id, step=step, tool="pay", arguments='{"to":"bob"}', effect="unsafe")


async def test_a_run_comes_back_with_its_last_turn_and_what_may_have_run_of_it(ledger: EffectLedger) -> None:
    assert await ledger.open_run(A) is None
    await ledger.begin_run("r", A, PROMPT)
    begun = OpenRun(run_id="r", session_id=A, prompt=PROMPT, turn=None, effects={})
    assert await ledger.open_run(A) == begun
    assert await ledger.open_run(B) is None

    assert await ledger.begin_turn("r", TURN)
    assert await ledger.intend(effect("k1"))
    assert await ledger.intend(effect("k2"))
    done = Outcome("paid", succeeded=True)
    await ledger.finish("k2", done)
    known = {"k1": effect("k1"), "k2": replace(effect("k2"), outcome=done)}
    assert await ledger.open_run(A) == replace(begun, turn=TURN, effects=known)
    assert [await ledger.outcome(key) for key in ("k1", "k2", "k3")] == [None, done, None]

    second = TurnRecord(2, {"id": "n"}, ("k3",))
    assert await ledger.begin_turn("r", second)
    assert await ledger.open_run(A) == replace(begun, turn=second)


async def test_what_came_of_a_call_may_be_nothing_and_may_be_a_failure(ledger: EffectLedger) -> None:
    await ledger.begin_run("r", A, PROMPT)
    await ledger.intend(effect("k1"))
    await ledger.finish("k1", Outcome("", succeeded=False))
    assert await ledger.outcome("k1") == Outcome("", succeeded=False)


async def test_a_step_and_an_intent_are_kept_once(ledger: EffectLedger) -> None:
    await ledger.begin_run("r", A, PROMPT)
    assert await ledger.begin_turn("r", TURN)
    assert not await ledger.begin_turn("r", replace(TURN, keys=("other",)))
    assert await ledger.intend(effect("k1"))
    assert not await ledger.intend(replace(effect("k1"), tool="other"))
    opened = await ledger.open_run(A)
    assert opened is not None
    assert (opened.turn, dict(opened.effects)) == (TURN, {"k1": effect("k1")})


async def test_an_ended_run_is_not_open_and_a_new_one_takes_the_place_of_an_open_one(ledger: EffectLedger) -> None:
    await ledger.begin_run("r", A, PROMPT)
    await ledger.begin_run("other", B, PROMPT)
    await ledger.begin_run("s", A, PROMPT)
    opened = await ledger.open_run(A)
    assert opened is not None
    assert opened.run_id == "s"
    await ledger.end_run("r")
    assert await ledger.open_run(A) is not None
    await ledger.end_run("s")
    await ledger.end_run("never begun")
    assert await ledger.open_run(A) is None
    assert await ledger.open_run(B) is not None


async def test_of_all_who_intend_at_once_one_may_go_ahead(opened: Callable[[], Database]) -> None:
    databases = [opened() for _ in range(4)]
    await databases[0].ledger.begin_run("r", A, PROMPT)
    for number in range(5):
        told = await asyncio.gather(*(each.ledger.intend(effect(f"k{number}")) for each in databases))
        assert sorted(told) == [False, False, False, True]


async def test_what_a_run_did_stays_known_for_thirty_days_after_its_end(database: Database, clock: Clock) -> None:
    ledger = database.ledger
    await ledger.begin_run("r", A, PROMPT)
    await ledger.begin_turn("r", TURN)
    await ledger.intend(effect("k1"))
    await ledger.begin_run("open", B, PROMPT)
    await ledger.intend(effect("k2", "open"))
    await ledger.end_run("r")
    clock.advance(timedelta(days=30).total_seconds())
    await ledger.begin_run("s", A, PROMPT)
    assert not await ledger.intend(effect("k1"))
    await ledger.end_run("s")

    clock.advance(0.000001)
    await ledger.begin_run("t", A, PROMPT)
    assert await ledger.intend(effect("k1"))
    assert await ledger.begin_turn("r", TURN)
    assert not await ledger.intend(effect("k2", "open"))  # which has not ended


async def test_what_makes_no_sense_is_said_and_not_gone_on_with(place: Place, database: Database) -> None:
    await database.ledger.begin_run("r", A, PROMPT)
    place.execute("UPDATE {runs} SET prompt = 'gibberish'")
    with pytest.raises(StoreError, match="the run r in session 'a' makes no sense"):
        await database.ledger.open_run(A)


async def test_a_run_that_comes_again_is_told_how_far_it_had_come(ledger: EffectLedger) -> None:
    assert await ledger.begin_run("r", A, PROMPT) is None
    again = {"id": "q", "role": "user", "content": "again"}
    assert await ledger.begin_run("r", A, again) == OpenRun(
        run_id="r", session_id=A, prompt=PROMPT, turn=None, effects={}
    )
    await ledger.begin_turn("r", TURN)
    await ledger.intend(effect("k1"))
    opened = await ledger.open_run(A)
    assert opened is not None
    assert opened.turn == TURN
    assert await ledger.begin_run("r", A, again) == opened


async def test_a_run_that_was_answered_is_told_its_answer_and_stays_ended(ledger: EffectLedger) -> None:
    for run_id, turn, answer in (("r", TURN, "done: nul \ud83d"), ("s", None, "")):
        await ledger.begin_run(run_id, A, PROMPT)
        if turn is not None:
            await ledger.begin_turn(run_id, turn)
        await ledger.end_run(run_id, answer)
        await ledger.end_run(run_id, "another")
        await ledger.end_run(run_id)
    for run_id, answer in (("r", "done: nul \ud83d"), ("s", "")):
        assert await ledger.begin_run(run_id, A, PROMPT) == Answer(answer)
        assert await ledger.open_run(A) is None


async def test_a_run_that_ended_without_an_answer_begins_anew_and_its_effects_stay_known(ledger: EffectLedger) -> None:
    await ledger.begin_run("r", A, PROMPT)
    await ledger.begin_turn("r", TURN)
    await ledger.intend(effect("k1"))
    await ledger.finish("k1", Outcome("paid", succeeded=True))
    await ledger.end_run("r")
    await ledger.begin_run("s", A, PROMPT)

    anew = {"id": "q", "role": "user", "content": "again"}
    assert await ledger.begin_run("r", A, anew) is None
    assert await ledger.open_run(A) == OpenRun(run_id="r", session_id=A, prompt=anew, turn=None, effects={})
    assert await ledger.begin_turn("r", TURN)
    assert not await ledger.intend(effect("k1"))
    assert await ledger.outcome("k1") == Outcome("paid", succeeded=True)
    assert await ledger.begin_run("s", A, PROMPT) is None  # which was given up for the other one


async def test_a_run_belongs_to_its_session(ledger: EffectLedger) -> None:
    await ledger.begin_run("r", A, PROMPT)
    with pytest.raises(ResourceConflictError, match="was given in another session"):
        await ledger.begin_run("r", B, PROMPT)
    await ledger.end_run("r", "done")
    with pytest.raises(ResourceConflictError):
        await ledger.begin_run("r", B, PROMPT)
    assert await ledger.open_run(B) is None
