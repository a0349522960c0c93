"""Why a model was slower than predicted. Pure: facts in, one sentence out, empty when nothing is wrong.

Causes are asked in the order of how surely their facts speak: what was seen to happen first, what only
remains as an explanation last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line

if TYPE_CHECKING:
    from edgeapp.profiles.predictions import MachineFacts, Prediction, Record

TOLERANCE = 0.25
"""A prediction may be this far off before a cause is looked for."""
_GIB = 1024**3
_FAULTS_PER_S = 20.0
"""Major faults that stall an answer: each waits 0.1 ms (NVMe) to 10 ms (disk), readahead included."""
_SWAPPED_BYTES = 16 << 20
_FULL_CPU = 0.9
_FEW_CORES = 0.3
"""Of a CPU busy with other things: less is what every desktop does."""
_SLOW_MEMORY = 0.65
"""One channel of two gives half of the bandwidth; default instead of rated clocks about two thirds."""
_HOT_C = 83
"""Where NVIDIA's consumer cards begin to lower their clock."""
_GPU_SHARED_BYTES = 512 << 20
"""More than a desktop needs."""


def likely_cause(record: Record) -> str:
    """Return a sentence that names the likely cause; empty within `TOLERANCE` of the prediction."""
    off = deviation(record.speeds)
    if abs(off) <= TOLERANCE:
        return ""
    return _why_slower(record) if off < 0 else _why_faster(record.facts)


def deviation(speeds: Prediction) -> float:
    """Return how much faster (+) or slower (-) than predicted, as a share: the rate that is furthest off.

    One that is too slow comes before any that is too fast. A rate without a prediction or without a
    measurement does not count.
    """
    pairs = ((speeds.decode_tps, speeds.actual_decode_tps), (speeds.prefill_tps, speeds.actual_prefill_tps))
    shares = [actual / predicted - 1 for predicted, actual in pairs if predicted > 0 and actual > 0]
    slowest, fastest = min(shares, default=0.0), max(shares, default=0.0)
    return slowest if slowest < -TOLERANCE else fastest


def _why_slower(record: Record) -> str:
    facts = record.facts
    causes = [_swapping, _paging]
    if not record.uses_gpu or facts.ram_weights_bytes > 0:
        causes.append(_contention)
    if record.uses_gpu:
        causes += [_throttling, _narrow_link, _shared_gpu]
    said = (cause(facts) for cause in (*causes, _slow_memory, _unknown))
    return next(filter(None, said))


def _swapping(facts: MachineFacts) -> str:
    if facts.swapped_in_bytes < _SWAPPED_BYTES:
        return ""
    return (
        f"Memory was swapped: {facts.swapped_in_bytes / _GIB:.1f} GiB came back from the swap meanwhile."
        " Close other programs, or use a smaller --ctx or a smaller model."
    )


def _paging(facts: MachineFacts) -> str:
    if facts.major_faults < _FAULTS_PER_S * max(facts.elapsed_s, 1.0):
        return ""
    room = (
        f"{facts.ram_weights_bytes / _GIB:.1f} GiB of weights are in host memory, "
        f"{facts.available_ram_bytes / _GIB:.1f} GiB were available"
    )
    return (
        f"Weights were read from the disk while answering ({facts.major_faults} page faults): {room}."
        " The first answer after a start is slower for this reason; if it goes on, the model needs more RAM."
    )


def was_crowded(facts: MachineFacts) -> bool:
    """Tell whether the engine had to share the CPUs."""
    busy = facts.others_cores + facts.worker_cores
    return facts.others_cores >= _FEW_CORES and busy >= _FULL_CPU * facts.host_cores


def _contention(facts: MachineFacts) -> str:
    if not was_crowded(facts):
        return ""
    return (
        f"Other programs kept {facts.others_cores:.1f} of {facts.host_cores} CPUs busy during the answer."
        " Close them, or give the model fewer --threads."
    )


def _throttling(facts: MachineFacts) -> str:
    reasons = " and ".join(clean_line(reason, max_chars=40) for reason in facts.gpu_throttles)
    hot = facts.gpu_temperature_c is not None and facts.gpu_temperature_c >= _HOT_C
    if not reasons and not hot:
        return ""
    degrees = "" if facts.gpu_temperature_c is None else f" at {facts.gpu_temperature_c} °C"
    return (
        f"The GPU held its clock down ({reasons or 'thermal'}){degrees}."
        " Look at its fans and its power limit (`nvidia-smi -q -d PERFORMANCE`)."
    )


def _narrow_link(facts: MachineFacts) -> str:
    width, most = facts.pcie_width, facts.pcie_max_width
    if width is None or most is None or width >= most:
        return ""
    return (
        f"The GPU is connected with {width} PCIe lanes of {most}, which slows the copying of experts."
        " Put it into the slot next to the CPU, without a riser."
    )


def _shared_gpu(facts: MachineFacts) -> str:
    if facts.gpu_other_bytes < _GPU_SHARED_BYTES:
        return ""
    names = ", ".join(clean_line(name, max_chars=40) for name in facts.gpu_others[:3]) or "another program"
    return f"The GPU was shared with {names} ({facts.gpu_other_bytes / _GIB:.1f} GiB). Close what you can."


def _slow_memory(facts: MachineFacts) -> str:
    usual = facts.assumed_ram_read_bps
    if not facts.is_measured or not usual or facts.ram_read_bps > _SLOW_MEMORY * usual:
        return ""
    return (
        f"Host memory reads {facts.ram_read_bps / 1e9:.0f} GB/s, {usual / 1e9:.0f} GB/s are usual:"
        " perhaps one memory channel is used instead of two, or XMP/EXPO is off in the BIOS."
    )


def _unknown(facts: MachineFacts) -> str:
    if not facts.is_measured:
        return (
            "The machine's speeds are assumed, not measured: perhaps its memory is slower than usual (one"
            " channel, XMP/EXPO off). `edgeapp tune MODEL` measures it and finds the fastest settings."
        )
    return (
        "Nothing that was watched explains it. `edgeapp tune MODEL` measures the machine and the model again;"
        " a power-saving CPU governor is a usual reason."
    )


def _why_faster(facts: MachineFacts) -> str:
    if facts.is_measured:
        return "It was faster than predicted: `edgeapp tune MODEL` measures again, when nothing else runs."
    return (
        "It was faster than assumed for such a machine: `edgeapp tune MODEL` measures it, for better plans."
    )
