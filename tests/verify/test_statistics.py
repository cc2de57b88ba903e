"""Chi-squared tests of what verification emits: 200,000 trials, 16 tokens, drafts chosen to do harm.

Three tokens a trial, compared with the enumerated law of plain decoding at each position and jointly. Seeds are fixed,
so the p-values are too. Every mutant must fall below a p-value that luck cannot explain.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sglang_seer.verify import Accepted, SamplingRows, verify_tree
from sglang_seer.verify.oracle import Law, Settings, decoding_law
from tests.verify import mutants

VOCAB = 16
TRIALS = 200_000
STEPS = 3
SETTINGS = Settings(temperature=0.7, top_p=0.9)
TREES = {"chain": [-1, 0, 1], "tree": [-1, 0, 0, 1]}
# Luck passes the first bound once in 10,000 tests and never the second.
PLAUSIBLE = 1e-4
IMPOSSIBLE = 1e-12
Verifier = Callable[..., Accepted]


@pytest.fixture(scope="module")
def model() -> torch.Tensor:
    """[last token, next token] logits."""
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def law(model: torch.Tensor) -> Law:
    rows = model.tolist()
    return decoding_law(lambda prefix: rows[prefix[-1] if prefix else 0], SETTINGS, STEPS)


def rows_of(trials: torch.Tensor) -> SamplingRows:
    count = len(trials)
    return SamplingRows(
        temperatures=torch.full((count,), SETTINGS.temperature),
        top_ks=torch.full((count,), SETTINGS.top_k, dtype=torch.int32),
        top_ps=torch.full((count,), SETTINGS.top_p),
        min_ps=torch.zeros(count),
        seeds=trials * 2_654_435_761 + 12_345,
        all_greedy=False,
        any_filter=True,
    )


def generate(verify: Verifier, model: torch.Tensor, parents: list[int], ranks: list[int]) -> torch.Tensor:
    """[TRIALS, STEPS] tokens. ranks: for each node, which of its parent's tokens is drafted, by likelihood."""
    # A few at a time: their noise stays in the cache.
    return torch.cat([generate_some(verify, model, parents, ranks, some) for some in torch.arange(TRIALS).split(5000)])


def generate_some(
    verify: Verifier, model: torch.Tensor, parents: list[int], ranks: list[int], trials: torch.Tensor
) -> torch.Tensor:
    ranking = model.argsort(dim=1, descending=True)
    text = torch.zeros((len(trials), STEPS + 2), dtype=torch.long)
    lengths = torch.ones(len(trials), dtype=torch.long)
    tree = torch.tensor(parents, dtype=torch.int32)
    width = len(parents)
    while (open_trials := (lengths <= STEPS).nonzero().view(-1)).numel():
        roots = text[open_trials, lengths[open_trials] - 1]
        nodes = [roots]
        depths = [0]
        for node in range(1, width):
            nodes.append(ranking[nodes[parents[node]], ranks[node]])
            depths.append(depths[parents[node]] + 1)
        tokens = torch.stack(nodes, dim=1)
        positions = (lengths[open_trials] - 1)[:, None] + torch.tensor(depths)
        accepted = verify(
            model[tokens.flatten()],
            tokens.int(),
            tree.repeat(len(tokens), 1),
            positions.flatten(),
            rows_of(trials[open_trials]),
        )
        for slot in range(width):
            place = lengths[open_trials] + slot
            takes = (slot < accepted.lengths) & (place <= STEPS)
            text[open_trials[takes], place[takes]] = accepted.tokens[takes, slot].long()
        lengths[open_trials] += accepted.lengths
    return text[:, 1 : STEPS + 1]


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's chi-squared test; cells expected fewer than 5 times are one cell."""
    if counts[expected == 0].sum() > 0:
        return 0.0
    few = expected < 5
    pooled = few & (expected > 0)
    seen, wanted = counts[~few].double(), expected[~few]
    if expected[pooled].sum() >= 5:
        seen = torch.cat([seen, counts[pooled].sum().double()[None]])
        wanted = torch.cat([wanted, expected[pooled].sum()[None]])
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(wanted) - 1) / 2).double(), statistic / 2))


def p_values(tokens: torch.Tensor, law: Law) -> dict[str, float]:
    """By name: each position alone, and all positions jointly."""
    joint = torch.zeros((VOCAB,) * STEPS, dtype=torch.float64)
    for sequence, probability in law.items():
        joint[sequence] = probability * TRIALS
    values = {}
    for position in range(STEPS):
        others = [axis for axis in range(STEPS) if axis != position]
        seen = torch.bincount(tokens[:, position], minlength=VOCAB)
        values[f"position {position}"] = p_value(seen, joint.sum(dim=others))
    flat = (tokens * torch.tensor([VOCAB**2, VOCAB, 1])).sum(dim=1)
    values["joint"] = p_value(torch.bincount(flat, minlength=VOCAB**STEPS), joint.flatten())
    return values


# By likelihood at the parent: the least likely tokens, and the likeliest, so that walks get long.
RANKS = {
    ("chain", "least"): [0, 15, 15],
    ("chain", "likely"): [0, 0, 1],
    ("tree", "least"): [0, 15, 14, 15],
    ("tree", "likely"): [0, 0, 2, 1],
}


@pytest.mark.parametrize("drafts", ["least", "likely"])
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_verification_has_the_law_of_plain_decoding(model: torch.Tensor, law: Law, shape: str, drafts: str) -> None:
    """Kills the six mutants below, which differ from this test by the verifier alone."""
    values = p_values(generate(verify_tree, model, TREES[shape], RANKS[shape, drafts]), law)
    assert min(values.values()) > PLAUSIBLE, values


@pytest.mark.parametrize(
    ("mutant", "shape", "killed_by"),
    [
        (mutants.noise_reused, "chain", "joint"),
        (mutants.noise_reused, "tree", "joint"),
        (mutants.position_off_by_one, "tree", "joint"),
        (mutants.draft_seen_by_the_draw, "chain", "position 0"),
        (mutants.MissingBonus(), "chain", "position 1"),
        (mutants.temperature_on_one_side, "tree", "position 1"),
        (mutants.top_p_after_the_draw, "chain", "position 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_mutants_are_killed(mutant: Verifier, model: torch.Tensor, law: Law, shape: str, killed_by: str) -> None:
    """The test above would fail for each of them, and by the part that is named."""
    values = p_values(generate(mutant, model, TREES[shape], RANKS[shape, "likely"]), law)
    assert values[killed_by] < IMPOSSIBLE, values


def test_a_draw_that_looks_at_hostile_drafts_is_killed(model: torch.Tensor, law: Law) -> None:
    """Drafts of the least likely tokens show a draw that favours them, although few are accepted."""
    tokens = generate(mutants.draft_seen_by_the_draw, model, TREES["tree"], [0, 8, 7, 8])
    assert p_values(tokens, law)["position 0"] < IMPOSSIBLE
