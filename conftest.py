"""How the tests are shared out among processes: a file's tests stay together, and all journeys do."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling


class _ByPlace(LoadFileScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        # The journeys of all files use one cluster, which takes long to start.
        return "tests" if nodeid.startswith("tests/") else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByPlace:
    return _ByPlace(config, log)
