"""`python -m hetsyn_plugins.cli`, as sweeps start their seeds, which end with them, and torchrun starts its ranks."""

import os
import sys

from hetsyn_plugins.cli.main import main
from hetsyn_plugins.core.processes import end_with_parent, is_rank

end_with_parent()
status = main()
if is_rank():  # a thread of gloo's that still runs when C++ tidies up would end the process otherwise, now and then
    os._exit(status)
sys.exit(status)
