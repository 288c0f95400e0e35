"""What an ONNX file from a stranger may point at: nothing but its own artifact's weights file.

ONNX Runtime 1.32 refuses external data outside the model's folder; older ones that we accept may
not, and inside the folder lie other files. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from ..errors import BundleError
from ..manifest import Artifact
from .wire import Message

MAX_GRAPH_BYTES = 64 << 20  # without weights; ours have tens of kilobytes

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_NESTED = 5, (6, 10, 11, 22, 23)  # graph, lists, sparse tensors
_TENSOR_EXTERNAL = 13


def weights_files(artifact: Artifact) -> dict[str, str]:
    """What a graph may call its weights: from its own folder on, each with its path in the bundle.

    A location is resolved from the graph's folder: a file of the same name elsewhere is another.
    """
    folder = PurePosixPath(artifact.path).parent
    others = [PurePosixPath(file) for file in artifact.files if file != artifact.path]
    return {
        str(file.relative_to(folder)): str(file) for file in others if file.is_relative_to(folder)
    }


def check_external_data(path: Path, allowed: Collection[str]) -> None:
    """Refuse a graph that refers to any file but those named in ``allowed``.

    Raises:
        BundleError: it does, it hides tensors in nested graphs, or it is no ONNX file.
    """
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise BundleError(
            f"{path}: a graph of more than {MAX_GRAPH_BYTES >> 20} MB without weights"
        )
    data = path.read_bytes()
    if _plainly_allowed(data, allowed):
        return
    model = Message(memoryview(data), str(path))
    if _MODEL_FUNCTIONS in model:
        raise BundleError(f"{path}: it defines functions, which no exporter of ours writes")
    for tensor in _tensors(model.message(_MODEL_GRAPH), path):
        for entry in tensor.messages(_TENSOR_EXTERNAL):
            if entry.text(1) == "location" and entry.text(2) not in allowed:
                raise BundleError(
                    f"{path}: weights in {entry.text(2)[:80]!r}, expected "
                    f"{', '.join(allowed) or 'none outside the graph'}"
                )


def _plainly_allowed(data: bytes, allowed: Collection[str]) -> bool:
    """Every "location" in the file is, byte for byte, an entry with an allowed name as we write it.

    It spares our own graphs the 10 ms that parsing takes. Whatever is written in another way (long
    numbers, other order, a name given twice) fails the count and is parsed.
    """
    names = [name.encode() for name in allowed if len(name.encode()) < 100]  # one-byte lengths
    entries = [
        b"\x6a%c\x0a\x08location\x12%c%s" % (12 + len(name), len(name), name) for name in names
    ]
    return data.count(b"location") == sum(map(data.count, entries))


def _tensors(graph: Message, path: Path) -> Iterator[Message]:
    if _GRAPH_SPARSE in graph:
        raise BundleError(f"{path}: sparse weights, which no exporter of ours writes")
    yield from graph.messages(_GRAPH_INITIALIZER)
    for node in graph.messages(_GRAPH_NODE):
        for attribute in node.messages(_NODE_ATTRIBUTE):
            if any(field in attribute for field in _ATTRIBUTE_NESTED):
                raise BundleError(f"{path}: nested graphs, which no exporter of ours writes")
            yield from attribute.messages(_ATTRIBUTE_TENSOR)
