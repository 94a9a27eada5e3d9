"""How fast is reading in parts: one by one, some rows, into arrays that are there, as a stream?

`python -m bench.reader` measures every case and writes bench/results/reader-<machine>.json;
README.md says how it is done. With `--case` only those are measured, and put in the place of the
old ones.
"""

from __future__ import annotations

import sys

from bench import campaign
from bench.suites import READER


def main() -> int:
    """Measure, write and print; return 1 if a contender of ours failed or an answer was wrong."""
    return campaign.main(READER, __doc__)


if __name__ == "__main__":
    sys.exit(main())
