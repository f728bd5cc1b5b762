"""Models that other tools have quantised already, and layers that they list, read into integer graphs."""

from accelsim.importers.onnx_model import Imported, import_onnx, load_onnx
from accelsim.importers.topology import as_products, read_topology, topology_of, topology_text
from accelsim.importers.topology_graph import random_images, topology_graph

__all__ = [
    "Imported",
    "as_products",
    "import_onnx",
    "load_onnx",
    "random_images",
    "read_topology",
    "topology_graph",
    "topology_of",
    "topology_text",
]
