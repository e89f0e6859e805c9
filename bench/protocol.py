"""The only owner of what is said of how a cell came about: in words, and as terms that reports compare."""

from typing import Any

from robustcl.bench.classifiers import Classifiers, Outcome
from robustcl.bench.suite import Row
from robustcl.pretraining.images import Images

Terms = dict[str, Any]


def terms(row: Row, outcome: Outcome, classifiers: Classifiers, test: Images) -> Terms:
    """The protocol of a cell: numbers whose terms differ are not of one kind.

    `n_train` counts the images that are trained on, `labels` those of them whose labels are, `n` those that are judged,
    `held_out` the training images that were asked after every epoch, `changed` what a suite changed of a recipe.
    """
    suite, encoders, scheme = classifiers.suite, classifiers.encoders, outcome.scheme
    n = len(classifiers.images)
    trained = scheme.trained(n)
    return {
        "profile": suite.profile,
        "per_method": suite.per_method,
        "changed": dict(outcome.changed),
        "selection": outcome.choice,
        "epochs": scheme.training.epochs,
        "n_train": trained,
        "labels": classifiers.labels(scheme),
        "held_out": scheme.asked(n),
        "n": len(test),
        "split": "training, held out" if getattr(suite.target or suite.data, "holdout", None) else "test",
        "route": encoders.deployed(row.entry, row.route),
        "snapshot": row.snapshot,
        "layout": encoders.layout(row.entry),
        "normalisation": encoders.constants(row.entry),
        "external_data": encoders.external(row.entry),
    }


def words(name: str, told: Terms) -> str:
    """The same in words, for the scheme of this name."""
    best = f"best epoch on {told['held_out']} held-out training images"
    profile = f"profile {told['profile']}{' with recipes per method' if told['per_method'] else ''}"
    parts = [
        f"route {told['route']}",
        *([f"pretraining's epoch {told['snapshot']}"] if told["snapshot"] else []),
        profile + _changed(told["changed"]),
        f"{name} {told['epochs']} epochs, {best if told['selection'] == 'best_val' else 'last epoch'}",
        f"{told['n_train']} training images",
        *([f"{told['labels']} of them with labels"] if told["labels"] < told["n_train"] else []),
        *([f"imported from layout {told['layout']}"] if told["layout"] else []),
        _input(told["normalisation"]),
        *(["external data"] if told["external_data"] else []),
    ]
    return ", ".join(parts)


def _changed(of: Terms) -> str:
    """What a suite changed of a profile's recipe, so that no number goes by the name of a profile that it is not of."""
    told = [path if entry is None else f"{path} {entry}" for path, entry in of.items()]
    return f" but for {' and '.join(told)}" if told else ""


def _input(constants: dict[str, tuple[float, ...] | None] | None) -> str:
    """What happens to the images before the network sees them."""
    if constants is None:
        return "input raw"
    told = [f"{name} {' '.join(f'{number:.4g}' for number in of)}" for name, of in constants.items() if of]
    return f"input normalised ({', '.join(told)})"
