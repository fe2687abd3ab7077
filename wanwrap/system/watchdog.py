"""Ends all that wanwrap has started when wanwrap is gone, however it went. Windows does that by itself.

python watchdog.py     (standard input is a pipe that wanwrap holds open as long as it lives)

A line there is a group of processes: `+PID` has begun, `-PID` has ended. Standard library only, and as little of it as
can be: it waits all night.
"""

import os
import signal
import sys
import time
from contextlib import suppress

assert sys.platform != "win32"
GRACE = 2  # seconds that they have to clean up after themselves


def main() -> None:
    """Wait until nobody holds the pipe any more, then end the groups that are left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # wanwrap's own business
        signal.signal(number, signal.SIG_IGN)
    groups = set[int]()
    for line in sys.stdin.buffer:
        change = groups.add if line[:1] == b"+" else groups.discard
        change(int(line[1:]))
    send(groups, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    while send(groups, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    send(groups, signal.SIGKILL)


def send(groups: set[int], number: int) -> bool:
    """Send a signal (0: none) to all in these groups; whether there is any."""
    there = False
    for group in groups:
        with suppress(OSError):
            os.killpg(group, number)
            there = True
    return there


if __name__ == "__main__":
    main()
