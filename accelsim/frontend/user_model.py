"""A model of the user's own, named ``file.py:function``."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import torch
from torch.export import ExportedProgram

from accelsim.errors import InputError, did_you_mean


def load_user_model(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Run the user's function, which returns a model and an example input, (N, C, H, W) or (N, K).

    The model may also be a `torch.export.ExportedProgram`; then its module is returned.

    Raises:
        InputError: there is no such file or function, or running it failed; whatever it raised becomes one line.
    """
    file, _, function = name.rpartition(":")
    if not file or not function.isidentifier():
        raise InputError(f"workload {name!r}: a model of your own is named file.py:function")
    result = _call(Path(file), function)
    if not isinstance(result, tuple | list) or len(result) != 2:
        hint = "; the example is one input, such as torch.zeros(1, 1, 28, 28)" * isinstance(result, torch.nn.Module)
        raise InputError(f"{name}: must return (nn.Module, example tensor), not {type(result).__name__}{hint}")
    module, example = result
    if isinstance(module, ExportedProgram):
        module = module.module()
    if not isinstance(module, torch.nn.Module) or not isinstance(example, torch.Tensor):
        kinds = f"{type(module).__name__}, {type(example).__name__}"
        raise InputError(f"{name}: must return (nn.Module, example tensor), not ({kinds})")
    if example.ndim not in (2, 4) or not len(example):
        raise InputError(f"{name}: the example has shape {tuple(example.shape)}; it must be (N, C, H, W) or (N, K)")
    if any(tensor.is_meta for tensor in (example, *module.parameters(), *module.buffers())):
        raise InputError(
            f"{name}: has tensors on the meta device, which hold no values; make it on the CPU and load its weights"
        )
    if example.layout != torch.strided:
        raise InputError(f"{name}: the example is {example.layout}; return example.to_dense()")
    return module, example


def _call(file: Path, function: str) -> object:
    """Import the file, which may import its neighbours as if Python ran it, and call the function."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; a model of your own is named file.py:function")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file}: is not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(loaded)
    except SystemExit as stop:
        raise InputError(f"{file}: called exit({stop.code}) when imported; keep that under __main__") from None
    except Exception as error:
        raise InputError(f"{file}: importing it raised {type(error).__name__}: {error}") from error
    builder = getattr(loaded, function, None)
    if not callable(builder):
        there = [name for name, value in vars(loaded).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"{file}: has no function {function!r}{did_you_mean(function, there)}")
    if isinstance(builder, type | torch.nn.Module):
        kind = "a class" if isinstance(builder, type) else f"a {type(builder).__name__}"
        raise InputError(
            f"{file}: {function!r} is {kind}, not a function; write one that returns (nn.Module, example tensor)"
        )
    try:
        inspect.signature(builder).bind()
    except TypeError as error:
        raise InputError(f"{file}:{function}: {error}; write a function without arguments") from None
    try:
        return builder()
    except SystemExit as stop:
        raise InputError(f"{file}:{function}: called exit({stop.code}); return (nn.Module, example tensor)") from None
    except Exception as error:
        raise InputError(f"{file}:{function}: raised {type(error).__name__}: {error}") from error
