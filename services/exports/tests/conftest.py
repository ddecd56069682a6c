from pathlib import Path

import pytest

from exports.api import create_exports
from exports.settings import ExportsSettings
from shared.testing import ServiceUnderTest


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(ExportsSettings, create_exports, Path(__file__).parents[1])
