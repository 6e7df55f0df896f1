"""python -m vpd_agent.cli: the same as vpd."""

import sys

from vpd_agent.cli.main import main
from vpd_agent.comparison.parent import end_with_parent

end_with_parent()
sys.exit(main())
