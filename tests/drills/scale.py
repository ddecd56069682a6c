"""How long and how hard a drill is: short among the other tests, at full length with ``make drill``."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Durations are seconds."""

    rate: float  # writes a second
    calm: float  # load before a fault and after it
    outage: float
    restarts: int  # of a server, one after another
    turnover: int  # restarts of a consumer


SHORT = Scale(rate=25, calm=1.0, outage=3.0, restarts=2, turnover=10)
FULL = Scale(rate=50, calm=10.0, outage=60.0, restarts=10, turnover=10)


def scale_of_this_run() -> Scale:
    return FULL if os.environ.get("DRILL") == "full" else SHORT
