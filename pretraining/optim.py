"""The only owner of how weights move: LARS, the optimisers by name, and the learning-rate schedules."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from robustcl.models.value import value

Unit = Literal["epoch", "iteration"]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You et al., 2017) in the form of ACL (Jiang et al., NeurIPS 2020).

    Per tensor p with gradient g: `local = trust |p| / (|g| + wd |p|)`, `v <- momentum v + lr local (g + wd p)`,
    `p <- p - v`. Every tensor is treated alike, batch norms and biases included, where the paper of LARS leaves those
    out. Where |p| or |g| is below 1e-15, `local` is 1: a tensor that starts at 0 takes its first step at the full lr.
    With `inside` false it is torchlars' form (RoCL): 1e-8 is added below the line, and the lr is left out of v and
    multiplies it, so that a new one acts at once.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        inside: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})
        self.inside, self.eps = inside, 0.0 if inside else 1e-8

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the loss that `closure` returns, if there is one."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        size, slope, decay = p.norm(), g.norm(), group["weight_decay"]
        # By `where` and not by `if`: a branch would wait for the device, twice per tensor.
        small = (size < 1e-15) | (slope < 1e-15)
        local = torch.where(small, torch.ones_like(size), group["trust"] * size / (slope + decay * size + self.eps))
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        v = state["momentum_buffer"].mul_(group["momentum"])
        move = g.add(p, alpha=decay).mul_(local)
        if self.inside:
            p.sub_(v.add_(move.mul_(group["lr"])))
        else:
            p.sub_(v.add_(move), alpha=group["lr"])


@value
class Optimiser:
    """An optimiser by name. `lr` is the base that a schedule works on; `weight_decay` applies to every tensor.

    `lars` is ACL's form of LARS, `torchlars` that of RoCL's package; `trust` is their coefficient.
    """

    name: Literal["sgd", "lars", "torchlars"] = "sgd"
    lr: float = Field(default=0.1, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    nesterov: bool = False
    trust: float = Field(default=0.001, gt=0)

    @model_validator(mode="after")
    def _possible(self) -> "Optimiser":
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov is true, expected it for 'sgd' with a momentum above 0 alone")
        return self

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""
        if self.name != "sgd":
            return LARS(parameters, self.lr, self.momentum, self.weight_decay, self.trust, inside=self.name == "lars")
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@value
class Constant:
    """The base rate throughout."""

    name: Literal["constant"] = "constant"

    def lr(self, base: float, epoch: int, iteration: int, iterations_per_epoch: int, epochs: int) -> float:
        """The rate of one step; `epoch` of `epochs` and `iteration` within the epoch count from 0."""
        return base


def _epoch(given: float, epochs: int) -> float:
    """The epoch, from 0, that a number means: itself from 1 on, a share of all epochs below."""
    return given if given >= 1 else given * epochs


@value
class Steps:
    """The base rate times `factor` for every milestone that is reached.

    A milestone of 1 or more is an epoch, counted from 0; one below 1 is a share of all epochs (0.5 of 100 is 50).
    """

    name: Literal["steps"] = "steps"
    milestones: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = (0.5, 0.75)
    factor: float = Field(default=0.1, ge=0)

    def lr(self, base: float, epoch: int, iteration: int, iterations_per_epoch: int, epochs: int) -> float:
        """The rate of one step; `epoch` of `epochs` and `iteration` within the epoch count from 0."""
        return base * self.factor ** sum(epoch >= _epoch(m, epochs) - 1e-9 for m in self.milestones)


@value
class Pieces:
    """The base rate times the last of `factors` whose start is reached; `starts` are as the milestones of `Steps`."""

    name: Literal["pieces"] = "pieces"
    starts: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = (0.0,)
    factors: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = (1.0,)

    @model_validator(mode="after")
    def _paired(self) -> "Pieces":
        if len(self.starts) != len(self.factors) or not self.starts or self.starts[0] != 0:
            raise ValueError(f"starts {self.starts} and factors {self.factors}, expected as many; the first start is 0")
        return self

    def lr(self, base: float, epoch: int, iteration: int, iterations_per_epoch: int, epochs: int) -> float:
        """The rate of one step; `epoch` of `epochs` and `iteration` within the epoch count from 0."""
        reached = sum(epoch >= _epoch(start, epochs) - 1e-9 for start in self.starts)
        return base * self.factors[reached - 1]


@value
class Cosine:
    """A warm-up from `warmup_from` over `warmup` epochs, then half a cosine from the base rate to `floor`.

    `decay` says where the cosine lies:
    - `whole`: over all epochs, and the warm-up climbs to what it is where the two meet (AdvCL);
    - `rest`: over the epochs that the warm-up leaves, so that the warm-up climbs to the base rate (ACL);
    - `late`: from the end of the warm-up, as long as all epochs, so that it is cut short (RoCL).

    The rate is constant within a unit of `per`. `shift` units are added to the time: 1 reads the curve at the end of
    each unit, 0 at its beginning. The warm-up has a unit and a shift of its own. `floor` and `warmup_from` are rates.
    """

    name: Literal["cosine"] = "cosine"
    floor: float = Field(default=0.0, ge=0)
    per: Unit = "epoch"
    shift: int = Field(default=0, ge=0)
    warmup: int = Field(default=0, ge=0)
    warmup_from: float = Field(default=0.0, ge=0)
    warmup_per: Unit = "iteration"
    warmup_shift: int = Field(default=0, ge=0)
    decay: Literal["whole", "rest", "late"] = "whole"

    def lr(self, base: float, epoch: int, iteration: int, iterations_per_epoch: int, epochs: int) -> float:
        """The rate of one step; `epoch` of `epochs` and `iteration` within the epoch count from 0."""

        def now(per: Unit, shift: int) -> float:  # in epochs
            if per == "epoch":
                return epoch + shift
            return (epoch * iterations_per_epoch + iteration + shift) / iterations_per_epoch

        time = now(self.warmup_per, self.warmup_shift)
        if time < self.warmup:
            target = self._curve(base, self.warmup, epochs)
            return self.warmup_from + (target - self.warmup_from) * time / self.warmup
        return self._curve(base, now(self.per, self.shift), epochs)

    def _curve(self, base: float, time: float, epochs: int) -> float:
        """The cosine at `time` epochs."""
        begin = 0 if self.decay == "whole" else self.warmup
        length = epochs - begin if self.decay == "rest" else epochs
        share = min(max((time - begin) / max(length, 1), 0.0), 1.0)
        return self.floor + (base - self.floor) * (1 + math.cos(math.pi * share)) / 2


@value
class Automatic:
    """The base rate, lowered by `factor` where a validation no longer rises (AutoLoRa, Xu et al., ICLR 2024).

    At each of the `checkpoints`, which are read as the milestones of `Steps`, it is lowered if less than `rising` of
    the epochs since the last one were better than the epoch before them, or if neither the rate nor the best value
    changed since then; the best weights come back with it. The rule is that of the step size of APGD.
    """

    name: Literal["automatic"] = "automatic"
    checkpoints: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = (
        0.32, 0.48, 0.56, 0.72, 0.8, 0.84, 0.88, 0.92, 0.96,
    )  # fmt: skip
    rising: float = Field(default=0.75, ge=0, le=1)
    factor: float = Field(default=0.5, gt=0, lt=1)

    def lr(self, base: float, epoch: int, iteration: int, iterations_per_epoch: int, epochs: int) -> float:
        """The rate before there is a value; `after` says how it goes on."""
        return base

    def after(self, values: Sequence[float], epochs: int) -> Pieces:
        """The schedule that follows from a value for each epoch so far; a last start of `len(values)` is a new one."""
        starts, factors, last, lowered = [0], [1.0], 0, False
        # As released, a checkpoint is read an epoch late: there is no value for the weights before the first epoch.
        for here in sorted({round(_epoch(point, epochs)) for point in self.checkpoints} - {0}):
            if here >= len(values):
                break
            rose = sum(values[epoch + 1] > values[epoch] for epoch in range(last, here))
            # The released code compares the rate with a copy of itself, which is always equal; this is APGD's rule.
            stuck = not lowered and last > 0 and max(values[: here + 1]) == max(values[: last + 1])
            lowered, last = rose < self.rising * (here - last) or stuck, here
            if lowered:
                starts.append(here + 1)
                factors.append(factors[-1] * self.factor)
        return Pieces(starts=tuple(starts), factors=tuple(factors))


Schedule = Annotated[Cosine | Steps | Pieces | Constant | Automatic, Field(discriminator="name")]
