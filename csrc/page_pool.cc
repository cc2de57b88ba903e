#include "page_pool.h"

#include <utility>

namespace seer {

void* PagePool::take() {
  if (free_.empty() && !returned_.empty()) {
    free_.swap(returned_.back());
    returned_.pop_back();
    num_returned_ -= free_.size();
  }
  if (!free_.empty()) {
    void* const page = free_.back();
    free_.pop_back();
    return page;
  }
  if (untouched_ == 0) {
    if (slabs_.size() == max_slabs_) return nullptr;
    // No huge pages: the system clears one in milliseconds, small ones in passing.
    void* const slab = std::aligned_alloc(kPageBytes, kSlabBytes);
    if (slab == nullptr) return nullptr;  // the host's limit counts like our own
    slabs_.emplace_back(slab);
    untouched_ = kSlabPages;
  }
  return static_cast<char*>(slabs_.back().get()) + (kSlabPages - untouched_--) * kPageBytes;
}

void PagePool::give_all(std::vector<void*>&& pages) {
  if (pages.empty()) return;
  num_returned_ += pages.size();
  returned_.push_back(std::move(pages));
}

std::size_t PagePool::available() const {
  return free_.size() + num_returned_ + untouched_ + (max_slabs_ - slabs_.size()) * kSlabPages;
}

}  // namespace seer
