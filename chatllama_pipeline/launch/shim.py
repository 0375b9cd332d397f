"""A tether between a child process and the one that started it: `python -I -S shim.py ARGV...`.

Asks the kernel to kill this process when its parent dies, then becomes ARGV (same process, so
the wish stays). Each rank of torchrun starts through it too: torchrun gives its ranks sessions
of their own, and a killed torchrun takes none of them along. Imports nothing but a few modules of
the standard library, since every child pays for it. Where the kernel is not Linux there is no such
wish to make, and only the launcher's own clean-up remains.
"""

import os
import signal
import sys

# As type checkers take it; `typing` itself would be imported for each child.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PARENT_VARIABLE = "CHATLLAMA_PARENT_PID"

# Exit codes as the shell has them: cannot be executed, not found.
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
_PR_SET_PDEATHSIG = 1


def through_shim(argv: "Sequence[str]") -> list[str]:
    """The command that starts `argv` tied to the process that starts it."""
    # -I and -S: neither the environment, the working directory nor site-packages are looked at,
    # which halves the start and keeps a stray module from standing in for one of the shim's.
    return [sys.executable, "-I", "-S", os.path.realpath(__file__), *argv]


def tie_to(parent: int) -> None:
    """Let the kernel kill this process with its parent's thread; ends it where that is gone."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # A parent that died before the wish was made will not be announced any more.
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def main(argv: list[str]) -> None:
    """Replace this process by `argv`, tied to its parent and with signals as a shell gives them."""
    if sys.platform == "linux":
        tie_to(int(os.environ[PARENT_VARIABLE]))
    # A run started by `&` in a script ignores SIGINT, and its children would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    # Ray's nodes block it, and what they start inherits that as well.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    # What argv starts through this shim is tied to argv, which keeps this process's id.
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"error: cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE)


if __name__ == "__main__":
    main(sys.argv[1:])
