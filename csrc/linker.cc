#include "linker.h"

#include <algorithm>

namespace seer {

void Linker::run(std::size_t budget, std::size_t group_max_bytes) {
  std::size_t computed = 0;
  std::size_t written = 0;
  while (!backlog_.empty() && computed < budget) {
    const Entry entry = backlog_.front();
    Group& group = *entry.group;
    // The last tokens before the one to be linked, then that token.
    std::array<Token, kLongestOrder + 1> window{};
    Token* const end = window.data() + kLongestOrder;
    int available = 0;
    Position expected = kNone;
    Position position = kNone;
    while (computed < budget && group.next_unlinked(entry.text, position)) {
      if (position != expected) available = group.context_of(position, kLongestOrder, end);
      if (computed - written == kAhead) write(pending_[written++ % kAhead], group_max_bytes);
      Link& link = pending_[computed++ % kAhead];
      link = {&group, position, available, suffix_hashes(end, available)};
      for (std::size_t o = 0; o < kNumOrders && kOrders[o] <= available; ++o) {
        group.heads().prefetch(link.hashes[o]);
        if (kOrders[o] >= RecentTable::kShortest) recent_.prefetch(link.hashes[o]);
        if (kOrders[o] <= SuccessorTable::kLongest) successors_.prefetch(link.hashes[o]);
      }
      *end = group.token(position);
      std::copy(window.begin() + 1, window.end(), window.begin());
      available = std::min(available + 1, kLongestOrder);
      // Across a page's end the window is read anew.
      expected = position % kPageTokens + 1 < kPageTokens ? position + 1 : kNone;
    }
    if (group.text(entry.text).num_unlinked == 0) backlog_.pop_front();
  }
  while (written < computed) write(pending_[written++ % kAhead], group_max_bytes);
}

void Linker::write(const Link& link, std::size_t group_max_bytes) {
  Group& group = *link.group;
  const bool may_grow = group.page_bytes() + kPageBytes <= group_max_bytes;
  if (!group.is_alive(link.position)) return;
  group.link(link.position, link.hashes, link.available, may_grow);
  for (std::size_t o = 0; o < kNumOrders && kOrders[o] <= link.available; ++o) {
    if (kOrders[o] >= RecentTable::kShortest) recent_.insert(link.hashes[o], {group.slot, link.position});
    if (kOrders[o] <= SuccessorTable::kLongest) successors_.add(link.hashes[o], group.token(link.position));
  }
}

}  // namespace seer
