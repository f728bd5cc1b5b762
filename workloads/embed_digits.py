"""Write ``embedded/digits.npz`` from scikit-learn's copy of the digits.

    python -m accelsim.workloads.embed_digits

Needed once, by whoever maintains the embedded file; everyone else reads the file. Needs scikit-learn.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from accelsim.files import write_whole

from .data import DIGITS_FILE

SPLIT_SEED = 1797
TEST_SHARE = 0.2


def choose_test_rows(labels: npt.NDArray[np.uint8], *, seed: int, share: float) -> npt.NDArray[np.int64]:
    """Return the rows of the test split, ascending: `share` of each class's rows, drawn at random.

    Args:
        labels: (N,), 0..9.
        seed: Of NumPy's ``RandomState``, whose stream is frozen across NumPy versions (NEP 19).
        share: 0..1, of every class, rounded to the nearest row.
    """
    random = np.random.RandomState(seed)
    chosen = []
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        chosen.append(random.permutation(rows)[: round(share * len(rows))])
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Fetch the arrays from scikit-learn, choose the split, write the file."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.uint8)
    test_rows = choose_test_rows(labels, seed=SPLIT_SEED, share=TEST_SHARE)
    stream = io.BytesIO()
    np.savez_compressed(
        stream, images=digits.images.astype(np.uint8), labels=labels, test_rows=test_rows.astype(np.int16)
    )
    write_whole(DIGITS_FILE, stream.getvalue())


if __name__ == "__main__":
    main()
