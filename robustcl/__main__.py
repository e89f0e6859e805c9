"""The only owner of `python -m robustcl`, for checkouts that are not installed."""

import sys
from pathlib import Path

# Python puts the working folder first. Ours is found by now, and a queue.py or a utils/ that lies there must not be
# what we, the standard library or torch import; what a factory there imports is found by `bench/foreign.py`.
if not sys.flags.safe_path and sys.path[:1] == [str(Path.cwd())]:
    del sys.path[0]

from robustcl.cli import main

if __name__ == "__main__":
    main()
