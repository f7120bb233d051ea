"""The contract of a figure: one file with

TITLE: str, and PLACE: int, its order in the report; ABSENT: str, why it is left out when its frame is empty;
ALT: str, what the picture shows, for those who can't see it;
prepare(results) -> DataFrame: tidy, all that the picture shows; saved as CSV beside it;
draw(frame) -> Figure: from that frame alone; caption(frame) -> str: what to see in it.
"""
