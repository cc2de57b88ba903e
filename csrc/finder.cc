#include "finder.h"

#include <algorithm>

namespace seer {
namespace {

// Shorter matches of the group are left out once max_candidates / kEnough candidates are found: they change few drafts
// and cost the most steps.
constexpr std::size_t kEnough = 2;

}  // namespace

Finder::Finder(const std::vector<Group*>& slots, const RecentTable& recent, const SearchLimits& limits)
    : slots_(slots), recent_(recent), limits_(limits), searches_(kBlock) {
  for (Search& search : searches_) search.context.resize(static_cast<std::size_t>(limits.max_match));
}

void Finder::find(const Request* requests, std::size_t n) {
  std::array<std::size_t, kBlock> active;
  std::size_t num_active = 0;
  for (std::size_t i = 0; i < n; ++i) start(searches_[i], requests[i]);
  for (std::size_t i = 0; i < n; ++i) {
    if (searches_[i].available == 0) continue;
    active[num_active++] = i;
    enter(searches_[i], *requests[i].group);
    look_up_others(searches_[i]);
  }
  const std::size_t num_started = num_active;
  const auto started = active;
  while (num_active > 0) {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < num_active; ++k) {
      if (step(searches_[active[k]])) active[kept++] = active[k];
    }
    num_active = kept;
  }
  for (std::size_t k = 0; k < num_started; ++k) collect_others(searches_[started[k]]);
}

void Finder::start(Search& search, const Request& request) const {
  search.own = request.group;
  search.memory = request.memory;
  search.text = request.text;
  search.candidates.clear();
  search.num_places = 0;
  search.available =
      request.budget == 0
          ? 0
          : request.group->context(request.text, limits_.max_match, search.context.data() + limits_.max_match);
  search.hashes = suffix_hashes(end(search), search.available);
  for (std::size_t o = 0; o < kNumOrders && kOrders[o] <= search.available; ++o) {
    search.own->heads().prefetch(search.hashes[o]);
    if (kOrders[o] >= RecentTable::kShortest) recent_.prefetch(search.hashes[o]);
  }
}

void Finder::enter(Search& search, const Group& group) const {
  search.group = &group;
  search.collected_from = search.available + 1;
  enter_chain(search, kNumOrders - 1);
}

// Begins with the chain of an order, or of the next lower one that is there.
void Finder::enter_chain(Search& search, int order) const {
  search.steps = 0;
  for (search.order = order; search.order >= 0; --search.order) {
    const auto o = static_cast<std::size_t>(search.order);
    if (kOrders[o] > search.available) continue;
    search.position = search.group->heads().find(search.hashes[o]);
    if (search.position == kNone || !search.group->is_alive(search.position)) continue;
    search.group->prefetch(search.order, search.position);
    return;
  }
}

// One step along the current chain; false when the search is over.
bool Finder::step(Search& search) const {
  if (search.order < 0) return leave_chain(search);
  const Group& group = *search.group;
  const Position position = search.position;
  const Position following = ++search.steps < limits_.max_candidates ? group.previous(search.order, position) : kNone;
  if (following != kNone) group.prefetch(search.order, following);
  const int order = kOrders[static_cast<std::size_t>(search.order)];
  // One token more than can be new tells the matches that a longer order has collected.
  const int matched = group.match_length(position, end(search), std::min(search.available, search.collected_from));
  if (matched >= order && matched < search.collected_from && group.is_usable(position)) {
    const bool own = &group == search.own && group.text_of(position) == search.text;
    search.candidates.push_back({&group, position, matched, own ? kOwnWeight : kSiblingWeight});
    group.prefetch_run(position);
  }
  search.position = following;
  return following != kNone || leave_chain(search);
}

// Goes on to the chain of a lower order, then to the group of an earlier step; false when there is nothing more.
bool Finder::leave_chain(Search& search) const {
  if (search.candidates.size() * kEnough >= static_cast<std::size_t>(limits_.max_candidates)) return false;
  if (search.order >= 0) {
    search.collected_from = kOrders[static_cast<std::size_t>(search.order)];
    enter_chain(search, search.order - 1);
    if (search.order >= 0) return true;
  }
  if (search.memory == nullptr || search.group == search.memory) return false;
  enter(search, *search.memory);
  return search.order >= 0;
}

// The same place may follow suffixes of several lengths and counts once.
void Finder::look_up_others(Search& search) const {
  for (std::size_t o = kNumOrders; o-- > 0;) {
    if (kOrders[o] > search.available || kOrders[o] < RecentTable::kShortest) continue;
    std::array<Place, RecentTable::kWays> found;
    const std::uint32_t n = recent_.find(search.hashes[o], found.data());
    for (std::uint32_t i = 0; i < n; ++i) {
      const Group* const group = slots_[found[i].slot];
      if (group == nullptr || group == search.own || group == search.memory) continue;
      if (!group->is_usable(found[i].position)) continue;
      const auto known = search.places.begin() + search.num_places;
      if (std::find(search.places.begin(), known, found[i]) != known) continue;
      search.places[search.num_places++] = found[i];
      group->prefetch(0, found[i].position);
    }
  }
}

// Longest suffixes first; beyond one and a half times max_candidates in all, more change nothing.
void Finder::collect_others(Search& search) const {
  const std::size_t most = static_cast<std::size_t>(limits_.max_candidates) * 3 / 2;
  for (std::uint32_t i = 0; i < search.num_places && search.candidates.size() < most; ++i) {
    const Group* const group = slots_[search.places[i].slot];
    const Position position = search.places[i].position;
    const int matched = group->match_length(position, end(search), search.available);
    if (matched > 0) search.candidates.push_back({group, position, matched, kOtherWeight});
  }
}

}  // namespace seer
