from pathlib import Path

import pytest

from events.api import create_events
from events.settings import EventsSettings
from shared.testing import ServiceUnderTest


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(EventsSettings, create_events, Path(__file__).parents[1])
