"""robustcl: pretrain robust self-supervised encoders and measure what their robustness is worth.

The public names load on first use, so that `robustcl.reports` imports without torch.
"""

import importlib
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if not (_Path(__file__).resolve().parent / "models").is_dir():
    raise ImportError(
        "robustcl: the links robustcl/models, pretraining, bench and reports are lost in this checkout, "
        "expected four relative symbolic links; on Windows clone with core.symlinks=true, or pip install ."
    )

if TYPE_CHECKING:
    from robustcl.api import evaluate as evaluate
    from robustcl.api import import_encoder as import_encoder
    from robustcl.api import load_encoder as load_encoder
    from robustcl.api import pretrain as pretrain
    from robustcl.api import run as run
    from robustcl.bench.attacks import Attack as Attack
    from robustcl.bench.scheme import Scheme as Scheme
    from robustcl.models.encoder import Encoder as Encoder
    from robustcl.models.errors import UserError as UserError
    from robustcl.models.threat import Threat as Threat
    from robustcl.pretraining.method import Method as Method
    from robustcl.reports.frame import frame as frame

_PLACES = {
    "run": "api",
    "evaluate": "api",
    "pretrain": "api",
    "load_encoder": "api",
    "import_encoder": "api",
    "Threat": "models.threat",
    "Method": "pretraining.method",
    "Scheme": "bench.scheme",
    "Attack": "bench.attacks",
    "Encoder": "models.encoder",
    "UserError": "models.errors",
    "frame": "reports.frame",
}
__all__ = ["Attack", "Encoder", "Method", "Scheme", "Threat", "UserError"]
__all__ += ["evaluate", "frame", "import_encoder", "load_encoder", "pretrain", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'robustcl' has no attribute '{name}'")
    return getattr(importlib.import_module(f"robustcl.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
