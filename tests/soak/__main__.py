"""`python -m soak`, with tests/ as the working directory or on the path."""

import sys

from soak.loop import main

sys.exit(main())
