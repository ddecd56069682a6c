"""How the tests are shared out among processes: a file's stay together, all journeys do, and all drills."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling


class _ByPlace(LoadFileScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        # The journeys of all files use one cluster, and the drills of all files one stage: both take long to start.
        for place in ("tests/drills", "tests"):
            if nodeid.startswith(f"{place}/"):
                return place
        return str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByPlace:
    return _ByPlace(config, log)
