from pathlib import Path

import pytest

from shared.testing import ServiceUnderTest
from tickets.api import create_tickets
from tickets.settings import TicketsSettings


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(TicketsSettings, create_tickets, Path(__file__).parents[1])
