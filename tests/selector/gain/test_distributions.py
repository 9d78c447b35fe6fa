"""Closed forms against numerical integration, Monte Carlo and each other."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from cwmp_costmodels.errors import ScenarioError
from cwmp_selector.gain.distributions import Distribution, distribution_of, fit_generalized_gaussian

KINDS = [
    Distribution("gaussian"),
    Distribution("laplace"),
    Distribution("generalized-gaussian", 0.5),
    Distribution("generalized-gaussian", 1.3),
    Distribution("student-t", 2.5),
    Distribution("student-t", 5.0),
]
DENSITIES = {
    "gaussian": lambda _: stats.norm(scale=1).pdf,
    "laplace": lambda _: stats.laplace(scale=1 / np.sqrt(2)).pdf,
    "generalized-gaussian": lambda b: stats.gennorm(b, scale=np.exp((special.gammaln(1 / b) - special.gammaln(3 / b)) / 2)).pdf,
    "student-t": lambda nu: stats.t(nu, scale=np.sqrt((nu - 2) / nu)).pdf,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0, 2.5, 6.0])
def test_tail_and_truncated_moment_are_the_integrals(kind, threshold):
    """scipy.stats' density of unit variance, integrated from the threshold on."""
    density = DENSITIES[kind.family](kind.shape)

    # x = t + u/(1-u) maps the infinite tail to [0, 1), where quadrature is exact enough for heavy tails.
    def integral(power):
        def mapped(u):
            x = threshold + u / (1 - u)
            return 2 * x**power * density(x) / (1 - u) ** 2

        return integrate.quad(mapped, 0, 1, limit=500)[0]

    assert float(kind.tail(threshold)) == pytest.approx(integral(0), rel=1e-6)
    assert float(kind.magnitude(threshold)) == pytest.approx(integral(1), rel=1e-6)
    assert float(kind.value(threshold)) == pytest.approx(integral(2), rel=1e-4 if kind.shape == 2.5 else 1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_threshold_is_the_inverse_of_the_tail(kind):
    shares = np.array([1e-9, 1e-4, 0.01, 0.3, 0.9, 1.0])
    assert kind.tail(kind.threshold(shares)) == pytest.approx(shares, rel=1e-9)
    assert np.isinf(kind.threshold(np.zeros(1))).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_samples_follow_tail_and_moment(kind):
    draws = np.abs(kind.sample(400_000, np.random.default_rng(3)))
    for threshold in (0.5, 1.5, 3.0):
        kept = draws >= threshold
        share = float(kind.tail(threshold))
        assert kept.mean() == pytest.approx(share, abs=5 * np.sqrt(share / draws.size))
        if kind.shape != 2.5:  # the fourth moment is infinite there, so sums of squares do not settle
            assert (draws**2 * kept).mean() == pytest.approx(float(kind.value(threshold)), rel=0.05)


def test_special_cases_meet():
    t = np.linspace(0, 5, 11)
    for family, beta in (("gaussian", 2.0), ("laplace", 1.0)):
        plain, general = Distribution(family), Distribution("generalized-gaussian", beta)
        assert general.tail(t) == pytest.approx(plain.tail(t), rel=1e-10)
        assert general.magnitude(t) == pytest.approx(plain.magnitude(t), rel=1e-10)
        assert general.value(t) == pytest.approx(plain.value(t), rel=1e-10)
    assert Distribution("student-t", 1e6).value(t) == pytest.approx(Distribution("gaussian").value(t), rel=1e-3)


@pytest.mark.parametrize("beta", [0.4, 0.8, 1.0, 2.0])
def test_the_exponent_is_recovered_from_samples(beta):
    draws = Distribution("generalized-gaussian", beta).sample(400_000, np.random.default_rng(5)) * 7.0
    assert fit_generalized_gaussian(draws).shape == pytest.approx(beta, rel=0.02)


@pytest.mark.parametrize("samples", [np.zeros(5), np.ones(5), np.append(np.zeros(10**6), 1.0)])
def test_samples_without_an_exponent_are_refused(samples):
    with pytest.raises(ScenarioError, match="fits no generalised Gaussian"):
        fit_generalized_gaussian(samples)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("cauchy", None, "no distribution 'cauchy'; give one of gaussian"),
        ("gaussian", 2.0, "gaussian has no shape"),
        ("student-t", None, "degrees of freedom nu > 2, got None"),
        ("student-t:2", None, "degrees of freedom nu > 2, got 2.0"),
        ("generalized-gaussian:0", None, "exponent beta > 0, got 0.0"),
        ("student-t:many", None, "is no number"),
        ("student-t:nan", None, "got nan"),
    ],
)
def test_impossible_distributions_are_refused(name, shape, message):
    with pytest.raises(ScenarioError, match=message):
        distribution_of(name, shape)


def test_names_carry_shapes():
    assert distribution_of("student-t:4") == Distribution("student-t", 4.0)
    assert distribution_of("generalized-gaussian", 0.7).shape == 0.7
    assert str(distribution_of("student-t:4")) == "student-t(4)"
