"""The only owner of an encoder's hardest and easiest test images, by the margins in its records."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from robustcl.reports.frame import CLEAN, CORRUPTIONS
from robustcl.reports.table import heading

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One test image: its place in the official split, its label, the answer under attack, margin and step."""

    image: int
    label: int
    answer: int
    margin: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Images at both ends, the most extreme first. `judge` is the heading of the judge whose margins decide.

    `hardest` are answered rightly until attacked and break at the earliest step, then by the most negative margin;
    `easiest` stay right, their smallest margin over all attacks the largest.
    """

    judge: str
    hardest: Sequence[Shown]
    easiest: Sequence[Shown]

    @property
    def shown(self) -> list[Shown]:
        """All of them."""
        return [*self.hardest, *self.easiest]


def extremes(records: pd.DataFrame, count: int = 8) -> Extremes | None:
    """The `count` images at either end of the records of one cell; None where nothing attacked it.

    PGD decides where it is among the judges, as it says at which step an image broke; else the last judge.
    """
    names = [str(name) for name in records["judge"].unique() if name not in (CLEAN, CORRUPTIONS)]
    names = [name for name in names if not heading(name).startswith("AA-estimate")]  # most images were never drawn
    if not names:
        return None
    judge = next((name for name in names if name.startswith("pgd")), names[-1])
    rows = records[records["judge"] == judge].sort_values("margin", kind="stable").drop_duplicates("image")
    broken = rows[~rows["right"]].sort_values(["step", "margin", "image"], kind="stable")
    right = rows[rows["right"]].sort_values(["margin", "image"], ascending=[False, True], kind="stable")
    return Extremes(judge=heading(judge), hardest=_shown(broken.head(count)), easiest=_shown(right.head(count)))


def address(pixels: Pixels) -> str:
    """One image (channels, height, width), uint8, as PNG in a `data:` address, which needs no file."""
    held = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels[:3], 0, -1)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(held)).save(file, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _shown(rows: pd.DataFrame) -> list[Shown]:
    columns = zip(rows["image"], rows["label"], rows["answer"], rows["margin"], rows["step"], strict=True)
    return [
        Shown(image=int(image), label=int(label), answer=int(answer), margin=float(margin), step=int(step))
        for image, label, answer, margin, step in columns
    ]
