"""The api of events without rows in the outbox."""

import runpy
from typing import Any
from uuid import UUID

from shared.ids import new_id
from shared.messaging import outbox


async def add_nothing(*_: Any, **__: Any) -> UUID:
    return new_id()


if __name__ == "__main__":
    outbox.add = add_nothing
    runpy.run_module("events.api", run_name="__main__")
