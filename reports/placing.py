"""The only owner of putting files into folders of the user's: all of them or none, and none that is not ours."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from robustcl.models.whole import writable

_PREFIX, _DAY = ".writing-", 86_400


@contextmanager
def placed(folders: Sequence[Path]) -> Iterator[Path]:
    """A hidden folder to write into, in the first of `folders`; each of them is given every file when the block ends.

    Each file replaces one of its name whole, and none where anything went wrong before; those of other names stay.
    Files in folders come first, so that no index names one that is not there. Errors: `UserError` for a folder that
    cannot be written.
    """
    with ExitStack() as stack:
        hidden = [Path(stack.enter_context(_hidden(folder))) for folder in folders]
        with writable(folders[0]):
            yield hidden[0]
        names = [path.relative_to(hidden[0]) for path in sorted(hidden[0].rglob("*")) if path.is_file()]
        for folder, written in zip(folders[1:], hidden[1:], strict=True):
            with writable(folder):
                for name in names:
                    (written / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(hidden[0] / name, written / name)
        for folder, written in zip(folders, hidden, strict=True):
            with writable(folder):
                for name in sorted(names, key=lambda name: -len(name.parts)):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (written / name).replace(folder / name)


def _hidden(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder inside `folder` that nobody sees, and that goes when it is closed, or a day after its process died."""
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_PREFIX}*"):
            with suppress(OSError):  # another process was quicker
                if time.time() - left.stat().st_mtime > _DAY:
                    shutil.rmtree(left)
        return tempfile.TemporaryDirectory(dir=folder, prefix=_PREFIX, ignore_cleanup_errors=True)
