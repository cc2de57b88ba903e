// The batch interface: groups of sequences, appended to and drafted for in one call a step, within hard limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "calibration.h"
#include "finder.h"
#include "group.h"
#include "group_queue.h"
#include "linker.h"
#include "page_pool.h"
#include "recent_table.h"
#include "successor_table.h"
#include "tokens.h"
#include "tree.h"

namespace seer {

struct Options {
  std::int64_t vocab_size;
  std::int64_t max_match;
  std::int64_t max_candidates;
  std::int64_t max_bytes;
  std::int64_t max_tokens;
  std::int64_t group_max_bytes;
  std::int64_t group_max_tokens;
  std::int64_t ttl_steps;  // 0: groups stay until they are dropped or evicted
  std::int64_t shared_bytes;  // of the tables over all groups; 0: drafts come from the own group only
  std::int64_t threads;
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

struct Outcome {
  Span<std::int64_t> evidence;
  Span<std::int32_t> parents;
  Span<std::int64_t> starts;
  Span<bool> accepted;
};

// What happened at the limits, counted since the index was made.
struct Counters {
  std::size_t evicted_tokens = 0;   // to stay within a limit
  std::size_t evicted_groups = 0;   // that lost all they had
  std::size_t expired_groups = 0;   // not touched for ttl_steps
  std::size_t refused_tokens = 0;   // for which the host had no memory
  std::size_t lost_heads = 0;       // whose suffixes are found again only where they come up anew
};

// Thread-safe: one mutex around every call. Bad input throws std::invalid_argument with the field's name, before
// anything is changed.
//
// No call does work that grows with the size of a group or of the index: tables grow a page at a time, long appends
// are linked over several calls, and what is dropped is taken apart piece by piece later.
class SuffixIndex {
 public:
  explicit SuffixIndex(const Options& options);

  // memory: a group whose responses count as siblings' as long as it is open; the group itself for none.
  void open_group(std::int64_t group, Span<Token> prompt, std::int64_t version, std::int64_t memory);
  void append(const AppendBatch& batch);
  // Replaces what `drafts` holds.
  void propose(const ProposeBatch& batch, DraftBatch& drafts);
  void observe(const Outcome& outcome);

  // All do nothing where there is nothing to drop.
  void drop_sequence(std::int64_t group, std::int64_t sequence);
  void drop_group(std::int64_t group);
  void drop_version(std::int64_t version);
  void clear();

  bool has_group(std::int64_t group) const;
  std::int64_t length(std::int64_t group, std::int64_t sequence) const;
  std::size_t num_groups() const;
  std::size_t num_tokens() const;
  std::size_t memory_bytes() const;
  Counters counters() const;

 private:
  // One item of an append; begin is where its tokens start in the batch's tokens.
  struct Item {
    std::size_t index;
    std::int64_t begin;
    Group* group;
    TextId text;
  };

  Group* find(std::int64_t group) const;
  Group& find_or_throw(std::int64_t group, const char* field, std::size_t i) const;
  void check_tokens(const Span<Token>& tokens, const char* field) const;
  void read_items(const AppendBatch& batch);
  void check_offsets(const AppendBatch& batch);

  void store(Group& group, TextId text, const Token* tokens, std::size_t length);
  void make_room(Group& group, std::size_t tokens);
  bool close_oldest(const Group& group);
  bool make_room_elsewhere(const Group& group);
  bool evict_page(Group& group);
  void restart(Group& group);
  void touch(Group& group);
  void count_bytes(Group& group);
  std::size_t shared_bytes() const { return recent_.bytes() + successors_.bytes(); }
  std::size_t total_bytes() const;
  std::size_t group_table_bytes() const;
  void close(Group& group);
  template <typename Gone>
  void close_all(const Gone& gone);
  void remove(Group& group);
  void expire();
  void take_apart();

  const Options options_;
  mutable std::mutex mutex_;
  PagePool pool_;
  RecentTable recent_;
  SuccessorTable successors_;
  std::unordered_map<std::int64_t, std::unique_ptr<Group>> groups_;
  std::vector<Group*> slots_;
  std::vector<std::uint32_t> free_slots_;
  GroupQueue queue_;  // by last use
  std::vector<std::unique_ptr<Group>> closed_;  // not taken apart yet
  Linker linker_;
  Calibration calibration_;
  std::vector<Finder> finders_;        // one a thread
  std::vector<TreeBuilder> builders_;  // one a thread
  std::vector<DraftBatch> parts_;      // one a thread
  std::vector<Item> items_;            // work space of append
  std::int64_t step_ = 0;
  std::int64_t call_ = 0;  // of open_group and append, which make room
  std::size_t num_tokens_ = 0;
  std::size_t table_bytes_ = 0;  // of all groups, closed ones included
  Counters counters_;
};

}  // namespace seer
