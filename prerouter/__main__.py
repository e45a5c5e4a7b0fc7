"""`python -m prerouter`."""

import sys

from prerouter.cli import main

sys.exit(main())
