"""The only owner of the checks that tell a robust accuracy from one that only looks like it.

They look at a fixed random part of the judged images and cost 168 passes for each that is right: in all, no more than
AutoAttack spends on three images that it cannot break. docs/trust.md gives every threshold with its reason.
Sources: the flags of AutoAttack (Croce and Hein, ICML 2020); Carlini et al., 2019, On Evaluating Adversarial
Robustness; Pintor et al., NeurIPS 2022, Indicators of Attack Failure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from robustcl.bench.climbs import climbs
from robustcl.bench.design import Design
from robustcl.bench.estimate import broken_by, designs
from robustcl.bench.evaluate import Trial
from robustcl.bench.findings import Finding, Reliability, Verdict, beyond, graded, share
from robustcl.bench.judge import Attack, Counted, Model, frozen, global_draws, margins
from robustcl.models.memory import ENDS, pieces
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images

PART = 128  # images that are looked at
PASSES = 168  # for one that is right, counted
_CROSS_ENTROPY = re.compile(r"(pgd|fgsm|apgd-ce)\b")
_UNDERFLOW = 88.0  # exp(-88) is the smallest normal float32: beyond it the other classes' probabilities are lost


def check(model: Model, images: Images, trial: Trial, records: pd.DataFrame, part: int = PART) -> Reliability:
    """What speaks against the `records` that `trial` made of `model` on `images`; up to `part` images are looked at.

    The model is left as it was, as by `judge`; draws are keyed by image. A verdict `ok` says that no check failed, and
    no more. Errors: `NumberError` where the model answers NaN.
    """
    few, counted = images.sample(part), Counted(model)
    with torch.no_grad(), frozen(counted), global_draws(images.labels.device, trial.seed, "checks"):
        look = _look(counted, few, trial)
        drawn = designs(records, trial.judges, images.classes, trial.threat.norm, trial.seed)
        findings = [_in_ball(records, trial), *_square_gain(records, trial.judges, drawn)]
        findings += _black_box_gain(records, trial.judges)
        findings += [look_for(look, trial.judges) for look_for in (_logits, _randomised, _zero_gradient)]
        # A softmax that is saturated blinds the cross-entropy, and that alone: its judges are told already.
        findings += climbs(counted, few, trial, "margin" if look.saturated else "ce")
    told = tuple(one if one.verdict != "ok" else replace(one, next="") for one in findings)
    return Reliability(findings=told, images=len(few), passes=counted.passes)


def cost(images: int) -> int:
    """The most passes that the checks take where so many images are judged."""
    return PASSES * min(PART, images)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The model on the clean images: logits of two passes (n, classes), labels, and which gradients are zero (n,)."""

    logits: Tensor
    again: Tensor
    labels: Tensor
    flat_entropy: Tensor
    flat_margin: Tensor

    @property
    def right(self) -> Tensor:
        """(n,) whether the clean answer is right."""
        return self.logits.argmax(1) == self.labels

    @property
    def flat(self) -> tuple[int, int]:
        """On how many right images the gradient of the cross-entropy and that of the margin are zero."""
        entropy, margin = (int((flat & self.right).sum()) for flat in (self.flat_entropy, self.flat_margin))
        return entropy, margin

    @property
    def saturated(self) -> bool:
        """Whether the gradient is lost in the softmax alone."""
        verdicts = [graded(count, int(self.right.sum()), 0.01, 0.1) for count in self.flat]
        return verdicts[0] != "ok" and verdicts[1] == "ok"


def _look(model: Counted, images: Images, trial: Trial) -> _Look:
    def seen(rows: Tensor) -> tuple[Tensor, ...]:
        x, y, before = images.floats(rows), images.labels[rows], model.passes
        try:
            with torch.enable_grad():
                point = x.clone().requires_grad_()
                logits = model(point)
                entropy = nn.functional.cross_entropy(logits, y, reduction="sum")
                flat = [_flat(loss, point, trial.threat) for loss in (entropy, margins(logits, y).sum())]
            return logits.detach().float(), model(x).float(), y, *flat
        except ENDS:
            model.passes = before  # they are counted again, in smaller pieces
            raise

    parts = torch.arange(len(images), device=images.labels.device).split(trial.batch)
    found = [part for rows in parts for part in pieces(rows, seen, "model")]
    logits, again, labels, entropy, margin = (torch.cat(column) for column in zip(*found, strict=True))
    return _Look(logits=logits, again=again, labels=labels, flat_entropy=entropy, flat_margin=margin)


def _flat(loss: Tensor, point: Tensor, threat: Threat) -> Tensor:
    """(n,) whether the gradient moves no pixel: linf takes its sign, l2 and l1 need a size to divide by; NaN moves
    nothing well."""
    (gradient,) = torch.autograd.grad(loss, point, retain_graph=True)
    size = gradient.flatten(1).abs().amax(1)  # NaN where one pixel's is
    return ~size.isfinite() | (size == 0 if threat.norm == "linf" else size < 1e-12)


def _in_ball(records: pd.DataFrame, trial: Trial) -> Finding:
    eps, n = float(trial.threat.eps), len(records)
    outside = records[records["distance"] > eps + 1e-6 * max(1.0, eps)]  # 1e-6: rounding of float32 images
    furthest = float(records["distance"].max()) - eps
    return Finding(
        check="in_ball",
        value=len(outside) / n,
        verdict="unreliable" if len(outside) else "ok",
        found=f"{len(outside)} of {n} judged points lie outside the ball, the furthest {furthest:.1g} beyond eps",
        next="judge these records again: the threat that was projected on is not the one that is named",
        judges=tuple(str(name) for name in outside["judge"].unique()),
    )


def _square_gain(
    records: pd.DataFrame, judges: Mapping[str, Sequence[Attack]], drawn: Mapping[str, Design]
) -> list[Finding]:
    """Of every judge in which Square follows other attacks: what it broke of what they had left.

    Where a part of the images was drawn, that is estimated for all of them.
    """
    n, found = int((records["judge"] == "clean").sum()), []
    for name, attacks in judges.items():
        squares = [attack.name for attack in attacks[1:] if attack.name.startswith("square")]
        rows = records[(records["judge"] == name) & records["attack"].isin(squares)]
        broken = int((~rows["right"].astype(bool)).sum())
        if name in drawn:
            broken = round(broken_by(records, name, drawn[name], squares))
        if squares:
            finding = Finding(
                check="square_gain",
                value=broken / n,
                verdict=graded(broken, n, 0.002, 0.02),
                found=f"Square broke {'an estimated ' if name in drawn else ''}{broken} of {n} images that {name}'s "
                "gradient attacks had left",
                next="take no gradient attack's number here: judge with square-20000 and autoattack-plus too, and read "
                "the lowest column",
            )
            found.append(finding)
    return found


def _black_box_gain(records: pd.DataFrame, judges: Mapping[str, Sequence[Attack]]) -> list[Finding]:
    """Of every judge without Square: what a judge that begins with Square broke of what it had left."""
    right = {name: rows.groupby("image")["right"].all() for name, rows in records.groupby("judge", observed=True)}
    n, found = len(right["clean"]), []
    black = [name for name, attacks in judges.items() if attacks[0].name.startswith("square")]
    for name, attacks in judges.items():
        if not black or any(attack.name.startswith("square") for attack in attacks):
            continue
        left = right[name][right[name]].index if name in right else pd.Index([])
        broken = len({image for box in black for image in left if not right[box].get(image, True)})
        found.append(
            Finding(
                check="square_gain",
                value=broken / n,
                verdict=graded(broken, n, 0.002, 0.02),
                found=f"{', '.join(black)} broke {broken} of {n} images that {name} had left",
                next="a black box finds what this attack does not: judge with autoattack, and read the lowest column",
                judges=(name,),
            )
        )
    return found


def _logits(look: _Look, judges: Mapping[str, Sequence[Attack]]) -> Finding:
    logits, classes = look.logits, look.logits.shape[1]
    top = logits.topk(2, dim=1).values
    large = (top[:, 0] - top[:, 1]) > _UNDERFLOW
    few = int(large.sum())
    fields: dict[str, object] = {"verdict": "ok", "found": f"logits of {classes} classes"}
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        fields = {"verdict": "unreliable", "found": "the answers are probabilities: a softmax is inside the model"}
        fields["next"] = "move the softmax out of the model, so that it answers with logits"
    elif beyond(few, len(logits), 0.01) and _blind(judges):
        fields = {"verdict": "suspect", "found": f"logits lie over {_UNDERFLOW:.0f} apart on {share(few, len(logits))}"}
        fields |= {"next": "judge with pgd-margin-20, apgd-t or autoattack, whose losses keep their gradients"}
        fields["judges"] = _blind(judges)
    elif bool((logits <= 0).all()) and bool((logits.logsumexp(1).abs() < 1e-3).all()):
        fields["found"] = "log-probabilities: each attack does what it does on logits, which differ by a constant"
    elif classes < 4:
        fields["found"] += ": the targeted DLR loss needs 4, so AutoAttack goes without apgd-t"  # type: ignore[operator]
    return Finding(check="logits", value=few / len(logits), **fields)  # type: ignore[arg-type]


def _randomised(look: _Look, judges: Mapping[str, Sequence[Attack]]) -> Finding:
    """Two passes over the same images; 1e-4 of the size of the logits is left to the arithmetic of accelerators."""
    gap = (look.logits - look.again).abs().amax(1)
    moved = int((gap > 1e-4 * look.logits.abs().amax(1).clamp_min(1)).sum())
    changed, n = int((look.logits.argmax(1) != look.again.argmax(1)).sum()), len(gap)
    verdict: Verdict = ("unreliable" if changed else "suspect") if moved else "ok"
    return Finding(
        check="randomised",
        value=moved / n,
        verdict=verdict,
        found=f"two passes over the same images differ on {share(moved, n)}, in the answer on {changed}",
        next="judge with autoattack-rand or pgd-20-eot20, which average gradients over draws, or fix the model's draws",
        judges=tuple(name for name, held in judges.items() if not all(getattr(a, "samples", 1) > 1 for a in held)),
    )


def _zero_gradient(look: _Look, judges: Mapping[str, Sequence[Attack]]) -> Finding:
    """On right images. Zero for the margin too: no gradient attack sees anything; for the cross-entropy alone: the
    softmax is saturated, and only attacks on the cross-entropy are blind."""
    n, (entropy, margin) = int(look.right.sum()), look.flat
    blind = _blind(judges) if look.saturated else ()
    count = entropy if blind else margin
    if blind:
        advice = "the softmax is saturated: judge with pgd-margin-20, apgd-t or autoattack"
    else:
        advice = (
            "gradients are masked: the lowest column, with square beside it, is an upper bound; attack through a "
            "differentiable stand-in for what masks them (BPDA) as a callable of your own"
        )
    return Finding(
        check="zero_gradient",
        value=max(entropy, margin) / n if n else 0.0,
        verdict=graded(count, n, 0.01, 0.1),
        found=f"no input gradient on {entropy} (cross-entropy) and {margin} (margin) of {n} right images",
        next=advice,
        judges=blind,
    )


def _blind(judges: Mapping[str, Sequence[Attack]]) -> tuple[str, ...]:
    """The judges that climb the cross-entropy and nothing else."""

    def entropy(attack: Attack) -> bool:
        return bool(_CROSS_ENTROPY.match(attack.name)) and getattr(attack, "loss", "ce") == "ce"

    return tuple(name for name, attacks in judges.items() if all(map(entropy, attacks)))
