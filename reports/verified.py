"""The only owner of whether the files of a finished stage are as they were written: by what its `stage.json` holds."""

import json
from pathlib import Path
from typing import Any

from robustcl.models.errors import UserError
from robustcl.models.whole import intact, sha256

NOTE = "stage.json"
SCHEMA = 1


def note(folder: Path) -> dict[str, Any]:
    """The `stage.json` of a finished stage. Errors: `UserError` where it is missing, damaged or changed."""
    path = folder / NOTE
    try:
        held = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise UserError(f"{path}: damaged or truncated; remove the folder and run again") from None
    if held.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{path}: schema version {held['schema']!r} is unknown, expected {SCHEMA}")
    if not intact(held) or not isinstance(held.get("files", {}), dict):
        raise UserError(f"{path}: not as it was written (changed); remove the folder and run again")
    return held


def verified(path: Path) -> Path:
    """A file of a finished stage, as it was written; one that lies without a `stage.json` has left its run folder.

    Errors: `UserError` where it has changed since, which no format of ours would tell by itself.
    """
    if (path.parent / NOTE).is_file():
        written = note(path.parent).get("files", {}).get(path.name)
        try:
            found = sha256(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}), expected what was written there") from None
        if written is not None and written != found:
            raise UserError(
                f"{path}: damaged, not as it was written (truncated or changed); remove the folder and run again"
            )
    return path
