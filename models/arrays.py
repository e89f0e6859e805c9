"""The only owner of how much a file may hold: an `.npz` without pickle, and never more than its size answers for."""

import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcl.models.errors import UserError

ROOM, TIMES = 2**30, 100  # bytes that any archive may unpack to, and how often its own size beyond
_END = 22  # bytes of the record that ends an archive
VALUES = 10**7  # that any parquet file may hold; beyond, TIMES its bytes
_HEADERS: Mapping[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` by name; nothing in it is executed.

    What a header promises is compared with what is there before anything is allocated, and an archive that unpacks to
    more than 1 GiB and more than 100 times its size is refused. Errors: `ValueError` with the reason, in one line.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_room(file.infolist(), path.stat().st_size)
            _check_count(path, len(file.infolist()))
            return {entry.filename.removesuffix(".npy"): _array(file, entry) for entry in file.infolist()}
    except Exception as error:  # what is damaged can raise anything; what it raised stands in the line
        reason = (str(error).splitlines() or [""])[0][:100]
        raise ValueError(reason or type(error).__name__) from None


def check_size(metadata: Any, path: Path) -> None:
    """Refuse a parquet file whose metadata promise more than 10 million values and more than 100 for each of its bytes.

    Runs of equal values take no room, and a small file could ask for all memory. What metadata say of single columns is
    not asked for: pyarrow ends the process where they are damaged. Errors: `UserError`.
    """
    values = metadata.num_rows * metadata.num_columns
    if not 0 <= values <= max(VALUES, TIMES * path.stat().st_size):
        raise UserError(f"{path}: promises {values} values, expected at most {TIMES} for each of its bytes")


def _check_room(entries: Iterable[zipfile.ZipInfo], size: int) -> None:
    promised = sum(entry.file_size for entry in entries)
    if promised > max(ROOM, TIMES * size):
        raise ValueError(f"unpacks to {promised} bytes, expected at most {TIMES} times its size")


def _check_count(path: Path, found: int) -> None:
    """Whether an archive has as many entries as its last bytes say: one flipped bit can have one swallow the next."""
    with path.open("rb") as file:
        file.seek(-_END, 2)
        end = file.read()
    count = int.from_bytes(end[10:12], "little")
    if end.startswith(b"PK\5\6") and count not in (found, 0xFFFF):  # which stands for more than fit
        raise ValueError(f"{found} arrays, expected {count}")


def _array(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with file.open(entry) as opened:
        version = np.lib.format.read_magic(opened)
        if version not in _HEADERS:
            raise ValueError(f"{entry.filename}: an array of format {version}, expected 1.0 or 2.0")
        shape, _, kind = _HEADERS[version](opened)
    if any(side < 0 for side in shape) or math.prod(shape) * max(kind.itemsize, 1) > entry.file_size:
        raise ValueError(f"{entry.filename}: promises an array of shape {shape}, which it does not hold")
    with file.open(entry) as opened:
        array: NDArray[Any] = np.lib.format.read_array(opened, allow_pickle=False)
        opened.read()  # to its end, where the checksum is compared
    return array
