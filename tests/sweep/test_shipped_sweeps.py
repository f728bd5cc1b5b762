"""The sweeps that come along: each loads, plans what its first lines say, and its points run."""

from __future__ import annotations

import re

import pytest

from accelsim.config import load_quantization, preset_folder, preset_names
from accelsim.config.sweep import load_sweep
from accelsim.explore.space import Inputs, Space
from accelsim.explore.store import Store
from accelsim.explore.sweep import Sweep
from accelsim.sources import find_workload

NAMES = preset_names("sweeps")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The default workload as a directory, which needs no torch."""
    folder = tmp_path_factory.mktemp("graph")
    find_workload("lenet5_digits", quantization=load_quantization("int8")).graph.save(folder)
    return folder


def test_the_studies_of_the_documentation_are_there():
    assert set(NAMES) == {
        *("accumulator_array", "accumulator_accuracy", "buffers", "bandwidth", "dataflow"),
        *("multiplier_bits", "energy_tables", "search_machine"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_sweep_has_as_many_points_as_it_says_and_is_of_embedded_data(name):
    file = load_sweep(name)
    text = (preset_folder("sweeps") / f"{name}.toml").read_text()
    space = Space(file, name)
    said = re.search(r"= (\d+) points", text)
    if file.search is None:
        assert said
        assert int(said[1]) == space.count == len(list(space.points()))
    else:
        assert space.count == file.search.evaluations
    assert file.title
    assert file.workload == "lenet5_digits"


def test_the_accumulator_study_is_large_enough_to_try_a_search_on():
    assert Space(load_sweep("accumulator_array"), "f").count >= 300


@pytest.mark.parametrize("name", [name for name in NAMES if load_sweep(name).search is None])
def test_every_point_of_a_shipped_sweep_has_valid_inputs(name):
    file = load_sweep(name)
    settings = list(Space(file, name).points())
    made = {Inputs(file, setting).hardware.fingerprint() for setting in settings[:: max(len(settings) // 40, 1)]}
    assert made


@pytest.mark.parametrize("name", NAMES)
def test_points_from_all_over_a_shipped_sweep_run(name, graph, tmp_path):
    file = load_sweep(name)
    values = {"accuracy", "safe_width"} & set(file.measure)
    changes = {"images": 4} if values else {"workload": str(graph)}
    if file.search is not None:
        changes["search"] = file.search.model_copy(update={"evaluations": 4})
    file = file.model_copy(update=changes)
    with Store(tmp_path / "s.db") as store:
        sweep = Sweep(file, store, tmp_path, origin=name)
        if file.search is None:
            settings = list(enumerate(sweep.space.points()))
            sweep.measure(settings[:: -(-len(settings) // 3)])
            rows = sweep.rows()
        else:
            rows = sweep.run()
    assert len(rows) >= 3
    assert any(row.status == "done" for row in rows)
    for row in rows:
        assert row.status in ("done", "infeasible"), row.reason
        if row.status == "done":
            assert set(file.measure) & {"cycles", "energy", "area", "accuracy"} <= row.figures.keys()
