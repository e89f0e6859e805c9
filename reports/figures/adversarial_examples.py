"""The only owner of the figure of adversarial examples."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustcl.reports import style
from robustcl.reports.drawing import Drawing, Drawn
from robustcl.reports.folder import Probed, RunFolder
from robustcl.reports.pictures import Group, beside, groups, plate, show, write

_LEFT = 0.5  # inches for the names of the encoders
_WRONG = style.dark("#D55E00")


class AdversarialExamples(Drawing):
    """A few test images, and per encoder the perturbation, the adversarial image and the answers, from a probe."""

    needs = "the probe examples (a [probes.examples])"

    def draw(self, run: RunFolder) -> Iterator[Drawn]:
        """One figure per data set, scheme and recipe of the probe `examples`."""
        for group in groups(run, "examples"):
            name = group.name.replace("examples", "adversarial-examples", 1)
            yield Drawn(name=name, figure=examples(group), data=answers(group))


def answers(group: Group) -> pd.DataFrame:
    """One row per encoder and image: the answers before and after with their softmax, and the largest change."""
    parts = []
    for encoder, probed in group.probes.items():
        of = probed.arrays
        change = np.abs(of["adversarial"] - of["clean"]).reshape(len(of["image"]), -1).max(1)
        names = ("image", "label", "before", "sure_before", "after", "sure_after", "broken")
        numbers = {name: of[name] for name in names} | {"largest_change": change}
        parts.append(pd.DataFrame(group.place | {"encoder": encoder, "attack": _attack(probed)} | numbers))
    return pd.concat(parts, ignore_index=True)


def examples(group: Group) -> Figure:
    """The clean images once, then two rows per encoder: perturbation (about grey, magnified) and adversarial image."""
    first = group.first.arrays
    changes = {name: probed.arrays["adversarial"] - probed.arrays["clean"] for name, probed in group.probes.items()}
    factor = _factor(max(float(np.abs(change).max()) for change in changes.values()))
    below = [0.14, *[0.03, 0.27] * len(changes)]
    said = f"{group.said}, {_attack(group.first)}; perturbations \u00d7 {factor:.3g} about grey"
    figure, rows = plate([""] * len(first["image"]), below, first["clean"].shape[1:], said, left=_LEFT)
    beside(rows[0][0], "test image", _LEFT)
    for axes, pixels, label in zip(rows[0], first["clean"], first["label"], strict=True):
        show(axes, pixels)
        write(axes, f"label {label}", (0.5, -0.05))
    for number, (encoder, probed) in enumerate(group.probes.items()):
        perturbation, attacked = rows[1 + 2 * number], rows[2 + 2 * number]
        beside(perturbation[0], encoder, _LEFT, fontweight="bold")
        for place, axes in enumerate(perturbation):
            show(axes, 0.5 + factor * changes[encoder][place])
            if probed.arrays["before"][place] != probed.arrays["label"][place]:
                write(axes, "not\nattacked", (0.5, 0.5), va="center")
            show(attacked[place], probed.arrays["adversarial"][place])
            _answer(attacked[place], probed, place)
    return figure


def _answer(axes: Axes, probed: Probed, place: int) -> None:
    """The answers before and after, with the share of the softmax; what is wrong after is set apart."""
    label, before, after, low, high = (
        probed.arrays[name][place] for name in ("label", "before", "after", "sure_before", "sure_after")
    )
    wrong = bool(after != label)
    text = f"{before} \u2192 {after}" if before == label else f"{before}, wrong"
    sure = f"{100 * low:.0f} \u2192 {100 * high:.0f} %" if before == label else f"{100 * low:.0f} %"
    style_of = {"color": _WRONG, "fontweight": "bold"} if wrong else {}
    write(axes, f"{text}\n{sure}", (0.5, -0.05), **style_of)


def _attack(probed: Probed) -> str:
    return str(probed.part["probe"]["attack"])


def _factor(largest: float) -> float:
    """So much larger that the largest change is half the range of a pixel, rounded to two figures."""
    return float(f"{0.5 / largest:.2g}") if largest > 0 else 1.0
