"""Keeps the text of an ML program (``model.mlmodel``; the weights are a file apart) small.

The text repeats the whole block for each function. As coremltools builds it, it was a quarter of an
int8 package of the embedded model: every parameter of every operator was a constant of its own, and
long generated names stood in up to four places each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Function = Any  # of coremltools' MIL; the package has no type hints
Var = Any


def shorten(function: Function) -> None:
    """Let a finished MIL function say the same in less text.

    Equal parameters become one constant, and values inside get short names. Inputs, outputs, states
    and matrices keep their names, and so do the operators that compute (errors and profiles speak
    of them); none of these is added, removed or moved.
    """
    _share_constants(function)
    _rename_values(function)


def _share_constants(function: Function) -> None:
    """Read the first of the constants that are equal in type and bits wherever one of them is read.

    coremltools' own pass (``common::const_deduplication``) leaves strings and booleans, and takes
    numbers for equal that are close.
    """
    first: dict[tuple[str, bytes], Var] = {}
    for operation in list(function.operations):
        # Weights have an id: each is in the text once already, and in the file once for all.
        if operation.op_type != "const" or operation.weight_id is not None:
            continue
        (constant,) = operation.outputs
        kind = constant.shape_str() + constant.type_str()
        unique = first.setdefault((kind, np.asarray(constant.val).tobytes()), constant)
        if unique is not constant:
            function.replace_uses_of_var_after_op(
                anchor_op=operation, old_var=constant, new_var=unique
            )
            function.remove_ops([operation])


def _rename_values(function: Function) -> None:
    """Call values t0, t1, ... in order, except matrices, by whose names a reader finds the layers.

    A value's name stands where it is made and wherever it is read. A constant has the same name
    once more as an operator; there a matrix is called by its number too.
    """
    kept = {*function.inputs, *(output.name for output in function.outputs)}
    values = [v for operation in function.operations for v in operation.outputs]
    for number, value in enumerate(value for value in values if value.name not in kept):
        short = f"t{number}"
        assert short not in kept, f"an input or output has the name {short}"
        constant = value.op.op_type.startswith("const")  # const, constexpr_...
        if constant:
            value.op.name = short
        if not (constant and len(value.shape) > 1):
            value.name = short
