"""Where shipped configuration files are, and how a name or a path finds one."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from accelsim.errors import InputError, did_you_mean

KINDS = ("hardware", "energy", "quantization", "studies", "sweeps")


def preset_folder(kind: str) -> Path:
    """The folder of the shipped files of one kind."""
    return Path(str(resources.files("accelsim.configs"))) / kind


def preset_names(kind: str) -> list[str]:
    """Names of the shipped files of one kind, sorted."""
    return sorted(path.stem for path in preset_folder(kind).glob("*.toml"))


def find_preset(kind: str, name_or_path: str | Path) -> Path:
    """Return the file of a preset's name, or the path itself where it names a file.

    Raises:
        InputError: neither; the message lists what there is.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.exists() or len(path.parts) != 1:
        return path
    names = preset_names(kind)
    if str(name_or_path) in names:
        return preset_folder(kind) / f"{name_or_path}.toml"
    raise InputError(
        f"{kind} {str(name_or_path)!r} is neither a preset nor a file{did_you_mean(str(name_or_path), names)}"
        f"; presets: {', '.join(names)}"
    )
