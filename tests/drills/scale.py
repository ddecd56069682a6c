"""The length and the load of a drill: short among the other tests, full with ``make drill``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Durations are seconds."""

    rate: float  # writes a second
    calm: float  # load before a fault and after it
    outage: float
    restarts: int  # of a server or a process, one after another
    # Constants that a short drill cannot wait for. Empty means as in production.
    haste: Mapping[str, float]


SHORT = Scale(
    rate=25,
    calm=0.7,
    outage=2.5,
    restarts=2,
    haste={
        "relay__publish_window": 0.5,
        "relay__publish_timeout": 1.0,
        "relay__lock_patience": 2.5,
        "consumer__attempts": 3,
    },
)
FULL = Scale(rate=50, calm=10.0, outage=60.0, restarts=10, haste={})


def scale_of_this_run() -> Scale:
    return FULL if os.environ.get("DRILL") == "full" else SHORT
