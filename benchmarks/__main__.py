"""Run the benchmarks one after another: ``make bench``, or ``make bench ARGS=import_archive`` for one.

Each is a module with ``main() -> int`` that prints its figures with a baseline of the same run and returns 0 if
they reach the goal. Only ratios within one run are comparable.
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
        print(f"{'passed' if code == 0 else 'FAILED'}: {name}")
    return max(results.values())


if __name__ == "__main__":
    sys.exit(main())
