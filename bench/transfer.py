"""The only owner of transfers: how [sets] and [transfer] of a suite become pairs of [data] and [target]."""

from collections.abc import Sequence

from robustcl.bench.tables import TABLES, entries
from robustcl.models.errors import UserError, nearest, unknown
from robustcl.models.value import Table, read, value

Pair = tuple[str, str]


@value
class Transfer:
    """Names below [sets]: pretrained on each `source`, finetuned and judged on each `target`; None is all of them."""

    source: tuple[str, ...] | None = None
    target: tuple[str, ...] | None = None


def transfers(table: Table, name: str) -> list[tuple[Pair, Table]]:
    """The names of source and target of every transfer, with the suite's tables as if these two were all its data.

    The target's name is empty where it is the source itself; both are where the suite has [data] and no [sets].
    Errors: `UserError` for an unknown table or set, and for [sets] beside [data] or [target].
    """
    _check_tables(table, name)
    if "sets" not in table and "transfer" not in table:
        return [(("", ""), table)]
    sets = entries(table, name, "sets")
    if "data" in table or "target" in table or not sets:
        raise UserError(f"{name}: [sets] and [transfer] stand for [data] and [target], expected the one or the other")
    chosen = read(Transfer, table.get("transfer", {}), f"{name}.transfer")
    sources = _known(chosen.source, sets, f"{name}.transfer.source")
    targets = _known(chosen.target, sets, f"{name}.transfer.target")
    rest = {key: part for key, part in table.items() if key not in ("sets", "transfer")}
    return [
        ((source, "" if target == source else target), rest | _data(sets, source, target))
        for source in sources
        for target in targets
    ]


def _check_tables(table: Table, name: str) -> None:
    for key in table:
        if key not in TABLES:
            raise UserError(f"{name}: unknown key '{key}', expected one of {', '.join(TABLES)}{nearest(key, TABLES)}")
        if not isinstance(table[key], dict):
            raise UserError(f"{name}.{key}: {table[key]!r} is wrong, expected a table [{key}]")


def _known(names: Sequence[str] | None, sets: dict[str, Table], where: str) -> list[str]:
    names = list(sets if names is None else names)
    for one in names:
        if one not in sets:
            raise unknown(where, "set", one, sets)
    if not names or len(set(names)) < len(names):
        raise UserError(f"{where}: {names} is wrong, expected at least one name, each once")
    return names


def _data(sets: dict[str, Table], source: str, target: str) -> Table:
    return {"data": sets[source]} | ({} if target == source else {"target": sets[target]})
