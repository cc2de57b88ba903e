// Where a suffix was seen last in other groups: a fixed-size table over all groups.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokens.h"

namespace seer {

// A place in a group; `slot` names the group.
struct Place {
  bool operator==(const Place& other) const { return slot == other.slot && position == other.position; }
  std::uint32_t slot;
  Position position;
};

// Set-associative, one cache line a bucket, newest first: it never grows, and what is older falls out. A bucket holds
// a group at most once for each suffix, so that one group cannot crowd the others out.
class RecentTable {
 public:
  static constexpr int kShortest = 2;  // tokens of a suffix; shorter ones are left to the successor table
  static constexpr std::uint32_t kWays = 8;
  static constexpr int kSlotBits = 20;

  // The largest power of two of buckets within `bytes`; with none, nothing is kept and nothing found.
  explicit RecentTable(std::size_t bytes) {
    std::size_t buckets = bytes / sizeof(Bucket);
    while ((buckets & (buckets - 1)) != 0) buckets &= buckets - 1;
    buckets_.resize(buckets);
  }

  void prefetch(std::uint32_t hash) const {
    if (!buckets_.empty()) __builtin_prefetch(&buckets_[index(hash)]);
  }

  void insert(std::uint32_t hash, Place place) {
    if (buckets_.empty()) return;
    const Entry fresh{key(hash, place.slot), place.position};
    auto& entries = buckets_[index(hash)].entries;
    std::uint32_t way = 0;
    while (way + 1 < kWays && entries[way].key != fresh.key) ++way;
    std::copy_backward(entries.begin(), entries.begin() + way, entries.begin() + way + 1);
    entries[0] = fresh;
  }

  // Writes the places that may follow the suffix, newest first, at most kWays; returns how many.
  std::uint32_t find(std::uint32_t hash, Place* places) const {
    if (buckets_.empty()) return 0;
    std::uint32_t n = 0;
    for (const Entry& entry : buckets_[index(hash)].entries) {
      const std::uint32_t slot = entry.key % (1U << kSlotBits);
      if (entry.position != kNone && entry.key == key(hash, slot)) places[n++] = {slot, entry.position};
    }
    return n;
  }

  std::size_t bytes() const { return buckets_.size() * sizeof(Bucket); }

 private:
  struct Entry {
    std::uint32_t key = 0;  // 12 bits of the hash, then the group's slot
    Position position = kNone;
  };
  // Aligned, so that it is one cache line and not two halves.
  struct alignas(64) Bucket {
    std::array<Entry, kWays> entries;
  };

  std::size_t index(std::uint32_t hash) const { return hash & (buckets_.size() - 1); }
  static std::uint32_t key(std::uint32_t hash, std::uint32_t slot) {
    return (hash >> kSlotBits << kSlotBits) | slot;
  }

  std::vector<Bucket> buckets_;  // a power of two
};

}  // namespace seer
