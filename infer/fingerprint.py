"""What must be the same in every process that continues a long run (`infer/resume.py`), as JSON.

Two runs with equal fingerprints, the same code of the model and the same options of the kernel draw the
same chain. Functions have no bytes that identify them: of a model's argument that is no array, number or
text, only the type is taken.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jaxlib
import numpy as np
import numpyro
from jax import random
from jax.tree_util import keystr, tree_flatten_with_path
from numpyro.infer import MCMC

from .segments import describe, host_array

type Fingerprint = dict[str, Any]  # text, integers, booleans, and dictionaries of text

MAX_DIFFERENCES = 5  # named in an error; one changed option may change every leaf


def fingerprint(
    mcmc: MCMC, every: int, rng_key: Any, extra_fields: Sequence[str], data: Any, like: Any
) -> Fingerprint:
    """Fingerprint of a run.

    Args:
        mcmc: that draws it.
        every: iterations in a segment.
        rng_key: first key, or one for each chain.
        extra_fields: collected beside the draws.
        data: tree of what the model and the kernel are given.
        like: the kernel's state with `jax.ShapeDtypeStruct` leaves.
    """
    from emberwalk import __version__  # here: the package itself imports this module

    method = mcmc.chain_method
    return {
        "kernel": _type_name(type(mcmc.sampler)),
        "chain_method": method if isinstance(method, str) else _type_name(method),
        **{name: getattr(mcmc, name) for name in ("num_chains", "num_warmup", "num_samples", "thinning")},
        "every": every,
        "extra_fields": " ".join(sorted(set(extra_fields))),
        "x64": bool(jax.config.jax_enable_x64),
        "versions": {"emberwalk": __version__, **{m.__name__: m.__version__ for m in (numpyro, jax, jaxlib)}},
        "rng_key": f"{random.key_impl(rng_key)} {host_array(rng_key).tolist()}",
        "data": {keystr(path): _data_text(leaf) for path, leaf in tree_flatten_with_path(data)[0]},
        "leaves": _leaf_texts(like),
    }


def _leaf_texts(like: Any) -> dict[str, str]:
    """dtype[shape] of each leaf of the state; a typed key's dtype tells its implementation too."""
    leaves = zip(describe(like), jax.tree.leaves(like), strict=True)
    return {described.name: f"{leaf.dtype}{list(leaf.shape)}" for described, leaf in leaves}


def _data_text(leaf: Any) -> str:
    """SHA-256 of an array, value of a number or text, type of anything else."""
    if isinstance(leaf, bool | int | float | complex | str | bytes):
        return repr(leaf)
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        return _type_name(type(leaf))
    array = host_array(leaf)
    # The bytes of an object array are addresses.
    content = repr(array.tolist()).encode() if array.dtype == object else array.reshape(-1).view(np.uint8)
    return f"{leaf.dtype}{list(leaf.shape)} with SHA-256 {hashlib.sha256(content).hexdigest()}"


def _type_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def differences(saved: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, one sentence each; the first few where there are many."""
    old, new = _flat(saved), _flat(now)
    found = [
        f"{name} was {old.get(name, 'absent')}, now it is {new.get(name, 'absent')}"
        for name in dict.fromkeys([*new, *old])
        if old.get(name, "absent") != new.get(name, "absent")
    ]
    rest = [f"and {len(found) - MAX_DIFFERENCES} more"] if len(found) > MAX_DIFFERENCES else []
    return found[:MAX_DIFFERENCES] + rest


def _flat(fingerprint: Fingerprint) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fingerprint.items():
        nested = isinstance(value, dict)
        flat.update({f"{name} {key}": text for key, text in value.items()} if nested else {name: value})
    return flat
