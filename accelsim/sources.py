"""What a user names on the command line, found: a workload as an integer graph, and the images to run on it.

WORKLOAD is a shipped name, a graph or program directory, an ONNX file that is quantised already,
``file.py:function``, whose function returns a model (an `nn.Module`, or one that PyTorch's PT2E flow has quantised) and
an example input, or ``file.csv:layer``, a layer of a SCALE-Sim topology with random values.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.config import QuantizationScheme
from accelsim.errors import InputError, did_you_mean
from accelsim.files import parse_npy
from accelsim.ir import FloatGraph, IntegerGraph, load_graph

Images = npt.NDArray[np.floating[Any]]

CALIBRATION_IMAGES = 1024
"""Training images that ranges are taken from, unless the user names others."""


class DataWarning(UserWarning):
    """The run uses other data than the weights were trained on."""


@dataclass(frozen=True)
class Labelled:
    """Images float (N, C, H, W) with labels int64 (N,), or None where nobody knows them."""

    images: Images
    labels: npt.NDArray[np.int64] | None
    source: str


@dataclass
class Source:
    """A workload as an integer graph, with what is known of its data.

    Attributes:
        name: as the user gave it.
        graph: quantised.
        dataset, input_size: the data set it is run on and the height of its images; None where none is known.
        example: the input a user's own model came with, float (N, C, H, W) or (N, K); else None.
        float_accuracy: the float network's, 0..1, where it was trained on that data set.
        module: the float network, a `torch.nn.Module` in evaluation mode; None where the workload is integers already.
        channels: of the images it takes, where a grey data set's are repeated in colours; else None.
        seeded: whether nobody trained its weights, so that labels mean nothing to it.
        reference: images to the codes (N, H, W, C) of every node, as the library that quantised an imported model
            computes them; else None.
        draw: makes that many images, where they are random; else None.
    """

    name: str
    graph: IntegerGraph
    dataset: str | None = None
    input_size: int | None = None
    example: Images | None = None
    float_accuracy: float | None = None
    module: Any = None
    channels: int | None = None
    seeded: bool = False
    reference: Callable[[Images], dict[str, npt.NDArray[np.int64]]] | None = None
    draw: Callable[[int], Images] | None = None


@dataclass
class Network:
    """A workload that is still float, with what is known of its data; attributes as of `Source`.

    `calibration_images` is how many training images its ranges are taken from unless the user names others.
    """

    name: str
    graph: FloatGraph
    module: Any
    dataset: str | None
    input_size: int | None
    example: Images | None = None
    float_accuracy: float | None = None
    channels: int | None = None
    seeded: bool = False
    calibration_images: int = CALIBRATION_IMAGES


def find_workload(
    workload: str,
    *,
    quantization: QuantizationScheme | None,
    data: str | None = None,
    calibration: Path | None = None,
) -> Source:
    """Return the integer graph of what the user named.

    Args:
        workload: see above.
        quantization: the scheme for networks that are still float, and the requantisation of an ONNX file; None is the
            preset ``int8``, or for an ONNX file ONNX's own.
        data: a data set's name, or the folder that holds the workload's own.
        calibration: an .npy file of float images to calibrate on; None takes the first training images, or a user
            model's own example.
    Raises:
        InputError: there is no such workload, model or data; the message lists what there is. Or a scheme or
            calibration is given for a directory's graph, which is quantised already.
    """
    path = Path(workload)
    if (folder := graph_folder(workload)) is not None:
        if quantization is not None or calibration is not None:
            raise InputError(f"{workload}: is quantised already; leave the scheme and calibration images out")
        graph = load_graph(folder)
        return Source(workload, graph, *_known_data(data, graph.input.output.height))
    if path.suffix == ".onnx":
        return _onnx(path, quantization, data, calibration)
    if (named := topology_file(workload)) is not None:
        return _topology(*named, quantization, data, calibration)
    if path.suffix == ".pt2":
        raise InputError(
            f"{workload}: torch.export.load unpickles what it reads, which can run any code; return the program from a "
            "function of your own and name it file.py:function"
        )
    if quantization is None:
        from accelsim.config import load_quantization

        quantization = load_quantization("int8")
    if _is_user_model(workload):
        from accelsim.frontend import is_pt2e, load_user_model

        module, example = load_user_model(workload)
        if is_pt2e(module):
            return _pt2e(workload, module, example, quantization, data, calibration)
        network = _user_network(workload, module, example, data)
    else:
        network = find_network(workload, data=data)
    if calibration is not None:
        images = read_images(calibration)
    elif network.dataset is not None and network.input_size is not None:
        images = training_images(network, data, network.calibration_images).images
    else:
        assert network.example is not None
        images = network.example
    from accelsim.quantization import quantize

    return Source(
        workload,
        quantize(network.graph, images, quantization),
        network.dataset,
        network.input_size,
        example=network.example,
        float_accuracy=network.float_accuracy,
        module=network.module,
        channels=network.channels,
        seeded=network.seeded,
    )


def graph_folder(workload: str) -> Path | None:
    """Where the integer graph of a graph or program directory lies; None where the workload is neither."""
    path = Path(workload)
    for folder in (path, path / "graph"):
        if (folder / "graph.json").exists():
            return folder
    return None


def topology_file(workload: str) -> tuple[Path, str | None] | None:
    """A SCALE-Sim topology and the layer named of it, if one is; None where the workload is no ``file.csv``."""
    found = re.fullmatch(r"(.*\.csv)(?::(.*))?", workload, re.DOTALL)
    return None if found is None else (Path(found[1]), found[2])


def topology_layers(workload: str) -> list[str]:
    """The layers of a topology of which none is named; empty for any other workload."""
    from accelsim.importers import read_topology

    named = topology_file(workload)
    return [] if named is None or named[1] is not None else [shape.name for shape in read_topology(named[0])]


def _topology(
    path: Path, layer: str | None, quantization: QuantizationScheme | None, data: str | None, calibration: Path | None
) -> Source:
    """One layer of a topology."""
    from accelsim.importers import random_images, read_topology, topology_graph

    for option, value in (("--data", data), ("--calibration", calibration)):
        if value is not None:
            raise InputError(f"{option} {value}: the values of {path} are random; leave {option} out")
    if quantization is not None:
        _check_settled(str(path), quantization)
    shapes = {shape.name: shape for shape in read_topology(path)}
    if layer is None and len(shapes) > 1:
        raise InputError(
            f"{path}: holds {len(shapes)} layers that do not depend on one another; name one, such as "
            f"{path}:{next(iter(shapes))}"
        )
    name = next(iter(shapes)) if layer is None else layer
    if name not in shapes:
        raise InputError(
            f"{path}: has no layer {name!r}{did_you_mean(name, shapes) or '; it has ' + ', '.join(list(shapes)[:20])}"
        )
    graph = topology_graph(shapes[name], quantization)
    return Source(f"{path}:{name}", graph, draw=lambda count: random_images(graph, count))


def _onnx(path: Path, quantization: QuantizationScheme | None, data: str | None, calibration: Path | None) -> Source:
    """A file that is quantised already."""
    from accelsim.importers import load_onnx

    if calibration is not None:
        raise InputError(f"--calibration {calibration}: {path} is quantised already; leave --calibration out")
    graph = load_onnx(path, quantization)
    return Source(str(path), graph, *_known_data(data, graph.input.output.height))


def find_network(workload: str, *, data: str | None = None) -> Network:
    """Return the float network of what the user named.

    Args:
        workload: a shipped name or ``file.py:function``.
        data: a data set's name, or the folder that holds the workload's own.
    Raises:
        InputError: as for `find_workload`; a directory's graph is integers already.
    """
    if _is_user_model(workload):
        from accelsim.frontend import load_user_model

        return _user_network(workload, *load_user_model(workload), data)
    from accelsim import workloads

    names = workloads.names()
    if workload not in names:
        hint = did_you_mean(workload, names) or f"; workloads: {', '.join(names)}"
        raise InputError(
            f"workload {workload!r} is neither a name, a graph or program directory, an ONNX file, file.py:function, "
            f"nor file.csv:layer{hint}"
        )
    info = workloads.describe(workload)
    seeded = info.trained_on is None
    dataset = choose_dataset(info.dataset, data, seeded=seeded)
    if not seeded and dataset != info.trained_on:
        warnings.warn(
            f"{workload} was trained on {info.trained_on} and is run on {dataset}; expect poor accuracy",
            DataWarning,
            stacklevel=2,
        )
    from accelsim.frontend import capture
    from accelsim.workloads.data import CHANNELS

    loaded = workloads.load(workload)
    return Network(
        workload,
        capture(loaded.module, loaded.example, workload),
        loaded.module,
        dataset,
        info.input_size,
        float_accuracy=info.float_accuracy if dataset == info.trained_on else None,
        channels=CHANNELS[info.dataset] if seeded else None,
        seeded=seeded,
        calibration_images=info.calibration_images,
    )


def _is_user_model(workload: str) -> bool:
    """Whether it is ``file.py:function``, or means to be."""
    return ":" in workload or Path(workload).suffix == ".py"


def _user_network(workload: str, module: Any, example: Any, data: str | None) -> Network:
    """A user's float model."""
    from accelsim.frontend import capture

    name, shown, dataset, size = _described(workload, example, data)
    return Network(workload, capture(module, example, name), module.eval(), dataset, size, shown)


def _pt2e(
    workload: str,
    module: Any,
    example: Any,
    quantization: QuantizationScheme,
    data: str | None,
    calibration: Path | None,
) -> Source:
    """A model that PyTorch quantised: its own integers, and its own run to compare with."""
    from accelsim.frontend import read_pt2e

    _check_settled(workload, quantization)
    name, shown, dataset, size = _described(workload, example, data)
    if calibration is not None:
        images = read_images(calibration)
    elif dataset is not None and size is not None:
        images = training_images((dataset, size), data, CALIBRATION_IMAGES).images
    else:
        images = shown
    model = read_pt2e(module, name, quantization, calibration=images)
    return Source(workload, model.graph, dataset, size, example=shown, reference=model.reference_codes)


def _described(workload: str, example: Any, data: str | None) -> tuple[str, Images, str | None, int | None]:
    """Name, example, data set and image size of a user's own model."""
    values: Images = example.detach().cpu().double().numpy()
    return workload.rpartition(":")[2], values, *_known_data(data, values.shape[-1] if values.ndim == 4 else None)


NOT_OF_A_MODEL = ("zero_points", "bias_at", "accumulator_width_bits", "requantization")
"""Parts of a scheme that a model quantised elsewhere does not settle itself."""


def _check_settled(workload: str, quantization: QuantizationScheme) -> None:
    """Refuse a scheme that asks for what an imported model has decided already."""
    default = QuantizationScheme()
    for key in type(quantization).model_fields:
        if key not in NOT_OF_A_MODEL and getattr(quantization, key) != getattr(default, key):
            raise InputError(
                f"{workload}: the model is quantised already, so [{key}] of the scheme would change nothing; "
                f"set only {', '.join(NOT_OF_A_MODEL)}"
            )


def choose_dataset(wanted: str, data: str | None, *, seeded: bool = False) -> str:
    """The data set `data` names, else the workload's own, else, where nobody named a folder, the embedded digits.

    Args:
        seeded: a network that nobody trained takes grey images too, repeated in its three channels.
    Raises:
        InputError: The images of the one `data` names have another number of channels than `wanted`'s; there is no
            such data set; or the workload's own is not here and its images are in colour, which no digit is.
    """
    from accelsim.workloads.data import CHANNELS, DATASETS, ENVIRONMENT_VARIABLE, find_folder

    if data in DATASETS:
        if CHANNELS[data] != CHANNELS[wanted] and not seeded:
            fit = [name for name in DATASETS if CHANNELS[name] == CHANNELS[wanted]]
            raise InputError(
                f"--data {data}: its images have {CHANNELS[data]} channels, the workload takes {CHANNELS[wanted]}; "
                f"use {' or '.join(fit)}"
            )
        return str(data)
    if data is not None and wanted == "digits":
        raise InputError(
            f"--data {data}: the digits are embedded and read no folder; leave --data out, "
            f"or use one of {', '.join(DATASETS)}{did_you_mean(data, DATASETS)}"
        )
    if data is not None or wanted == "digits" or ENVIRONMENT_VARIABLE in os.environ:
        return wanted
    try:
        find_folder(wanted)
    except InputError:
        if CHANNELS[wanted] != CHANNELS["digits"] and not seeded:
            raise
        warnings.warn(
            f"{wanted} is not here (name its folder with --data or ACCELSIM_DATA); using the embedded digits",
            DataWarning,
            stacklevel=2,
        )
        return "digits"
    return wanted


def load_images(source: Source | Network, data: str | None, count: int | None) -> Labelled:
    """The first `count` test images of the workload's data set, or of a user model's own example; None: all."""
    if source.dataset is not None and source.input_size is not None:
        from accelsim.workloads.data import load_dataset

        folder = _folder(source.dataset, data)
        found = load_dataset(source.dataset, folder, "test", count, size=source.input_size, channels=source.channels)
        labels = None if source.seeded else found.labels.astype(np.int64)
        return Labelled(found.images, labels, f"{found.name} test")
    if isinstance(source, Source) and source.draw is not None:
        return Labelled(source.draw(1 if count is None else count), None, "random")
    if source.example is None:
        raise InputError(f"{source.name}: no data is known for it; give --input FILE.npy, or --data NAME of a data set")
    count = len(source.example) if count is None else count
    if count > len(source.example):
        raise InputError(
            f"{source.name}: {count} images asked for, its example holds {len(source.example)}; "
            "name a data set with --data, give --input FILE.npy, or use fewer"
        )
    return Labelled(source.example[:count], None, "example")


def read_images(path: Path) -> Images:
    """Read a float array (N, C, H, W) or (N, K) from an .npy file; nothing is unpickled."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give an .npy file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}; give an .npy file") from None
    if not data.startswith(b"\x93NUMPY"):  # NumPy would take it for a pickle
        kind = "an .npz archive" if data.startswith(b"PK") else "no .npy file"
        raise InputError(f"{path}: is {kind}; save one array with numpy.save")
    array = parse_npy(data, path, "save it with numpy.save")
    if array.dtype.kind != "f":
        raise InputError(f"{path}: holds {array.dtype}, not floating-point images; save them as float32")
    if array.ndim not in (2, 4) or not len(array):
        raise InputError(f"{path}: shape {array.shape} is not (N, C, H, W) or (N, K) with N of at least 1")
    if array.dtype.itemsize > 8:  # long double: what float64 cannot hold becomes infinite, and is refused as that
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    return array


def _known_data(data: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Data set and image size of a workload that states none: only a data set's own name tells."""
    from accelsim.workloads.data import DATASETS

    if data is None:
        return None, None
    if data not in DATASETS:
        raise InputError(
            f"--data {data}: this workload states no data set; use one of {', '.join(DATASETS)}, or --input"
        )
    return data, size


def training_images(network: Network | tuple[str, int], data: str | None, count: int | None, seed: int = 0) -> Labelled:
    """Training images of a network's data set: the first `count`, or a sample; None for all.

    Args:
        network: or the data set's name and its images' height.
        seed: 0 takes the first; another draws `count` different ones, in the order drawn.
    """
    from accelsim.workloads.data import load_dataset

    if isinstance(network, Network):
        name, size, channels, seeded = network.dataset, network.input_size, network.channels, network.seeded
    else:
        (name, size), channels, seeded = network, None, False
    assert name is not None
    assert size is not None
    found = load_dataset(name, _folder(name, data), "train", None if seed else count, size=size, channels=channels)
    labels = found.labels.astype(np.int64)
    if not seed:
        return Labelled(found.images, None if seeded else labels, f"{found.name} train")
    count = len(labels) if count is None else count
    if count > len(labels):
        raise InputError(f"{found.name} train: {count} images asked for, the split has {len(labels)}; use fewer")
    drawn = np.random.default_rng(seed).choice(len(labels), count, replace=False)
    return Labelled(found.images[drawn], None if seeded else labels[drawn], f"{found.name} train")


def _folder(dataset: str, data: str | None) -> Path | None:
    from accelsim.workloads.data import DATASETS

    return None if data is None or data in DATASETS or dataset == "digits" else Path(data)
