"""Operation counts times an energy table: E = sum of N * B * S over operation types (docs/energy.md)."""

from accelsim.energy.evaluation import (
    PLACES,
    EnergyReport,
    LayerCounts,
    LayerEnergy,
    OpEnergy,
    add_energies,
    by_place,
    evaluate,
    memory_capacities,
)
from accelsim.energy.table import EnergyTable, load_energy

__all__ = [
    "PLACES",
    "EnergyReport",
    "EnergyTable",
    "LayerCounts",
    "LayerEnergy",
    "OpEnergy",
    "add_energies",
    "by_place",
    "evaluate",
    "load_energy",
    "memory_capacities",
]
