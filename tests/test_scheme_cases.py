"""A sample of `scheme_cases`: random networks under random schemes; thousands are run by the script itself."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
from scheme_cases import Cases


def test_random_networks_under_random_schemes_have_one_meaning_everywhere():
    cases = Cases(machine=0.1)
    for seed in range(30):
        cases.run(seed)
    assert not cases.findings, "\n".join(cases.findings)
    assert cases.counts["quantised"] > 15
    assert cases.counts["trained"] > 8
    assert cases.counts["on the machine"] > 0
