"""The bytes of merged checkpoints are those of an earlier tree; see tests/support/merged_bytes.py."""

import json

import pytest
from support import merged_bytes

from lrnb.merging.cpu import Cpu
from lrnb.merging.whole_models import merge_checkpoints


@pytest.mark.parametrize(("threads", "span"), [(1, 1 << 19), (1, 4099), (2, 20_001)])
def test_merged_bytes_are_what_they_were(threads, span, monkeypatch):
    """Tensors larger than a span are cut into several, and spans into the blocks of the compiled loops."""
    monkeypatch.setattr(Cpu, "span", span)
    wanted = json.loads(merged_bytes.STORED.read_text())["sha256"]
    found = dict(merged_bytes.hashes(merge_checkpoints, threads=threads))
    assert [case for case in wanted if found.get(case) != wanted[case]] == []
    assert list(found) == list(wanted)


def test_no_two_of_these_merges_are_equal():
    """Else a case would prove nothing that another does not prove."""
    stored = json.loads(merged_bytes.STORED.read_text())["sha256"]
    assert len(set(stored.values())) == len(stored)
