"""Ends a command, and all that it has started, when wanwrap is gone, however it went.

python watchdog.py COMMAND...     (standard input is a pipe that wanwrap holds open as long as it lives)

Standard library only, and as little of it as can be: it waits all night.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 2  # seconds that the command has to clean up after itself


def main() -> None:
    """Run the command; end as it ended."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # the command's own business, and wanwrap's
        if number := getattr(signal, name, None):
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which the command would inherit
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    alone, over = threading.Event(), threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(child.pid, alone, over), daemon=True).start()
    status = child.wait()
    over.set()
    if alone.is_set():
        time.sleep(60)  # until it has ended what is left of the group, and with that itself
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status - (status >> 31 << 32))  # Windows' are unsigned; at once


def _wait_for_the_end(pid: int, alone: threading.Event, over: threading.Event) -> None:
    """Nothing is ever written to the pipe: reading ends when nobody holds it any more."""
    while os.read(0, 1):
        pass
    alone.set()
    if os.name == "posix":
        os.killpg(0, signal.SIGINT)  # its own group, which is the command's too
        over.wait(GRACE)
        os.killpg(0, signal.SIGKILL)
    subprocess.run(["taskkill", "/T", "/F", "/PID", str(pid)], check=False)
    os._exit(1)


if __name__ == "__main__":
    main()
