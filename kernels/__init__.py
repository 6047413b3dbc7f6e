"""The algorithms in pure JAX, one package a wing: state in, state out, no NumPyro.

A wing is used as a module, `from emberwalk.kernels import smc`; none is imported here, so that
each costs only itself.
"""

if not __name__.startswith("emberwalk."):
    raise ImportError(f"import it as emberwalk.kernels: {__name__!r} is the same folder under a wrong name.")
