"""The block `data` of a study file: which texts, how they are cleaned, split and turned into tokens."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Tag, model_validator

from harness import _values as v
from harness._block import Block, misfit
from harness._values import plugin, unique

CleanStep = Literal["lower", "letters", "fold", "stopwords", "lemmas"]


class Split(Block):
    """A split that the data source has itself."""

    split: str
    """Name of the source's own split."""


Part = Annotated[Annotated[v.Share, Tag("(plain)")] | Annotated[Split, Tag("(mapping)")], Discriminator(v.kind_of)]
TestPart = Annotated[Annotated[v.ShareOrNone, Tag("(plain)")] | Annotated[Split, Tag("(mapping)")], Discriminator(v.kind_of)]


class Data(Block):
    """Which texts, how they are cleaned, split and turned into tokens."""

    source: Annotated[str, plugin("harness.data.sources", "data source")] = "wire"
    """Where texts come from: wire (embedded, entropy known), file (local), hub (Hugging Face), or another of harness/data/sources/."""
    path: str | None = None
    """file: a txt (a line a text), csv, jsonl or parquet file. hub: the data set's name, such as IlyaGusev/headline_cause."""
    column: str | None = None
    """The column that holds the text (csv, jsonl, parquet, hub)."""
    columns: Annotated[tuple[str, ...], v.SOME, unique("column")] = ()
    """Several columns, each giving a text. Instead of `column`."""
    name: str | None = None
    """hub: the data set's configuration, such as en_simple. Other sources don't read it."""
    revision: str | None = None
    """hub: the commit of the data set, so that it stays the same. Other sources don't read it."""
    split: str = "train"
    """hub: the split to train on. Other sources don't read it."""
    texts: v.CountOrNone = 32000
    """Read at most so many texts of the training split, before cleaning and holding out; fewer is a notice. null: all there are."""
    clean: Annotated[tuple[CleanStep, ...], unique("step")] = ()
    """Steps in the order given: lower, letters (keep a-z and space), fold (drop accents), stopwords (drop English ones), lemmas."""
    tokenizer: Annotated[str, plugin("harness.data.tokenizers", "tokenizer")] = "char"
    """char, or another file in harness/data/tokenizers/."""
    seq_len: v.SeqLen = 150
    """Tokens of a sequence, start and end included; texts longer than seq_len - 2 tokens are cut, and counted. 3 to 1,000,000."""
    validation: Part = 0.1
    """Held out to stop early and to choose: a share in (0, 1), a number of texts, or {split: name} of the source's own."""
    test: TestPart = 0.1
    """Held out to report on; as `validation`, or 0 (also null): none."""
    eval_texts: v.CountOrNone = 512
    """Evaluate during training on at most so many validation texts. null: all. The test set is always used whole."""

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        """Keys that the source needs are there, and those that it can't follow are not."""
        if self.column is not None and self.columns:
            raise misfit("columns", "give column or columns, not both")
        if self.source in ("file", "hub") and not self.path:
            what = "a file" if self.source == "file" else "the name of a data set"
            raise misfit("path", f"source {self.source} needs {what} (data.path)")
        if self.source == "hub" and not self.text_columns:
            raise misfit("columns", "source hub needs the columns that hold text (data.columns)")
        if self.source == "wire":
            self._wire_fits()
        if self.source in ("file", "wire"):
            for key in ("validation", "test"):
                if isinstance(getattr(self, key), Split):
                    raise misfit(key, f"source {self.source} has no splits of its own; give a share such as data.{key}=0.1")
        return self

    def _wire_fits(self) -> None:
        """The embedded corpus is what it is: anything that changed its texts would void its known entropy."""
        given = {"path": self.path, "column": self.column, "columns": self.columns, "clean": self.clean}
        odd = [key for key, value in given.items() if value]
        if odd:
            off = ", ".join(f"{key}: {'[]' if key in ('columns', 'clean') else 'null'}" for key in odd)
            why = "source wire makes its own texts, already a-z and space, and their known entropy must stay"
            raise misfit(odd[0], f"{why}; leave out {' and '.join(odd)} ({off})")
        if self.texts is not None and self.texts > v.MOST_WIRE_TEXTS:
            raise misfit("texts", f"source wire makes at most {v.MOST_WIRE_TEXTS:,} texts, not {self.texts:,}")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that hold text, whichever key named them."""
        return self.columns or ((self.column,) if self.column is not None else ())
