"""`python -m wanwrap`."""

from wanwrap.cli import main

main()
