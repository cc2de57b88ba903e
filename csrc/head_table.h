// Hash heads: the newest position that follows a suffix, by the suffix's hash.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "page_pool.h"
#include "tokens.h"

namespace seer {

// Extendible hashing: a directory indexed by the first bits of the hash leads to pages, and a full page is split in
// two. So growth costs one page at a time and never a pass over the whole table.
//
// Keys are 32-bit hashes and nothing else: two suffixes that share one also share a chain, which costs steps and no
// correctness, as candidates are verified.
class HeadTable {
 public:
  explicit HeadTable(PagePool& pool) : pool_(pool) {}

  void prefetch(std::uint32_t hash) const {
    if (!directory_.empty()) __builtin_prefetch(&page(hash)[hash % kHeads]);
  }

  Position find(std::uint32_t hash) const;

  // Makes `position` the head; returns the one it replaces, kNone if there was none. When a page is full, heads that
  // are not `alive(position)` any more make room, else the page is split. Where neither is possible, or may_grow
  // forbids it, another suffix loses its head, which num_lost() counts.
  template <typename Alive>
  Position exchange(std::uint32_t hash, Position position, bool may_grow, const Alive& alive);

  // Gives all pages away; the table is empty then.
  void release(std::vector<void*>& pages);
  std::size_t num_pages() const { return num_pages_; }
  std::size_t num_lost() const { return num_lost_; }
  std::size_t table_bytes() const { return directory_.capacity() * sizeof(Head*); }

 private:
  struct Head {
    std::uint32_t hash;
    Position position;  // kNone in an empty slot
  };
  static constexpr std::uint32_t kHeads = kPageBytes / sizeof(Head);
  // A longer probe splits the page; with 24 that happens at about three quarters of the slots.
  static constexpr std::uint32_t kMaxProbe = 24;
  // 2^20 pages are 2 GB of heads; only hostile hashes come near.
  static constexpr int kMaxDepth = 20;

  Head* page(std::uint32_t hash) const {
    return directory_[depth_ == 0 ? 0 : hash >> (32 - depth_)];
  }
  static Head* probe(Head* page, std::uint32_t hash) {
    for (std::uint32_t i = 0; i < kMaxProbe; ++i) {
      Head& slot = page[(hash + i) % kHeads];
      if (slot.position == kNone || slot.hash == hash) return &slot;
    }
    return nullptr;
  }
  Head* take_page();
  void fill(Head* page, const Head* heads, std::uint32_t n);
  bool split(std::uint32_t hash);
  template <typename Alive>
  bool purge(Head* page, const Alive& alive);

  PagePool& pool_;
  std::vector<Head*> directory_;
  int depth_ = 0;  // the directory has 2^depth_ entries
  std::size_t num_pages_ = 0;
  std::size_t num_lost_ = 0;
};

inline Position HeadTable::find(std::uint32_t hash) const {
  if (directory_.empty()) return kNone;
  const Head* const slot = probe(page(hash), hash);
  return slot == nullptr ? kNone : slot->position;
}

template <typename Alive>
Position HeadTable::exchange(std::uint32_t hash, Position position, bool may_grow, const Alive& alive) {
  if (directory_.empty()) {
    Head* const first = take_page();
    if (first == nullptr) {
      ++num_lost_;
      return kNone;
    }
    directory_.push_back(first);
  }
  Head* slot = probe(page(hash), hash);
  while (slot == nullptr) {
    if (!purge(page(hash), alive) && !(may_grow && split(hash))) {
      slot = &page(hash)[hash % kHeads];
      *slot = {hash, position};
      ++num_lost_;
      return kNone;
    }
    slot = probe(page(hash), hash);
  }
  const Position previous = slot->position;
  *slot = {hash, position};
  return previous;
}

// Throws the dead heads of a page away; returns whether that made room enough to do without a split.
template <typename Alive>
bool HeadTable::purge(Head* page, const Alive& alive) {
  std::array<Head, kHeads> kept;
  std::uint32_t used = 0;
  std::uint32_t n = 0;
  for (std::uint32_t i = 0; i < kHeads; ++i) {
    if (page[i].position == kNone) continue;
    ++used;
    if (alive(page[i].position)) kept[n++] = page[i];
  }
  if (n == used || n > kHeads / 2) return false;
  fill(page, kept.data(), n);
  return true;
}

}  // namespace seer
