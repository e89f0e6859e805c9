"""The only owner of the checks that attack again: at other steps, at other radii, and not at all."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.findings import LEVEL, Finding, Verdict, beyond, graded, share
from robustcl.bench.judge import Attack, Counted
from robustcl.bench.pgd import PGD
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images

GREY = Threat("1/2")  # within it every image can become the same grey, which nobody can classify

Right = NDArray[np.bool_]


def climbs(model: Counted, images: Images, trial: Trial, loss: Literal["ce", "margin"]) -> list[Finding]:
    """What PGD on this loss does at other steps and radii; the last iterate is judged, so that more can be less."""
    threat, last = trial.threat, [PGD(steps=steps, loss=loss, verdict="last") for steps in (5, 10, 20)]

    def right(threat: Threat, attacks: Sequence[Attack]) -> list[Right]:
        held = {attack.name: [attack] for attack in attacks}
        found = judge(model, images, Trial(threat=threat, judges=held, seed=trial.seed, batch=trial.batch))
        clean = found[found["judge"] == "clean"].set_index("image")["right"].astype(bool)
        rows = (found[found["judge"] == name].set_index("image")["right"] for name in held)
        under = (clean & row.reindex(clean.index, fill_value=False).astype(bool) for row in rows)
        return [np.asarray(clean), *map(np.asarray, under)]

    clean, five, ten, twenty = right(threat, last)
    half, twice = (
        right(Threat(Fraction(threat.eps * scale), norm=threat.norm), [last[1]])[1]
        for scale in (Fraction(1, 2), Fraction(2))
    )
    _, grey = right(GREY, [last[2]])
    _, still = right(Threat(0, norm=threat.norm), [PGD(steps=1)])
    wider = {"1/2": grey} if threat.norm == GREY.norm and 2 * threat.eps <= GREY.eps else {}
    return [
        _eps0(clean, still),
        _monotone("monotone_eps", {"eps/2": half, "eps": ten, "2 eps": twice} | wider),
        _monotone("monotone_steps", {"5 steps": five, "10 steps": ten, "20 steps": twenty}),
        _large_eps(clean, grey, images.classes),
    ]


def _eps0(clean: Right, still: Right) -> Finding:
    lost, n = int((clean & ~still).sum()), int(clean.sum())
    return Finding(
        check="eps0",
        value=lost / n if n else 0.0,
        verdict=graded(lost, n, 0.0, 0.01),
        found=f"attacked at eps 0, {lost} of {n} right images are lost",
        next="answers should depend on the image alone: fix random layers, and batch statistics in eval mode",
    )


def _monotone(name: str, rising: Mapping[str, Right]) -> Finding:
    """Accuracy must not rise with the attack's power: the worst of all pairs, tested image by image (one-sided exact
    McNemar)."""

    def rise(pair: tuple[str, str]) -> tuple[float, float]:
        weak, strong = (rising[side] for side in pair)
        gained, lost = int((strong & ~weak).sum()), int((weak & ~strong).sum())
        p = float(bdtrc(gained - 1, gained + lost, 0.5)) if gained else 1.0
        return p, (gained - lost) / len(weak)

    weak, strong = min(combinations(rising, 2), key=lambda pair: rise(pair)[0])
    p, gain = rise((weak, strong))
    verdict: Verdict = (
        "ok" if p > LEVEL or gain <= 0 else "unreliable" if p <= LEVEL / 10 and gain >= 0.05 else "suspect"
    )
    shares = ", ".join(f"{100 * right.mean():.1f} % at {side}" for side, right in rising.items())
    return Finding(
        check=name,
        value=max(gain, 0.0),
        verdict=verdict,
        found=f"PGD leaves {shares}",
        next="gradients mislead here: judge with pgd-100x5 and autoattack, and read the lowest column",
    )


def _large_eps(clean: Right, grey: Right, classes: int) -> Finding:
    n, left = len(grey), int(grey.sum())
    above = beyond(left, n, 1 / classes)
    return Finding(
        check="large_eps",
        value=left / n,
        verdict="ok" if not above else "unreliable" if 2 * left >= clean.sum() else "suspect",
        found=f"PGD at linf 1/2 leaves {share(left, n)} right, though each can become the same grey",
        next="PGD fails where no model can be right: judge with autoattack, and look for what hides the gradient",
    )
