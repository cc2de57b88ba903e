// Memory of an index: pages of one size, cut from slabs that stay until the index goes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

namespace seer {

constexpr std::size_t kPageBytes = 2048;

// One pool serves the token pages and the hash pages of all groups, so that what one lets go another can take.
class PagePool {
 public:
  static constexpr std::size_t kSlabBytes = std::size_t{1} << 20;

  // max_bytes is rounded down to whole slabs.
  explicit PagePool(std::size_t max_bytes) : max_slabs_(max_bytes / kSlabBytes) {}

  // A page with undefined content; nullptr when none is left.
  void* take();
  void give(void* page) { free_.push_back(page); }
  // Takes pages over in one move, however many there are.
  void give_all(std::vector<void*>&& pages);

  // Pages that take() can still hand out.
  std::size_t available() const;
  std::size_t held_bytes() const { return slabs_.size() * kSlabBytes; }

 private:
  static constexpr std::size_t kSlabPages = kSlabBytes / kPageBytes;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  const std::size_t max_slabs_;
  std::vector<std::unique_ptr<void, Free>> slabs_;
  std::size_t untouched_ = 0;  // pages of the last slab that were never taken
  std::vector<void*> free_;
  std::vector<std::vector<void*>> returned_;
  std::size_t num_returned_ = 0;  // pages in returned_
};

}  // namespace seer
