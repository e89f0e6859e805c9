"""The only owner of what is held against an attack whose proposals left the ball before they were projected."""

from robustcl.bench.attacks import Wrapped
from robustcl.bench.findings import Finding, share
from robustcl.bench.judge import Attack, Judge

_SLACK = 1e-4  # beyond rounding, in units of the radius and at least of the pixel range


class Strays:
    """The `watch` of a trial: on how many images a callable of somebody else's proposed a point outside the ball.

    The judge projects such a point, and what is left of it is no attack on this ball: its number is too high. Our own
    attacks and those of AutoAttack's package know the ball and are not looked at.
    """

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, int, float]] = {}  # judge -> images outside, images, the furthest

    def see(self, judge: str, attack: Attack, court: Judge) -> None:
        """Note what one attack of a judge proposed."""
        if not isinstance(attack, Wrapped) or not len(court.outside):
            return
        outside = court.outside > _SLACK * max(1.0, float(court.threat.eps))
        count, n, furthest = self.seen.get(judge, (0, 0, 0.0))
        self.seen[judge] = (count + int(outside.sum()), n + len(outside), max(furthest, float(court.outside.max())))

    def findings(self) -> tuple[Finding, ...]:
        """One finding for every judge with a callable."""
        return tuple(
            Finding(
                check="strays",
                value=count / n,
                verdict="suspect" if count else "ok",
                found=f"{judge} proposed points outside the ball on {share(count, n)}, up to {furthest:.2g} beyond eps",
                next="let the attack aim at the threat that it is handed, on images in [0, 1]" if count else "",
                judges=(judge,),
            )
            for judge, (count, n, furthest) in self.seen.items()
        )
