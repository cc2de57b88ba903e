// The batch interface: groups of sequences, appended to and drafted for in one call a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "drafter.h"
#include "group_history.h"
#include "token_store.h"

namespace seer {

// A borrowed one-dimensional array.
template <typename T>
struct Span {
  const T* data;
  std::size_t size;
  const T& operator[](std::size_t i) const { return data[i]; }
};

struct AppendBatch {
  Span<std::int64_t> groups;
  Span<std::int64_t> sequences;
  Span<std::int64_t> offsets;
  Span<Token> tokens;
  Span<std::int64_t> lengths;
};

struct ProposeBatch {
  Span<std::int64_t> groups;
  Span<std::int64_t> sequences;
  Span<std::int32_t> budgets;
  std::int64_t max_depth;
  bool chain;
};

// Thread-safe: one mutex around every call. Bad input throws std::invalid_argument with the field's
// name, before anything is changed.
class SuffixIndex {
 public:
  static constexpr int kMaxBudget = 64;
  static constexpr int kMaxDepth = 64;

  SuffixIndex(std::int64_t vocab_size, std::int64_t max_match, std::int64_t max_candidates);

  void open_group(std::int64_t group, Span<Token> prompt);
  void append(const AppendBatch& batch);
  DraftBatch propose(const ProposeBatch& batch);

  // Both do nothing where there is nothing to drop.
  void drop_sequence(std::int64_t group, std::int64_t sequence);
  void drop_group(std::int64_t group);
  void clear();

  std::int64_t length(std::int64_t group, std::int64_t sequence) const;
  std::size_t num_groups() const;
  std::size_t num_tokens() const;
  std::size_t memory_bytes() const;

 private:
  using Groups = std::unordered_map<std::int64_t, std::unique_ptr<GroupHistory>>;

  // One item of an append; begin is where its tokens start in the batch's tokens.
  struct Item {
    std::size_t index;
    std::int64_t begin;
  };

  GroupHistory* find(std::int64_t group) const;
  GroupHistory& find_or_throw(std::int64_t group, const char* field) const;
  void check_tokens(const Span<Token>& tokens, const char* field) const;
  static std::vector<Item> sorted_items(const AppendBatch& batch);
  void check_offsets(const AppendBatch& batch, const std::vector<Item>& items) const;

  const std::int64_t vocab_size_;
  mutable std::mutex mutex_;
  TokenStore store_;  // before groups_, whose destructors give blocks back to it
  Groups groups_;
  Drafter drafter_;
};

}  // namespace seer
