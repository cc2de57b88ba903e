"""What is proposed: token trees drafted from a group's own text."""

from sglang_seer.draft.index import Proposal, SuffixIndex

__all__ = ["Proposal", "SuffixIndex"]
