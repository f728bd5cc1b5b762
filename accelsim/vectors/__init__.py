"""Golden vectors for other people's hardware: packs, directed corner cases, and the check of what a design dumped."""

from accelsim.vectors.check import Result, check
from accelsim.vectors.corners import NAME as CORNERS
from accelsim.vectors.coverage import Coverage, measure, show_coverage
from accelsim.vectors.export import Request, export_corners, export_network
from accelsim.vectors.manifest import LEVELS, Manifest
from accelsim.vectors.pack import Pack, load_pack, read_dump

__all__ = [
    "CORNERS",
    "LEVELS",
    "Coverage",
    "Manifest",
    "Pack",
    "Request",
    "Result",
    "check",
    "export_corners",
    "export_network",
    "load_pack",
    "measure",
    "read_dump",
    "show_coverage",
]
