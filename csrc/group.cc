#include "group.h"

#include <algorithm>
#include <cstring>

namespace seer {
namespace {

// Entries of evicted pages that are not worth a restart.
constexpr std::size_t kWornPages = 1024;

}  // namespace

TextId Group::find(std::int64_t sequence) const {
  const auto at = std::lower_bound(ids_.begin(), ids_.end(), std::make_pair(sequence, TextId{0}));
  return at != ids_.end() && at->first == sequence ? at->second : kNone;
}

TextId Group::find_or_add(std::int64_t sequence) {
  const auto at = std::lower_bound(ids_.begin(), ids_.end(), std::make_pair(sequence, TextId{0}));
  if (at != ids_.end() && at->first == sequence) return at->second;
  const auto fresh = static_cast<TextId>(texts_.size());
  ids_.insert(at, {sequence, fresh});
  texts_.emplace_back();
  return fresh;
}

std::int64_t Group::length(std::int64_t sequence) const {
  const TextId text = find(sequence);
  return text == kNone ? 0 : texts_[text].length;
}

bool Group::prompt_equals(const Token* tokens, std::size_t length) const {
  const Text& prompt = texts_[kPrompt];
  if (static_cast<std::int64_t>(length) != prompt.length) return false;
  for (std::uint32_t p = prompt.first_page; p != kNone; p = pages_[p].next) {
    const Page& page = pages_[p];
    // What was evicted cannot be compared.
    for (std::uint32_t i = 0; i < page.used && page.data != nullptr; ++i) {
      if (page.data->token(i) != tokens[i]) return false;
    }
    tokens += page.used;
  }
  return true;
}

Position Group::end_of(TextId text) const {
  const std::uint32_t last = texts_[text].last_page;
  if (last == kNone || pages_[last].data == nullptr) return kNone;
  return last * kPageTokens + pages_[last].used - 1;
}

bool Group::has_room(const Text& text) const {
  if (text.torn || text.last_page == kNone) return false;
  const Page& page = pages_[text.last_page];
  return page.data != nullptr && page.used < kPageTokens;
}

std::size_t Group::store(TextId id, const Token* tokens, std::size_t length) {
  Text& text = texts_[id];
  if (!has_room(text)) {
    auto* const data = static_cast<TokenPage*>(pool_.take());
    if (data == nullptr) return 0;
    const auto fresh = static_cast<std::uint32_t>(pages_.size());
    // A response continues the prompt; the prompt itself, empty so far, continues nothing.
    const Text& before = text.length == 0 ? texts_[kPrompt] : text;
    const Position previous = before.torn ? kNone : end_of(text.length == 0 ? kPrompt : id);
    pages_.push_back({data, previous, kNone, id, 0});
    ++num_pages_;
    if (text.last_page == kNone) {
      text.first_page = fresh;
    } else {
      pages_[text.last_page].next = fresh;
    }
    text.last_page = fresh;
    text.torn = false;
  }
  Page& page = pages_[text.last_page];
  if (text.num_unlinked == 0) text.unlinked = text.last_page * kPageTokens + page.used;
  const auto stored = static_cast<std::uint32_t>(std::min<std::size_t>(length, kPageTokens - page.used));
  for (std::uint32_t i = 0; i < stored;) {
    const std::uint32_t place = page.used + i;
    const std::uint32_t n = std::min(stored - i, kLineTokens - place % kLineTokens);
    std::memcpy(&page.data->lines_of(place).tokens[place % kLineTokens], tokens + i, n * sizeof(Token));
    i += n;
  }
  page.used += stored;
  text.num_unlinked += stored;
  text.length += stored;
  num_tokens_ += stored;
  return stored;
}

void Group::skip(TextId id, std::size_t length) {
  Text& text = texts_[id];
  text.length += static_cast<std::int64_t>(length);
  text.torn = true;
}

bool Group::next_unlinked(TextId id, Position& position) {
  Text& text = texts_[id];
  while (text.num_unlinked > 0) {
    const Page& page = page_of(text.unlinked);
    const std::uint32_t place = text.unlinked % kPageTokens;
    const bool alive = page.data != nullptr;
    if (alive) position = text.unlinked;
    const std::uint32_t passed = alive ? 1 : page.used - place;
    text.num_unlinked -= passed;
    text.unlinked = place + passed < page.used || page.next == kNone ? text.unlinked + passed : page.next * kPageTokens;
    if (alive) return true;
  }
  return false;
}

void Group::link(Position position, const Hashes& hashes, int available, bool may_grow) {
  TokenPage* const data = pages_[position / kPageTokens].data;
  if (data == nullptr) return;
  const std::uint32_t place = position % kPageTokens;
  TokenPage::Lines& lines = data->lines_of(place);
  const auto alive = [this](Position p) { return is_alive(p); };
  for (std::size_t o = 0; o < kNumOrders; ++o) {
    Position previous = kOrders[o] <= available ? heads_.exchange(hashes[o], position, may_grow, alive) : kNone;
    // Suffixes of two lengths with one hash share their chain: a position must not lead to itself.
    if (previous == position) previous = lines.links[hashes[0] == hashes[o] ? 0 : 1][place % kLineTokens];
    lines.links[o][place % kLineTokens] = previous;
  }
}

std::size_t Group::drop(TextId id) {
  Text& text = texts_[id];
  if (text.dropped) return 0;
  text.dropped = true;
  text.num_unlinked = 0;
  any_dropped_ = true;
  std::size_t tokens = 0;
  for (std::uint32_t p = text.first_page; p != kNone; p = pages_[p].next) {
    if (pages_[p].data == nullptr) continue;
    dropped_pages_.push_back(p);
    tokens += pages_[p].used;
  }
  num_tokens_ -= tokens;
  ids_.erase(std::remove_if(ids_.begin(), ids_.end(), [id](const auto& entry) { return entry.second == id; }),
             ids_.end());
  return tokens;
}

std::size_t Group::evict(std::uint32_t number) {
  Page& page = pages_[number];
  pool_.give(page.data);
  page.data = nullptr;
  --num_pages_;
  if (texts_[page.text].dropped) return 0;
  num_tokens_ -= page.used;
  return page.used;
}

std::size_t Group::evict_page(bool& evicted) {
  evicted = true;
  while (!dropped_pages_.empty()) {
    const std::uint32_t page = dropped_pages_.back();
    dropped_pages_.pop_back();
    if (pages_[page].data != nullptr) return evict(page);
  }
  for (; floor_ < pages_.size(); ++floor_) {
    if (pages_[floor_].data != nullptr) return evict(floor_);
  }
  evicted = false;
  return 0;
}

void Group::release() {
  std::vector<void*> pages;
  pages.reserve(num_pages_ + heads_.num_pages());
  for (Page& page : pages_) {
    if (page.data != nullptr) pages.push_back(page.data);
    page.data = nullptr;
  }
  heads_.release(pages);
  pool_.give_all(std::move(pages));
  num_pages_ = 0;
  num_tokens_ = 0;
}

bool Group::is_worn() const { return pages_.size() > 2 * num_pages_ + kWornPages; }

std::size_t Group::restart() {
  const std::size_t lost = num_tokens_;
  release();
  std::vector<Page>().swap(pages_);
  std::vector<std::uint32_t>().swap(dropped_pages_);
  floor_ = 0;
  for (Text& text : texts_) {
    text.first_page = kNone;
    text.last_page = kNone;
    text.num_unlinked = 0;
  }
  return lost;
}

int Group::context(TextId id, int limit, Token* end) const {
  if (id == kNone || texts_[id].length == 0) id = kPrompt;
  return texts_[id].torn ? 0 : copy_back(end_of(id), limit, end);
}

int Group::context_of(Position position, int limit, Token* end) const {
  return copy_back(position % kPageTokens > 0 ? position - 1 : page_of(position).previous, limit, end);
}

// Copies tokens up to and including `last`.
int Group::copy_back(Position last, int limit, Token* end) const {
  int copied = 0;
  while (last != kNone && copied < limit) {
    const Page& page = page_of(last);
    if (page.data == nullptr) break;
    for (std::uint32_t place = last % kPageTokens + 1; place > 0 && copied < limit; ++copied) {
      *--end = page.data->token(--place);
    }
    last = page.previous;
  }
  return copied;
}

int Group::run(Position position, int limit, Token* out) const {
  int copied = 0;
  std::uint32_t place = position % kPageTokens;
  for (const Page* page = &page_of(position); page->data != nullptr; page = &pages_[page->next]) {
    while (place < page->used && copied < limit) {
      const std::uint32_t n =
          std::min({page->used - place, kLineTokens - place % kLineTokens, static_cast<std::uint32_t>(limit - copied)});
      const Token* const from = &page->data->lines_of(place).tokens[place % kLineTokens];
      for (std::uint32_t i = 0; i < n; ++i) out[copied + static_cast<int>(i)] = from[i];
      copied += static_cast<int>(n);
      place += n;
    }
    if (copied == limit || page->next == kNone) break;
    // After tokens that could not be stored the text goes on without a context.
    if (pages_[page->next].previous == kNone) break;
    place = 0;
  }
  return copied;
}

int Group::match_length(Position position, const Token* end, int limit) const {
  const Page* page = &page_of(position);
  std::uint32_t place = position % kPageTokens;
  int matched = 0;
  while (matched < limit) {
    if (place == 0) {
      if (page->previous == kNone) break;
      place = page->previous % kPageTokens + 1;
      page = &page_of(page->previous);
      if (page->data == nullptr) break;
    }
    if (page->data->token(--place) != end[-1 - matched]) break;
    ++matched;
  }
  return matched;
}

bool Group::is_usable(Position position) const {
  const std::uint32_t number = position / kPageTokens;
  if (number >= pages_.size()) return false;
  const Page& page = pages_[number];
  return page.data != nullptr && position % kPageTokens < page.used && !(any_dropped_ && texts_[page.text].dropped);
}

void Group::prefetch_end(TextId id) const {
  const std::uint32_t last = texts_[id].last_page;
  if (last == kNone || pages_[last].data == nullptr) return;
  const TokenPage::Lines& lines = pages_[last].data->lines_of(std::min(pages_[last].used, kPageTokens - 1));
  __builtin_prefetch(&lines.tokens);
  for (const auto& links : lines.links) __builtin_prefetch(&links, 1);
}

std::size_t Group::table_bytes() const {
  return sizeof(*this) + pages_.capacity() * sizeof(Page) + texts_.capacity() * sizeof(Text) +
         ids_.capacity() * sizeof(ids_[0]) + dropped_pages_.capacity() * sizeof(std::uint32_t) + heads_.table_bytes();
}

}  // namespace seer
