// Finds where the ends of texts occurred before, for a block of requests at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "group.h"
#include "recent_table.h"
#include "tokens.h"

namespace seer {

// A place where a suffix of the context occurred before.
struct Candidate {
  const Group* group;
  Position next;  // the token that followed
  int matched;    // exact length of the match before `next`, at most max_match
  int weight;     // of its vote
};

struct SearchLimits {
  int max_match;       // longest match that is told apart from longer ones
  int max_candidates;  // steps along each chain, newest occurrence first
};

struct Request {
  const Group* group;
  const Group* memory;  // siblings of an earlier step, nullptr for none
  TextId text;  // kNone: the sequence has no response yet
  int budget;   // most nodes of its tree
};

// Own text first, then siblings, then other groups: all vote together, by the length of their match, and differ in
// weight. Searches of a block advance in turns, one step each: a step's memory is prefetched in the turn before, and
// the others' work hides the wait.
class Finder {
 public:
  static constexpr std::size_t kBlock = 32;
  static constexpr int kOwnWeight = 8;
  static constexpr int kSiblingWeight = 4;
  static constexpr int kOtherWeight = 3;

  // slots: groups by slot, as in the recent table; borrowed like the table.
  Finder(const std::vector<Group*>& slots, const RecentTable& recent, const SearchLimits& limits);

  // Candidates of requests[0 .. n - 1], n at most kBlock; valid until the next call.
  void find(const Request* requests, std::size_t n);
  const std::vector<Candidate>& candidates(std::size_t request) const { return searches_[request].candidates; }
  const Hashes& hashes(std::size_t request) const { return searches_[request].hashes; }
  // The last tokens of its text, at most max_match.
  Span<Token> context(std::size_t request) const {
    const Search& search = searches_[request];
    const auto available = static_cast<std::size_t>(search.available);
    return {end(search) - available, available};
  }

 private:
  struct Search {
    const Group* group;   // whose chains are walked, first the request's own
    const Group* own;
    const Group* memory;
    TextId text;
    int available;       // tokens of the context, which ends at the buffer's end
    int collected_from;  // matches of this length and longer are candidates already
    int order;           // of the current chain, -1 after the last
    int steps;           // taken along it
    Position position;
    Hashes hashes;
    std::vector<Token> context;
    std::vector<Candidate> candidates;
    std::array<Place, kNumOrders * RecentTable::kWays> places;
    std::uint32_t num_places;
  };

  void start(Search& search, const Request& request) const;
  void enter(Search& search, const Group& group) const;
  void enter_chain(Search& search, int order) const;
  bool leave_chain(Search& search) const;
  bool step(Search& search) const;
  void look_up_others(Search& search) const;
  void collect_others(Search& search) const;
  const Token* end(const Search& search) const { return search.context.data() + limits_.max_match; }

  const std::vector<Group*>& slots_;
  const RecentTable& recent_;
  const SearchLimits limits_;
  std::vector<Search> searches_;
};

}  // namespace seer
