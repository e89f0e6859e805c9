"""The only owner of the options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Level(StrEnum):
    """How much is said on the standard error."""

    QUIET = "quiet"
    INFO = "info"
    DEBUG = "debug"


LogLevel = Annotated[
    Level,
    typer.Option("--log-level", help="On the standard error: errors alone, how far it is, or all that logs say."),
]
TensorBoard = Annotated[
    Path | None, typer.Option("--tensorboard", help="A folder for curves of every stage, for TensorBoard.")
]
Runs = Annotated[Path | None, typer.Option(help="The run folder; default runs/<suite>.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a field of the suite.")]
