"""The vocabulary in which a family writes its networks down, once for all targets."""

from __future__ import annotations

from .graph import Cache, Dim, Graph, Node, Shape, Value
from .reverse import vector_jacobian
from .torch_rules import evaluate
from .vocabulary import Network

__all__ = [
    "Cache",
    "Dim",
    "Graph",
    "Network",
    "Node",
    "Shape",
    "Value",
    "evaluate",
    "vector_jacobian",
]
