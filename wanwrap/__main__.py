"""`python -m wanwrap`; or by its path, as a run starts its own steps, whichever wanwrap is installed."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from wanwrap.cli.main import main

if __name__ == "__main__":  # a process that reads files for it imports this, too
    main(prog_name="wanwrap")
