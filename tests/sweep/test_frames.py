"""Sweeps as data frames: the same figures as the rows, read again from the store, and the front against all pairs."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from accelsim.config import load_quantization
from accelsim.config.sweep import load_sweep
from accelsim.errors import InputError
from accelsim.explore import front, read_store, run_sweep
from accelsim.explore.store import Store
from accelsim.explore.sweep import Sweep
from accelsim.report.sweep import records
from accelsim.sources import find_workload

pandas = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("graph")
    find_workload("lenet5_digits", quantization=load_quantization("int8")).graph.save(folder)
    return {
        "name": "small",
        "workload": str(folder),
        "measure": ["cycles", "energy"],
        "constraints": ["cycles < 20000"],
        "axes": {
            "energy": ["horowitz_45nm", "eyeriss_relative"],
            "hardware.array.rows": [1, 8, 16],
            "hardware.activation.memory_bytes": [256, 65536],
        },
    }


@pytest.fixture(scope="module")
def frame(keys):
    return run_sweep(keys)


def test_a_frame_has_a_row_for_each_point_and_a_column_for_each_axis_and_figure(frame):
    assert list(frame.columns[:6]) == [
        *("point", "status", "reason", "energy_table"),
        *("hardware.array.rows", "hardware.activation.memory_bytes"),
    ]
    assert frame["point"].tolist() == list(range(12))
    assert set(frame["energy_table"]) == {"horowitz_45nm", "eyeriss_relative"}
    good = frame[frame["status"] == "done"]
    assert len(good) == 4
    places = good[[name for name in good if name.startswith("energy.")]]
    assert np.allclose(places.sum(axis=1), good["energy"], rtol=1e-9)
    bad = frame[frame["status"] == "infeasible"]
    assert bad["reason"].str.contains("activation buffer|constraint not met: cycles < 20000").all()
    assert bad[bad["reason"].str.contains("buffer")]["cycles"].isna().all()


def test_a_store_holds_the_same_frame_and_those_of_other_sweeps(keys, frame, tmp_path):
    path = tmp_path / "s.db"
    told = []
    first = run_sweep(keys, path, progress=lambda progress: told.append(progress.measured))
    pandas.testing.assert_frame_equal(first, frame)
    assert max(told) == 12
    other = {**keys, "name": "other", "axes": {"hardware.array.rows": [8]}}
    run_sweep(other, path)
    told.clear()
    run_sweep(keys, path, progress=lambda progress: told.append(progress.measured))
    assert max(told) == 0, "points of the store were measured again"
    pandas.testing.assert_frame_equal(read_store(path, "small").drop(columns="sweep"), frame)
    everything = read_store(path)
    assert everything["sweep"].tolist() == ["small"] * 12 + ["other"]
    assert math.isnan(everything["hardware.activation.memory_bytes"].iloc[-1])
    with pytest.raises(InputError, match="has no sweep 'othr'; did you mean 'other'"):
        read_store(path, "othr")


def test_a_file_and_its_keys_give_the_same(keys, frame, tmp_path):
    path = tmp_path / "small.toml"
    axes = "\n".join(f'"{key}" = {values!r}' for key, values in keys["axes"].items())
    head = f'workload = "{keys["workload"]}"\nmeasure = ["cycles", "energy"]\nconstraints = ["cycles < 20000"]\n'
    path.write_text(f"{head}[axes]\n{axes}")
    pandas.testing.assert_frame_equal(run_sweep(path), frame)
    with Store(tmp_path / "s.db") as store:
        rows = Sweep(load_sweep(path), store, tmp_path / "scratch").run()
    assert [one["hash"] for one in records(rows)] == frame["hash"].tolist()


def test_the_front_is_what_no_other_point_beats():
    numbers = np.random.default_rng(1).integers(0, 20, (60, 3))
    frame = pandas.DataFrame(numbers, columns=["cycles", "energy", "accuracy"]).astype(float)
    frame["status"] = ["done", "infeasible", "done", "done"] * 15
    frame.loc[0, "energy"] = None
    good = [index for index in range(60) if frame["status"][index] == "done" and index != 0]

    def beats(one: int, other: int) -> bool:
        a, b = numbers[one] * [1, 1, -1], numbers[other] * [1, 1, -1]
        return bool((a <= b).all() and (a < b).any())

    wanted = [index for index in good if not any(beats(other, index) for other in good)]
    assert front(frame, ["min cycles", "min energy", "max accuracy"]).index.tolist() == wanted
    assert 1 < len(wanted) < len(good)


@pytest.mark.parametrize(
    "objectives, message",
    [
        ([], r"objectives = \[\] must be a list"),
        ("min cycles", "must be a list such as"),
        (["least cycles"], "is not 'min COLUMN' or 'max COLUMN'"),
        (["min cycle"], "there is no column 'cycle'; did you mean 'cycles'"),
        (["min energy_table"], "'energy_table' holds no numbers"),
    ],
)
def test_bad_objectives_are_one_line(frame, objectives, message):
    with pytest.raises(InputError, match=message):
        front(frame, objectives)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"jobs": 0}, "jobs = 0 must be at least 1"),
        ({"jobs": 2, "scheduler": "tcp://127.0.0.1:1"}, "keep one of them"),
        ({"store": "no/such/folder/s.db"}, "there is no folder no/such/folder"),
    ],
)
def test_bad_options_are_one_line(keys, options, message):
    with pytest.raises(InputError, match=message):
        run_sweep(keys, **options)


def test_bad_keys_are_one_line(keys):
    with pytest.raises(InputError, match="sweep: unknown key 'axis'"):
        run_sweep({**keys, "axis": {}})


@pytest.mark.parametrize(
    "module, call",
    [
        ("pandas", lambda keys: run_sweep(keys)),
        ("simpleeval", lambda keys: run_sweep({**keys, "constraints": ["cycles < 2"]})),
        ("scipy.stats", lambda keys: run_sweep({**keys, "sampling": {"method": "sobol", "samples": 2}})),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(keys, monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"which is not installed; install it with pip install 'accelsim\[sweep\]'"):
        call(keys)


def test_parquet_without_pyarrow_is_one_line(monkeypatch):
    from accelsim.report.sweep import sweep_parquet

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"Parquet files need pyarrow.*accelsim\[sweep\]"):
        sweep_parquet([])
