"""Role 3: run imports and exports."""

import sys

from shared.jobs.master import run_worker

JOBS_AT_ONCE = 4

if __name__ == "__main__":
    sys.exit(run_worker("exports.broker:create_broker", threads=JOBS_AT_ONCE))
