from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from edgeapp import protocol
from edgeapp.protocol import (
    Cancel,
    Collect,
    Collected,
    Delta,
    Evaluate,
    Evaluated,
    Failed,
    Generate,
    Load,
    Message,
    Sampling,
    Shutdown,
    TensorOverride,
    Tokenize,
    WriteImatrix,
)


@pytest.mark.parametrize(
    "request_",
    [
        Load(
            id=1,
            path="/m.gguf",
            n_ctx=4096,
            n_threads=2,
            tensor_overrides=(TensorOverride(pattern="exps", buffer="CPU"),),
        ),
        Generate(
            id=2,
            messages=(
                Message(
                    role="user",
                    content="line\nbreak \u2028 \ud83d\ude00".encode("utf-16", "surrogatepass").decode(
                        "utf-16"
                    ),
                ),
            ),
            sampling=Sampling(temp=0, seed=7),
            stop=("\n\n",),
        ),
        Cancel(id=3, target=2),
        Tokenize(id=4, text="x"),
        Evaluate(id=6, tokens=(1, 2), first_logits=1, file="/rows", reuse_prefix=True),
        Collect(id=7, tokens=(1, 2), keep_inputs=("blk.0.ffn_gate.weight",), inputs_folder="/inputs"),
        WriteImatrix(id=8, file="/imatrix", datasets=("a text",)),
        Shutdown(id=5),
    ],
)
def test_every_request_survives_its_line(request_: protocol.AnyRequest) -> None:
    line = protocol.encode(request_)
    assert line.count(b"\n") == 1
    assert protocol.decode_request(line) == request_


@pytest.mark.parametrize(
    "event",
    [
        Delta(id=1, text="a\nb", n_tokens=2),
        Failed(code="x", message="y"),
        Evaluated(id=1, n_rows=2, n_vocab=3),
        Collected(id=1, n_tokens=4),
    ],
)
def test_every_event_survives_its_line(event: protocol.AnyEvent) -> None:
    line = protocol.encode(event)
    assert line.count(b"\n") == 1
    assert protocol.decode_event(line) == event


def test_requests_and_events_have_distinct_tags() -> None:
    kinds = [*get_args(protocol.AnyRequest), *get_args(protocol.AnyEvent)]
    tags = [kind.__struct_config__.tag for kind in kinds]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"type":"nonsense","id":1}', b'{"type":"load","id":"one"}', b"\xff"]
)
def test_a_line_that_is_no_request_is_an_error(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        protocol.decode_request(line)
