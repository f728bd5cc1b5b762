"""Operation counts times an energy table: E = sum of N * B * S over operation types (docs/energy.md)."""

from accelsim.energy.area import AreaPoint, AreaTable, load_area
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
    "AreaPoint",
    "AreaTable",
    "EnergyReport",
    "EnergyTable",
    "LayerCounts",
    "LayerEnergy",
    "OpEnergy",
    "add_energies",
    "by_place",
    "evaluate",
    "load_area",
    "load_energy",
    "memory_capacities",
]
