"""The only owner of reading what a records file says of itself: threat, fingerprints, protocol, reliability."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustcl.bench.design import Design, read_designs
from robustcl.bench.findings import Reliability, read_reliability
from robustcl.bench.records import ABOUT
from robustcl.models.errors import UserError
from robustcl.models.naming import check_seen


@dataclass(frozen=True, kw_only=True)
class About:
    """What a records file is: plain tables, the attack behind every judge, and what the checks found, if they ran.

    `designs` says of the judges that are estimates how they drew their images.
    """

    threat: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    reliability: Reliability | None = None
    designs: Mapping[str, Design] = field(default_factory=dict)


def read_about(path: str | Path) -> About:
    """What the records file `path` says of itself; nothing where it was written without.

    Errors: `UserError` where the file is damaged.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        held = json.loads(metadata.get(ABOUT, b"{}"))
        tables = [dict(held.get(key, {})) for key in ("threat", "fingerprints", "protocol")]
        tables[-1] |= {"part": dict(tables[-1]["part"])} if "part" in tables[-1] else {}
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged or truncated ({reason}), expected whole records") from None
    check_seen(held, str(path))
    checked, (threat, fingerprints, protocol) = held.get("reliability"), tables
    return About(
        threat=threat,
        fingerprints=fingerprints,
        protocol=protocol,
        reliability=read_reliability(checked, f"{path}") if checked else None,
        designs=read_designs(held.get("designs", {}), f"{path}"),
    )
