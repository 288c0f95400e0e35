"""The file of an ExecuTorch program: weights once, heavy operators delegated, its template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from executorch_programs import Exported, noise

from flowship.export.quantize.formats import FORMATS
from flowship.export.quantize.matrix import QuantizedMatrix
from flowship.export.quantize.rtn import round_to_nearest
from flowship.export.targets.executorch import stored
from flowship.export.targets.executorch.quantized import layout_of
from flowship.export.targets.executorch.template import ProgramTemplate, stand_ins
from flowship.runtime.errors import EngineError, UsageError


@pytest.mark.parametrize("name", ["dynamic0", "static", "mixed1", "fp16"])
def test_weights_are_stored_once(programs: dict[str, Exported], name: str) -> None:
    """The rest, the graphs of all methods, takes 50 to 165 KB."""
    exported = programs[name]
    arrays = stored(exported.weights, exported.precision).values()
    weights = sum(array.nbytes for array in arrays)
    assert weights < exported.path.stat().st_size < weights + 220_000


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("static", {"step1", "step4", "guided1", "guided4"}),
        ("dynamic0", {"step", "guided", "vjp"}),
        ("mixed0", {"step", "guided"}),
    ],
)
def test_heavy_operators_are_delegated(
    programs: dict[str, Exported], name: str, methods: set[str]
) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(programs[name].path.read_bytes()).program
    operators = {plan.name: {op.name for op in plan.operators} for plan in program.execution_plan}
    assert set(operators) == methods
    heavy = ("mm", "linear", "softmax", "gelu", "mul", "permute", "quant")
    for names in operators.values():
        assert not {name for name in names if any(word in name for word in heavy)}
    assert all(
        "aten::index_put_" in names for method, names in operators.items() if method != "vjp"
    )


def test_template_refuses_a_file_without_the_weights(tmp_path: Path) -> None:
    marked = stand_ins({"w": np.zeros((4, 4), np.float32)})
    path = tmp_path / "other.pte"
    path.write_bytes(b"no weights here")
    with pytest.raises(EngineError, match="did not store w as it is"):
        ProgramTemplate(path, marked)


def test_template_replaces_every_copy(tmp_path: Path) -> None:
    weights = {f"w{i}": noise(i, 3, 5).astype(np.float16) for i in range(3)}
    marked = stand_ins(weights)
    source = tmp_path / "source"
    source.write_bytes(b"head" + b"gap".join(a.tobytes() for a in [*marked.values(), marked["w1"]]))
    ProgramTemplate(source, marked).write(tmp_path / "target", weights)
    wanted = b"head" + b"gap".join(a.tobytes() for a in [*weights.values(), weights["w1"]])
    assert (tmp_path / "target").read_bytes() == wanted


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (round_to_nearest(np.ones((4, 48), np.float32), FORMATS["int4_g32"]), "48 columns are not"),
        (round_to_nearest(np.ones((4, 32), np.float32), FORMATS["int8_g32"]), "w as int8_g32: cho"),
        (
            QuantizedMatrix(
                FORMATS["int8"],
                np.zeros((2, 4), np.int8),
                np.ones((2, 1), np.float32),
                np.ones((2, 1), np.int8),
            ),
            "w with zero points",
        ),
    ],
)
def test_what_xnnpack_cannot_take_is_refused(matrix: QuantizedMatrix, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layout_of({"w": matrix})
