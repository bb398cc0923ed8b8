"""``python -m spkver``: the command, for where its own script is not on the path."""

import sys

from spkver.cli import main

if __name__ == "__main__":
    sys.exit(main())
