// Hash heads: the newest position that follows a suffix, by the suffix's hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "token_store.h"

namespace seer {

// The hash of the `order` tokens before `end`.
inline std::uint32_t suffix_hash(const Token* end, int order) {
  std::uint64_t hash = 0;
  for (int i = 1; i <= order; ++i) {
    hash = (hash ^ static_cast<std::uint32_t>(end[-i])) * 0x9e3779b97f4a7c15ULL;
    hash ^= hash >> 32;
  }
  return static_cast<std::uint32_t>(hash);
}

// Open addressing with linear probing. Keys are 32-bit hashes and nothing else: two suffixes that
// share one also share a chain, which costs steps and no correctness, as candidates are verified.
class HeadTable {
 public:
  HeadTable() : slots_(kInitialSlots) {}

  Position find(std::uint32_t hash) const { return slots_[slot(hash)].position; }

  // Makes `position` the head; returns the one it replaces, kNone if there was none.
  Position exchange(std::uint32_t hash, Position position) {
    if ((used_ + 1) * 4 > slots_.size() * 3) grow();
    Slot& here = slots_[slot(hash)];
    const Position previous = here.position;
    if (previous == kNone) ++used_;
    here = {hash, position};
    return previous;
  }

  void clear() {
    slots_.assign(kInitialSlots, Slot{});
    used_ = 0;
  }
  std::size_t bytes() const { return slots_.capacity() * sizeof(Slot); }

 private:
  struct Slot {
    std::uint32_t hash = 0;
    Position position = kNone;
  };
  static constexpr std::size_t kInitialSlots = 64;  // a power of two, as slot() masks

  std::size_t slot(std::uint32_t hash) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash & mask;
    while (slots_[i].position != kNone && slots_[i].hash != hash) i = (i + 1) & mask;
    return i;
  }

  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& entry : old) {
      if (entry.position != kNone) slots_[slot(entry.hash)] = entry;
    }
  }

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

}  // namespace seer
