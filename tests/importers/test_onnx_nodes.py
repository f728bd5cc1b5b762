"""The onnx package's own node tests, through the importer, on reference and engine."""

from __future__ import annotations

import numpy as np
import onnx_nodes
import pytest

from accelsim.engine import execute
from accelsim.importers import import_onnx
from accelsim.ir import evaluate, load_graph
from accelsim.numerics import Arithmetic

HARDWARE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
CASES, LEFT = onnx_nodes.cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_node_test_of_onnx_passes_on_reference_and_engine(case, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(case.model.SerializeToString())
    imported = import_onnx(path)
    codes = imported.encode(case.data)
    imported.graph.save(tmp_path / "graph")
    graphs = imported.graph, load_graph(tmp_path / "graph")  # what the host does is saved and loaded, too
    nodes = [node.name for node in imported.graph.nodes]
    for graph in graphs:
        for tensors in evaluate(graph, codes, HARDWARE).tensors, execute(graph, codes, HARDWARE, nodes=nodes):
            found = imported.decode(imported.output, tensors)
            assert found.dtype == case.expected.dtype
            np.testing.assert_array_equal(found, case.expected)


def test_every_operator_is_met_and_only_types_and_blocks_are_left_out():
    met = {case.model.graph.node[0].op_type for case in CASES}
    assert met == set(onnx_nodes.KINDS)
    assert len(CASES) == 16
    assert {reason.split()[0] for reason in LEFT.values()} == {"type", "scales"}
    assert not {name for name, reason in LEFT.items() if reason.endswith(("INT8", "UINT8", " INT32"))}
