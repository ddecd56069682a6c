"""Role 3: convert images."""

import sys

from media.settings import MediaSettings
from shared.jobs.master import run_worker

if __name__ == "__main__":
    # Two more threads than decoders, so that files are transferred while decoders work.
    sys.exit(run_worker("media.broker:create_broker", threads=MediaSettings().conversions_at_once + 2))
