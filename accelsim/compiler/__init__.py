"""Integer graph + hardware -> program: lowering, tiling, allocation, emission, synchronisation."""

from accelsim.compiler.compilation import compile_graph

__all__ = ["compile_graph"]
