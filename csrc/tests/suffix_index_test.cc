#include "suffix_index.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.h"

namespace seer {
namespace {

template <typename T>
Span<T> span(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

// One step with a small index, in plain calls.
struct Small {
  explicit Small(std::int64_t ttl_steps)
      : index({100, 32, 16, std::int64_t{8} << 20, 1 << 20, 1 << 30, 1 << 30, ttl_steps, 0, 1}) {}

  void open(std::int64_t group, std::int64_t memory, const std::vector<Token>& prompt = {1, 2, 3}) {
    index.open_group(group, span(prompt), 0, memory);
  }

  void append(std::int64_t group, const std::vector<Token>& tokens) {
    const std::vector<std::int64_t> groups = {group};
    const std::vector<std::int64_t> zero = {0};
    const std::vector<std::int64_t> lengths = {static_cast<std::int64_t>(tokens.size())};
    index.append({span(groups), span(zero), span(zero), span(tokens), span(lengths)});
  }

  std::vector<Token> propose(const std::vector<std::int64_t>& groups) {
    const std::vector<std::int64_t> sequences(groups.size(), 1);
    const std::vector<std::int32_t> budgets(groups.size(), 2);
    index.propose({span(groups), span(sequences), span(budgets), 16, true}, drafts);
    return drafts.tokens;
  }

  SuffixIndex index;
  DraftBatch drafts;
};

TEST(a_memory_group_may_expire_in_the_call_that_would_read_it) {
  Small small(2);
  small.open(1, 1);
  small.append(1, {4, 5});
  small.open(2, 1);
  CHECK((small.propose({2}) == std::vector<Token>{4, 5}));
  CHECK((small.propose({2}) == std::vector<Token>{4, 5}));
  CHECK(small.propose({2}).empty() && !small.index.has_group(1));
  CHECK(small.propose({2}).empty());
}

TEST(a_group_may_be_dropped_before_all_of_it_is_findable) {
  Small small(0);
  for (const bool by_version : {false, true}) {
    small.open(1, 1);
    small.append(1, std::vector<Token>(30000, 7));
    small.open(2, 1);
    small.append(2, std::vector<Token>(10000, 8));
    if (by_version) {
      small.index.drop_version(0);
    } else {
      small.index.drop_group(1);
      small.index.drop_group(2);
    }
    for (int i = 0; i < 10; ++i) small.propose({});
    CHECK(small.index.num_tokens() == 0 && small.index.num_groups() == 0);
    small.open(3, 3);
    small.append(3, {1, 2, 3, 9});
    CHECK((small.propose({3}) == std::vector<Token>{1, 2}));
    small.index.clear();
  }
}

TEST(a_slot_serves_one_group_after_another) {
  Small small(0);
  for (std::int64_t group = 0; group < 100; ++group) {
    small.open(group, group);
    small.append(group, std::vector<Token>(300, static_cast<Token>(group)));
    small.propose({group});
    if (group % 3 > 0) small.index.drop_group(group - 1);
  }
  CHECK(small.index.num_groups() == 34 && small.index.counters().evicted_groups == 0);
}

TEST(bookkeeping_of_many_groups_stays_within_its_share) {
  Small small(0);
  std::size_t most = 0;
  for (std::int64_t group = 0; group < 40000; ++group) {
    small.open(group, group, {});
    most = std::max(most, small.index.memory_bytes());
  }
  CHECK(most <= std::size_t{8} << 20 && small.index.num_groups() < 20000);
  CHECK(small.index.counters().evicted_groups == 40000 - small.index.num_groups());
  for (std::int64_t group = 40000 - static_cast<std::int64_t>(small.index.num_groups()); group < 40000; ++group) {
    CHECK(small.index.has_group(group));
  }
}

}  // namespace
}  // namespace seer
