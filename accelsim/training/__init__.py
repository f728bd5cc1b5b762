"""Training with the accelerator's bits forward and PyTorch's gradients backward: on the engine, or in torch operations.

Imports torch.
"""

from accelsim.training.fine_tuning import fine_tune
from accelsim.training.layer import TrainableLayer
from accelsim.training.module import EngineModule
from accelsim.training.qat import QatModule

__all__ = ["EngineModule", "QatModule", "TrainableLayer", "fine_tune"]
