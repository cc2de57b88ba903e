// One group: its prompt, the responses of its sequences, and the chains that find their suffixes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "head_table.h"
#include "token_store.h"

namespace seer {

// A place where a suffix of the context occurred before: `next` is the token that followed.
struct Candidate {
  Position next;
  int matched;  // exact length of the match before `next`, at most max_match
};

struct MatchLimits {
  int max_match;       // longest match that is told apart
  int max_candidates;  // chain steps for each order, newest occurrence first; once half as many
                       // candidates are found, shorter orders are left out
};

class GroupHistory {
 public:
  // The store is borrowed and shared: positions of all groups live in one space, so that candidates
  // of several groups can be voted on together.
  GroupHistory(TokenStore& store, const Token* prompt, std::size_t length);
  ~GroupHistory();
  GroupHistory(const GroupHistory&) = delete;
  GroupHistory& operator=(const GroupHistory&) = delete;

  bool prompt_equals(const Token* prompt, std::size_t length) const;
  std::int64_t response_length(std::int64_t sequence) const;
  std::size_t num_tokens() const { return live_tokens_; }
  std::size_t bytes() const;

  // Appends what lies beyond the stored length; offset must not exceed it.
  void append(std::int64_t sequence, std::int64_t offset, const Token* tokens, std::int64_t length);
  void drop_sequence(std::int64_t sequence);

  // The last tokens of prompt + response, at most `limit`, before `end`; returns how many.
  int context(std::int64_t sequence, int limit, Token* end) const;

  // Adds the occurrences of suffixes of the `available` tokens before `end`, longest order first.
  // A position is indexed by the tokens before it, so an end of text is never an occurrence.
  void collect(const Token* end, int available, const MatchLimits& limits,
               std::vector<Candidate>& candidates) const;

 private:
  struct Text {
    BlockId first = kNone;
    BlockId last = kNone;
    std::int64_t length = 0;
  };

  bool is_dropped(Position position) const {
    return dropped_tokens_ > 0 && store_.block_of(position).dropped;
  }
  Position end_of(const Text& text) const;
  void extend(Text& text, const Token* tokens, std::int64_t length);
  void link(Position position, const Token* context_end, int available);
  void link_text(const Text& text);
  void relink_live();

  TokenStore& store_;
  std::array<HeadTable, kNumOrders> heads_;
  Text prompt_;
  // Ordered, so that relinking visits sequences by id and not by hash.
  std::map<std::int64_t, Text> responses_;
  std::vector<BlockId> dropped_;  // first blocks of dropped sequences that are still linked
  std::size_t live_tokens_ = 0;
  std::size_t dropped_tokens_ = 0;
};

}  // namespace seer
