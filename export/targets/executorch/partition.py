"""What of a graph goes to XNNPACK: ExecuTorch's own partitioner, and weight-only linear layers.

Import only where executorch is installed.
"""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.utils.quant_utils import is_dequant, tag_as_implicit_q_dq
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec


class _WeightOnlyLinear(LinearConfig):  # type: ignore[misc]
    """Also takes codes under float32 activations, XNNPACK's f32-qc8w.

    ExecuTorch 1.5.1 writes and runs such layers as soon as they are in a partition, but its own
    rule asks for quantized activations. They have no bias: its visitor refuses a float one there.
    """

    def get_deps(self, node: Any, ep: Any) -> tuple[bool, list[Any]]:
        x, weight = node.args[:2]
        if len(node.args) == 2 and is_dequant(weight) and not is_dequant(x):
            tag_as_implicit_q_dq(weight)
            return True, [weight, *weight.all_input_nodes]
        found: tuple[bool, list[Any]] = super().get_deps(node, ep)
        return found


def xnnpack_partitioner(*, convolutions: bool) -> XnnpackPartitioner:
    """The partitioner, with two short cuts that each take a third off the time.

    Args:
        convolutions: whether there are any: the second short cut is not for them.
    """
    partitioner = XnnpackPartitioner(
        configs=[_WeightOnlyLinear if c is LinearConfig else c for c in ALL_PARTITIONER_CONFIGS]
    )
    # The operators that XNNPACK wants kept whole (linear above all) are kept without a second
    # decomposition to find out which ones it can take: the file stays the same to the byte.
    keep_whole = partitioner.ops_to_not_decompose
    partitioner.ops_to_not_decompose = lambda program: (keep_whole(program)[0], None)
    if convolutions:  # whose values change their order of dimensions in further passes
        return partitioner
    # And this key asks for the one of 17 preprocessing passes that other graphs need, each of which
    # traces every partition again.
    partitioner.delegation_spec = DelegationSpec(
        partitioner.delegation_spec.backend_id, [CompileSpec("dqlinear_partitioner", b"")]
    )
    return partitioner
