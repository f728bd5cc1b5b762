"""Fine-tuning through the engine: the accelerator's own bits forward, PyTorch's gradients backward. Imports torch."""

from accelsim.training.layer import TrainableLayer
from accelsim.training.module import EngineModule

__all__ = ["EngineModule", "TrainableLayer"]
