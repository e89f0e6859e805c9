"""The only owner of records, schema version 1: one row per image and attempted attack, the contract with `reports`."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robustcl.models.errors import NumberError, UserError

VERSION = 1
ABOUT = b"robustcl.about"
_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("image", pa.int32()),  # position in the official split
        ("label", pa.int16()),
        ("judge", _TEXT),  # `clean`, or the name of a judge
        ("attack", _TEXT),  # `clean`, or one of the judge's attacks
        ("answer", pa.int16()),  # of the float32 model on the projected adversarial image
        ("right", pa.bool_()),
        ("margin", pa.float32()),  # the label's logit minus the best other
        ("distance", pa.float32()),  # in the norm of the threat
        ("step", pa.int32()),  # where it broke, -1 if it did not
        ("passes", pa.int32()),  # forward-equivalents spent, counted
    ],
    metadata={b"robustcl.records": str(VERSION).encode()},
)


def write(path: Path | io.BytesIO, records: pd.DataFrame, about: Mapping[str, Any] | None = None) -> None:
    """Write records, already ordered by image and then by attack, as parquet.

    `about` is plain and says what the records are: threat, fingerprints, protocol, reliability. It lies in the file's
    metadata, so that a file that has left its folder still says what it is. Errors: `NumberError` for a margin or a
    distance that is no number: nothing is written then.
    """
    for column in ("margin", "distance"):
        odd = records[~np.isfinite(records[column])]
        if len(odd):
            raise NumberError(f"records: the {column} of image {odd['image'].iloc[0]} is not finite, expected a number")
    table = pa.Table.from_pandas(records[SCHEMA.names], schema=SCHEMA, preserve_index=False)
    told = {ABOUT: json.dumps(about, sort_keys=True).encode()} if about is not None else {}
    pq.write_table(table.replace_schema_metadata({**SCHEMA.metadata, **told}), path)


def read(path: Path) -> pd.DataFrame:
    """The records in a file of a finished stage. Errors: `UserError` where another version of robustcl wrote it."""
    table = pq.read_table(path)
    found = (table.schema.metadata or {}).get(b"robustcl.records", b"none").decode()
    if found != str(VERSION):
        raise UserError(f"{path}: records of schema version {found} are unknown, expected {VERSION}")
    records: pd.DataFrame = table.to_pandas()
    return records
