"""The command `accelsim animate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelsim.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from accelsim.report.animation_frames import Product

MOST_PES = 8
"""Rows, and columns: more could not be read from the back of a room."""
MOST_SHAPE = (12, 16, 12)
MOST_CYCLES = 1_000
MOST_BYTES = 1 << 16
"""Of a file of operands: no matrix of these sizes needs more."""
DEFAULT_SHAPE = (6, 10, 4)
"""Two tiles of os; three of ws, the last of them ragged."""
DEFAULT_SEED = 44
"""With the other defaults, sums overflow in the array and in the memory, and ws and os differ in 6 of 24 results."""
DEFAULT_LARGEST = 9
"""Products that a listener can check in the head."""


def animate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `accelsim animate`."""
    parser.add_argument("--dataflow", choices=("ws", "os", "both"), default="both", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=4, metavar="R", help="of the array (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=4, metavar="C", help="of the array (default: %(default)s)")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("M", "K", "N"),
        help="of the product: activations M x K times weights K x N (default: 6 10 4)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help=f"of random operands (default: {DEFAULT_SEED})")
    parser.add_argument(
        "--largest", type=int, metavar="V", help=f"random operands lie in -V..V (default: {DEFAULT_LARGEST})"
    )
    parser.add_argument("--activations", type=Path, metavar="F", help="M x K integers, -128..127: a .csv or .npy file")
    parser.add_argument("--weights", type=Path, metavar="F", help="K x N integers, -128..127: a .csv or .npy file")
    parser.add_argument(
        "--width-bits", type=int, default=8, metavar="W", help="of the accumulator memory (default: %(default)s)"
    )
    parser.add_argument(
        "--psum-bits", type=int, metavar="W", help="of the partial sums in the array (default: the accumulator's)"
    )
    parser.add_argument("--overflow", choices=("saturate", "wrap"), default="saturate", help="default: %(default)s")
    parser.add_argument(
        "--saturate-at",
        choices=("every_add", "end"),
        default="every_add",
        help="when sums are fitted (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("animation.html"), metavar="F", help="default: %(default)s"
    )


def animate(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from accelsim.files import check_file, is_standard_output, write_whole
    from accelsim.report.animation import animation_page

    if not is_standard_output(arguments.output):
        check_file(arguments.output)
    product = _product(arguments)
    dataflows: list[Any] = ["ws", "os"] if arguments.dataflow == "both" else [arguments.dataflow]
    for dataflow in dataflows:
        cycles = _cycles(product, dataflow)
        if cycles > MOST_CYCLES:
            raise InputError(
                f"--dataflow {dataflow}: the product takes {cycles:,} cycles, and a page shows at most "
                f"{MOST_CYCLES:,}; use a smaller --shape or a larger array"
            )
    write_whole(arguments.output, animation_page(product, dataflows))
    if not is_standard_output(arguments.output):
        print(f"{arguments.output}: open it in a browser; it needs no network")
    return 0


def _product(arguments: argparse.Namespace) -> Product:
    from accelsim.machine.pe_grid import EXACT_BITS, GridConfig
    from accelsim.report.animation_frames import Product

    for option, value in (("--rows", arguments.rows), ("--columns", arguments.columns)):
        if not 1 <= value <= MOST_PES:
            raise InputError(f"{option} {value}: must be 1..{MOST_PES}, so that every PE can be read; use fewer")
    width, psum = arguments.width_bits, arguments.psum_bits
    if not 8 <= width <= EXACT_BITS:
        raise InputError(f"--width-bits {width}: must be 8..{EXACT_BITS}")
    if psum is not None and not 8 <= psum <= width:
        raise InputError(f"--psum-bits {psum}: must be 8..{width}, since the accumulator memory has to hold the sums")
    activations, weights = _operands(arguments)
    return Product(
        activations=activations,
        weights=weights,
        width_bits=width,
        array=GridConfig(
            rows=arguments.rows,
            columns=arguments.columns,
            psum_bits=width if psum is None else psum,
            overflow=arguments.overflow,
            saturate_at=arguments.saturate_at,
            subtract_zero_points=False,
        ),
    )


def _operands(arguments: argparse.Namespace) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """From the files, or drawn."""
    import numpy as np

    if (arguments.activations is None) != (arguments.weights is None):
        given, lacking = ("activations", "weights") if arguments.weights is None else ("weights", "activations")
        raise InputError(f"--{given} {getattr(arguments, given)}: is one operand of two; give --{lacking} too")
    if arguments.activations is not None:
        for option in ("shape", "seed", "largest"):
            if getattr(arguments, option) is not None:
                raise InputError(f"--{option}: the files say which operands; leave --{option} out")
        activations, weights = _read(arguments.activations), _read(arguments.weights)
        if activations.shape[1] != weights.shape[0]:
            raise InputError(
                f"{arguments.weights}: has {weights.shape[0]} rows, and {arguments.activations} {activations.shape[1]} "
                "columns; both are K and must be equal"
            )
        shape, said = (*activations.shape, weights.shape[1]), f"{arguments.activations} and {arguments.weights}"
    else:
        shape = tuple(arguments.shape or DEFAULT_SHAPE)
        said = f"--shape {' '.join(map(str, shape))}"
    for name, size, most in zip("MKN", shape, MOST_SHAPE, strict=True):
        if not 1 <= size <= most:
            raise InputError(f"{said}: {name} = {size} must be 1..{most}, so that every operand can be read")
    if arguments.activations is not None:
        return activations, weights
    seed = DEFAULT_SEED if arguments.seed is None else arguments.seed
    largest = DEFAULT_LARGEST if arguments.largest is None else arguments.largest
    if seed < 0:
        raise InputError(f"--seed {seed}: must be at least 0")
    if not 1 <= largest <= 127:
        raise InputError(f"--largest {largest}: must be 1..127, since operands have 8 bits")
    m, k, n = shape
    rng = np.random.default_rng(seed)
    return rng.integers(-largest, largest + 1, (m, k)), rng.integers(-largest, largest + 1, (k, n))


def _read(path: Path) -> npt.NDArray[np.int64]:
    """An int8 matrix from a .csv or .npy file."""
    import numpy as np

    from accelsim.files import parse_npy, read_bytes, read_text

    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: has more than {MOST_BYTES:,} bytes; the largest operand has 12 x 16 integers")
    if path.suffix == ".npy":
        found = parse_npy(read_bytes(path), path, "write it with numpy.save")
        if found.dtype.kind not in "iu" or found.ndim != 2 or not found.size:
            raise InputError(
                f"{path}: holds {found.dtype} of shape {found.shape}; a matrix of integers is needed: rows and columns"
            )
    elif path.suffix == ".csv":
        found = _parse_csv(read_text(path), path)
    else:
        raise InputError(f"{path}: must be named .csv or .npy, which says how it is read")
    for (row, column), value in np.ndenumerate(found):
        if not -128 <= value <= 127:
            raise InputError(f"{path}: {value} in row {row}, column {column} must be -128..127, an int8")
    return found.astype(np.int64)


def _parse_csv(text: str, path: Path) -> npt.NDArray[np.int64]:
    import numpy as np

    rows: list[list[int]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip():
            continue
        row = []
        for entry in line.split(","):
            digits = entry.strip().removeprefix("-").removeprefix("+")
            if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
                raise InputError(f"{path}, line {number}: {entry.strip()!r} is no integer; write integers with commas")
            row.append(int(entry))
        if rows and len(row) != len(rows[0]):
            raise InputError(f"{path}, line {number}: has {len(row)} integers, the lines before {len(rows[0])}")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no numbers; write one line of integers with commas for each row")
    return np.array(rows, dtype=np.int64)


def _cycles(product: Product, dataflow: Any) -> int:
    """In closed form, before anything is stepped."""
    from accelsim.timing import ArrayShape, compute_times

    state, done = None, 0
    for compute in product.computes(dataflow):
        times = compute_times(compute, ArrayShape(product.array.rows, product.array.columns), state, 0)
        state, done = times.state, times.done
    return done + 1
