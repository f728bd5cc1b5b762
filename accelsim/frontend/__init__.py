"""PyTorch modules to float graphs. Imports torch; nothing after quantisation does."""

from accelsim.frontend.batch_norm import fold_batch_norm
from accelsim.frontend.capture import capture

__all__ = ["capture", "fold_batch_norm"]
