"""The only owner of how a command ends where it does not end well: one line on the standard error, and the exit code.

Exit codes: 0 good, 1 regression, 2 the user's mistake, 3 nobody can tell (a check, or work was lost with its process),
4 numbers went wrong, 130 interrupted.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from robustcl import interrupt
from robustcl.models.errors import LostError, NumberError, UserError

# What a disk or its rights refuse, which is no mistake of ours.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}


@contextmanager
def told() -> Iterator[None]:
    """Whatever ends the block early ends the program, after its line; what is a mistake of ours is raised."""
    try:
        yield
    except (UserError, LostError, NumberError) as error:
        _end(str(error), 2 if isinstance(error, UserError) else 3 if isinstance(error, LostError) else 4)
    except (KeyboardInterrupt, typer.Abort):
        _end(interrupt.TEXT, interrupt.CODE)
    except (OSError, MemoryError) as error:
        _end(_refused(error), 2)
    except Exception as error:
        wrong = _usage(error)
        if wrong is None:
            raise
        sys.exit(wrong)


def _refused(error: OSError | MemoryError) -> str:
    """The line for what the machine refuses; anything else is raised again."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'no more of it'}), expected a machine with more, or fewer --workers"
    if error.errno not in _REFUSALS:
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what could not be printed is not tried again at the end
    return f"{error.filename or 'standard output'}: cannot be used ({error.strerror}), expected a disk in order"


def _usage(error: Exception) -> int | None:
    """The exit code of typer's own complaints, after one line; None for anything else."""
    show = getattr(error, "format_message", None)
    if show is None:
        return None
    print(f"robustcl: {show()}", file=sys.stderr)
    return int(getattr(error, "exit_code", 2))


def _end(text: str, code: int) -> None:
    share = sys.modules.get("robustcl.models.share")  # a reader of runs has no torch, and is alone
    # What goes wrong in all processes of torchrun is said by the first; that one is gone, by all that are left.
    if code == 3 or share is None or share.processes()[0] == 0:
        print(f"robustcl: {text}", file=sys.stderr)
    sys.exit(code)
