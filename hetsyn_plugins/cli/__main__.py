"""`python -m hetsyn_plugins.cli`, as sweeps start their seeds, which end with them."""

import sys

from hetsyn_plugins.cli.main import main
from hetsyn_plugins.core.processes import end_with_parent

end_with_parent()
sys.exit(main())
