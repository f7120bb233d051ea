"""The parts of the report on data budgets, on NLL with top-1, and on what sampled texts are like, as blocks."""

from harness.results import Results
from reports import tables, together
from reports.blocks import Block, Heading, Table, paragraph

NESTED = (
    "Smaller budgets are the first texts of the larger ones, so that a difference is one of amount; validation and test texts are the same."
)


def data_budgets(results: Results) -> list[Block]:
    """The loss by amount of data."""
    blocks: list[Block] = [Heading("Data budgets", 2)]
    fewer, grid = together.data_table(results), together.grid_table(results)
    if len(fewer):
        begun = "Where overfitting began is in section 3."
        caption = f"One size on fewer different texts, at the rate of the run on all of them. {NESTED} {begun}"
        blocks.append(Table(fewer, caption, left=("Rung",)))
    if len(grid):
        blocks.append(Table(grid, "All sizes on all token budgets, each with a finished schedule of its own.", left=("Rung",)))
    if len(blocks) == 1:
        blocks.append(paragraph("No run on another amount of data completed: what more data would bring can't be told."))
    return blocks


def correlations(results: Results) -> list[Block]:
    """Validation NLL with top-1, within runs, across them, and beside published results."""
    inside, across, published = tables.within_table(results), tables.across_table(results), tables.published_table(results)
    spread = (
        "Pearson's r between validation NLL and top-1 over the evaluations of a run. These follow each other, so the spread over "
        "seeds stands in place of an interval."
    )
    none = paragraph("No completed run was evaluated often enough for a correlation within it.")
    blocks: list[Block] = [Heading("NLL and top-1 accuracy together", 2)]
    blocks.append(none if inside.empty else Table(inside, spread, left=("Rung",)))
    if len(across):
        caption = (
            "The same across finished runs, with Fisher intervals. Both metrics follow size, so r is near minus one by construction; the "
            "last column takes a straight line in the logarithm of the parameters out of each."
        )
        blocks.append(Table(across, caption, left=("Finished runs",)))
    if len(published):
        blocks.append(Table(published, _published_caption(results), left=("Rung",)))
    return blocks


def _published_caption(results: Results) -> str:
    same = "headline_cause" in str(results.study.get("data", {}).get("path", ""))
    other = "" if same else " The published numbers are on another data set and can't be compared directly."
    return (
        "Beside the assignment's published results, in its convention (all positions, padding counted), one seed each at 1e-3; columns "
        "not headed published are this study's. The assignment's report gives 166.65 and, in its text, 116.65 for the 10M model. Padding "
        f"is easy to predict and flatters top-1.{other}"
    )


def sample_measures(results: Results) -> list[Block]:
    """Measures of sampled texts against NLL, with size held fixed."""
    found = together.sample_correlations(results)
    heading = Heading("What sampled texts are like, and NLL", 2)
    if found.empty:
        return [heading, paragraph("Too few runs with sampled texts completed to say how such measures go with NLL.")]
    temperature = together.sample_values(results)["temperature"].iloc[0]
    caption = (
        f"Measures of texts sampled at T = {temperature:g} against test NLL across runs, with Fisher intervals. NLL and most measures "
        "follow size, so the last column takes a straight line in the logarithm of the parameters out of each. Different words and pairs "
        "are shares of all."
    )
    blocks: list[Block] = [heading, paragraph(together.followers(found))]
    return [*blocks, Table(together.sample_table(found), caption, left=("Measure",))]
