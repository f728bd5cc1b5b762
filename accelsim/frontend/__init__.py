"""PyTorch modules to float graphs, quantised ones to integer graphs. Imports torch; nothing after quantisation does."""

from accelsim.frontend.batch_norm import fold_batch_norm
from accelsim.frontend.capture import capture
from accelsim.frontend.float_model import float_predictions
from accelsim.frontend.pt2e import ImportedModel, import_pt2e, is_pt2e, read_pt2e
from accelsim.frontend.user_model import load_user_model

__all__ = [
    "ImportedModel",
    "capture",
    "float_predictions",
    "fold_batch_norm",
    "import_pt2e",
    "is_pt2e",
    "load_user_model",
    "read_pt2e",
]
