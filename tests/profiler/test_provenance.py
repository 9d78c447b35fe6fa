"""Provenance: what is made from several numbers claims no more than the humblest of them."""

from itertools import product

from cwmp_profiler.provenance import Provenance, banner, weakest

CLAIM = ["measured", "published", "estimated", "literature", "simulated"]


def test_of_two_the_one_that_claims_less_wins():
    for a, b in product(CLAIM, CLAIM):
        expected = CLAIM[max(CLAIM.index(a), CLAIM.index(b))]
        assert weakest([Provenance(a), Provenance(b)]) == expected


def test_only_what_was_measured_is_called_measured_without_a_not():
    for provenance in Provenance:
        text = banner(provenance, "probe-7")
        claims = "measured" in text and "not measured" not in text and "no device was measured" not in text
        claims = claims and "no real device was measured" not in text
        assert claims == (provenance is Provenance.MEASURED), text


def test_every_provenance_has_its_own_banner():
    assert len({banner(provenance, "m") for provenance in Provenance}) == len(Provenance)
