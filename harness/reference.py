"""Writes docs/study.md and docs/study.schema.json from the Study, and docs/results.md: `python -m harness.reference` (`make schema`).

What a key means stands once, under its field in `spec`, and a column in `columns`; a test checks that the committed files say the same.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness import columns
from harness.spec import Study
from harness.study_file import blocks_in

DOCS = Path(__file__).resolve().parents[1] / "docs"

HEAD = """# The study file

<!-- Generated from harness/spec.py and its blocks' modules by `make schema`; change the text there. -->

A study is one YAML file: one question, and all that is needed to answer it. `python -m harness.run studies/NAME.yaml` checks it, shows
what it plans with `--plan`, and runs it. The least that it can say:

```yaml
study: mine
question: How fast does loss fall with size?
model: {rungs: [20k, 40k, 87k-assignment]}
```

Everything else has a default. A key that isn't below is refused, with its line and the nearest key that exists, before anything runs.

## Changing a key without editing the file

`--set key.path=value` overrides any key, as often as needed. The value is read as YAML, and all are applied before the file is checked:

```
python -m harness.run studies/scaling.yaml --set seeds=5 --set search.lr.high=1e-2
python -m harness.run studies/scaling.yaml --set 'model.rungs=[20k, 1M]' --set within=null
python -m harness.run studies/scaling.yaml --set model.rungs.0=30k
python -m harness.run studies/scaling.yaml --set data.source=file --set data.path=x.csv --set data.column=text \\
    --set 'data.clean=[lower, letters]'
```

## Numbers and text

YAML 1.2 is read, its core schema: `1e-3` is a number; `no`, `on` and `1:30` are text; `true` is not a count. A whole number may be
written as `1e6`. Tags, duplicate keys and more than one document in a file are refused. An editor that knows YAML schemas completes and
checks the keys by the first line of the files in `studies/`; `docs/study.schema.json` is the schema.

## The keys
"""

RESULTS = """# The results

<!-- Generated from harness/columns.py by `make schema`; change the text there. -->

`mlruns/<study>/results.csv` has a row a run, and one for each rung that was left out, at full precision. A value that doesn't
apply is empty. It is written at the end of each start, and again by `python -m harness report STUDY`. Scores are those of the best weights
by validation NLL. The report's tables and figures have CSVs of their own beside them, with full precision too.

The columns of the first table keep their names and their order; others may be added to the second.
"""


def results_markdown() -> str:
    """The columns of results.csv."""
    tables = ("".join(f"| `{name}` | {meaning} |\n" for name, meaning in table.items()) for table in (columns.PUBLIC, columns.FURTHER))
    return RESULTS + "".join(f"\n| column | meaning |\n|---|---|\n{table}" for table in tables)


def markdown() -> str:
    """The reference for people: a table for each block."""
    return HEAD + "".join(_tables(Study, ""))


def schema() -> str:
    """The JSON schema for editors."""
    plain = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Study.model_json_schema()
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _tables(block: type[BaseModel], path: str) -> Iterator[str]:
    """The table of a block, then those of the blocks inside it."""
    rows = [f"| `{name}` | {_default(info)} | {_cell(info.description)} |\n" for name, info in block.model_fields.items()]
    title = f"`{path}`" if path else "Top level"
    yield f"\n### {title}\n\n{inspect.cleandoc(block.__doc__ or '')}\n\n| key | default | meaning |\n|---|---|---|\n{''.join(rows)}"
    for name, info in block.model_fields.items():
        for step, inner in blocks_in(info.annotation):
            yield from _tables(inner, ".".join([*([path] if path else []), name, *("N" for _ in step)]))


def _default(info: FieldInfo) -> str:
    """A default as it would stand in a study file."""
    if info.is_required():
        return "required"
    default = info.get_default()
    return "as below" if isinstance(default, BaseModel) else f"`{_flow(default)}`"


def _flow(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        return value or '""'
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _cell(text: str | None) -> str:
    assert text, "every field says what it means"
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the files."""
    DOCS.mkdir(exist_ok=True)
    (DOCS / "results.md").write_text(results_markdown(), encoding="utf-8")
    (DOCS / "study.md").write_text(markdown(), encoding="utf-8")
    (DOCS / "study.schema.json").write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
