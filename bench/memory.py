"""The only owner of attacks that run out of memory: the batch is halved, and what comes of it is the same."""

from robustcl.bench.judge import Attack, Judge
from robustcl.models.errors import UserError
from robustcl.models.memory import ENDS, alone, exhausted, reason, release


def run(attack: Attack, judge: Judge) -> None:
    """`attack.run(judge)`; where the memory ends, the batches that are left are attacked in halves, and so on.

    What an attack finds on an image hangs on nothing outside it, so that its records do not hang on the halving; of a
    batch that was under way nothing is kept. Errors: `UserError` for an attack that draws per batch, whose answers
    would be others, and where the memory ends on a single image.
    """
    while True:
        try:
            attack.run(judge)
            return
        except ENDS as error:
            if not exhausted(error):
                raise
            size = min(judge.at_once or judge.batch, len(judge.y))
            if size == 1:
                raise UserError(alone(f"attack {attack.name}", error)) from None
            if not _divisible(attack):
                raise UserError(
                    f"attack {attack.name}: out of memory on {size} images ({reason(error)}), and what it draws hangs "
                    "on the batch, which is therefore not halved; expected a smaller --batch (in a suite judge.batch)"
                ) from None
        release()
        judge.at_once, judge.model.passes = -(-size // 2), judge.began


def _divisible(attack: Attack) -> bool:
    """Whether no draw of the attack depends on the batch: of one within another, that of the inner one."""
    inner = getattr(attack, "attack", None)
    return _divisible(inner) if isinstance(inner, Attack) else bool(getattr(attack, "keyed", False))
