"""Runs a role with a fault, or without one of the mechanisms of the bus.

``python -m tests.drills.role events.messenger --fault die-before-mark --without confirms --constant relay.poll=1``

The program is the production one, patched before it starts. A fault is inactive until a signal arms it, so that the
drill chooses the moment: SIGUSR1 for one that kills, SIGUSR2 for one that slows down.
"""

import argparse
import asyncio
import importlib
import os
import runpy
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aio_pika
from sqlalchemy import text

from shared.contracts.envelope import Envelope
from shared.messaging import consumer, inbox, messenger, relay

_kill_armed = threading.Event()
_slow_armed = threading.Event()


def _die_if_armed() -> None:
    if _kill_armed.is_set():
        os.kill(os.getpid(), signal.SIGKILL)


def _die_before_mark() -> None:
    """Die after the broker has confirmed a batch and before its rows are marked."""
    mark = relay.Relay._mark

    async def dying(self: relay.Relay, locks: Any, published: list[Any], refused: Any) -> None:
        if published:
            _die_if_armed()
        await mark(self, locks, published, refused)

    _put(relay.Relay, "_mark", dying)


def _die_before_ack() -> None:
    """Die after a message's effect is committed and before it is acknowledged."""
    handle_once: Callable[..., Awaitable[inbox.Outcome]] = vars(consumer)[
        "handle_once"
    ]  # another fault may have replaced it

    async def dying(*arguments: Any) -> inbox.Outcome:
        outcome = await handle_once(*arguments)
        _die_if_armed()
        return outcome

    _put(consumer, "handle_once", dying)


def _dawdle() -> None:
    """Slow down every other message of an aggregate, so that the next one could overtake it."""
    handle_once: Callable[..., Awaitable[inbox.Outcome]] = vars(consumer)[
        "handle_once"
    ]  # another fault may have replaced it

    async def slow(sessions: Any, body: bytes, envelope: Envelope, subscription: Any) -> inbox.Outcome:
        if _slow_armed.is_set() and envelope.aggregateseq % 2:
            await asyncio.sleep(0.1)
        return await handle_once(sessions, body, envelope, subscription)

    _put(consumer, "handle_once", slow)


FAULTS = {"die-before-mark": _die_before_mark, "die-before-ack": _die_before_ack, "dawdle": _dawdle}


def _without_confirms() -> None:
    """Count a message as sent once it is written to the socket."""
    channel = aio_pika.Connection.channel

    def unconfirmed(self: aio_pika.Connection, *_: Any, **__: Any) -> Any:
        return channel(self, publisher_confirms=False)

    _put(aio_pika.Connection, "channel", unconfirmed)


def _without_inbox() -> None:
    """Treat every message as new."""
    _change_receive("ON CONFLICT DO NOTHING", "ON CONFLICT (message_id) DO UPDATE SET type = excluded.type")


def _without_positions() -> None:
    """Treat no message as stale."""
    _change_receive("WHERE known.seq <= excluded.seq", "")


def _change_receive(old: str, new: str) -> None:
    statement = inbox._RECEIVE_LATEST.text
    assert statement.count(old) == 1, statement
    _put(inbox, "_RECEIVE_LATEST", text(statement.replace(old, new)))


def _without_turns() -> None:
    """Handle messages of one aggregate concurrently."""

    _put(consumer.Consumer, "_turn_of", lambda *_: asyncio.Lock())


def _without_locks() -> None:
    """Let every relay work on all buckets."""

    async def take_all(self: relay.Relay, _: Any) -> None:
        self.buckets = set(range(relay.BUCKETS))

    _put(relay.Relay, "_share_buckets", take_all)


def _without_outcome() -> None:
    """A commit whose connection is lost counts as refused by the server."""
    _put(importlib.import_module("shared.http.dependencies"), "server_refused", lambda _: True)


MECHANISMS: dict[str, Callable[[], None]] = {
    "confirms": _without_confirms,
    "inbox": _without_inbox,
    "positions": _without_positions,
    "turns": _without_turns,
    "locks": _without_locks,
    "outcome": _without_outcome,
}


_timings: dict[str, float] = {}


def _set_constant(assignment: str) -> None:
    """Set a timing of the relay, ``relay.poll=1``, or the attempts of the consumer, ``consumer.attempts=3``."""
    path, value = assignment.split("=")
    module_name, name = path.split(".")
    if module_name == "relay":
        _timings[name] = float(value)
        _put(messenger, "Relay", partial(relay.Relay, timings=relay.Timings(**_timings)))
    else:
        retries = consumer.Retries(attempts=int(value))
        assert (module_name, name) == ("consumer", "attempts"), path
        _put(messenger, "Consumer", partial(consumer.Consumer, retries=retries))


def _put(place: Any, name: str, value: Any) -> None:
    """Replace an existing attribute, so that a patch of a renamed target fails."""
    assert hasattr(place, name), (place, name)
    setattr(place, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.role", description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--fault", action="append", default=[], choices=FAULTS)
    parser.add_argument("--without", action="append", default=[], choices=MECHANISMS)
    parser.add_argument("--constant", action="append", default=[])
    arguments = parser.parse_args()
    signal.signal(signal.SIGUSR1, lambda *_: _kill_armed.set())
    signal.signal(signal.SIGUSR2, lambda *_: _slow_armed.set())
    for name in arguments.fault:
        FAULTS[name]()
    for name in arguments.without:
        MECHANISMS[name]()
    for assignment in arguments.constant:
        _set_constant(assignment)
    sys.argv[1:] = []
    runpy.run_module(arguments.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
