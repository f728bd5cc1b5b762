"""Integer graphs as files of other tools."""

from accelsim.exporters.onnx_qdq import ExportWarning, export_onnx, to_onnx

__all__ = ["ExportWarning", "export_onnx", "to_onnx"]
