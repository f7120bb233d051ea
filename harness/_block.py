"""What the blocks of a study file share: their base class, and how two keys that don't go together are refused.

Used only by the `spec` modules.
"""

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Block(BaseModel):
    """What all blocks share: frozen, no unknown keys, documented by the text under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def misfit(key: str, what: str) -> PydanticCustomError:
    """Two keys don't go together; `key` is the one to point at, with dots where it lies deeper."""
    return PydanticCustomError("misfit", "{what}", {"key": key, "what": what})
