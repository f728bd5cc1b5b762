"""The SimPy model: one module for each hardware unit, the accelerator that wires them, one observer hook."""

from accelsim.machine.accelerator import Accelerator, Run
from accelsim.machine.observer import Issued, Observer

__all__ = ["Accelerator", "Issued", "Observer", "Run"]
