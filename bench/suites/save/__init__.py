"""How fast is saving, durable and not, beside its rivals and what the disk can write?

`python -m bench.save` measures every case and writes bench/results/save-<machine>.json; README.md
says how it is done. With `--case` only those are measured, and put in the place of the old ones.
"""

from __future__ import annotations

import sys

from bench import campaign
from bench.suites import SAVE


def main() -> int:
    """Measure, write and print; return 1 if a contender of ours failed or an answer was wrong."""
    return campaign.main(SAVE, __doc__)


if __name__ == "__main__":
    sys.exit(main())
