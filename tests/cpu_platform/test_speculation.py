"""Tree verification on the CPU platform, with SGLang's own NGRAM algorithm."""

from __future__ import annotations

from tests.cpu_platform.conftest import GREEDY, Run
from tests.cpu_platform.engines import Answers, logprobs, tokens

# Every node sees all nodes before it, as if the tree were a chain.
IGNORE_THE_TREE = """
import torch
import sglang_seer_cpu.attention_plan as plan
plan.tree_mask = lambda mask, lens, width: torch.ones(lens.numel(), width, width, dtype=torch.bool).tril()
"""


def test_trees_change_no_token_and_no_bit(plain: Answers, tree: Answers) -> None:
    accepted = [answer["meta_info"]["spec_accept_length"] for answer in tree[0]]
    # Some drafts were accepted, and many were not: an accepted length of 12 would leave no rejected node.
    assert 1.05 < sum(accepted) / len(accepted) < 6
    assert tokens(tree[0]) == tokens(plain[0])
    assert logprobs(tree[0]) == logprobs(plain[0])


def test_without_overlap_with_pages_and_wide_drafts(plain: Answers, run: Run) -> None:
    """SGLang allows NGRAM chains, not trees, with pages of more than one token."""
    (answers,) = run(
        [GREEDY],
        speculative_algorithm="NGRAM",
        speculative_num_draft_tokens=33,
        speculative_ngram_max_bfs_breadth=1,
        page_size=16,
        disable_overlap_schedule=True,
    )
    assert tokens(answers) == tokens(plain[0])
    assert logprobs(answers) == logprobs(plain[0])


def test_an_attention_that_ignores_the_tree_is_seen(plain: Answers, run: Run) -> None:
    (answers,) = run([GREEDY], speculative_algorithm="NGRAM", mutant=IGNORE_THE_TREE)
    assert tokens(answers) != tokens(plain[0])
