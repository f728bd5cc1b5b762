"""A short slice of the fuzzing that docs/results.md records at length."""

from __future__ import annotations

from fuzz import fuzz


def test_no_traceback_and_nothing_altered_is_accepted():
    fuzzer = fuzz(400, seed=2)
    assert not fuzzer.findings, "\n".join(fuzzer.findings[:3])
    assert fuzzer.results["program", "refused"] > 50
    assert fuzzer.results["graph", "refused"] > 50
    assert fuzzer.results["hardware", "refused"] > 20
    # Damage that is harmless shows that the rest was judged.
    assert sum(fuzzer.results[kind, "accepted"] for kind in ("hardware", "quantization", "energy")) > 10
