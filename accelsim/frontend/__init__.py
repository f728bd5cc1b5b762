"""PyTorch modules to float graphs. Imports torch; nothing after quantisation does."""

from accelsim.frontend.batch_norm import fold_batch_norm
from accelsim.frontend.capture import capture
from accelsim.frontend.float_model import float_predictions
from accelsim.frontend.user_model import load_user_model

__all__ = ["capture", "float_predictions", "fold_batch_norm", "load_user_model"]
