"""The only owner of changes to whole files that keep their structure: JSON, TOML, safetensors, npz, parquet."""

import io
import json
import tomllib
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.trees import mutated, toml

TYPES: tuple[Any, ...] = (
    pa.int64(), pa.int16(), pa.float64(), pa.string(), pa.bool_(), pa.binary(), pa.null(), pa.timestamp("s"),
    pa.list_(pa.int32()), pa.dictionary(pa.int8(), pa.string()), pa.struct([("a", pa.int8())]),
)  # fmt: skip
DTYPES = ("<i8", "<i4", "|u1", "<f8", "<f2", "|b1", "<c16", "<U3", "|S2", "<M8[s]", "|V3", ">i2", "|O")


def json_changed(data: bytes, draw: Random) -> bytes:
    """JSON with a few odd entries."""
    return json.dumps(mutated(json.loads(data), draw)).encode(errors="surrogatepass")


def toml_changed(data: bytes, draw: Random) -> bytes:
    """TOML with a few odd entries; half of the time two of its lines are exchanged instead, or one is lost."""
    text = data.decode()
    if draw.random() < 0.3:
        lines = text.splitlines()
        one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[one] = draw.choice((lines[other], "", lines[one] + lines[other]))
        return "\n".join(lines).encode()
    notes = [line for line in text.splitlines() if line.startswith("#")]
    return ("\n".join(notes) + "\n" + toml(mutated(tomllib.loads(text), draw))).encode(errors="surrogatepass")


def safetensors_changed(data: bytes, draw: Random) -> bytes:
    """A safetensors file with odd entries in its header, or in the description that robustcl keeps there."""
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    described = header.get("__metadata__", {}).get("robustcl")
    if described is not None and draw.random() < 0.7:
        header["__metadata__"]["robustcl"] = json.dumps(mutated(json.loads(described), draw))
    else:
        header = mutated(header, draw)
    text = json.dumps(header).encode(errors="surrogatepass")
    told = len(text) if draw.random() < 0.95 else draw.choice((0, 1, size, 2**40, 2**64 - 1))
    return told.to_bytes(8, "little") + text + rest[: draw.choice((len(rest), len(rest), len(rest) // 2))]


def npz_changed(data: bytes, draw: Random) -> bytes:
    """An npz with one of its arrays of another type, shape or name, lost, doubled, or with another header."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        held = [(name, file.read(name)) for name in file.namelist()]
    at = draw.randrange(len(held))
    name, content = held[at]
    kind = draw.choice(("name", "lose", "double", "array", "array", "header", "garbage"))
    if kind == "name":
        name = draw.choice(("x.npy", "k_2.npy", "k_1.npy", "k_-3.npy", "k_².npy", "../x.npy", "a", "test_index.npy"))
    elif kind == "array":
        content = _npy(content, draw)
    elif kind == "header":
        content = npy_changed(content, draw)
    elif kind == "garbage":
        content = draw.randbytes(40)
    held[at : at + 1] = {"lose": [], "double": [(name, content)] * 2}.get(kind, [(name, content)])
    buffer = io.BytesIO()
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", packing) as file:
        for one, part in held:
            file.writestr(zipfile.ZipInfo(one), part)
    return buffer.getvalue()


def npy_changed(data: bytes, draw: Random) -> bytes:
    """An npy with another header, which lies about what follows it."""
    shape = draw.choice(("()", "(0,)", "(1,)", "(4,)", "(-1,)", "(10**6,)", f"({10**12},)", "(2, 3)", "(None,)", "7"))
    fields = f"{{'descr': {draw.choice(DTYPES)!r}, 'fortran_order': {draw.random() < 0.2}, 'shape': {shape}, }}"
    header = draw.choice((fields, fields, "(" * 900, "{}", "1", "{'a': ", "\t x\n  y"))
    text = header.encode() + b"\n"
    return data[:6] + bytes([draw.choice((1, 1, 1, 2, 3, 9)), 0]) + len(text).to_bytes(2, "little") + text + data[-64:]


def _npy(content: bytes, draw: Random) -> bytes:
    array: Any = np.load(io.BytesIO(content), allow_pickle=False)
    if draw.random() < 0.5:
        with np.errstate(all="ignore"):
            array = array.astype(np.dtype(draw.choice(DTYPES[:8])))
    elif array.size and array.dtype.kind in "iuf":
        array = array.copy()
        with np.errstate(all="ignore"):
            odd = np.array(draw.choice((-1, 0, 1, 200, 40000, 2**40, np.nan))).astype(array.dtype)
        array.flat[draw.randrange(array.size)] = odd
    array = draw.choice((array, array[:0], array[..., None], array.ravel(), array[:1])) if array.ndim else array
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def parquet_changed(data: bytes, draw: Random) -> bytes:
    """A parquet file with a column of another type, with odd cells, lost or doubled, or with another note."""
    table = pq.read_table(pa.BufferReader(data))
    kind = draw.choice(("note", "type", "cell", "cell", "rows", "lose", "double"))
    at = draw.randrange(table.num_columns)
    name = table.column_names[at]
    if kind == "note":
        table = table.replace_schema_metadata(_noted(dict(table.schema.metadata or {}), draw))
    elif kind in ("type", "cell"):
        table = table.set_column(at, name, _column(table.column(at), kind == "type", draw))
    elif kind == "rows":
        rows = [draw.randrange(table.num_rows) for _ in range(draw.choice((0, 1, 3, table.num_rows)))]
        table = table.take(pa.array(rows, pa.int64())) if table.num_rows else table
    elif kind == "lose":
        table = table.remove_column(at)
    else:
        table = table.append_column(draw.choice((name, "other")), table.column(at))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=draw.choice(("zstd", "none", "snappy")))
    return bytes(sink.getvalue().to_pybytes())


def _noted(notes: dict[bytes, bytes], draw: Random) -> dict[bytes, bytes]:
    """The notes of a schema with one of them changed: as JSON, where it is JSON."""
    key = draw.choice([*notes, b"robustcl.about"])
    held = notes.get(key, b"{}")
    changed = draw.choice((b"", b"2", b"\xff\xfe", b"[]", b"null", b'"x"', b"{", b"[" * 3000))
    return notes | {key: json_changed(held, draw) if held[:1] == b"{" and draw.random() < 0.8 else changed}


def _column(column: Any, other: bool, draw: Random) -> Any:
    kind, held = column.type, column.to_pylist()
    if other:
        kind = draw.choice(TYPES)
    for _ in range(draw.choice((1, 2, len(held)))) if held else ():
        held[draw.randrange(len(held))] = draw.choice(
            (None, 0, 1, -1, 300, "x", "clean", "\x1b[31m", 0.5, [1], [], True)
        )
    made = []
    for one in held:
        try:
            made.append(pa.array([one], kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            made.append(pa.nulls(1, kind))
    return pa.chunked_array(made, kind)


def either(*changes: Callable[[bytes, Random], bytes]) -> Callable[[bytes, Random], bytes]:
    """The change of the reader that the first byte chooses, by its number among them; the byte itself stays."""

    def changed(data: bytes, draw: Random) -> bytes:
        return data[:1] + changes[data[0] % len(changes)](data[1:], draw)

    return changed
