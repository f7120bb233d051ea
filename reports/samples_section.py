"""The part of the report on sampled texts: how they are drawn, what they are like, and the texts, as blocks."""

from collections.abc import Iterator

from harness.results import Results
from reports import sampled
from reports.blocks import Block, Heading, Samples, Table, paragraph
from reports.numbers import short

TEXTS_A_CELL = 2
MOMENTS = 6
LONGEST = 88
SOFTMAX = (
    "At temperature T a token with logit z_i is drawn with probability p_i = exp(z_i / T) / Σ_j exp(z_j / T). T below 1 favours the "
    "likely tokens, towards only the likeliest at 0; T above 1 levels them, towards all alike. The entropy of that distribution, "
    "H = Σ p_i ln(1 / p_i), never falls as T rises: dH/dT = Var(z) / T³, the variance being that of the logits under p."
)
ALL = "Tokens are drawn from all of the distribution but start and unknown: none is cut off by rank (top-k) or by mass (top-p)."
CUT = (
    "Tokens are drawn from all of the distribution but start and unknown; in the sets named top-k or top-p from a part of it at T = 1: the "
    "k likeliest tokens, or the fewest likeliest ones whose mass is at least p (Holtzman et al. 2019, arXiv:1904.09751), made to sum to 1 "
    "again. Their entropy is that of the part."
)
MEASURED = (
    "Entropy is that of the distribution a token was drawn from, nats per token, mean over all drawn positions. Self-NLL is the model's "
    "own NLL of its texts at T = 1, nats per text; were they distributed as real ones, it would equal test NLL there. Different words and "
    "pairs are shares of all. Memorised is the share of a text's characters that lie in its longest substring found within a training "
    "text; real texts share substrings too, short ones most, so only a high share would mean recitation."
)


def section(results: Results) -> Iterator[Block]:
    """Temperature and measures, then texts of each rung, then the best rung's as it learned."""
    if sampled.sets(results).empty:
        yield paragraph("No texts were sampled.")
        return
    found = sampled.measures(results)
    is_cut = len(sampled.uncut(found)) < len(found)
    said = (SOFTMAX, CUT if is_cut else ALL, sampled.effect(found), sampled.calibration(results, found))
    yield paragraph(" ".join(sentence for sentence in said if sentence))
    if len(found):
        runs = int(found["runs"].max())
        over = f"means over up to {runs} seeds" if runs > 1 else "one seed"
        yield Table(sampled.measures_table(found), f"Texts sampled at the end of training, {over}. {MEASURED}", left=("Rung",))
    yield paragraph(f"The first {TEXTS_A_CELL} texts of each set, not chosen by eye; the lowest seed of each rung.")
    for rung, ends in sampled.ends_of(results):
        yield Heading(rung, 2)
        label = "Temperature or cut" if is_cut else "Temperature"
        yield Samples(label, tuple((sampled.drawn_by(row), _first(row["texts"])) for _, row in ends.iterrows()))
    yield from _learning(results)


def _learning(results: Results) -> Iterator[Block]:
    """The best rung's texts at a few of the moments when its validation NLL reached a new low."""
    top, own = sampled.course(results)
    if own.empty or not top:
        return
    picked = sampled.spread_out(own, MOMENTS)
    yield Heading(f"{top.name} as it learned", 2)
    yield paragraph(
        f"Sampled at temperature {own['temperature'].iloc[0]:g} when validation NLL reached a new low; by training tokens seen."
    )
    yield Samples("Tokens", tuple((short(row["tokens"]), _first(row["texts"])) for _, row in picked.iterrows()))
    few = min(len(texts) for texts in picked["texts"])
    caption = f"Measures of these sets, from {few} texts each: shares of so few are rough. Columns as in the first table of this section."
    yield Table(sampled.course_table(picked), caption)


def _first(texts: list[str]) -> tuple[str, ...]:
    shown = [text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in list(texts)[:TEXTS_A_CELL]]
    return tuple(text or "(an empty text)" for text in shown)
