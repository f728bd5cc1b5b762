"""The fast functional engine: integer graphs over whole data sets, every bit as on the machine, without a clock."""

from accelsim.engine.evaluation import MEMORY_BYTES, Codes, execute, execute_apart
from accelsim.engine.scenarios import Scenario, ScenarioOutcome, exact_arithmetic, execute_scenarios, uniform
from accelsim.engine.telemetry import Telemetry, Watched, watch
from accelsim.engine.witness import Witness, first_overflow

__all__ = [
    "MEMORY_BYTES",
    "Codes",
    "Scenario",
    "ScenarioOutcome",
    "Telemetry",
    "Watched",
    "Witness",
    "exact_arithmetic",
    "execute",
    "execute_apart",
    "execute_scenarios",
    "first_overflow",
    "uniform",
    "watch",
]
