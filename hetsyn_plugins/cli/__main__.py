"""`python -m hetsyn_plugins.cli`, as sweeps start their seeds."""

import sys

from hetsyn_plugins.cli.main import main

sys.exit(main())
