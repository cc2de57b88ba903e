#include "suffix_index.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

namespace seer {
namespace {

std::string at(const char* field, std::size_t i) {
  return std::string(field) + "[" + std::to_string(i) + "]";
}

[[noreturn]] void reject(const std::string& field, std::int64_t seen, const std::string& wanted) {
  throw std::invalid_argument(field + " is " + std::to_string(seen) + ", wanted " + wanted);
}

void check_range(const std::string& field, std::int64_t seen, std::int64_t low, std::int64_t high) {
  if (seen < low || seen > high) {
    reject(field, seen, "a value from " + std::to_string(low) + " to " + std::to_string(high));
  }
}

void check_size(const char* field, std::size_t seen, std::size_t wanted) {
  if (seen != wanted) {
    throw std::invalid_argument(std::string(field) + " has " + std::to_string(seen) +
                                " elements, wanted " + std::to_string(wanted) +
                                ", one for each of groups");
  }
}

MatchLimits checked_limits(std::int64_t max_match, std::int64_t max_candidates) {
  check_range("max_match", max_match, 1, 256);
  check_range("max_candidates", max_candidates, 1, 4096);
  return {static_cast<int>(max_match), static_cast<int>(max_candidates)};
}

}  // namespace

SuffixIndex::SuffixIndex(std::int64_t vocab_size, std::int64_t max_match,
                         std::int64_t max_candidates)
    : vocab_size_(vocab_size), drafter_(store_, checked_limits(max_match, max_candidates)) {
  check_range("vocab_size", vocab_size, 1, std::numeric_limits<Token>::max());
}

void SuffixIndex::open_group(std::int64_t group, Span<Token> prompt) {
  const std::lock_guard<std::mutex> lock(mutex_);
  check_tokens(prompt, "prompt");
  if (const GroupHistory* known = find(group)) {
    if (!known->prompt_equals(prompt.data, prompt.size)) {
      throw std::invalid_argument("prompt differs from the one that group " +
                                  std::to_string(group) + " was opened with");
    }
    return;
  }
  groups_.emplace(group, std::make_unique<GroupHistory>(store_, prompt.data, prompt.size));
}

void SuffixIndex::append(const AppendBatch& batch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::vector<Item> items = sorted_items(batch);
  check_tokens(batch.tokens, "tokens");
  check_offsets(batch, items);
  for (const Item& item : items) {
    const std::size_t i = item.index;
    find(batch.groups[i])
        ->append(batch.sequences[i], batch.offsets[i], batch.tokens.data + item.begin,
                 batch.lengths[i]);
  }
}

DraftBatch SuffixIndex::propose(const ProposeBatch& batch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t n = batch.groups.size;
  check_size("sequences", batch.sequences.size, n);
  check_size("budgets", batch.budgets.size, n);
  check_range("max_depth", batch.max_depth, 1, kMaxDepth);
  std::size_t total = 0;
  for (std::size_t i = 0; i < n; ++i) {
    find_or_throw(batch.groups[i], at("groups", i).c_str());
    check_range(at("budgets", i), batch.budgets[i], 0, kMaxBudget);
    total += static_cast<std::size_t>(batch.budgets[i]);
  }
  DraftBatch drafts;
  drafts.tokens.reserve(total);
  drafts.parents.reserve(total);
  drafts.probabilities.reserve(total);
  drafts.depths.reserve(total);
  drafts.starts.reserve(n + 1);
  for (std::size_t i = 0; i < n; ++i) {
    const DraftShape shape{batch.budgets[i], static_cast<int>(batch.max_depth), batch.chain};
    drafter_.draft(*find(batch.groups[i]), batch.sequences[i], shape, drafts);
  }
  return drafts;
}

void SuffixIndex::drop_sequence(std::int64_t group, std::int64_t sequence) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (GroupHistory* known = find(group)) known->drop_sequence(sequence);
}

void SuffixIndex::drop_group(std::int64_t group) {
  const std::lock_guard<std::mutex> lock(mutex_);
  groups_.erase(group);
}

void SuffixIndex::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  groups_.clear();
  store_.clear();
}

std::int64_t SuffixIndex::length(std::int64_t group, std::int64_t sequence) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return find_or_throw(group, "group").response_length(sequence);
}

std::size_t SuffixIndex::num_groups() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return groups_.size();
}

std::size_t SuffixIndex::num_tokens() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t total = 0;
  for (const auto& entry : groups_) total += entry.second->num_tokens();
  return total;
}

std::size_t SuffixIndex::memory_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t total = sizeof(*this) + store_.bytes() + groups_.bucket_count() * sizeof(void*);
  // A node of the map: the pair, a pointer and a stored hash or two.
  for (const auto& entry : groups_) total += entry.second->bytes() + 4 * sizeof(void*);
  return total;
}

GroupHistory* SuffixIndex::find(std::int64_t group) const {
  const auto found = groups_.find(group);
  return found == groups_.end() ? nullptr : found->second.get();
}

GroupHistory& SuffixIndex::find_or_throw(std::int64_t group, const char* field) const {
  GroupHistory* const known = find(group);
  if (known == nullptr) reject(field, group, "a group that was opened");
  return *known;
}

void SuffixIndex::check_tokens(const Span<Token>& tokens, const char* field) const {
  for (std::size_t i = 0; i < tokens.size; ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size_) {
      check_range(at(field, i), tokens[i], 0, vocab_size_ - 1);
    }
  }
}

// The batch's items by group, sequence and offset: chains then hold the newest occurrences in an
// order that the order of the items does not change.
std::vector<SuffixIndex::Item> SuffixIndex::sorted_items(const AppendBatch& batch) {
  const std::size_t n = batch.groups.size;
  check_size("sequences", batch.sequences.size, n);
  check_size("offsets", batch.offsets.size, n);
  check_size("lengths", batch.lengths.size, n);
  const auto available = static_cast<std::int64_t>(batch.tokens.size);
  std::vector<Item> items;
  items.reserve(n);
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < n; ++i) {
    check_range(at("lengths", i), batch.lengths[i], 0, available - begin);
    items.push_back({i, begin});
    begin += batch.lengths[i];
  }
  if (begin != available) {
    throw std::invalid_argument("tokens has " + std::to_string(available) +
                                " elements, wanted " + std::to_string(begin) +
                                ", the sum of lengths");
  }
  const auto key = [&batch](const Item& item) {
    return std::make_tuple(batch.groups[item.index], batch.sequences[item.index],
                           batch.offsets[item.index]);
  };
  std::stable_sort(items.begin(), items.end(),
                   [&key](const Item& a, const Item& b) { return key(a) < key(b); });
  return items;
}

void SuffixIndex::check_offsets(const AppendBatch& batch, const std::vector<Item>& items) const {
  std::int64_t stored = 0;
  for (std::size_t k = 0; k < items.size(); ++k) {
    const std::size_t i = items[k].index;
    const std::size_t last = k == 0 ? i : items[k - 1].index;
    const bool same_sequence = k > 0 && batch.groups[last] == batch.groups[i] &&
                               batch.sequences[last] == batch.sequences[i];
    if (!same_sequence) {
      stored = find_or_throw(batch.groups[i], at("groups", i).c_str())
                   .response_length(batch.sequences[i]);
    }
    if (batch.offsets[i] < 0 || batch.offsets[i] > stored) {
      reject(at("offsets", i), batch.offsets[i],
             "a value from 0 to " + std::to_string(stored) + ", the length stored of sequence " +
                 std::to_string(batch.sequences[i]) + " of group " +
                 std::to_string(batch.groups[i]));
    }
    stored = std::max(stored, batch.offsets[i] + batch.lengths[i]);
  }
}

}  // namespace seer
