"""``python -m spkver.cli``, as ``python -m spkver``."""

import sys

from spkver.cli import main

if __name__ == "__main__":
    sys.exit(main())
