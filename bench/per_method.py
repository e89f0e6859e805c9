"""The only owner of the recipes per method of the RobustSSL benchmark, an opt-in: `[finetune] per_method = true`.

Its released code keeps them in one mutable place, where the epochs of one mode leak into the next (5 epochs of
DynACL-AIR's SLF into its ALF and AFF). Here a row is a value of its own, looked up by method, scheme and data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from robustcl.bench.data import DataSet
from robustcl.bench.suite import RANDOM, Suite
from robustcl.models.errors import UserError
from robustcl.models.plugin import name_of
from robustcl.models.value import Table
from robustcl.pretraining.images import Images
from robustcl.pretraining.methods.air import AIR

DATA = ("cifar10", "cifar100", "stl10 at 96", "stl10 at 32")


@dataclass(frozen=True)
class Recipe:
    """What a row fixes; all else is the profile's."""

    batch: int
    lr: float
    milestones: tuple[int, int]
    epochs: int = 25

    @property
    def fields(self) -> Table:
        """The fields of a scheme."""
        schedule = {"name": "steps", "milestones": list(self.milestones), "factor": 0.1}
        training = {"epochs": self.epochs, "batch": self.batch, "optimiser": {"lr": self.lr}, "schedule": schedule}
        return {"training": training}


Rows = Mapping[str, tuple[Recipe, ...]]  # scheme -> a recipe for each of DATA, or one for all


def _linear(*recipes: tuple[int, float] | tuple[int, float, int]) -> tuple[Recipe, ...]:
    return tuple(Recipe(batch, lr, (10, 20), *epochs) for batch, lr, *epochs in recipes)


def _rows(slf: tuple[Recipe, ...], alf: tuple[Recipe, ...], aff: tuple[Recipe, ...]) -> Rows:
    return MappingProxyType({"SLF": slf, "ALF": alf, "AFF": aff})


_ACL = _linear((512, 0.01), (512, 0.05), (512, 0.1), (128, 0.01))
_LONG = (Recipe(128, 0.1, (40, 60), 100),)
_FULL = (Recipe(128, 0.1, (15, 20)),)
_DYNACL = _rows(_ACL, _ACL, (*_FULL, *_FULL, Recipe(128, 0.1, (10, 20)), *_FULL))
_ADVCL = _rows((Recipe(512, 0.01, (15, 20)),), (Recipe(512, 0.01, (15, 20)),), _FULL)
OTHER = _rows(_FULL, _FULL, _FULL)

# DynACL-RCS is never found by the released code, which then takes the defaults; its rows here are DynACL's, by intent,
# as are those of ACL-AIR, whose name it refuses. Where DynACL-AIR++ has no number, the defaults stand.
ROWS: Mapping[str, Rows] = MappingProxyType(
    {
        "acl": _rows(_ACL, _ACL, _LONG),
        "dynacl": _DYNACL,
        "dynacl++": _DYNACL,
        "advcl": _ADVCL,
        "a_infonce": _ADVCL,
        "deacl": _ADVCL,
        "air": _rows(
            _linear((512, 0.005), (512, 0.1), (512, 0.01), (128, 0.01)),
            _linear((512, 0.01), (512, 0.1), (512, 0.01), (128, 0.01)),
            _LONG,
        ),
        "dynacl-air": _rows(
            _linear((512, 0.01, 5), (512, 0.1), (512, 0.1), (128, 0.01)),
            _linear((512, 0.01), (512, 0.1), (128, 0.1), (128, 0.01)),
            _FULL,
        ),
        "dynacl-air++": _rows(
            _linear((512, 0.01), (512, 0.09), (512, 0.1), (128, 0.1)),
            _linear((512, 0.01, 4), (512, 0.1), (128, 0.1), (128, 0.1)),
            _FULL,
        ),
    }
)


def recipe_row(kind: str, scheme: str, data: DataSet, images: Images, where: str) -> Table | None:
    """The fields of the row of a method; None for a scheme that has no rows (all but SLF, ALF and AFF).

    Errors: `UserError` for data that the benchmark has no row for, where the row depends on the data.
    """
    found = ROWS.get(kind, OTHER).get(scheme)
    if found is None:
        return None
    if len(found) == 1:
        return found[0].fields
    name = _data(data, images)
    if name not in DATA:
        raise UserError(f"{where}.per_method: no row of {kind} {scheme} for {name}, expected {', '.join(DATA)}")
    return found[DATA.index(name)].fields


def kind(suite: Suite, entry: str) -> str:
    """The name in the table of the method that trains an entry: what DynACL++ begins as tells which of two it is."""
    if entry not in suite.pretrain:  # the random encoder, and an imported one
        return RANDOM if entry == RANDOM else suite.imports[entry].layout or "import"
    chosen = suite.pretrain[entry]
    if isinstance(chosen.method, AIR):
        return "dynacl-air" if chosen.method.dynamic else "air"
    if name_of(chosen.method) == "lp_aff":
        return f"{kind(suite, chosen.given['start'])}++"
    return name_of(chosen.method)


def _data(data: DataSet, images: Images) -> str:
    """The name of a data set in the table, from what it is or from the name of its file."""
    path, name = getattr(data, "path", None), name_of(data)
    texts = [name, *([path.stem.lower().replace("-", "")] if path else [])]
    found = next((known for text in texts for known in ("cifar100", "cifar10", "stl10") if known in text), texts[-1])
    return f"stl10 at {images.shape[1]}" if found == "stl10" else found
