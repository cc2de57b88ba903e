#include "suffix_index.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>

#include "checks.h"

namespace seer {
namespace {

// Tokens linked in one call: well under a millisecond, and more than the steps of a large batch bring.
constexpr std::size_t kLinksPerCall = 4096;
// Of the bytes allowed, what is kept for tables whose pages the pool does not count.
constexpr std::size_t kTableShare = 16;
// Pages that must be free before tokens are stored: one for them and some for the heads that they bring.
constexpr std::size_t kSparePages = 48;
constexpr std::size_t kMaxGroups = std::size_t{1} << RecentTable::kSlotBits;
// Requests for which a second thread pays.
constexpr std::size_t kRequestsPerThread = 64;

const Options& checked(const Options& options) {
  constexpr std::int64_t kMany = std::int64_t{1} << 40;
  check_range("vocab_size", options.vocab_size, 1, std::numeric_limits<Token>::max());
  check_range("max_match", options.max_match, kLongestOrder, 256);
  check_range("max_candidates", options.max_candidates, 1, 256);
  check_range("max_bytes", options.max_bytes, std::int64_t{4} << 20, kMany);
  check_range("max_tokens", options.max_tokens, 1024, kMany);
  check_range("group_max_bytes", options.group_max_bytes, std::int64_t{64} << 10, kMany);
  check_range("group_max_tokens", options.group_max_tokens, 1024, kMany);
  check_range("ttl_steps", options.ttl_steps, 0, kMany);
  check_range("shared_bytes", options.shared_bytes, 0, options.max_bytes / 2);
  check_range("threads", options.threads, 1, 16);
  return options;
}

// Of pages and of the tables of groups.
std::size_t group_bytes(const Options& options) {
  return static_cast<std::size_t>(options.max_bytes - options.shared_bytes) - sizeof(SuffixIndex);
}

std::size_t pool_bytes(const Options& options) { return group_bytes(options) - group_bytes(options) / kTableShare; }

// Of the tables' share a quarter is left for what a call adds before it is counted.
std::size_t most_table_bytes(const Options& options) {
  return group_bytes(options) / kTableShare / 4 * 3;
}

}  // namespace

SuffixIndex::SuffixIndex(const Options& options)
    : options_(checked(options)),
      pool_(pool_bytes(options)),
      recent_(static_cast<std::size_t>(options.shared_bytes / 2)),
      successors_(static_cast<std::size_t>(options.shared_bytes / 2)),
      linker_(recent_, successors_) {
  const SearchLimits limits{static_cast<int>(options.max_match), static_cast<int>(options.max_candidates)};
  for (std::int64_t i = 0; i < options.threads; ++i) {
    finders_.emplace_back(slots_, recent_, limits);
    builders_.emplace_back(calibration_, successors_, limits.max_match);
    parts_.emplace_back();
  }
}

void SuffixIndex::open_group(std::int64_t id, Span<Token> prompt, std::int64_t version,
                             std::int64_t memory) {
  const std::lock_guard<std::mutex> lock(mutex_);
  check_tokens(prompt, "prompt");
  ++call_;
  if (Group* const known = find(id)) {
    if (!known->prompt_equals(prompt.data, prompt.size)) {
      throw std::invalid_argument("prompt differs from the one that group " + std::to_string(id) + " was opened with");
    }
    touch(*known);
    return;
  }
  if (groups_.size() == kMaxGroups) {
    ++counters_.evicted_groups;
    close(*queue_.oldest());
  }
  auto fresh = std::make_unique<Group>(pool_, id, version, memory);
  Group& group = *fresh;
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.push_back(nullptr);
  }
  group.slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[group.slot] = &group;
  group.last_step = step_;
  queue_.push(group);
  groups_.emplace(id, std::move(fresh));
  make_room(group, 0);
  store(group, kPrompt, prompt.data, prompt.size);
  linker_.run(kLinksPerCall, static_cast<std::size_t>(options_.group_max_bytes));
  count_bytes(group);
}

void SuffixIndex::append(const AppendBatch& batch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  read_items(batch);
  check_tokens(batch.tokens, "tokens");
  check_offsets(batch);
  ++call_;
  for (Item& item : items_) {
    touch(*item.group);
    if (batch.lengths[item.index] == 0) continue;
    item.text = item.group->find_or_add(batch.sequences[item.index]);
    item.group->prefetch_end(item.text);
  }
  for (const Item& item : items_) {
    if (item.text == kNone) continue;
    const std::int64_t known = item.group->text(item.text).length - batch.offsets[item.index];
    const std::int64_t fresh = batch.lengths[item.index] - known;
    if (fresh > 0) {
      store(*item.group, item.text, batch.tokens.data + item.begin + known, static_cast<std::size_t>(fresh));
    }
  }
  linker_.run(kLinksPerCall, static_cast<std::size_t>(options_.group_max_bytes));
  const Group* last = nullptr;
  for (const Item& item : items_) {
    if (item.group != last) count_bytes(*item.group);
    last = item.group;
  }
}

void SuffixIndex::propose(const ProposeBatch& batch, DraftBatch& drafts) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t n = batch.groups.size;
  check_size("sequences", batch.sequences.size, n, "groups");
  check_size("budgets", batch.budgets.size, n, "groups");
  check_range("max_depth", batch.max_depth, 1, kMaxDepth);
  std::vector<Request> requests(n);
  std::vector<Group*> groups(n);
  for (std::size_t i = 0; i < n; ++i) {
    groups[i] = i > 0 && batch.groups[i] == batch.groups[i - 1] ? groups[i - 1]
                                                                : &find_or_throw(batch.groups[i], "groups", i);
    check_range_at("budgets", i, batch.budgets[i], 0, kMaxBudget);
    requests[i] = {groups[i], nullptr, groups[i]->find(batch.sequences[i]), batch.budgets[i]};
  }
  // By id, so that the order of requests does not become the order of eviction.
  std::sort(groups.begin(), groups.end(), [](const Group* a, const Group* b) { return a->id < b->id; });
  for (Group* const group : groups) touch(*group);
  linker_.run(kLinksPerCall, static_cast<std::size_t>(options_.group_max_bytes));
  ++step_;
  expire();
  take_apart();
  // Only now: a memory group may just have expired.
  for (Request& request : requests) {
    if (request.group->memory != request.group->id) request.memory = find(request.group->memory);
  }

  const DraftShape shape{static_cast<int>(batch.max_depth), batch.chain};
  const auto draft = [&](std::size_t worker, std::size_t begin, std::size_t end, DraftBatch& part) {
    part.clear();
    for (std::size_t i = begin; i < end; i += Finder::kBlock) {
      const std::size_t size = std::min(Finder::kBlock, end - i);
      finders_[worker].find(&requests[i], size);
      for (std::size_t k = 0; k < size; ++k) {
        for (std::size_t o = 0; o < SuccessorTable::kLongest; ++o) successors_.prefetch(finders_[worker].hashes(k)[o]);
      }
      for (std::size_t k = 0; k < size; ++k) {
        builders_[worker].build(finders_[worker].context(k), finders_[worker].candidates(k), requests[i + k].budget,
                                shape, part);
      }
    }
  };
  const std::size_t parts = std::clamp<std::size_t>(n / kRequestsPerThread, 1, finders_.size());
  std::vector<std::thread> threads;
  for (std::size_t p = 1; p < parts; ++p) {
    threads.emplace_back(draft, p, n * p / parts, n * (p + 1) / parts, std::ref(parts_[p]));
  }
  draft(0, 0, n / parts, drafts);
  for (std::size_t p = 1; p < parts; ++p) {
    threads[p - 1].join();
    drafts.append(parts_[p]);
  }
}

void SuffixIndex::observe(const Outcome& outcome) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::size_t n = outcome.evidence.size;
  check_size("parents", outcome.parents.size, n, "evidence");
  check_size("accepted", outcome.accepted.size, n, "evidence");
  if (outcome.starts.size == 0) throw std::invalid_argument("starts has no elements, wanted one more than requests");
  std::int64_t before = 0;
  for (std::size_t r = 0; r < outcome.starts.size; ++r) {
    check_range_at("starts", r, outcome.starts[r], before, r == 0 ? 0 : static_cast<std::int64_t>(n));
    before = outcome.starts[r];
  }
  check_range_at("starts", outcome.starts.size - 1, before, static_cast<std::int64_t>(n), static_cast<std::int64_t>(n));
  for (std::size_t r = 0; r + 1 < outcome.starts.size; ++r) {
    for (std::int64_t i = outcome.starts[r]; i < outcome.starts[r + 1]; ++i) {
      const auto node = static_cast<std::size_t>(i);
      check_range_at("parents", node, outcome.parents[node], -1, i - outcome.starts[r] - 1);
      if (!Evidence::is_valid(outcome.evidence[node])) {
        reject(at("evidence", node), outcome.evidence[node], "a value from a proposal");
      }
    }
  }
  for (std::size_t r = 0; r + 1 < outcome.starts.size; ++r) {
    const auto first = static_cast<std::size_t>(outcome.starts[r]);
    for (std::size_t node = first; node < static_cast<std::size_t>(outcome.starts[r + 1]); ++node) {
      const std::int32_t parent = outcome.parents[node];
      // Of a node below a rejected one nothing is learnt.
      if (parent >= 0 && !outcome.accepted[first + static_cast<std::size_t>(parent)]) continue;
      calibration_.observe(Evidence(outcome.evidence[node]), outcome.accepted[node]);
    }
  }
  calibration_.update();
}

void SuffixIndex::drop_sequence(std::int64_t id, std::int64_t sequence) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Group* const group = find(id);
  if (group == nullptr) return;
  const TextId text = group->find(sequence);
  if (text == kNone) return;
  num_tokens_ -= group->drop(text);
  count_bytes(*group);
}

void SuffixIndex::drop_group(std::int64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Group* const group = find(id)) close(*group);
}

void SuffixIndex::drop_version(std::int64_t version) {
  const std::lock_guard<std::mutex> lock(mutex_);
  close_all([version](const Group& group) { return group.version == version; });
}

void SuffixIndex::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  close_all([](const Group&) { return true; });
  successors_.clear();
}

bool SuffixIndex::has_group(std::int64_t group) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return find(group) != nullptr;
}

std::int64_t SuffixIndex::length(std::int64_t group, std::int64_t sequence) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Group* const known = find(group);
  if (known == nullptr) reject("group", group, "a group that is open");
  return known->length(sequence);
}

std::size_t SuffixIndex::num_groups() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return groups_.size();
}

std::size_t SuffixIndex::num_tokens() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return num_tokens_;
}

std::size_t SuffixIndex::memory_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return total_bytes();
}

Counters SuffixIndex::counters() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return counters_;
}

Group* SuffixIndex::find(std::int64_t group) const {
  const auto found = groups_.find(group);
  return found == groups_.end() ? nullptr : found->second.get();
}

Group& SuffixIndex::find_or_throw(std::int64_t group, const char* field, std::size_t i) const {
  Group* const known = find(group);
  if (known == nullptr) reject(at(field, i), group, "a group that is open");
  return *known;
}

void SuffixIndex::check_tokens(const Span<Token>& tokens, const char* field) const {
  for (std::size_t i = 0; i < tokens.size; ++i) check_range_at(field, i, tokens[i], 0, options_.vocab_size - 1);
}

// Fills items_ by group, sequence, offset and length: chains then hold the newest occurrences in an order that that of
// the items does not change.
void SuffixIndex::read_items(const AppendBatch& batch) {
  const std::size_t n = batch.groups.size;
  check_size("sequences", batch.sequences.size, n, "groups");
  check_size("offsets", batch.offsets.size, n, "groups");
  check_size("lengths", batch.lengths.size, n, "groups");
  const auto available = static_cast<std::int64_t>(batch.tokens.size);
  items_.clear();
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < n; ++i) {
    check_range_at("lengths", i, batch.lengths[i], 0, available - begin);
    Group* const group = i > 0 && batch.groups[i] == batch.groups[i - 1]
                             ? items_.back().group
                             : &find_or_throw(batch.groups[i], "groups", i);
    items_.push_back({i, begin, group, kNone});
    begin += batch.lengths[i];
  }
  if (begin != available) {
    throw std::invalid_argument("tokens has " + std::to_string(available) + " elements, wanted " +
                                std::to_string(begin) + ", the sum of lengths");
  }
  const auto key = [&batch](const Item& item) {
    return std::make_tuple(batch.groups[item.index], batch.sequences[item.index], batch.offsets[item.index],
                           batch.lengths[item.index]);
  };
  const auto before = [&key](const Item& a, const Item& b) { return key(a) < key(b); };
  if (!std::is_sorted(items_.begin(), items_.end(), before)) std::stable_sort(items_.begin(), items_.end(), before);
}

void SuffixIndex::check_offsets(const AppendBatch& batch) {
  std::int64_t stored = 0;
  for (std::size_t k = 0; k < items_.size(); ++k) {
    const std::size_t i = items_[k].index;
    const bool same_sequence = k > 0 && items_[k - 1].group == items_[k].group &&
                               batch.sequences[items_[k - 1].index] == batch.sequences[i];
    if (!same_sequence) stored = items_[k].group->length(batch.sequences[i]);
    if (batch.offsets[i] < 0 || batch.offsets[i] > stored) {
      reject(at("offsets", i), batch.offsets[i],
             "a value from 0 to " + std::to_string(stored) + ", the length stored of sequence " +
                 std::to_string(batch.sequences[i]) + " of group " + std::to_string(batch.groups[i]));
    }
    stored = std::max(stored, batch.offsets[i] + batch.lengths[i]);
  }
}

void SuffixIndex::store(Group& group, TextId text, const Token* tokens, std::size_t length) {
  if (length == 0) return;
  const bool queued = group.text(text).num_unlinked > 0;
  while (length > 0) {
    const std::size_t next = std::min<std::size_t>(length, kPageTokens);
    make_room(group, next);
    const std::size_t stored = group.store(text, tokens, next);
    if (stored == 0) {
      group.skip(text, length);
      counters_.refused_tokens += length;
      break;
    }
    num_tokens_ += stored;
    tokens += stored;
    length -= stored;
    if (length > 0) count_bytes(group);
  }
  if (!queued) linker_.enqueue(group, text);
}

// Evicts until `tokens` more, a page at most, fit every limit.
void SuffixIndex::make_room(Group& group, std::size_t tokens) {
  if (group.page_numbers_left() == 0) restart(group);
  while (group.num_tokens() + tokens > static_cast<std::size_t>(options_.group_max_tokens) ||
         group.page_bytes() + kPageBytes > static_cast<std::size_t>(options_.group_max_bytes)) {
    if (!evict_page(group)) break;
  }
  while (true) {
    const bool tables_large = group_table_bytes() > most_table_bytes(options_);
    const bool pages_short = pool_.available() < kSparePages;
    const bool tokens_many = num_tokens_ + tokens > static_cast<std::size_t>(options_.max_tokens);
    if ((tables_large || pages_short) && !closed_.empty()) {
      take_apart();
    } else if (tables_large && group.is_worn()) {
      restart(group);
    } else if (tables_large && close_oldest(group)) {
      continue;
    } else if (!pages_short && !tokens_many) {
      return;
    } else if (!make_room_elsewhere(group) && !evict_page(group)) {
      return;
    }
  }
}

// Closes the least recently used group but for those of the current call, which holds on to them.
bool SuffixIndex::close_oldest(const Group& group) {
  for (Group* victim = queue_.oldest(); victim != nullptr; victim = victim->newer) {
    if (victim == &group || victim->last_call == call_) continue;
    ++counters_.evicted_groups;
    close(*victim);
    return true;
  }
  return false;
}

// The least recently used group gives a page, or goes when it has none.
bool SuffixIndex::make_room_elsewhere(const Group& group) {
  for (Group* victim = queue_.oldest(); victim != nullptr; victim = victim->newer) {
    if (victim == &group) continue;
    if (evict_page(*victim)) return true;
    if (victim->last_call == call_) continue;
    ++counters_.evicted_groups;
    close(*victim);
    return true;
  }
  return false;
}

// False when the group has no page left; what its heads held is free then, too.
bool SuffixIndex::evict_page(Group& group) {
  bool evicted = false;
  const std::size_t tokens = group.evict_page(evicted);
  counters_.evicted_tokens += tokens;
  num_tokens_ -= tokens;
  if (!evicted) group.release();
  return evicted;
}

void SuffixIndex::restart(Group& group) {
  const std::size_t tokens = group.restart();
  counters_.evicted_tokens += tokens;
  num_tokens_ -= tokens;
  count_bytes(group);
}

void SuffixIndex::touch(Group& group) {
  group.last_call = call_;
  if (group.last_step == step_) return;
  group.last_step = step_;
  queue_.remove(group);
  queue_.push(group);
}

void SuffixIndex::count_bytes(Group& group) {
  const std::size_t bytes = group.table_bytes();
  table_bytes_ += bytes - group.counted_bytes;
  group.counted_bytes = bytes;
  counters_.lost_heads += group.heads().num_lost() - group.counted_lost;
  group.counted_lost = group.heads().num_lost();
}

std::size_t SuffixIndex::total_bytes() const {
  return sizeof(*this) + pool_.held_bytes() + shared_bytes() + group_table_bytes();
}

std::size_t SuffixIndex::group_table_bytes() const {
  // A node of the map: the pair, a pointer and a stored hash or two.
  const std::size_t per_group = sizeof(*groups_.begin()) + 3 * sizeof(void*);
  return table_bytes_ + groups_.size() * per_group + groups_.bucket_count() * sizeof(void*) +
         slots_.capacity() * sizeof(slots_[0]);
}

void SuffixIndex::close(Group& group) {
  linker_.forget([&group](const Group& queued) { return &queued == &group; });
  remove(group);
}

// In one pass over what waits to be linked, however many groups go.
template <typename Gone>
void SuffixIndex::close_all(const Gone& gone) {
  linker_.forget(gone);
  for (Group* group = queue_.oldest(); group != nullptr;) {
    Group* const newer = group->newer;
    if (gone(*group)) remove(*group);
    group = newer;
  }
}

void SuffixIndex::remove(Group& group) {
  queue_.remove(group);
  slots_[group.slot] = nullptr;
  free_slots_.push_back(group.slot);
  num_tokens_ -= group.num_tokens();
  const auto entry = groups_.find(group.id);
  closed_.push_back(std::move(entry->second));
  groups_.erase(entry);
}

void SuffixIndex::expire() {
  while (options_.ttl_steps > 0) {
    Group* const oldest = queue_.oldest();
    if (oldest == nullptr || step_ - oldest->last_step <= options_.ttl_steps) break;
    ++counters_.expired_groups;
    close(*oldest);
  }
}

// Gives the memory of one closed group back.
void SuffixIndex::take_apart() {
  if (closed_.empty()) return;
  table_bytes_ -= closed_.back()->counted_bytes;
  closed_.back()->release();
  closed_.pop_back();
}

}  // namespace seer
