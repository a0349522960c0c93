"""Records of requests as tests need them: as predicted, unless they say otherwise."""

from __future__ import annotations

from edgeapp.profiles.predictions import MachineFacts, Prediction, Record

QUIET = MachineFacts(elapsed_s=10.0, worker_cores=4.0, host_cores=8, is_measured=True)


def a_record(
    *,
    decode: float = 20.0,
    prefill: float = 0.0,
    facts: MachineFacts = QUIET,
    uses_gpu: bool = False,
    model: str = "a.gguf",
) -> Record:
    """Twenty tokens a second were predicted for decoding, two hundred for reading."""
    return Record(
        at_s=1.0,
        source="run",
        model=model,
        plan="everything in host memory",
        bottleneck="reading weights",
        uses_gpu=uses_gpu,
        speeds=Prediction(
            decode_tps=20.0, prefill_tps=200.0, actual_decode_tps=decode, actual_prefill_tps=prefill
        ),
        facts=facts,
    )
