"""Child processes that inherit what is already imported: for tests that kill, crash or lock."""

import os
from collections.abc import Callable


def fork(body: Callable[[], None]) -> int:
    """Run `body` in a child process and return its id; the child's exit code is 1 if `body` raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
