"""What is named when a prediction was wrong: the fact that explains it, the surest first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgeapp.doctor.predictions import check_predictions
from edgeapp.profiles.likely_cause import deviation, likely_cause
from edgeapp.profiles.predictions import MachineFacts
from tests.profiles.records import QUIET, a_record

_GIB = 1024**3
SWAPPED = {"swapped_in_bytes": 2 * _GIB}
PAGED = {"major_faults": 5000, "ram_weights_bytes": 20 * _GIB, "available_ram_bytes": 12 * _GIB}
CROWDED = {"others_cores": 5.0}
HOT = {"gpu_throttles": ("thermal",), "gpu_temperature_c": 87}
POWER = {"gpu_throttles": ("power cap",), "gpu_temperature_c": 61}
NARROW = {"pcie_width": 4, "pcie_max_width": 16}
SHARED = {"gpu_other_bytes": 3 * _GIB, "gpu_others": ("blender",)}
SLOW_RAM = {"ram_read_bps": 18e9, "assumed_ram_read_bps": 44e9}


@pytest.mark.parametrize(
    ("facts", "uses_gpu", "said"),
    [
        (SWAPPED, False, "swapped: 2.0 GiB"),
        (PAGED, False, "read from the disk while answering (5000 page faults): 20.0 GiB"),
        (CROWDED, False, "5.0 of 8 CPUs busy"),
        (SLOW_RAM, False, "18 GB/s, 44 GB/s are usual"),
        (HOT, True, "held its clock down (thermal) at 87 °C"),
        (POWER, True, "(power cap) at 61 °C"),
        (NARROW, True, "4 PCIe lanes of 16"),
        (SHARED, True, "shared with blender (3.0 GiB)"),
        ({"is_measured": False}, False, "assumed, not measured"),
        ({}, False, "Nothing that was watched explains it"),
    ],
)
def test_a_slow_answer_gets_the_cause_that_its_facts_show(
    *, facts: dict[str, Any], uses_gpu: bool, said: str
) -> None:
    assert said in likely_cause(a_record(decode=10.0, facts=replace(QUIET, **facts), uses_gpu=uses_gpu))


@pytest.mark.parametrize("facts", [HOT, NARROW, SHARED])
def test_the_gpu_is_not_blamed_when_it_was_not_used(facts: dict[str, Any]) -> None:
    assert "GPU" not in likely_cause(a_record(decode=10.0, facts=replace(QUIET, **facts)))


def test_a_link_with_all_its_lanes_is_not_blamed() -> None:
    facts = replace(QUIET, pcie_width=16, pcie_max_width=16)
    assert "lanes" not in likely_cause(a_record(decode=10.0, facts=facts, uses_gpu=True))


def test_other_programs_are_not_blamed_when_the_cpu_computes_nothing() -> None:
    record = a_record(decode=10.0, facts=replace(QUIET, **CROWDED), uses_gpu=True)
    assert "CPUs" not in likely_cause(record)
    in_ram = replace(record.facts, ram_weights_bytes=_GIB)
    assert "CPUs" in likely_cause(replace(record, facts=in_ram))


def test_what_was_seen_to_happen_comes_before_what_is_only_possible() -> None:
    facts = replace(QUIET, **(SLOW_RAM | CROWDED | PAGED | SWAPPED))
    assert "swapped" in likely_cause(a_record(decode=10.0, facts=facts))


@pytest.mark.parametrize(("decode", "is_off"), [(15.1, False), (14.9, True), (24.9, False), (25.1, True)])
def test_a_quarter_off_is_still_as_predicted(*, decode: float, is_off: bool) -> None:
    assert bool(likely_cause(a_record(decode=decode))) is is_off


def test_a_slow_prefill_counts_although_decoding_was_faster_than_predicted() -> None:
    record = a_record(decode=60.0, prefill=100.0)
    assert deviation(record.speeds) == pytest.approx(-0.5)


def test_a_rate_that_was_not_measured_says_nothing() -> None:
    assert likely_cause(a_record(decode=0.0, prefill=0.0)) == ""


@given(
    decode=st.floats(0, 1e4),
    prefill=st.floats(0, 1e5),
    uses_gpu=st.booleans(),
    facts=st.builds(
        MachineFacts,
        elapsed_s=st.floats(0, 1e4),
        worker_cores=st.floats(0, 512),
        others_cores=st.floats(0, 512),
        host_cores=st.integers(1, 512),
        major_faults=st.integers(0, 10**9),
        swapped_in_bytes=st.integers(0, 2**40),
        gpu_temperature_c=st.none() | st.integers(0, 120),
        gpu_throttles=st.lists(st.sampled_from(["thermal", "power cap"]), max_size=2).map(tuple),
        gpu_other_bytes=st.integers(0, 2**40),
        pcie_width=st.none() | st.integers(1, 16),
        pcie_max_width=st.none() | st.integers(1, 16),
        ram_read_bps=st.floats(0, 1e12),
        assumed_ram_read_bps=st.floats(0, 1e12),
        is_measured=st.booleans(),
    ),
)
def test_a_cause_is_named_exactly_when_the_prediction_was_off(
    *, decode: float, prefill: float, uses_gpu: bool, facts: MachineFacts
) -> None:
    record = a_record(decode=decode, prefill=prefill, facts=facts, uses_gpu=uses_gpu)
    assert bool(likely_cause(record)) is (abs(deviation(record.speeds)) > 0.25)


# Doctor --------------------------------------------------------------------------------------------------


def test_the_doctor_is_content_before_anything_was_run() -> None:
    assert check_predictions(()).level == "ok"


def test_the_doctor_names_the_cause_when_answers_keep_being_slow() -> None:
    slow = a_record(decode=8.0, facts=replace(QUIET, **PAGED))
    finding = check_predictions((a_record(), slow, slow))
    assert finding.level == "warn"
    assert finding.found == "a.gguf: decode 8 of 20 tokens/s, -60% against the prediction"
    assert "read from the disk" in finding.fix


def test_one_slow_answer_among_many_is_no_warning() -> None:
    slow = a_record(decode=8.0)
    assert check_predictions((slow, *[a_record()] * 3)).level == "ok"


def test_text_from_a_file_name_reaches_the_terminal_clean() -> None:
    slow = a_record(decode=8.0, model="evil\x1b]0;title\x07.gguf")
    assert "\x1b" not in check_predictions((slow,)).found
