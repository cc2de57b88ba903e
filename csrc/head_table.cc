#include "head_table.h"

#include <algorithm>

namespace seer {

HeadTable::Head* HeadTable::take_page() {
  auto* const fresh = static_cast<Head*>(pool_.take());
  if (fresh == nullptr) return nullptr;
  ++num_pages_;
  fill(fresh, nullptr, 0);
  return fresh;
}

void HeadTable::fill(Head* page, const Head* heads, std::uint32_t n) {
  std::fill_n(page, kHeads, Head{0, kNone});
  for (std::uint32_t i = 0; i < n; ++i) {
    if (Head* const slot = probe(page, heads[i].hash)) {
      *slot = heads[i];
    } else {
      ++num_lost_;
    }
  }
}

// Divides the page of `hash` by the next bit of the hashes; false when it cannot grow any more.
bool HeadTable::split(std::uint32_t hash) {
  Head* const old = page(hash);
  // The entries that lead to one page lie side by side, and their number is a power of two.
  std::size_t first = depth_ == 0 ? 0 : hash >> (32 - depth_);
  while (first > 0 && directory_[first - 1] == old) --first;
  std::size_t entries = 1;
  while (first + entries < directory_.size() && directory_[first + entries] == old) ++entries;
  if (entries == 1) {
    // A directory far longer than its pages need is the work of hashes that share their first bits.
    if (depth_ == kMaxDepth || directory_.size() > 16 * (num_pages_ + 1)) return false;
    std::vector<Head*> twice(directory_.size() * 2);
    for (std::size_t i = 0; i < twice.size(); ++i) twice[i] = directory_[i / 2];
    directory_.swap(twice);
    ++depth_;
    first *= 2;
    entries = 2;
  }
  Head* const fresh = take_page();
  if (fresh == nullptr) return false;
  std::array<Head, kHeads> low;
  std::array<Head, kHeads> high;
  std::uint32_t num_low = 0;
  std::uint32_t num_high = 0;
  const std::size_t middle = first + entries / 2;
  for (std::uint32_t i = 0; i < kHeads; ++i) {
    if (old[i].position == kNone) continue;
    if ((old[i].hash >> (32 - depth_)) < middle) {
      low[num_low++] = old[i];
    } else {
      high[num_high++] = old[i];
    }
  }
  fill(old, low.data(), num_low);
  fill(fresh, high.data(), num_high);
  std::fill_n(directory_.begin() + static_cast<std::ptrdiff_t>(middle), entries / 2, fresh);
  return true;
}

void HeadTable::release(std::vector<void*>& pages) {
  Head* last = nullptr;
  for (Head* const page : directory_) {
    if (page != last) pages.push_back(page);
    last = page;
  }
  directory_.clear();
  depth_ = 0;
  num_pages_ = 0;
}

}  // namespace seer
