"""python -m vpd_agent.cli: the same as vpd."""

import sys

from vpd_agent.cli.main import main

sys.exit(main())
