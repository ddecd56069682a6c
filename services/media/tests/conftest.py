from pathlib import Path

import pytest

from media.api import create_media
from media.settings import MediaSettings
from shared.testing import ServiceUnderTest


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(MediaSettings, create_media, Path(__file__).parents[1])
