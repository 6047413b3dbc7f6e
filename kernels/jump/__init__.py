"""Markov jump processes: rates from sparse, noisy, irregular paths, exactly; pure JAX, no NumPyro and no network.

A process jumps between n states at rates q_ij and is seen at some times, with labels that may be wrong. Taken apart:

    generator.py    what follows from rates: stationary law, first passage, relaxation, entropy production
    paths.py        paths as users bring them, and what is wrong in them
    transition.py   P(t), one matrix for each distinct lag
    counts.py       right labels: all they say about rates, in counts that add
    emission.py     wrong labels and emissions: what each point says of the state
    filter.py       and all of them together: likelihood, filter, smoother, draws of states
    simulate.py     processes at random
    refine.py       EM by one gradient, and the prior of rates
    presence.py     which links are there
    laplace.py      mode and skewed posterior of any density (log_gamma.py: its marginals)
    climb.py        the same by gradients alone, which is less to compile
    proposal.py     that posterior with tails, for an independence sampler
    refined.py      these steps in a row: data in, rates with uncertainty out

    network.py      a network that answers in one pass, imported by nothing above: network_statistics.py and
                    network_features.py go in, sqrt_normal.py comes out; train.py trains it on training_prior.py,
                    and network_correction.py makes what it says as often right as it says

Two designs carry it. **One table of P per distinct lag**: with right labels the likelihood is a sum over that table,
whatever the number of paths. **One gradient**: with all entries of Q free, dlog p/dQ is all that EM needs, on counts
and through the filter alike, so that neither has an algorithm of its own to be wrong in.

Two things a reader would get wrong. Rates are per unit of time from row to column, and a diagonal is never looked
at. And label noise rho is the probability that a label is wrong, not that it is replaced by any of n.
"""

from .counts import (
    PathStatistics,
    change_rate,
    coarsen,
    count_log_likelihood,
    dwell_times,
    merge,
    path_statistics,
)
from .emission import ScaledEmission, confusion_matrix, label_log_emission, scaled_emission, scaled_labels
from .filter import (
    Filtered,
    Smoothed,
    forward,
    forward_backward,
    most_likely_states,
    path_log_likelihood,
    sample_states,
)
from .generator import (
    RelaxationTimes,
    entropy_production,
    first_passage_times,
    generator,
    gth_solve,
    rates_from_vector,
    rates_to_vector,
    relaxation_times,
    stationary,
)
from .laplace import Mode, SkewLaplace, laplace, newton
from .log_gamma import log_gamma_quantile, log_gamma_score
from .paths import check_label_noise, check_rates, pack_paths
from .presence import Presence, conjugate_log_bayes, drop_one_log_bayes, presence, quadrature_log_bayes
from .proposal import Proposal, tabled
from .refine import (
    Expected,
    Fit,
    Parameters,
    RatePrior,
    Slab,
    counts_likelihood,
    em,
    em_step,
    expectations,
    labels_likelihood,
    log_prior,
)
from .refined import Refined, fit_labels, refine_counts, refine_labels
from .simulate import JumpPath, gillespie, sample_observed, simulate_batch
from .transition import (
    LagGrid,
    exponentials,
    lag_grid,
    num_clipped_lags,
    transition_matrices,
)

__all__ = [
    "Expected",
    "Filtered",
    "Fit",
    "JumpPath",
    "LagGrid",
    "Mode",
    "Parameters",
    "PathStatistics",
    "Presence",
    "Proposal",
    "RatePrior",
    "Refined",
    "RelaxationTimes",
    "ScaledEmission",
    "SkewLaplace",
    "Slab",
    "Smoothed",
    "change_rate",
    "check_label_noise",
    "check_rates",
    "coarsen",
    "confusion_matrix",
    "conjugate_log_bayes",
    "count_log_likelihood",
    "counts_likelihood",
    "drop_one_log_bayes",
    "dwell_times",
    "em",
    "em_step",
    "entropy_production",
    "expectations",
    "exponentials",
    "first_passage_times",
    "fit_labels",
    "forward",
    "forward_backward",
    "generator",
    "gillespie",
    "gth_solve",
    "label_log_emission",
    "labels_likelihood",
    "lag_grid",
    "laplace",
    "log_gamma_quantile",
    "log_gamma_score",
    "log_prior",
    "merge",
    "most_likely_states",
    "newton",
    "num_clipped_lags",
    "pack_paths",
    "path_log_likelihood",
    "path_statistics",
    "presence",
    "quadrature_log_bayes",
    "rates_from_vector",
    "rates_to_vector",
    "refine_counts",
    "refine_labels",
    "relaxation_times",
    "sample_observed",
    "sample_states",
    "scaled_emission",
    "scaled_labels",
    "simulate_batch",
    "stationary",
    "tabled",
    "transition_matrices",
]
