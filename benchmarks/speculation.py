"""Drafting on against off, on the same engine, alternating: copies, extraction and ordinary prose.

How fast drafts can be depends on the machine: what does a batch of k tokens cost against one? That is
measured in the same run, and from it two bounds are printed. One is the machine's: every draft of the best
length is right. The other is the text's: before each step somebody knows how much of the lookup's draft is
right, and drafts what is fastest. Targets: 0.85 of the text's bound where much is copied, 0.97 of plain
decoding elsewhere. The demo model is too small to edit code as told; where a text is forced, a grammar that
allows nothing else makes it say what a larger model would.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks._batch_steps import batch_steps_s
from benchmarks._engines import client, demo_model, machine, n_threads, ratio, row
from edgeapp.engine.prompt_lookup import PromptLookup
from edgeapp.protocol import Delta, Done, Drafting, Generate, Grammar, Message, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.runtime.worker_client import WorkerClient

N_PAIRS = 5
N_TOKENS = 192
N_DRAFT = Drafting().max_tokens
ON, OFF = Drafting(), Drafting(mode="off")

TOTAL_PRICE = '''def total_price(items, tax_rate):
    """Return the price of all items with tax."""
    total = 0.0
    for item in items:
        if item.quantity > 0:
            total += item.price * item.quantity
    return total * (1.0 + tax_rate)
'''
LONGEST_LINE = '''def longest_line(path, encoding):
    """Return the longest line of a text file and its number."""
    longest, number = "", 0
    with open(path, encoding=encoding) as lines:
        for index, line in enumerate(lines, 1):
            if len(line) > len(longest):
                longest, number = line, index
    return longest, number
'''
MOVING_AVERAGE = '''def moving_average(values, window):
    """Return the mean of each run of neighbouring values."""
    means = []
    for start in range(len(values) - window + 1):
        part = values[start : start + window]
        means.append(sum(part) / window)
    return means
'''
CODE = f"{TOTAL_PRICE}\n\n{LONGEST_LINE}\n\n{MOVING_AVERAGE}"
PEOPLE = (
    ("Anna Weber", "Bremen", "0421 553 201"),
    ("Paul Stein", "Kassel", "0561 220 145"),
    ("Maria Lopez", "Madrid", "091 445 1276"),
    ("John Smith", "Leeds", "0113 496 072"),
    ("Ines Kramer", "Vienna", "01 533 9812"),
    ("Tom Baker", "Boston", "617 555 0182"),
    ("Eva Lund", "Malmo", "040 661 733"),
    ("Hugo Petit", "Lyon", "04 7210 3395"),
)
QUESTIONS = (
    "Tell me a long story about the sea.",
    "Explain how a refrigerator works.",
    "What should I know before I adopt a dog?",
)


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    request: Generate
    is_copy: bool


def tasks() -> list[Task]:
    renamed = CODE.replace("total_price", "full_cost").replace("line", "row").replace("window", "width")
    facts = " ".join(f"{name} lives in {city} and can be reached at {phone}." for name, city, phone in PEOPLE)
    fields = [json.dumps({"name": name, "city": city, "phone": phone}) for name, city, phone in PEOPLE]
    extraction = f"Text:\n{facts}\n\nAs JSON, one line for each person:\n"
    copies = [
        Task(name="repeat a file", request=_continue(f"{CODE}\nAgain:\n{CODE}\nAgain:\n"), is_copy=True),
        Task(
            name="extract fields",
            request=_continue(extraction + "\n".join(fields[:2]) + "\n", n_tokens=100),
            is_copy=True,
        ),
        Task(name="rename (forced)", request=_forced(f"Rename:\n{CODE}\nDone:\n", renamed), is_copy=True),
        Task(name="extract (forced)", request=_forced(extraction, "\n".join(fields)), is_copy=True),
    ]
    prose = [
        Task(name=f"prose {index}, {name}", request=_ask(question, sampling), is_copy=False)
        for index, question in enumerate(QUESTIONS, 1)
        for name, sampling in (("greedy", Sampling(temp=0)), ("sampled", Sampling(seed=1)))
    ]
    return [*copies, *prose]


def _continue(prompt: str, *, n_tokens: int = N_TOKENS) -> Generate:
    return Generate(prompt=prompt, sampling=Sampling(temp=0), max_tokens=n_tokens, ignore_eos=True)


def _forced(prompt: str, text: str) -> Generate:
    grammar = Grammar(kind="gbnf", source=f"root ::= {json.dumps(text)}")
    return Generate(prompt=prompt, sampling=Sampling(temp=0), max_tokens=N_TOKENS, grammar=grammar)


def _ask(question: str, sampling: Sampling) -> Generate:
    messages = (Message(role="user", content=question),)
    return Generate(messages=messages, sampling=sampling, max_tokens=N_TOKENS, ignore_eos=True)


# The bounds ----------------------------------------------------------------------------------------------


def best_rate(right: int, steps_s: Sequence[float]) -> int:
    """Return how many of `right` drafted tokens to take along for the most tokens per second."""
    return max(range(right + 1), key=lambda length: (length + 1) / steps_s[length])


def text_bound(prompt: Sequence[int], answer: Sequence[int], steps_s: Sequence[float]) -> float:
    """Return the speed-up of one who knows how much of each lookup's draft is right."""
    lookup = PromptLookup()
    lookup.extend([*prompt, answer[0]])
    done, spent_s = 1, 0.0
    while done < len(answer):
        draft = lookup.draft(min(N_DRAFT, len(answer) - done - 1))
        pairs = zip(draft, answer[done:], strict=False)
        right = next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), len(draft))
        length = best_rate(right, steps_s)
        spent_s += steps_s[length]
        lookup.extend(answer[done : done + length + 1])
        done += length + 1
    return (len(answer) - 1) * steps_s[0] / spent_s


async def tokens_of(engine: WorkerClient, request: Generate) -> tuple[list[int], list[int]]:
    """Return the tokens of prompt and answer."""
    shown = Generate(
        prompt=request.prompt,
        sampling=request.sampling,
        grammar=request.grammar,
        max_tokens=request.max_tokens,
        ignore_eos=request.ignore_eos,
        logprobs=0,
        drafting=OFF,
    )
    answer: list[int] = []
    async for event in engine.generate(shown):
        if isinstance(event, Delta):
            answer.extend(entry.token for entry in event.logprobs)
    return list(await engine.tokenize(request.prompt or "", parse_special=True)), answer


# The measurement -----------------------------------------------------------------------------------------


async def measured(engine: WorkerClient, request: Generate, drafting: Drafting) -> Done:
    with_drafting = {name: getattr(request, name) for name in request.__struct_fields__} | {
        "drafting": drafting
    }
    async for event in engine.generate(Generate(**with_drafting)):
        if isinstance(event, Done):
            return event
    raise AssertionError("the generation did not finish")


async def compare(engine: WorkerClient, task: Task, steps_s: Sequence[float]) -> None:
    on: list[Done] = []
    off: list[Done] = []
    await measured(engine, task.request, OFF)
    for _ in range(N_PAIRS):
        off.append(await measured(engine, task.request, OFF))
        on.append(await measured(engine, task.request, ON))
    with_drafts = [done.timings.decode_tps for done in on]
    without = [done.timings.decode_tps for done in off]
    timings = on[-1].timings
    row(f"{task.name}: off", without, "tok/s")
    row(f"{task.name}: on", with_drafts, "tok/s")
    print(f"    {timings.draft_accepted} of {timings.draft_tokens} drafted tokens were right,", end=" ")
    print(f"{on[-1].usage.completion_tokens} tokens in all")
    ratio(f"{task.name}: on / off", with_drafts, without)
    if task.is_copy:
        prompt, answer = await tokens_of(engine, task.request)
        bound = text_bound(prompt, answer, steps_s)
        gained = statistics.median(a / b for a, b in zip(with_drafts, without, strict=True))
        print(f"    the text's bound is {bound:.3f} ×; reached {gained / bound:.3f} of it")


async def main() -> None:
    model, threads = demo_model(), n_threads()
    machine()
    steps_s = batch_steps_s(model, threads, depth=512, most=N_DRAFT + 1)
    costs = " ".join(f"{size}:{step_s / steps_s[0]:.2f}" for size, step_s in enumerate(steps_s, 1))
    print(f"a batch of k tokens costs, in steps of one ({1e3 * steps_s[0]:.2f} ms): {costs}")
    most = max(size * steps_s[0] / step_s for size, step_s in enumerate(steps_s, 1))
    print(f"the machine's bound, with every draft right: {most:.3f} ×")
    async with client(model, threads, n_ctx=2048) as engine:
        for task in tasks():
            await compare(engine, task, steps_s)


if __name__ == "__main__":
    asyncio.run(main())
