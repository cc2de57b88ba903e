#include "page_pool.h"

#include <cstdint>
#include <cstring>
#include <set>

#include "check.h"

namespace seer {
namespace {

constexpr std::size_t kSlabPages = PagePool::kSlabBytes / kPageBytes;

TEST(pool_hands_out_distinct_pages_up_to_its_limit) {
  PagePool pool(3 * PagePool::kSlabBytes - 1);
  CHECK(pool.available() == 2 * kSlabPages && pool.held_bytes() == 0);
  std::set<void*> pages;
  while (void* const page = pool.take()) {
    CHECK(reinterpret_cast<std::uintptr_t>(page) % kPageBytes == 0);
    std::memset(page, 1, kPageBytes);
    CHECK(pages.insert(page).second);
    CHECK(pool.available() == 2 * kSlabPages - pages.size());
  }
  CHECK(pages.size() == 2 * kSlabPages && pool.held_bytes() == 2 * PagePool::kSlabBytes);
}

TEST(pool_takes_pages_back_one_by_one_and_in_bulk) {
  PagePool pool(2 * PagePool::kSlabBytes);
  std::vector<void*> bulk;
  std::vector<void*> more;
  for (std::size_t i = 0; i < 600; ++i) bulk.push_back(pool.take());
  for (std::size_t i = 0; i < 300; ++i) more.push_back(pool.take());
  std::set<void*> returned(bulk.begin(), bulk.end());
  returned.insert(more.begin(), more.end());
  pool.give_all(std::move(bulk));
  pool.give_all({});
  pool.give(more.back());
  more.pop_back();
  pool.give_all(std::move(more));
  CHECK(pool.available() == 2 * kSlabPages);
  // All of them come back before the last slab's untouched pages.
  for (std::size_t i = 0; i < 900; ++i) CHECK(returned.erase(pool.take()) == 1);
  CHECK(pool.available() == 2 * kSlabPages - 900);
  CHECK(pool.held_bytes() == 2 * PagePool::kSlabBytes);
}

TEST(pool_without_a_slab_is_empty) {
  PagePool pool(PagePool::kSlabBytes - 1);
  CHECK(pool.available() == 0 && pool.take() == nullptr);
}

}  // namespace
}  // namespace seer
