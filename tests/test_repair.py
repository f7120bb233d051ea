"""A damaged record: what is whole is kept, what lost a part is trained again, and the original stays."""

import json
import random
from pathlib import Path

import pytest

from harness.errors import DamageError
from harness.journal import Journal, read
from harness.record import Record
from harness.repair import repair


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three runs: two whole, one of them resumed, and one that was running."""
    journal = Journal(tmp_path / "toy" / "journal.jsonl")
    journal.append("plan", study={"study": "toy"}, plan={"rungs": []}, data={})
    for key in ("a", "b"):
        journal.append("run_started", key=key, name=key, spec={})
        for index in range(3):
            journal.append("evaluation", key=key, index=index, step=index + 1, val_loss=1.0)
        if key == "b":
            journal.append("run_resumed", key=key, step=2, events=2, name=key, spec={})
            journal.append("evaluation", key=key, index=2, step=3, val_loss=1.0)
        journal.append("run_ended", key=key, status="completed", reason="", events=3)
    journal.append("run_started", key="c", name="c", spec={})
    journal.append("evaluation", key="c", index=0, step=1, val_loss=1.0)
    journal.close()
    return tmp_path / "toy" / "journal.jsonl"


def test_a_whole_record_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert repair(path).original is None and path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["journal.jsonl"]


def test_whichever_line_is_damaged_the_rest_is_kept_and_nothing_half_known_counts_as_done(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line.partition(b" ")[2]) for line in lines]
    rng = random.Random(0)
    for n, line in enumerate(lines[:-1]):
        place = rng.randrange(len(line) - 2)
        path.write_bytes(b"".join([*lines[:n], line[:place] + b"\x01\x02" + line[place + 2 :], *lines[n + 1 :]]))
        with pytest.raises(DamageError, match=rf":{n + 1}: .*harness repair toy"):
            list(read(path))
        done = repair(path)
        assert done.damaged == (n + 1,) and done.original is not None and done.original.exists()
        record = Record.of(read(path))
        for key in ("a", "b"):
            own = kinds[n].get("key") == key
            # The resumed run told its last evaluation twice, so that the first telling can be spared.
            spared = own and key == "b" and n == 9
            assert record.is_done(key) == (not own or spared)
            if record.is_done(key):
                assert [e["step"] for e in record.evaluations[key]] == [1, 2, 3]
        assert "c" in record.started or kinds[n].get("key") == "c"
        # And the record can be written on.
        Journal(path).close()
        done.original.unlink()


def test_one_wrong_bit_is_found_by_the_checksum_wherever_it_is(path: Path) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    n, start = 4, sum(map(len, lines[:4]))
    for bit in range(0, 8 * (len(lines[n]) - 1), 7):
        damaged = bytearray(whole)
        damaged[start + bit // 8] ^= 1 << bit % 8
        # A bit that makes an end of a line splits it in two.
        if damaged.count(b"\n") != len(lines):
            continue
        path.write_bytes(damaged)
        done = repair(path)
        assert path.read_bytes() == whole and done.damaged == (n + 1,) and done.void == ()
        assert done.original is not None and done.original.read_bytes() == damaged
        done.original.unlink()


def test_a_lost_line_is_found_by_its_number(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert repair(path).void == ("a",)
    assert not Record.of(read(path)).is_done("a")
