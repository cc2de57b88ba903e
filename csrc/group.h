// One group: its prompt, the responses of its sequences, and the chains that find their suffixes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "head_table.h"
#include "page_pool.h"
#include "tokens.h"

namespace seer {

// Place of a text in a group, by age; the prompt is the first.
using TextId = std::uint32_t;
constexpr TextId kPrompt = 0;

// Storage and chains; what may be stored when is decided by the index that owns the group.
class Group {
 public:
  struct Text {
    std::uint32_t first_page = kNone;
    std::uint32_t last_page = kNone;
    Position unlinked = kNone;      // the oldest token that is stored and not linked yet
    std::int64_t num_unlinked = 0;
    std::int64_t length = 0;        // tokens ever appended, evicted ones included
    bool dropped = false;
    bool torn = false;              // tokens are missing after the last stored one
  };

  Group(PagePool& pool, std::int64_t id, std::int64_t version, std::int64_t memory)
      : id(id), version(version), memory(memory), pool_(pool), heads_(pool) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  TextId find(std::int64_t sequence) const;  // kNone if the sequence has no response
  TextId find_or_add(std::int64_t sequence);
  Text& text(TextId text) { return texts_[text]; }
  const Text& text(TextId text) const { return texts_[text]; }
  std::int64_t length(std::int64_t sequence) const;
  bool prompt_equals(const Token* tokens, std::size_t length) const;

  // Copies tokens behind a text, at most what the current page still holds, or a new one; returns how many. 0 when a
  // new page is needed and the pool has none. Tokens are found once they are linked.
  std::size_t store(TextId text, const Token* tokens, std::size_t length);
  // Counts tokens as part of a text that could not be stored; what follows starts without a context.
  void skip(TextId text, std::size_t length);

  // A text's oldest unlinked token, which counts as linked from now on; false when there is none.
  bool next_unlinked(TextId text, Position& position);
  void link(Position position, const Hashes& hashes, int available, bool may_grow);

  // Forgets a response; its memory serves others when the oldest pages are evicted. Returns its tokens.
  std::size_t drop(TextId text);
  // Gives the least valuable page to the pool: of a dropped response, else the oldest. Returns the tokens that are
  // lost with it; `evicted` tells whether there was a page.
  std::size_t evict_page(bool& evicted);
  // Gives all memory but the texts' lengths back.
  void release();
  // Whether most of the page table is entries of evicted pages.
  bool is_worn() const;
  // Pages that can still be numbered before a restart; those up to that of kNone, exclusively.
  std::size_t page_numbers_left() const { return kNone / kPageTokens - pages_.size(); }
  // Forgets all tokens, but not the texts' lengths, and numbers pages from 0 again. Returns the tokens lost.
  std::size_t restart();

  // Copies the last tokens of prompt + response, at most `limit`, to before `end`; returns how many.
  int context(TextId text, int limit, Token* end) const;
  // The same for the tokens before a position.
  int context_of(Position position, int limit, Token* end) const;
  // Copies the tokens from `position` on, at most `limit`; returns how many.
  int run(Position position, int limit, Token* out) const;
  // Exact number of tokens before `position` that equal those before `end`, at most `limit`.
  int match_length(Position position, const Token* end, int limit) const;

  // Whether the position holds a token that may be drafted from.
  bool is_usable(Position position) const;
  // Whether its page is still there. The position must have been one of this group.
  bool is_alive(Position position) const { return pages_[position / kPageTokens].data != nullptr; }
  // The previous position with the same suffix; kNone when it is gone. The position must be alive.
  Position previous(int order, Position position) const;
  Token token(Position position) const { return page_of(position).data->token(position % kPageTokens); }
  TextId text_of(Position position) const { return pages_[position / kPageTokens].text; }
  void prefetch(int order, Position position) const;
  void prefetch_run(Position position) const;
  void prefetch_end(TextId text) const;

  const HeadTable& heads() const { return heads_; }
  std::size_t num_tokens() const { return num_tokens_; }      // stored and not dropped
  std::size_t page_bytes() const { return (num_pages_ + heads_.num_pages()) * kPageBytes; }
  std::size_t table_bytes() const;                            // everything but pages

  const std::int64_t id;
  const std::int64_t version;  // of the weights that its responses come from
  const std::int64_t memory;   // id of a group whose responses count as siblings', its own for none
  // Kept here for the index.
  std::uint32_t slot = 0;
  std::int64_t last_step = 0;
  std::int64_t last_call = 0;
  std::size_t counted_bytes = 0;
  std::size_t counted_lost = 0;
  Group* older = nullptr;
  Group* newer = nullptr;

 private:
  struct Page {
    TokenPage* data;     // nullptr once evicted
    Position previous;   // the token before this page in its text, the prompt's end before a response
    std::uint32_t next;  // the page that continues the text, kNone in the last one
    TextId text;
    std::uint32_t used;  // tokens filled
  };

  const Page& page_of(Position position) const { return pages_[position / kPageTokens]; }
  Position end_of(TextId text) const;
  int copy_back(Position last, int limit, Token* end) const;
  bool has_room(const Text& text) const;
  std::size_t evict(std::uint32_t page);

  PagePool& pool_;
  HeadTable heads_;
  std::vector<Page> pages_;
  std::vector<Text> texts_{1};
  std::vector<std::pair<std::int64_t, TextId>> ids_;  // by sequence; few enough for a sorted array
  std::vector<std::uint32_t> dropped_pages_;
  std::uint32_t floor_ = 0;  // all pages before it are evicted
  std::size_t num_pages_ = 0;
  std::size_t num_tokens_ = 0;
  bool any_dropped_ = false;
};

inline Position Group::previous(int order, Position position) const {
  const TokenPage& page = *page_of(position).data;
  const std::uint32_t place = position % kPageTokens;
  const Position link = page.lines_of(place).links[static_cast<std::size_t>(order)][place % kLineTokens];
  return link != kNone && is_alive(link) ? link : kNone;
}

inline void Group::prefetch(int order, Position position) const {
  const std::uint32_t place = position % kPageTokens;
  const TokenPage::Lines& lines = page_of(position).data->lines_of(place);
  __builtin_prefetch(&lines.tokens);
  __builtin_prefetch(&lines.links[static_cast<std::size_t>(order)]);
  // Most matches end within a few tokens.
  if (place >= kLineTokens && place % kLineTokens < kLongestOrder) __builtin_prefetch(&(&lines)[-1].tokens);
}

inline void Group::prefetch_run(Position position) const {
  const std::uint32_t place = position % kPageTokens;
  if (place + kLineTokens < kPageTokens) __builtin_prefetch(&(&page_of(position).data->lines_of(place))[1].tokens);
}

}  // namespace seer
