"""Runs the benchmarks one after another: ``make bench``, or ``make bench ARGS=import_archive`` for one.

Each is a module with ``main() -> int`` that prints its figures beside a baseline of the same run and ends with 0
when they are good enough. Timings of different runs do not compare; ratios within one do.
"""

import sys
from importlib import import_module

BENCHMARKS = ("tickets_on_sale", "bus", "import_archive", "cluster_use")


def main() -> int:
    chosen = sys.argv[1:] or BENCHMARKS
    results: dict[str, int] = {}
    for name in chosen:
        print(f"── {name}", flush=True)
        results[name] = import_module(f"benchmarks.{name}").main()
    for name, code in results.items():
        print(f"{'good' if code == 0 else 'NOT GOOD ENOUGH'}: {name}")
    return max(results.values())


if __name__ == "__main__":
    sys.exit(main())
