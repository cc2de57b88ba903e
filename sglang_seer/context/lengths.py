"""How long responses get: the paper's rule, and an estimate from all that the rollout has shown so far.

Both order groups and foretell single responses. Neither reads a clock: ranks that are told the same answer the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from math import inf, log, sqrt

from sglang_seer.context.changes import Changes
from sglang_seer.context.model import LengthModel, check_length
from sglang_seer.context.population import Population, Prior, fit
from sglang_seer.context.remaining import Exactly, LogNormal, check_tokens, whole_mean
from sglang_seer.context.siblings import Siblings

__all__ = ["ContextLengths", "LengthModel", "LongestSibling"]

MOST_GROUPS = 65_536


class LongestSibling:
    """The paper's rule (section 3.3): the longest finished sibling, the limit while none has finished."""

    def __init__(self, max_groups: int = MOST_GROUPS) -> None:
        self._max_groups = max_groups
        self._longest: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._changes = Changes()

    @property
    def version(self) -> int:
        return self._changes.version

    def changed(self, version: int) -> Sequence[str] | None:
        return self._changes.since(version)

    def touch(self, group: str, limit_tokens: int | None = None) -> None:
        self._longest.setdefault(group, (0, 0))
        self._longest.move_to_end(group)
        if len(self._longest) > self._max_groups:
            forgotten, (members, _) = self._longest.popitem(last=False)
            if members:
                self._changes.one(forgotten)

    def finish(
        self, group: str, tokens: int, *, member: Hashable | None = None, limit_tokens: int | None = None
    ) -> None:
        check_length(tokens)
        self.touch(group)
        members, longest = self._longest[group]
        self._longest[group] = members + 1, max(longest, tokens)
        self._changes.one(group)

    def progress(self, group: str, member: Hashable, tokens: int) -> None:
        check_length(tokens)

    def lost(self, group: str, member: Hashable) -> None:
        # It may have been the probe.
        self._changes.one(group)

    def remaining(
        self, group: str, generated_tokens: int, limit_tokens: int, *, member: Hashable | None = None
    ) -> Exactly:
        """Until the longest finished sibling; once past that, until the limit."""
        check_tokens(generated_tokens, limit_tokens)
        expected = self.expected_tokens(group, limit_tokens)
        return Exactly((expected if expected > generated_tokens else limit_tokens) - generated_tokens)

    def expected_tokens(self, group: str, limit_tokens: int) -> float:
        members, longest = self._longest.get(group, (0, 0))
        return float(min(longest, limit_tokens) if members else limit_tokens)

    def information(self, group: str, running: int) -> float:
        """The paper sends one probe: everything without it, nothing after it."""
        return 0.0 if running or self.finished(group) else inf

    def finished(self, group: str) -> int:
        return self._longest.get(group, (0, 0))[0]

    def untold(self, group: str) -> bool:
        return not self.finished(group)

    def clear(self) -> None:
        self._longest.clear()
        self._changes.all()

    def __len__(self) -> int:
        return len(self._longest)


class ContextLengths:
    """Empirical Bayes over log lengths: finished and unfinished siblings, and the distribution over all groups.

    Within a group the mean log length has a normal prior (the population) and each member tells: finished ones their
    length, unfinished and cut ones that they are longer than that. A long sibling raises the estimate by as much as
    groups were seen to differ, so that it shrinks to the rollout's mean where prompts tell nothing.

    The population is fitted again each time that the ended members or the steps of progress grew by a quarter; in
    between an answer depends on its own group only, and not on the order of what was told.
    """

    def __init__(self, prior: Prior | None = None, max_groups: int = MOST_GROUPS) -> None:
        self._prior = prior or Prior()
        self._max_groups = max_groups
        self._groups: OrderedDict[str, Siblings] = OrderedDict()
        # Groups of which something was told: asked for thousands at a time.
        self._told: set[str] = set()
        self._changes = Changes()
        self._fitted: Population | None = None
        self._unfitted: dict[int, Population] = {}
        self._ended = self._steps = 0
        self._next_ended, self._next_steps = 1, 0
        self._longest_limit = 0
        # Of whole new responses by group and limit; None for all groups of which nothing is known.
        self._expected: dict[str | None, dict[int, float]] = {}
        self._fresh: dict[str | None, dict[int, LogNormal]] = {}
        # By members that finished before.
        self._information: list[float] = []

    @property
    def version(self) -> int:
        return self._changes.version

    def changed(self, version: int) -> Sequence[str] | None:
        return self._changes.since(version)

    def population(self, limit_tokens: int) -> Population:
        """What is believed of all groups; before the first fit, the prior for that limit."""
        if self._fitted is not None:
            return self._fitted
        if limit_tokens not in self._unfitted:
            self._unfitted[limit_tokens] = self._prior.population(limit_tokens)
        return self._unfitted[limit_tokens]

    def touch(self, group: str, limit_tokens: int | None = None) -> None:
        self._siblings(group)
        if limit_tokens is not None and limit_tokens > self._longest_limit:
            self._longest_limit = limit_tokens
            # What was believed so far was of shorter limits, as of a server's warm-up.
            if self._fitted is not None:
                self.fit()

    def _siblings(self, group: str) -> Siblings:
        known = self._groups.get(group)
        if known is None:
            known = self._groups[group] = Siblings()
            if len(self._groups) > self._max_groups:
                forgotten, _ = self._groups.popitem(last=False)
                self._told.discard(forgotten)
                self._changed(forgotten)
        else:
            self._groups.move_to_end(group)
        return known

    def _changed(self, group: str) -> None:
        self._expected.pop(group, None)
        self._fresh.pop(group, None)
        self._changes.one(group)

    def finish(
        self, group: str, tokens: int, *, member: Hashable | None = None, limit_tokens: int | None = None
    ) -> None:
        check_length(tokens)
        siblings = self._siblings(group)
        self._told.add(group)
        siblings.drop(member)
        siblings.finish(max(tokens, 1), capped=limit_tokens is not None and tokens >= limit_tokens)
        self._longest_limit = max(self._longest_limit, tokens, limit_tokens or 0)
        self._changed(group)
        self._ended += 1
        if self._ended >= self._next_ended:
            self.fit()

    def progress(self, group: str, member: Hashable, tokens: int) -> None:
        check_length(tokens)
        if not tokens:
            return
        siblings = self._siblings(group)
        self._told.add(group)
        if not siblings.progress(member, tokens):
            return
        self._changed(group)
        self._steps += 1
        if self._ended and self._steps >= self._next_steps:
            self.fit()

    def lost(self, group: str, member: Hashable) -> None:
        if group in self._groups:
            self._groups[group].drop(member)
        self._changed(group)

    def fit(self) -> None:
        """Learn the population from all groups seen. Called by itself when it is due."""
        # In an order of their own, because sums of floats depend on it.
        evidence = [siblings.evidence() for _, siblings in sorted(self._groups.items()) if siblings]
        if not evidence:
            return
        anchor = log(max(self._longest_limit, 1))
        start = self._fitted or Population(anchor, self._prior.between, self._prior.within)
        found = fit(evidence, self._prior, anchor, start)
        self._next_ended = self._ended + self._ended // 4 + 1
        self._next_steps = self._steps + max(self._steps, 4 * self._ended) // 4 + 1
        if self._fitted is None or not found.close_to(self._fitted):
            self._fitted = found
            self._expected.clear()
            self._fresh.clear()
            self._information.clear()
            self._changes.all()

    def remaining(
        self, group: str, generated_tokens: int, limit_tokens: int, *, member: Hashable | None = None
    ) -> LogNormal:
        siblings = self._groups.get(group)
        if generated_tokens == 0 and member is None:
            known = self._fresh.setdefault(group if siblings else None, {})
            if limit_tokens not in known:
                known[limit_tokens] = self._remaining(siblings, 0, limit_tokens, None)
            return known[limit_tokens]
        return self._remaining(siblings, generated_tokens, limit_tokens, member)

    def _remaining(
        self, siblings: Siblings | None, generated_tokens: int, limit_tokens: int, member: Hashable | None
    ) -> LogNormal:
        check_tokens(generated_tokens, limit_tokens)
        population = self.population(limit_tokens)
        if not siblings:
            mean, variance = population.centre, population.between
        elif member is None:
            mean, variance = siblings.belief(population)
        else:
            mean, variance = siblings.belief_without(member, population)
        whole = variance + population.within
        return LogNormal(mean, sqrt(whole), generated_tokens, limit_tokens, variance / whole)

    def expected_tokens(self, group: str, limit_tokens: int) -> float:
        siblings = self._groups.get(group)
        known = self._expected.setdefault(group if siblings else None, {})
        expected = known.get(limit_tokens)
        if expected is None:
            check_tokens(0, limit_tokens)
            population = self.population(limit_tokens)
            mean, variance = siblings.belief(population) if siblings else (population.centre, population.between)
            expected = whole_mean(mean, sqrt(variance + population.within), limit_tokens)
            expected = known[limit_tokens] = min(max(expected, 1.0), float(limit_tokens))
        return expected

    def information(self, group: str, running: int) -> float:
        siblings = self._groups.get(group)
        members = running + siblings.ended if siblings else running
        while members >= len(self._information):
            # Before the first fit the prior's variances hold whatever the limit.
            population = self.population(self._longest_limit or 1)
            self._information.append(population.information(len(self._information)))
        return self._information[members]

    def finished(self, group: str) -> int:
        siblings = self._groups.get(group)
        return siblings.ended if siblings is not None else 0

    def untold(self, group: str) -> bool:
        return group not in self._told

    def clear(self) -> None:
        self._groups.clear()
        self._told.clear()
        self._expected.clear()
        self._fresh.clear()
        self._information.clear()
        self._fitted = None
        self._ended = self._steps = 0
        self._next_ended, self._next_steps = 1, 0
        self._changes.all()

    def __len__(self) -> int:
        return len(self._groups)
