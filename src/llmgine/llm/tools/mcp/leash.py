"""The program that a server is started with: it becomes the server, and leaves a guard behind.

    python leash.py FD COMMAND ARGUMENT …

FD is the end of a pipe whose other end only the application holds, so it is closed however the application ends, also
by SIGKILL. Then the guard ends the whole process group: the server, and whatever that has started. The guard is there
before the server is, and while it lives, no other group can get the number of this one.
"""

import os
import signal
import sys
import time

GRACE = 2.0
"""Seconds between the request to end and the kill."""


def main(leash: int, command: list[str]) -> None:
    """Become the server."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:  # two of them: the server gets no child that it does not know of
            guard(leash)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(leash)
    try:
        os.execvp(command[0], command)  # noqa: S606  # a server is not for a shell to start
    except OSError as exc:
        sys.exit(f"{command[0]}: {exc.strerror}")


def guard(leash: int) -> None:
    """Wait for the end of the application, and end the group."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.read(leash, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
