"""Use cases of interchange: import and export an event whole."""

from sqlalchemy.ext.asyncio import AsyncSession

from events.events import repository as events
from events.events.service import add_message, event_not_found
from events.interchange import repository
from events.interchange.rules import programme_of, rows_of
from shared.contracts.events import EventCreatedV1
from shared.contracts.programme import Programme, ProgrammeImport, ProgrammeImported
from shared.problems import Conflict


class ImportIdTaken(Conflict):
    code = "import-id-taken"
    title = "Import id of another organizer"


async def import_programme(session: AsyncSession, body: ProgrammeImport) -> tuple[ProgrammeImported, bool]:
    """Store an event with its whole programme; return ``False`` beside it when this import was done before.

    Raises the problems of the event's times, ``ProgrammeBroken``, ``ImportIdTaken``.
    """
    rows = rows_of(body.programme)
    published_at = await events.database_clock(session) if rows.event["state"] == events.PUBLISHED else None
    event = await events.add_imported(
        session, body.import_id, {**rows.event, "organizer": body.organizer, "published_at": published_at}
    )
    is_new = event is not None
    if event is None:
        event = await events.find_imported(session, body.import_id)
        if event is None or event.organizer != body.organizer:
            raise ImportIdTaken("Another organizer has used this import_id. Use a new one.", field="import_id")
    else:
        await repository.add_programme(session, event.id, rows)
        await add_message(session, EventCreatedV1, event)
    return (
        ProgrammeImported(
            event_id=event.id,
            identifier=event.identifier,
            counts={name: len(records) for name, records in rows.lists.items()},
            repairs=rows.repairs,
        ),
        is_new,
    )


async def export_programme(session: AsyncSession, reference: str, organizer: str) -> Programme:
    """Return the programme of an event of this organizer. Raises ``NotFound``."""
    event = await events.find_own(session, reference, organizer)
    if event is None:
        raise event_not_found()
    lists = await repository.all_rows(session, event.id)
    return programme_of(event, lists, await repository.all_lineups(session, event.id))
