// Makes stored tokens findable, a bounded number at a time: in the chains of their group and in the tables of all.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>

#include "group.h"
#include "recent_table.h"
#include "successor_table.h"
#include "tokens.h"

namespace seer {

// Each token costs a handful of cache misses in tables too large for any cache. So links are written some tokens
// after their places were computed and prefetched.
class Linker {
 public:
  Linker(RecentTable& recent, SuccessorTable& successors) : recent_(recent), successors_(successors) {}

  // Queues a text that got its first unlinked token.
  void enqueue(Group& group, TextId text) { backlog_.push_back({&group, text}); }
  // Forgets what is queued of the groups for which `gone(group)` holds, in one pass.
  template <typename Gone>
  void forget(const Gone& gone) {
    const auto end = std::remove_if(backlog_.begin(), backlog_.end(),
                                    [&gone](const Entry& entry) { return gone(*entry.group); });
    backlog_.erase(end, backlog_.end());
  }
  // Links at most `budget` tokens, oldest first; what is left over waits for the next call.
  void run(std::size_t budget, std::size_t group_max_bytes);

 private:
  struct Link {
    Group* group;
    Position position;
    int available;  // tokens that the hashes could use
    Hashes hashes;
  };
  struct Entry {
    Group* group;
    TextId text;
  };
  static constexpr std::size_t kAhead = 16;

  void write(const Link& link, std::size_t group_max_bytes);

  RecentTable& recent_;
  SuccessorTable& successors_;
  std::deque<Entry> backlog_;
  std::array<Link, kAhead> pending_;
};

}  // namespace seer
