"""The audit finds what it is for: each case is one fault in a history that is otherwise in order."""

from dataclasses import replace
from uuid import UUID

import pytest

from tests.drills.audit import Collected, Fact, Kind, State, audit
from tests.drills.load import Write

EVENT = UUID(int=7)
FIRST, SECOND, THIRD = (Fact(UUID(int=seq), EVENT, seq, f"write {seq}") for seq in (1, 2, 3))
FACTS = [FIRST, SECOND, THIRD]
GOOD = Collected(
    writes=[Write(fact.name, str(EVENT), fact.seq, "accepted", 200) for fact in FACTS],
    states=[State(EVENT, 3, THIRD.name)],
    outbox=FACTS,
    bus=FACTS,
    effects=FACTS,
)
STRANGER = Fact(UUID(int=99), EVENT, 4, "unknown")


def test_a_history_in_order_has_no_findings() -> None:
    assert audit(GOOD) == []


def test_copies_on_the_bus_are_no_finding() -> None:
    assert audit(replace(GOOD, bus=[FIRST, SECOND, FIRST, SECOND, THIRD])) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_a_write_without_an_answer_is_whole_or_not_there(is_there: bool) -> None:
    unknown = Write(THIRD.name, str(EVENT), None, "unknown", 0)
    there = replace(GOOD, writes=[*GOOD.writes[:2], unknown])
    absent = replace(
        there, states=[State(EVENT, 2, SECOND.name)], outbox=FACTS[:2], bus=FACTS[:2], effects=FACTS[:2]
    )
    assert audit(there if is_there else absent) == []


@pytest.mark.parametrize(
    ("broken", "kinds"),
    [
        (replace(GOOD, writes=[Write("gone", str(EVENT), 4, "accepted", 200)]), {"lost"}),
        (replace(GOOD, writes=[Write(FIRST.name, None, None, "refused", 409)]), {"half"}),
        (replace(GOOD, states=[]), {"lost"}),
        (replace(GOOD, states=[State(EVENT, 4, "write 4")]), {"half"}),
        (replace(GOOD, states=[State(EVENT, 3, "write 4")]), {"half"}),
        (replace(GOOD, bus=[FIRST, THIRD]), {"lost"}),
        (replace(GOOD, bus=[FIRST, THIRD, SECOND]), {"out_of_order"}),
        (replace(GOOD, effects=[FIRST, THIRD]), {"lost"}),
        (replace(GOOD, effects=[FIRST, SECOND]), {"lost", "behind"}),
        (replace(GOOD, effects=[FIRST, SECOND, SECOND, THIRD]), {"doubled"}),
        (replace(GOOD, effects=[FIRST, THIRD, SECOND]), {"out_of_order", "behind"}),
        (replace(GOOD, effects=[*FACTS, STRANGER]), {"half", "behind"}),
        (replace(GOOD, unpublished=1), {"stuck"}),
        (replace(GOOD, waiting=1), {"stuck"}),
        (replace(GOOD, dead=["write 2"]), {"dead"}),
    ],
)
def test_each_fault_is_found(broken: Collected, kinds: set[Kind]) -> None:
    assert {finding.kind for finding in audit(broken)} == kinds


def test_a_write_that_was_done_twice_is_found() -> None:
    again = replace(SECOND, id=UUID(int=98), seq=3)
    twice = [FIRST, SECOND, again]
    found = audit(replace(GOOD, states=[State(EVENT, 3, again.name)], outbox=twice, bus=twice, effects=twice))
    assert {finding.kind for finding in found} == {"doubled", "lost"}


def test_a_message_may_be_skipped_for_a_younger_one_where_that_is_allowed() -> None:
    assert audit(replace(GOOD, effects=[FIRST, THIRD]), may_skip=True) == []
    assert {finding.kind for finding in audit(replace(GOOD, effects=[FIRST, SECOND]), may_skip=True)} == {
        "lost",
        "behind",
    }


def test_poison_belongs_among_the_dead_letters_and_nowhere_else() -> None:
    without_effect = replace(GOOD, effects=[FIRST, THIRD], dead=[SECOND.name])
    assert audit(without_effect, poison=SECOND.name) == []
    assert {finding.kind for finding in audit(replace(without_effect, dead=[]), poison=SECOND.name)} == {"lost"}
    assert {finding.kind for finding in audit(replace(without_effect, effects=FACTS), poison=SECOND.name)} == {
        "half"
    }
