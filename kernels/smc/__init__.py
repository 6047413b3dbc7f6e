"""Sequential Monte Carlo on one state-space model: filter, conditional filter, path, noise.

A model is an `SSM`: functions of one particle (`types.py`). The files take a particle Gibbs step
apart, each of them usable alone:

    resampling.py      log-weights -> ancestors
    forward.py         a stage, and the stages in a row, with or without a reference particle
    backward.py        a path out of the stored clouds
    particle_filter.py forward alone, O(N) memory: the evidence
    conditional.py     forward with a reference, then a path: the invariant kernel
    checkpoint.py      the same in O(N sqrt(T)) memory
    paris.py           smoothed functionals from the clouds of either
    online.py          those of a stream, O(N) memory
    particle_gibbs.py  that kernel as `init` and `step`
    innovations.py     HMC on parameters and standardised noise together, the path made of both

Everything is written for one chain and may be vmapped over chains.
"""

from .conditional import PathMove, SweepResult, conditional_sweep, unconditional_sweep
from .innovations import InnovationsState, from_noise, innovations_hmc, to_noise
from .online import OnlineParis, OnlineState, online_paris
from .paris import Functional, Paris, additive, of_path
from .particle_filter import FilterResult, particle_filter
from .particle_gibbs import ParticleGibbsKernel, PathInfo, PathState, particle_gibbs
from .resampling import inverse_cdf
from .types import SSM, Cloud, Evaluation, Path, Proposed, with_proposal

__all__ = [
    "SSM",
    "Cloud",
    "Evaluation",
    "FilterResult",
    "Functional",
    "InnovationsState",
    "OnlineParis",
    "OnlineState",
    "Paris",
    "ParticleGibbsKernel",
    "Path",
    "PathInfo",
    "PathMove",
    "PathState",
    "Proposed",
    "SweepResult",
    "additive",
    "conditional_sweep",
    "from_noise",
    "innovations_hmc",
    "inverse_cdf",
    "of_path",
    "online_paris",
    "particle_filter",
    "particle_gibbs",
    "to_noise",
    "unconditional_sweep",
    "with_proposal",
]
