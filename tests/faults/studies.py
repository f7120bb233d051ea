"""Random study files: documents that follow the schema of `harness.spec`, documents that nearly do, and the ways to write them down."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import study_file
from harness.spec import Study

SHIPPED = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))
MINIMAL = "study: s\nquestion: Why?\nmodel: {rungs: [20k]}\n"
SCHEMA = Study.model_json_schema()
WORDS = (
    "20k", "87k-assignment", "1M", "2.5B", "87k-asignment", "modern", "assignment", "char", "wire", "file", "hub", "decoder", "x.csv",
    "text", "train", "90s", "1h30m", "0s", "x" * 64, "x" * 65, "..", "../x", "/etc/passwd", "artifacts", "con", "a/b", "a\\b",
    "~nobody/x", "every_epoch",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, 7, -1, 0.5, 1e-3, 1e-300, 5e-324, 1e6, 1e15, 10**15, 10**15 + 1, 1e16, 10**39, -(10**39), 1e300, 1e308, 2**31, 2**63, 2**64,
    float("inf"), -float("inf"), float("nan"), 0.1, 0.999999, 1e-12,
)  # fmt: skip
UNICODE = (
    "", " ", "\t", "\n", "\u00e9", "\u202e", "\u200b", "\u0000", "\u001b[31m", "\u0085", "\u2028", "\ufeff", "\U0001f600", "\ud800",
    "\u0661k", "\uff12\uff10k", "\u212a", "a" * 5000, "\u0301" * 40, "$(id)", "`id`", "{{7*7}}", "<script>", "%s%n", "\x7f",
)  # fmt: skip
PLAIN = (
    "no", "on", "off", "yes", "y", "1:30", "1e-3", "1E5", "1_000", "0o17", "0x1F", "0b1", "~", "null", "NULL", "", ".inf", ".nan", "+1",
    "-0", "007", "1.", ".5", "1e", "1e999", "<<", "=", "true", "True", "tRue", "2026-11-22", "9" * 41, "9" * 39, "|", ">", "*a", "&a",
    "&a x", "!!str x", "!!python/object/apply:os.system [id]", "@x", "%x", "`x`", "[", "]", "{", "}", ":", "- x", "? x", "'", '"', "#",
    "x: y: z", "\\",
)  # fmt: skip


GOOD = {
    "study": ("s", "87k", "a_b.c"), "source": ("wire", "file"), "tokenizer": ("char",), "arch": ("decoder",),
    "family": ("assignment", "modern"), "rungs": ("20k", "40k", "500k", "2M", "87k-assignment", "5M-assignment", "30000"),
    "name": ("small", "large"), "path": ("x.csv",), "cpu": ("90s", "1h30m"), "cuda": ("2h",), "mps": ("3m",), "within": ("15m",),
    "column": ("text",), "columns": ("a", "b"), "split": ("train",),
}  # fmt: skip


def valid(rng: random.Random, schema: Mapping[str, Any] = SCHEMA, name: str = "") -> Any:
    """A value of the key `name` that the schema allows (though two keys may not go together)."""
    if "$ref" in schema:
        return valid(rng, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], name)
    if "anyOf" in schema or "oneOf" in schema:
        return valid(rng, rng.choice(schema.get("anyOf") or schema["oneOf"]), name)
    if "enum" in schema or "const" in schema:
        return rng.choice(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object":
        known = schema.get("properties", {})
        chosen = [name for name in known if name in schema.get("required", ()) or rng.random() < 0.2]
        return {name: valid(rng, known[name], name) for name in rng.sample(chosen, len(chosen))}
    if kind == "array":
        return [valid(rng, schema["items"], name) for _ in range(rng.randint(schema.get("minItems", 0), 3))]
    makers: dict[Any, Callable[[], Any]] = {
        "integer": lambda: rng.choice((1, 2, 3, 4, 8, 32, 150, 1000, 10**6, int(10 ** rng.uniform(0, 15)))),
        "number": lambda: rng.choice((0.1, 0.5, 1e-3, 1e-2, 1, 40, 10 ** rng.uniform(-300, 300), 10 ** rng.uniform(-6, 6))),
        "boolean": lambda: rng.random() < 0.5,
        "string": lambda: rng.choice(GOOD.get(name, WORDS) if rng.random() < 0.98 else WORDS),
    }
    return makers[kind]() if kind in makers else None


PLAIN_ODD = (None, True, False, [], {}, [[]], [None], {"": 1}, {"a": {"b": [1]}}, [{}], [1, "1"], {"split": 1}, {"name": "a"})


def odd(rng: random.Random) -> Any:
    """A value that few keys expect."""
    kind = rng.randrange(4)
    if kind == 0:
        return [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 30)))]
    if kind == 1:
        return "".join(letter(rng) for _ in range(rng.randint(1, 20)))
    return rng.choice(rng.choice((NUMBERS, UNICODE, WORDS, PLAIN_ODD)))


def letter(rng: random.Random) -> str:
    """A character of any plane."""
    return chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800), rng.randrange(0x10000, 0x11000))))


def spoiled(rng: random.Random, value: Any, share: float) -> Any:
    """The same value with about this share of its parts replaced, renamed or dropped."""
    if rng.random() < share:
        return odd(rng)
    if isinstance(value, list):
        return [spoiled(rng, item, share) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, inner in value.items():
        if rng.random() < share / 2:
            key = rng.choice((key[:-1], key + key[-1], key.upper(), key + " ", str(odd(rng))))
        if rng.random() > share / 2:
            result[key] = spoiled(rng, inner, share)
    return result


def written(rng: random.Random, value: Any) -> str:
    """A document as YAML: as JSON, or in block style with scalars as people type them."""
    if rng.random() < 0.3:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return block(rng, value, 0) if isinstance(value, dict) and value else scalar(rng, value)


def block(rng: random.Random, value: Mapping[str, Any], indent: int) -> str:
    """A mapping in block style; now and then a comment, a key twice, or a plain scalar that surprises."""
    lines = []
    for key, inner in value.items():
        head = f"{' ' * indent}{key if rng.random() < 0.98 and key.isprintable() else json.dumps(key)}:"
        if isinstance(inner, dict) and inner and rng.random() < 0.7:
            lines.append(f"{head}\n{block(rng, inner, indent + rng.choice((1, 2, 4)))}")
        else:
            lines.append(f"{head} {scalar(rng, inner)}")
        if rng.random() < 0.004:
            lines.append(lines[-1])
        if rng.random() < 0.02:
            lines.append(" " * rng.randint(0, 4) + "# comment")
    return "\n".join(lines)


def scalar(rng: random.Random, value: Any) -> str:
    """A value on one line."""
    if rng.random() < 0.01:
        return rng.choice(PLAIN)
    if isinstance(value, str) and rng.random() < 0.6 and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


MARKS = (*PLAIN, *UNICODE, "{", "}", ": ", "- ", "\n", "  ", "---\n", "...\n", "%YAML 1.1\n")
TOKENS = [token.encode("utf-8", "surrogatepass") for token in MARKS]


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """A few random changes."""
    for _ in range(rng.randint(1, 4)):
        raw = changed(rng, raw) or b"\n"
    return raw


def changed(rng: random.Random, raw: bytes) -> bytes:
    """A bit, a byte or a token of YAML changed, lines moved or doubled, or a piece cut out or repeated."""
    i = rng.randrange(len(raw))
    lines = raw.splitlines(keepends=True)
    kind = rng.randrange(7)
    if kind == 0:
        return raw[:i] + bytes([rng.randrange(256)]) + raw[i + 1 :]
    if kind == 1:
        return raw[:i] + bytes([raw[i] ^ 1 << rng.randrange(8)]) + raw[i + 1 :]
    if kind == 2:
        return raw[:i] + rng.choice(TOKENS) + raw[i + rng.randint(0, 3) :]
    if kind == 3:
        return raw[:i] + raw[i + rng.randint(1, 30) :]
    if kind == 4:
        return raw[:i] + raw[i : i + 200] * rng.randint(2, 5) + raw[i:]
    if kind == 5:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        return b"".join(lines)
    return b"".join(rng.sample(lines, len(lines)))


def hard(rng: random.Random) -> bytes:
    """Structure that is expensive or ambiguous for a careless reader."""
    text = rng.choice((nested, bomb, twice, long, surprising))(rng)
    return text.encode("utf-8", "surrogatepass")


def nested(rng: random.Random) -> str:
    """Levels within levels, closed or not."""
    n = rng.choice((3, 19, 20, 21, 60, 400, 5000))
    ladder = "\n".join(f"{' ' * i}k:" for i in range(min(n, 900)))
    flow = ("[" * n + "]" * rng.choice((n, n - 1, 0)), "{a: " * n + "}" * n, "[{a: " * n + "}]" * n)
    return rng.choice((*(f"{MINIMAL}x: {text}" for text in flow), "- " * n + "x", "? " * n + "x", "- ? " * n, ladder))


def bomb(rng: random.Random) -> str:
    """Aliases of aliases."""
    wide, n = rng.randint(2, 12), rng.randint(2, 12)
    if rng.random() < 0.5:
        lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * wide)}]" for i in range(1, n))]
    else:
        lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(wide))}}}" for i in range(1, n))]
    lines += rng.choice(([], ["b: &b [*b]"], ["? *a0", ": x"], ["<<: *a0"], ["study: *a0"], [f"question: *a{n - 1}"]))
    return rng.choice(("", MINIMAL)) + "\n".join(lines)


def twice(rng: random.Random) -> str:
    """A key given twice, in one spelling or another."""
    key = rng.choice(("epochs", '"epochs"', "'epochs'", "epochs ", "! epochs", "? epochs", "&a epochs", '"\\x65pochs"'))
    value = rng.choice(PLAIN)
    again = (f"train: {{epochs: 1, {key}: {value}}}\n", f"train:\n  epochs: 1\n  {key}: {value}\n", rng.choice(MINIMAL.splitlines()) + "\n")
    return MINIMAL + rng.choice(again)


def long(rng: random.Random) -> str:
    """Much of one thing."""
    n = rng.choice((60, 400, 5000))
    word = rng.choice(PLAIN)
    text = rng.choice(("x", "\\x41", "y ", "\\\n", "\n", "\\U0001f600", "\\ud800")) * n
    lines = "".join(f"k{i}: {word}\n" for i in range(n))
    return rng.choice((
        f'{MINIMAL}hypothesis: "{text}"\n', f"{MINIMAL}hypothesis: |\n{' x' * n}\n", f"{MINIMAL}hypothesis: {word * n}\n",
        f"{MINIMAL}{word * n}: 1\n", MINIMAL + lines, "&a " * n + "x", "!" * n + " x", "%TAG ! tag:x,2000:\n" * 60 + MINIMAL, "---\n" * n,
        f"{MINIMAL}ablations: {{train_texts: [{', '.join(map(str, range(1, n)))}]}}\n",
        f"{MINIMAL}budgets: {{train_flops: [{', '.join(f'{i}e9' for i in range(1, n))}]}}\n",
        f"study: s\nquestion: q\nmodel: {{rungs: [{', '.join(f'{20 + i}k' for i in range(n))}]}}\n",
    ))  # fmt: skip


def surprising(rng: random.Random) -> str:
    """Plain scalars that YAML, or a version of it, reads as something else."""
    one, two, three = (rng.choice(PLAIN) for _ in range(3))
    return rng.choice((
        f"{MINIMAL}seeds: {one}\nsearch: {{trials: {two}, lr: {{low: {three}, high: {one}}}}}\n",
        f"{MINIMAL}within: {one}\ndata: {{validation: {two}, test: {three}, texts: {one}}}\n",
        f"{MINIMAL}{one}: {two}\n", MINIMAL.replace("20k", one), f"study: {one}\nquestion: {two}\nmodel: {{rungs: [{two}, {three}]}}\n",
        f"{MINIMAL}train: {{epochs: {one}, max_steps: {two}, weight_decay: {three}}}\n",
    ))  # fmt: skip


def paths() -> list[tuple[str | int, ...]]:
    """The path of every key."""
    return list(study_file.key_paths(Study))
