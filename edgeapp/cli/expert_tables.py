"""How the use of experts is printed: heat maps, how even each text's use is, how texts differ."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

import click
from rich.console import Console

from edgeapp.cleantext import clean_line
from edgeapp.cli.table import print_columns
from edgeapp.experts import heat_map, shades
from edgeapp.experts.balance import layer_balance, text_difference

if TYPE_CHECKING:
    from edgeapp.experts import TextUsage, UsageProfile
    from edgeapp.experts.balance import TextDifference

_MAX_NAME_CHARS = 24
_MAX_PAIRS_BY_LAYER = 4
"""Columns of the table by layer that fit into 80 cells."""


def print_heat_maps(profile: UsageProfile) -> None:
    """Draw each text: coloured on a terminal that has colours, in ASCII shades elsewhere."""
    top = shades.top_ratio(profile.texts)
    console = Console(highlight=False, soft_wrap=True)
    is_coloured = console.color_system is not None and not console.no_color
    width = min(heat_map.WIDTH_CELLS, console.width)
    for text in profile.texts:
        click.echo(f"{_name(text)}: {profile.n_expert_used} of {profile.n_expert} experts used by each token")
        if is_coloured:
            console.print(heat_map.coloured(text, top=top, width=width))
        else:
            click.echo(heat_map.plain(text, top=top, width=width))
    if is_coloured:
        console.print(heat_map.coloured_legend(top))
    else:
        click.echo(heat_map.plain_legend(top))


def print_texts(profile: UsageProfile) -> None:
    """Print a row for each text: how evenly it uses the experts, the busiest one, and those never used."""
    rows: list[tuple[str, ...]] = [("text", "tokens", "evenness", "busiest expert", "never used")]
    rows += [_text_row(text, n_expert=profile.n_expert) for text in profile.texts]
    click.echo()
    print_columns(rows)
    click.echo("evenness: entropy of a layer's choices over that of even ones, mean over layers")


def _text_row(text: TextUsage, *, n_expert: int) -> tuple[str, ...]:
    balances = [layer_balance(usage) for usage in text.layers]
    busiest = max(balances, key=lambda balance: balance.busiest_share)
    n_unused = sum(balance.n_unused for balance in balances)
    return (
        _name(text),
        f"{text.n_tokens:,}",
        f"{fmean(balance.evenness for balance in balances):.1%}",
        f"{busiest.busiest_share:.1%} (layer {busiest.layer}, expert {busiest.busiest_expert})",
        f"{n_unused} of {n_expert * len(balances)}",
    )


def print_differences(profile: UsageProfile) -> None:
    """Print how far apart every two texts are, over all layers and in each; nothing for one text."""
    differences = [text_difference(one, other) for one, other in combinations(profile.texts, 2)]
    if not differences:
        return
    rows: list[tuple[str, ...]] = [
        ("texts", "in common", "cosine", "divergence", "by chance", "most different")
    ]
    rows += [_difference_row(difference) for difference in differences]
    click.echo()
    print_columns(rows)
    click.echo("divergence: Jensen-Shannon, 0 to 1 bit; by chance: if both were one text")
    click.echo()
    print_columns(_layer_rows(differences[:_MAX_PAIRS_BY_LAYER]))


def _difference_row(difference: TextDifference) -> tuple[str, ...]:
    farthest = difference.farthest
    return (
        _pair(difference),
        f"{difference.overlap:.1%}",
        f"{difference.cosine:.3f}",
        f"{difference.divergence:.4f}",
        f"{difference.by_chance:.4f}",
        f"layer {farthest.layer}, {farthest.divergence:.4f}",
    )


def _layer_rows(differences: list[TextDifference]) -> list[tuple[str, ...]]:
    """Return overlap, cosine and divergence for each layer of one pair, the divergence alone of several."""
    if len(differences) == 1:
        return [
            ("layer", "in common", "cosine", "divergence"),
            *(
                (str(layer.layer), f"{layer.overlap:.1%}", f"{layer.cosine:.3f}", f"{layer.divergence:.4f}")
                for layer in differences[0].layers
            ),
        ]
    by_layer = zip(*(difference.layers for difference in differences), strict=True)
    return [
        ("layer", *map(_pair, differences)),
        *((str(same[0].layer), *(f"{layer.divergence:.4f}" for layer in same)) for same in by_layer),
    ]


def _pair(difference: TextDifference) -> str:
    names = (clean_line(name, max_chars=_MAX_NAME_CHARS) for name in (difference.one, difference.other))
    return " and ".join(names)


def _name(text: TextUsage) -> str:
    return clean_line(text.name, max_chars=_MAX_NAME_CHARS)
