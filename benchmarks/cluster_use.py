"""Measure how quickly a cold cluster is ready, and what it uses when idle.

Goal on 2 cores: ready in under 30 s; idle, under 2.0 GB of resident memory and under 15 % of one core.
"""

import sys
import time

from benchmarks.clusters import fresh_cluster

READY_SECONDS = 30.0
MEMORY_MB = 2000.0
CPU_PERCENT = 15.0
SETTLE_SECONDS = 20.0


def main() -> int:
    with fresh_cluster() as (cluster, ready):
        time.sleep(SETTLE_SECONDS)
        table = cluster.run("ps").stdout
    print(table)
    memory, _, cpu = (float(value) if value != "?" else 0.0 for value in table.splitlines()[-1].split()[-3:])
    print(f"cold start to ready {ready:5.1f} s  (under {READY_SECONDS:.0f})")
    print(f"memory              {memory:5.0f} MB (under {MEMORY_MB:.0f})")
    print(f"processor           {cpu:5.1f} %  (under {CPU_PERCENT:.0f} % of one core)")
    return 0 if ready < READY_SECONDS and memory < MEMORY_MB and cpu < CPU_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
