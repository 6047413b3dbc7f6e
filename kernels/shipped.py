"""Arrays that ship with the package: read whole, compared with their checksum, never unpickled."""

import hashlib
import io
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shipped_arrays(package: str, file: str, sha256: str) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file that ships with a package.

    Args:
        package: dotted name of the package in whose folder the file lies.
        file: path within that folder.
        sha256: what the file is known by, in hexadecimal digits.

    Raises:
        ValueError: if the file is another one.

    Examples:
        >>> from emberwalk.kernels.shipped import shipped_arrays
        >>> shipped_arrays("emberwalk.kernels.fractional", "tables.npz", "0" * 64)
        Traceback (most recent call last):
            ...
        ValueError: tables.npz has SHA-256 ...: the file was changed or cut short. Install emberwalk anew.
    """
    raw = resources.files(package).joinpath(file).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{file.split('/')[-1]} has SHA-256 {digest}, not {sha256}: the file was changed or cut short. "
            "Install emberwalk anew."
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return dict(arrays)


def check_arrays(
    file: str, arrays: dict[str, NDArray[Any]], expected: dict[str, tuple[Any, tuple[int, ...]]]
) -> None:
    """Refuse arrays of other names, dtypes or shapes than `expected` has.

    Raises:
        ValueError: naming the file, what it holds and what is needed.
    """
    found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    if found != expected:
        raise ValueError(f"{file} holds {found}, but {expected} is needed.")
