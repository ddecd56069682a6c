"""The invariants that must hold once a drill is quiet again. Pure: it compares what a drill has collected."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal
from uuid import UUID

from tests.drills.load import Write

Kind = Literal[
    "lost",  # accepted, but not in the database, not on the bus, or without effect
    "half",  # in the state and not in the outbox, or the other way round
    "doubled",  # two effects of one message, two messages of one write
    "out_of_order",  # an older message of an aggregate took effect, or was first sent, after a newer one
    "behind",  # the last effect is not that of the newest message
    "stuck",  # still in the outbox or in a queue
    "dead",  # among the dead letters unintentionally
    "leaked",  # connections, channels or memory that were not used before
]


@dataclass(frozen=True)
class Finding:
    kind: Kind
    what: str


@dataclass(frozen=True)
class Fact:
    """A row of the outbox, or one appearance of its message on the bus, or one effect."""

    id: UUID
    subject: UUID
    seq: int
    name: str


@dataclass(frozen=True)
class State:
    """An event as the events service has it."""

    id: UUID
    version: int
    name: str


@dataclass(frozen=True)
class Collected:
    """Everything that exists after a drill; ``bus`` and ``effects`` in the sequence of their arrival."""

    writes: Sequence[Write]
    states: Sequence[State]
    outbox: Sequence[Fact]
    bus: Sequence[Fact]
    effects: Sequence[Fact]
    unpublished: int = 0
    waiting: int = 0
    dead: Sequence[str] = field(default_factory=list)


def audit(found: Collected, *, poison: str | None = None, may_skip: bool = False) -> list[Finding]:
    """Return the violated invariants.

    Messages whose name contains ``poison`` must be dead letters without effect. With ``may_skip`` a message may
    have no effect if a newer one of its event took effect.
    """
    return [
        *_audit_writes(found),
        *_audit_outbox(found),
        *_audit_bus(found),
        *_audit_effects(found, poison, may_skip=may_skip),
        *_audit_leftovers(found, poison),
    ]


def _audit_writes(found: Collected) -> Iterable[Finding]:
    versions = {(fact.subject, fact.seq): fact.name for fact in found.outbox}
    copies = Counter(fact.name for fact in found.outbox)
    for write in found.writes:
        if write.answer == "accepted":
            assert write.event_id is not None
            assert write.version is not None
            if versions.get((UUID(write.event_id), write.version)) != write.name:
                yield Finding("lost", f"{write.name}, accepted as version {write.version}, is not in the outbox")
        if write.answer == "refused" and copies[write.name]:
            yield Finding("half", f"{write.name} was refused and is in the outbox")
        if copies[write.name] > 1:
            yield Finding("doubled", f"{write.name} is in the outbox {copies[write.name]} times")


def _audit_outbox(found: Collected) -> Iterable[Finding]:
    by_event = _by_subject(found.outbox)
    states = {state.id: state for state in found.states}
    for event_id in by_event.keys() | states.keys():
        state = states.get(event_id)
        if state is None:
            yield Finding("lost", f"event {event_id} has messages and does not exist")
            continue
        names = {fact.seq: fact.name for fact in by_event.get(event_id, [])}
        if sorted(names) != list(range(1, state.version + 1)):
            yield Finding("half", f"event {event_id} is at version {state.version} with messages {sorted(names)}")
        elif names[state.version] != state.name:
            yield Finding("half", f"event {event_id} is {state.name}, its message says {names[state.version]}")


def _audit_bus(found: Collected) -> Iterable[Finding]:
    seen = {fact.id for fact in found.bus}
    for fact in found.outbox:
        if fact.id not in seen:
            yield Finding("lost", f"{_described(fact)} was never on the bus")
    for subject, facts in _by_subject(_first_of_each(found.bus)).items():
        if not _rises(facts):
            yield Finding(
                "out_of_order", f"event {subject} was published in the sequence {[fact.seq for fact in facts]}"
            )


def _audit_effects(found: Collected, poison: str | None, *, may_skip: bool) -> Iterable[Finding]:
    healthy = [fact for fact in found.outbox if poison is None or poison not in fact.name]
    counts = Counter(fact.id for fact in found.effects)
    by_subject = _by_subject(found.effects)
    for fact in healthy:
        if counts[fact.id] > 1:
            yield Finding("doubled", f"{_described(fact)} took effect {counts[fact.id]} times")
        elif not counts[fact.id]:
            is_stale = any(effect.seq > fact.seq for effect in by_subject[fact.subject])
            if not (is_stale and may_skip):
                yield Finding("lost", f"{_described(fact)} took no effect")
    for effect_id in counts.keys() - {fact.id for fact in healthy}:
        yield Finding("half", f"message {effect_id} took effect without being in the outbox")
    for subject, effects in by_subject.items():
        if not _rises(_first_of_each(effects)):
            yield Finding(
                "out_of_order", f"event {subject} took effect in the sequence {[fact.seq for fact in effects]}"
            )
    for subject, facts in _by_subject(healthy).items():
        newest = max(fact.seq for fact in facts)
        if by_subject[subject] and by_subject[subject][-1].seq != newest:
            yield Finding(
                "behind", f"event {subject} ended with {by_subject[subject][-1].seq} in place of {newest}"
            )


def _audit_leftovers(found: Collected, poison: str | None) -> Iterable[Finding]:
    if found.unpublished:
        yield Finding("stuck", f"{found.unpublished} rows of the outbox are unpublished")
    if found.waiting:
        yield Finding("stuck", f"{found.waiting} messages wait in the queue")
    for name in found.dead:
        if poison is None or poison not in name:
            yield Finding("dead", f"{name} is among the dead letters")
    if poison is not None:
        for fact in found.outbox:
            if poison in fact.name and fact.name not in found.dead:
                yield Finding("lost", f"{_described(fact)} is poison and not among the dead letters")


def sent_again(found: Collected) -> int:
    """Return how many messages on the bus were repetitions."""
    return len(found.bus) - len({fact.id for fact in found.bus})


def unknown_done(found: Collected) -> int:
    """Return how many writes with an unknown answer were done."""
    names = {fact.name for fact in found.outbox}
    return sum(write.answer == "unknown" and write.name in names for write in found.writes)


def _first_of_each(facts: Iterable[Fact]) -> list[Fact]:
    firsts: dict[UUID, Fact] = {}
    for fact in facts:
        firsts.setdefault(fact.id, fact)
    return list(firsts.values())


def _rises(facts: Sequence[Fact]) -> bool:
    return all(one.seq < next_one.seq for one, next_one in pairwise(facts))


def _by_subject(facts: Iterable[Fact]) -> dict[UUID, list[Fact]]:
    grouped: dict[UUID, list[Fact]] = defaultdict(list)
    for fact in facts:
        grouped[fact.subject].append(fact)
    return grouped


def _described(fact: Fact) -> str:
    return f"{fact.name} ({fact.id}, {fact.seq} of {fact.subject})"
