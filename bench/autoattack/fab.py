"""The only owner of FAB as our engine runs it (Croce and Hein, ICML 2020): towards targets, or over all classes."""

from dataclasses import dataclass

from robustcl.bench.autoattack.search import Search


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run: for each of `targets` (or once) and each restart `steps` steps."""

    targeted: bool
    steps: int
    restarts: int
    targets: int


def attack(search: Search, plan: Plan) -> None:
    """Seek the nearest adversarial image of every image that is still right; out as soon as one lies in the ball."""
    raise NotImplementedError
