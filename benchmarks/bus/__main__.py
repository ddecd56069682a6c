import sys

from benchmarks.bus import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
