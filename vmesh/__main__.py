"""`python -m vmesh`: the command line."""

from __future__ import annotations

import sys

from vmesh.cli import main

sys.exit(main())
