"""Models that other tools have quantised already, read into integer graphs."""

from accelsim.importers.onnx_model import Imported, import_onnx, load_onnx

__all__ = ["Imported", "import_onnx", "load_onnx"]
