"""Decisions about schedules that need no database."""

from datetime import date, datetime, time

from shared.problems import Invalid
from shared.walltime import rederived

FIRST = "first"


class NoSuchDay(Invalid):
    code = "no-such-day"
    title = "Invalid day"


def day_of(text: str) -> date:
    """Return the date that a text means. Raises ``NoSuchDay``."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or len(text) != len("YYYY-MM-DD") or not 1900 <= day.year <= 9000:
        raise NoSuchDay(
            f"{text!r} must be a date such as 2027-10-30, or `{FIRST}`. Leave `day` out for all days.",
            field="query.day",
        )
    return day


def start_of(day: date, zone: str) -> datetime:
    """Return the instant at which ``day`` begins in ``zone``."""
    # Some zones skip midnight: then it is the instant of the jump, or up to an hour later, with no local time in
    # between.
    return rederived(datetime.combine(day, time.min), zone, 0).instant
