"""Stand-ins for plain values in a pickle: dates, paths, numpy's numbers, which nobody needs here.

Training scripts keep their arguments and scores beside the weights. The names below are what such
values are pickled with; each is answered by a class of ours that takes anything and does nothing,
so that reading them neither runs code of a library nor asks for memory, whatever the arguments are.
Those that hold others become plain dictionaries and lists, since weights may be in them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_NUMBERS = (
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 longlong ulonglong intc uintc "
    "float16 float32 float64 longdouble complex64 complex128 str_ bytes_ datetime64 timedelta64"
)
_DTYPES = (
    "BoolDType ByteDType UByteDType ShortDType UShortDType IntDType UIntDType LongDType ULongDType "
    "LongLongDType ULongLongDType Int8DType Int16DType Int32DType Int64DType UInt8DType "
    "UInt16DType UInt32DType UInt64DType Float16DType Float32DType Float64DType LongDoubleDType "
    "Complex64DType Complex128DType StrDType BytesDType DateTime64DType TimeDelta64DType "
    "ObjectDType VoidDType"
)
_INERT = {
    "argparse": "Namespace",
    "builtins": "bool bytes dict float frozenset int list object range slice str tuple",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "numpy": f"dtype ndarray {_NUMBERS}",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",  # numpy 2
    "numpy.dtypes": _DTYPES,
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # Python 3.13
    "types": "SimpleNamespace",
    "uuid": "UUID",
}


class _Inert:
    """Takes whatever a pickle gives it and keeps nothing."""

    def __new__(cls, *arguments: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _empty_dictionary(*arguments: Any) -> dict[Any, Any]:
    return {}


def _empty_list(*arguments: Any) -> list[Any]:
    return []


@cache
def stand_ins() -> list[Any]:
    """For ``torch.serialization.safe_globals``, which goes by the names that they have."""
    found: list[Any] = [
        type(name, (_Inert,), {"__module__": module})
        for module, names in _INERT.items()
        for name in names.split()
    ]
    for name, make in (("defaultdict", _empty_dictionary), ("deque", _empty_list)):
        found.append(_named(make, "collections", name))
    return found


def _named(make: Any, module: str, name: str) -> Any:
    def stand_in(*arguments: Any) -> Any:
        return make()

    stand_in.__module__, stand_in.__qualname__ = module, name
    return stand_in
