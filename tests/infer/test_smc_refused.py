"""The table of constructs: a row that does not work raises, with the name of a site and what to write."""

import jax
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam

from tests.infer.smc_lowering import (
    Y,
    chain,
    find,
    observe,
    phi_and_x0,
    plain,
    plain_step,
    sample_x,
)


def scale_on_a_latent(phi, x, y_t):
    with handlers.scale(scale=2.0):
        x = sample_x(phi * x)
    observe(x, y_t)
    return x


def mask_on_a_latent(phi, x, y_t):
    with handlers.mask(mask=y_t > 0):
        x = sample_x(phi * x)
    observe(x, y_t)
    return x


def subsampled_plate(phi, x, y_t):
    with numpyro.plate("series", 4, subsample_size=2):
        each = numpyro.sample("each", dist.Normal(phi * x, 1.0))
    observe(each.sum(), y_t)
    return each.sum()


def scan_in_a_scan(phi, x, y_t):
    x = sample_x(phi * x)
    last, _ = scan(lambda u, _: (numpyro.sample("u", dist.Normal(u, 1.0)), None), x, None, length=2)
    observe(last, y_t)
    return x


def scaled_start(y):
    with handlers.scale(scale=2.0):
        phi, x0 = phi_and_x0()
    scan(lambda x, y_t: (plain_step(phi, x, y_t), None), x0, y)


def backwards(y):
    phi, x0 = phi_and_x0()
    scan(lambda x, y_t: (plain_step(phi, x, y_t), None), x0, y, reverse=True)


def two_scans(y):
    plain(y)
    scan(lambda w, _: (numpyro.sample("w", dist.Normal(w, 1.0)), None), 0.0, y)


def site_after_the_scan(y):
    phi, x0 = phi_and_x0()
    _, x = scan(lambda x, y_t: (plain_step(phi, x, y_t),) * 2, x0, y)
    numpyro.sample("total", dist.Normal(x.sum(), 1.0), obs=1.0)


def latent_after_the_scan(y):
    phi, x0 = phi_and_x0()
    last, _ = scan(lambda x, y_t: (plain_step(phi, x, y_t), None), x0, y)
    numpyro.sample("next", dist.Normal(phi * last, 1.0))


def python_loop(y):
    phi, x = phi_and_x0()
    for t, y_t in enumerate(y):
        x = numpyro.sample(f"x_{t}", dist.Normal(phi * x, 1.0))
        numpyro.sample(f"y_{t}", dist.Normal(x, 1.0), obs=y_t)


def scan_of_jax(y):
    phi, x0 = phi_and_x0()
    jax.lax.scan(lambda x, y_t: (plain_step(phi, x, y_t), None), x0, y)


def around(handler):
    def model(y):
        phi, x0 = phi_and_x0()
        with handler():
            scan(lambda x, y_t: (plain_step(phi, x, y_t), None), x0, y)

    return model


RAISES = {
    "scale on a latent": (
        chain(scale_on_a_latent),
        r"scale stands around the latent site 'x'.*observed sites only",
    ),
    "mask on a latent": (
        chain(mask_on_a_latent),
        r"mask stands around the latent site 'x'.*observed sites only",
    ),
    "scale on the start": (scaled_start, r"scale stands around the latent site 'x0'.*observed sites only"),
    "subsampled plate": (
        chain(subsampled_plate),
        r"Plate 'series'.*subsamples 2 of 4.*Remove subsample_size",
    ),
    "nested scan": (
        chain(scan_in_a_scan),
        r"inside the body of the scan of \['x', 'u', 'y'\].*Python loop or a vmap",
    ),
    "reverse=True": (backwards, r"reverse=True\) of \['x', 'y'\].*Reverse xs and scan forwards"),
    "two scans": (two_scans, r"two scans, of \['x', 'y'\] and of \['w'\].*carries a tuple"),
    "site after the scan": (
        site_after_the_scan,
        r"Site 'total' uses outputs of the scan.*into the scan body",
    ),
    "latent after the scan": (
        latent_after_the_scan,
        r"Site 'next' uses outputs of the scan.*into the scan body",
    ),
    "Python loop": (python_loop, r"(?s)only phi, x0, x_0, x_1, x_2, x_3\..*scan\(step, h0, y\)"),
    "lax.scan": (scan_of_jax, r"(?s)only phi, x0, x\..*import scan"),
    "mask around": (
        around(lambda: handlers.mask(mask=True)),
        r"'mask' stands around.*\['x'\].*into the scan body",
    ),
    "scale around": (around(lambda: handlers.scale(scale=2.0)), r"'scale' stands around.*into the scan body"),
    "scope around": (
        around(lambda: handlers.scope(prefix="a")),
        r"'scope' stands around.*into the scan body",
    ),
    "lift around": (
        around(lambda: handlers.lift(prior=dist.Normal(0, 1))),
        r"'lift' stands around.*into the scan body",
    ),
    "reparam around": (
        around(lambda: handlers.reparam(config={"x": LocScaleReparam(0)})),
        r"'reparam' stands around.*into the scan body",
    ),
    "mask around the model": (handlers.mask(plain, mask=True), r"'mask' stands around.*into the scan body"),
}


@pytest.mark.parametrize(("model", "words"), RAISES.values(), ids=RAISES)
def test_smc_construct_that_does_not_work_says_what_to_write(model, words):
    with pytest.raises(ValueError, match=words):
        find(model, Y)


def test_smc_plate_around_the_scan_is_refused_by_numpyro_itself():
    with pytest.raises(NotImplementedError, match="plate"):
        find(around(lambda: numpyro.plate("series", 4)), Y)
