"""``python -m reformer``: the same command."""

import sys

from reformer.cli import main

sys.exit(main())
