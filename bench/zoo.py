"""The only owner of RobustBench's model zoo: its names, its files on disk, and what its package needs to be imported.

Nothing is downloaded: a model whose file is not there is refused with the place where it has to lie.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from robustcl.bench.offline import no_network
from robustcl.models.errors import UserError, nearest, unknown
from robustcl.models.vision import torchvision

PREFIX = "robustbench:"
_DATA = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
_THREATS = {"linf": "Linf", "l2": "L2"}


def load_zoo(target: str, models: Path | None, *, classes: int, norm: str) -> nn.Module:
    """A model of the zoo in eval mode, such as `robustbench:Carmon2019Unlabeled`; images in [0, 1] -> logits.

    Its file is `<models>/<data set>/<threat>/<name>.pt` (`<name>.pt_m0.pt` and on for an ensemble). Data set and
    threat are those of CIFAR-10, CIFAR-100 or ImageNet by the number of `classes`, and of `norm`; or they are written
    out: `robustbench:cifar10/Linf/Carmon2019Unlabeled`.

    Errors: `UserError` without the package, for an unknown name, a missing file and weights that do not match.
    """
    if models is None:
        raise UserError(f"{target}: expected --models FOLDER, the folder with <data set>/<threat>/<name>.pt")
    package = robustbench()
    data, threat, name = _named(target, classes, norm)
    entry = _entry(package, target, data, threat, name)
    folder = models / data / threat
    ids = entry["gdrive_id"]
    if data == "imagenet" and "Standard" in name:  # which their code builds with weights of a hub, whatever lies there
        ids = None
    files = [folder / f"{name}.pt"] if not isinstance(ids, list) else _parts(folder, name, len(ids))
    missing = next((file for file in files if not file.is_file()), None)
    if ids is None or missing is not None:
        source = f"Google Drive {ids}" if ids else "the hub that its code names"
        raise UserError(f"{missing or folder}: no such file, expected the weights of {name} there ({source})")
    try:
        with no_network(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: nn.Module = package.utils.load_model(name, model_dir=models, dataset=data, threat_model=threat)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{files[0]}: not the weights of {name} ({' '.join(str(error).split())[:160]})") from None
    return found.eval()


def robustbench() -> Any:
    """The package, with `robustbench.utils`. Errors: `UserError` where it is not installed or cannot be imported."""
    if importlib.util.find_spec("robustbench") is None:
        raise UserError("robustbench: not installed, expected the extra: python -m pip install 'robustcl[robustbench]'")
    torchvision()  # before timm, which imports it
    try:
        with _autoattack(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("robustbench.utils")
            return importlib.import_module("robustbench")
    except ImportError as error:
        raise UserError(
            f"robustbench: cannot be imported ({error}), expected the extra with its setuptools<82: "
            "python -m pip install 'robustcl[robustbench]'"
        ) from None


@contextmanager
def _autoattack() -> Iterator[None]:
    """robustbench imports `autoattack`, which no index has: inside, `pyautoattack` answers to that name.

    Only inside: outside, an `autoattack` that can be found is the one that attacks.
    """
    if importlib.util.find_spec("autoattack") is not None:
        yield
        return
    names = {"autoattack": "pyautoattack", "autoattack.state": "pyautoattack.state"}
    sys.modules.update({alias: importlib.import_module(name) for alias, name in names.items()})
    try:
        yield
    finally:
        for alias in names:
            sys.modules.pop(alias, None)


def _named(target: str, classes: int, norm: str) -> tuple[str, str, str]:
    """Data set, threat and name."""
    parts = target.removeprefix(PREFIX).split("/")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    if len(parts) != 1 or classes not in _DATA or norm not in _THREATS:
        known = f"{PREFIX}cifar10/Linf/<name>"
        raise UserError(f"{target}: unclear with {classes} classes and {norm}, expected a full name such as {known}")
    return _DATA[classes], _THREATS[norm], parts[0]


def _entry(package: Any, target: str, data: str, threat: str, name: str) -> Mapping[str, Any]:
    zoo = {
        of.value: {by.value: held for by, held in part.items()} for of, part in package.model_zoo.model_dicts.items()
    }
    if data not in zoo:
        raise unknown(target, "data set", data, zoo)
    if threat not in zoo[data]:
        raise unknown(target, "threat", threat, zoo[data])
    if name not in zoo[data][threat]:
        held = zoo[data][threat]
        known = f"expected one of the {len(held)} of {data}/{threat}{nearest(name, held)}"
        raise UserError(f"{target}: unknown model '{name}', {known}")
    entry: Mapping[str, Any] = zoo[data][threat][name]
    return entry


def _parts(folder: Path, name: str, count: int) -> list[Path]:
    return [folder / f"{name}.pt_m{number}.pt" for number in range(count)]
