"""Text for people from text that others wrote: it acts on no terminal and no page, and holds no secret of an address or a command."""

import os
import re
from typing import Any

# Marks of Markdown that act anywhere; `:` and `.` only where they would start an emoji or an automatic link.
_INLINE = re.compile(r"[\\`*_\[\]<>|$~&@^#]|:(?=//)|(?<!\d):(?=[\w+-]+:)|(?<=www)\.")
_LINE_START = re.compile(r"^(\s*)([+\-=!]|\d+(?=[.)](?:\s|$)))")

# Lengths are bounded, so that no text takes long.
_SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE), shown)
    for pattern, shown in (
        # user:password@ of an address; a password that isn't quoted may hold @ and /, a port is no password.
        (r"(?<=://)(?:[^\s/@:'\"]{0,200}:(?!\d+/)[^\s'\"]{0,200}@|[^\s/@'\"]{0,200}@)", "***@"),
        # The same without a scheme, as proxies are given.
        (r"(?<![\w.@/:-])[\w.+-]{1,100}:[^\s:/@'\"]{1,100}@(?=[\w-]+(?:\.[\w-]+|:\d))", "***@"),
        # name=value, in a query, a command or a text. A token is a secret, tokens are counted.
        (
            r"(?<![a-z0-9])((?:[a-z0-9]{1,40}[_-]){0,4}(?:token|secret|password|passwd|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
            r"|signature|credentials?)=)(?:'[^']*'|\"[^\"]*\"|[^\s&'\";#]+)",
            r"\1***",
        ),
        (r"([?&](?:key|sig|auth|code)=)[^\s&'\";#]+", r"\1***"),
        (r"\b(authorization:\s*|bearer\s+)(?:(?:basic|bearer|token)\s+)?[^\s'\"]{6,}", r"\1***"),
        # Tokens that are known by their shape.
        (
            r"(?<![\w-])(?:hf_[a-z0-9]{20,}|gh[pousr]_[a-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
            r"|AKIA[0-9A-Z]{16}|dapi[0-9a-f]{32}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)",
            "***",
        ),
    )
)
_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY)$", re.IGNORECASE)
# Shorter values could be any word.
_SHORTEST_SECRET = 8


def visible(text: str) -> str:
    """The text on one line, with characters that don't print (breaks, controls, direction marks) written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def presentable(text: str) -> str:
    """A text of some lines as it may be shown to anybody."""
    return "\n".join(map(visible, without_secrets(text).split("\n")))


def escape(text: str) -> str:
    """Markdown that renders as this text, in a paragraph, a heading, a list item or a cell."""
    safe = _INLINE.sub(lambda found: "\\" + found.group(), visible(text))
    # A backslash does not escape a digit, so the mark after a leading number is escaped instead.
    return _LINE_START.sub(lambda m: m.group(1) + ("\\" + m.group(2) if not m.group(2).isdigit() else m.group(2) + "\\"), safe)


def without_secrets(text: str) -> str:
    """A text with *** for users and passwords of addresses, tokens, keys, and what the environment names as such."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    values = (value for name, value in os.environ.items() if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name))
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def censored(value: Any) -> Any:
    """Plain data with every text in it `without_secrets`."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: censored(inner) for key, inner in value.items()}
    return [censored(inner) for inner in value] if isinstance(value, list | tuple) else value
