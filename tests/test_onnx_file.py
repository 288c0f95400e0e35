"""Graphs that point at files of somebody else are refused before ONNX Runtime sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from web_bundles import OwnBundle

from flowship.runtime import Bundle, BundleError, Flow
from flowship.runtime.engines.onnx_file import check_external_data, weights_files
from flowship.runtime.manifest import Artifact


def _model(location: str, *, inside: bool = False) -> onnx.ModelProto:
    """x + w with w in an external file, at the top or inside the branch of an If."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value=location)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w])
    if inside:
        branch = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "b", [], [y], [w])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        condition = numpy_helper.from_array(np.array(True), "c")
        graph = helper.make_graph([node], "g", [x], [y], [condition])
    return helper.make_model(graph)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "other.bin", ""])
def test_foreign_files(tmp_path: Path, location: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_model(location).SerializeToString())
    with pytest.raises(BundleError, match=r"weights in .*, expected weights\.bin"):
        check_external_data(path, ["weights.bin"])


def test_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_model("weights.bin").SerializeToString())
    check_external_data(path, ["weights.bin"])


def test_nested_graphs_and_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_model("weights.bin", inside=True).SerializeToString())
    with pytest.raises(BundleError, match="nested graphs"):
        check_external_data(path, ["others.bin"])
    path.write_bytes(_model("weights.bin").SerializeToString()[:-7])
    with pytest.raises(BundleError, match="truncated"):
        check_external_data(path, ["others.bin"])


def test_a_second_name_in_one_entry_is_seen(tmp_path: Path) -> None:
    """Of a field that is given twice the last one counts."""
    path = tmp_path / "m.onnx"
    key, good, evil = b"\x0a\x08location", b"\x12\x0bweights.bin", b"\x12\x0a../evil.bi"
    entry = key + good + evil
    tensor = b"\x08\x04" + b"\x6a%c%s" % (len(entry), entry)  # dims 4, external_data
    graph = b"\x2a%c%s" % (len(tensor), tensor)
    path.write_bytes(b"\x3a%c%s" % (len(graph), graph))
    with pytest.raises(BundleError, match=r"weights in '\.\./evil"):
        check_external_data(path, ["weights.bin"])


def test_the_embedded_graphs_pass() -> None:
    with Bundle.open() as bundle:
        for artifact in bundle.manifest.artifacts:
            names = weights_files(artifact)
            assert list(names) == [f"{artifact.stage}.weights.bin"]
            check_external_data(bundle.artifact_path(artifact), names)


def test_a_location_is_a_declared_file_of_the_artifact() -> None:
    files = ("a/m.onnx", "a/w.bin", "a/more/w.bin", "b/v.bin", "v.bin")
    artifact = Artifact("onnx", "fp32", "step", "block0", "gqa", 1, (), "a/m.onnx", files)
    assert weights_files(artifact) == {"w.bin": "a/w.bin", "more/w.bin": "a/more/w.bin"}


def test_a_file_of_the_same_name_elsewhere_is_another(tmp_path: Path) -> None:
    """Weights that nobody hashed lie beside the graph, those of the manifest in another folder."""
    name = "onnx/fp32/block3.weights.bin"
    own = OwnBundle()
    own.put("elsewhere/block3.weights.bin", own.files[name])
    del own.manifest["files"][name]
    for artifact in own.manifest["artifacts"]:
        artifact["files"] = [
            f.replace(name, "elsewhere/block3.weights.bin") for f in artifact["files"]
        ]
    folder = own.write(tmp_path / "own.flowship")
    with (
        Flow.open(folder) as flow,
        pytest.raises(BundleError, match=r"weights in 'block3\.weights"),
    ):
        flow.generate()
