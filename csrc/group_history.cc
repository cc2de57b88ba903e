#include "group_history.h"

#include <algorithm>

namespace seer {

GroupHistory::GroupHistory(TokenStore& store, const Token* prompt, std::size_t length)
    : store_(store) {
  extend(prompt_, prompt, static_cast<std::int64_t>(length));
}

GroupHistory::~GroupHistory() {
  store_.release(prompt_.first);
  for (const auto& entry : responses_) store_.release(entry.second.first);
  for (const BlockId first : dropped_) store_.release(first);
}

bool GroupHistory::prompt_equals(const Token* prompt, std::size_t length) const {
  if (static_cast<std::size_t>(prompt_.length) != length) return false;
  for (BlockId id = prompt_.first; id != kNone; id = store_.block(id).next) {
    const Block& block = store_.block(id);
    if (!std::equal(prompt, prompt + block.used, block.tokens.begin())) return false;
    prompt += block.used;
  }
  return true;
}

std::int64_t GroupHistory::response_length(std::int64_t sequence) const {
  const auto found = responses_.find(sequence);
  return found == responses_.end() ? 0 : found->second.length;
}

std::size_t GroupHistory::bytes() const {
  std::size_t total = sizeof(*this) + dropped_.capacity() * sizeof(BlockId);
  // A node of std::map: the pair, three pointers and a colour.
  total += responses_.size() * (sizeof(*responses_.begin()) + 4 * sizeof(void*));
  for (const HeadTable& heads : heads_) total += heads.bytes();
  return total;
}

void GroupHistory::append(std::int64_t sequence, std::int64_t offset, const Token* tokens,
                          std::int64_t length) {
  const std::int64_t known = response_length(sequence) - offset;
  if (known >= length) return;
  extend(responses_[sequence], tokens + known, length - known);
}

void GroupHistory::drop_sequence(std::int64_t sequence) {
  const auto found = responses_.find(sequence);
  if (found == responses_.end()) return;
  const Text text = found->second;
  for (BlockId id = text.first; id != kNone; id = store_.block(id).next) {
    store_.block(id).dropped = true;
  }
  dropped_.push_back(text.first);
  const auto length = static_cast<std::size_t>(text.length);
  live_tokens_ -= length;
  dropped_tokens_ += length;
  responses_.erase(found);
  // Chains have no back links, so one sequence cannot be unlinked alone. Waiting until half of what
  // is linked is dropped keeps the cost of relinking proportional to what was appended.
  if (dropped_tokens_ > live_tokens_) relink_live();
}

int GroupHistory::context(std::int64_t sequence, int limit, Token* end) const {
  const auto found = responses_.find(sequence);
  return store_.copy_back(end_of(found == responses_.end() ? prompt_ : found->second), limit, end);
}

void GroupHistory::collect(const Token* end, int available, const MatchLimits& limits,
                           std::vector<Candidate>& candidates) const {
  const int longest = std::min(available, limits.max_match);
  int collected_from = longest + 1;  // matches of this length and longer are already in
  for (std::size_t o = kNumOrders; o-- > 0;) {
    const int order = kOrders[o];
    if (order > longest) continue;
    // One token more than can be new tells the matches that a longer order has collected.
    const int limit = std::min(longest, collected_from);
    Position position = heads_[o].find(suffix_hash(end, order));
    for (int step = 0; position != kNone && step < limits.max_candidates; ++step) {
      const Position following = store_.link(o, position);
      if (following != kNone) store_.prefetch(o, following);
      const int matched = store_.match_length(position, end, limit);
      if (matched >= order && matched < collected_from && !is_dropped(position)) {
        candidates.push_back({position, matched});
      }
      position = following;
    }
    collected_from = order;
    // Shorter matches than so many longer ones do not change a draft, and cost the most steps.
    if (candidates.size() * 2 >= static_cast<std::size_t>(limits.max_candidates)) break;
  }
}

Position GroupHistory::end_of(const Text& text) const {
  if (text.last == kNone) return kNone;
  return text.last * kBlockTokens + store_.block(text.last).used - 1;
}

void GroupHistory::extend(Text& text, const Token* tokens, std::int64_t length) {
  // window: the last kLongestOrder tokens of the text, then the new one.
  std::array<Token, kLongestOrder + 1> window{};
  Token* const end = window.data() + kLongestOrder;
  const Position last = end_of(text.last == kNone ? prompt_ : text);
  int available = store_.copy_back(last, kLongestOrder, end);
  for (std::int64_t i = 0; i < length; ++i) {
    if (text.last == kNone || store_.block(text.last).used == kBlockTokens) {
      const BlockId fresh = store_.allocate(end_of(text.last == kNone ? prompt_ : text));
      if (text.last == kNone) {
        text.first = fresh;
      } else {
        store_.block(text.last).next = fresh;
      }
      text.last = fresh;
    }
    Block& block = store_.block(text.last);
    const Position position = text.last * kBlockTokens + block.used;
    block.tokens[block.used++] = tokens[i];
    link(position, end, available);
    *end = tokens[i];
    std::copy(window.begin() + 1, window.end(), window.begin());
    available = std::min(available + 1, kLongestOrder);
  }
  text.length += length;
  live_tokens_ += static_cast<std::size_t>(length);
}

void GroupHistory::link(Position position, const Token* context_end, int available) {
  for (std::size_t o = 0; o < kNumOrders; ++o) {
    const int order = kOrders[o];
    const Position previous =
        order <= available ? heads_[o].exchange(suffix_hash(context_end, order), position) : kNone;
    store_.set_link(o, position, previous);
  }
}

void GroupHistory::link_text(const Text& text) {
  std::array<Token, kLongestOrder> window{};
  Token* const end = window.data() + kLongestOrder;
  if (text.first == kNone) return;
  for (Position p = text.first * kBlockTokens; p != kNone; p = store_.after(p)) {
    const Position previous = store_.before(p);
    link(p, end, store_.copy_back(previous, kLongestOrder, end));
  }
}

void GroupHistory::relink_live() {
  for (HeadTable& heads : heads_) heads.clear();
  link_text(prompt_);
  for (const auto& entry : responses_) link_text(entry.second);
  for (const BlockId first : dropped_) store_.release(first);
  dropped_.clear();
  dropped_tokens_ = 0;
}

}  // namespace seer
