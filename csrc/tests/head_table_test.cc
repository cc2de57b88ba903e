#include "head_table.h"

#include <random>
#include <set>
#include <unordered_map>

#include "check.h"

namespace seer {
namespace {

constexpr std::size_t kHeads = kPageBytes / 8;
bool always(Position) { return true; }

std::vector<void*> release(HeadTable& table) {
  std::vector<void*> pages;
  table.release(pages);
  return pages;
}

TEST(heads_equal_a_map_through_many_splits) {
  PagePool pool(std::size_t{16} << 20);
  HeadTable table(pool);
  std::unordered_map<std::uint32_t, Position> wanted;
  std::mt19937 random(1);
  for (Position position = 0; position < 100000; ++position) {
    const auto hash = static_cast<std::uint32_t>(random() % 60000) * 0x9e3779b9U;
    const auto known = wanted.find(hash);
    CHECK(table.find(hash) == (known == wanted.end() ? kNone : known->second));
    CHECK(table.exchange(hash, position, true, always) == (known == wanted.end() ? kNone : known->second));
    wanted[hash] = position;
  }
  for (const auto& [hash, position] : wanted) CHECK(table.find(hash) == position);
  CHECK(table.num_lost() == 0);
  // A page in use holds a quarter of its heads at the least on average.
  CHECK(table.num_pages() * kHeads < 4 * wanted.size() && table.num_pages() > 100);
  const std::size_t num_pages = table.num_pages();
  const std::vector<void*> pages = release(table);
  CHECK(std::set<void*>(pages.begin(), pages.end()).size() == num_pages && pages.size() == num_pages);
  CHECK(table.num_pages() == 0 && table.find(1) == kNone && release(table).empty());
}

TEST(heads_of_what_is_gone_make_room) {
  PagePool pool(std::size_t{16} << 20);
  HeadTable table(pool);
  std::unordered_map<std::uint32_t, Position> wanted;
  std::mt19937 random(2);
  constexpr Position kKept = 2000;
  for (Position position = 0; position < 200000; ++position) {
    const auto hash = static_cast<std::uint32_t>(random());
    const auto alive = [position](Position p) { return p + kKept >= position; };
    table.exchange(hash, position, true, alive);
    wanted[hash] = position;
    if (position % 5000 != 0) continue;
    for (const auto& [h, p] : wanted) CHECK(!alive(p) || table.find(h) == p);
  }
  // As many as what is alive needs, not as what ever was there.
  CHECK(table.num_lost() == 0 && table.num_pages() < 10 * kKept / kHeads);
}

TEST(heads_that_may_not_grow_replace_each_other) {
  PagePool pool(std::size_t{4} << 20);
  HeadTable table(pool);
  std::unordered_map<std::uint32_t, Position> wanted;
  std::mt19937 random(3);
  for (Position position = 0; position < 20000; ++position) {
    const auto hash = static_cast<std::uint32_t>(random() % 4096) * 0x9e3779b9U;
    const auto known = wanted.find(hash);
    const Position previous = table.exchange(hash, position, false, always);
    CHECK(previous == kNone || (known != wanted.end() && previous == known->second));
    CHECK(table.find(hash) == position);
    wanted[hash] = position;
  }
  CHECK(table.num_pages() == 1 && table.num_lost() > 0);
}

TEST(heads_without_memory_are_lost_and_counted) {
  PagePool pool(PagePool::kSlabBytes);
  std::vector<void*> taken;
  while (pool.available() > 3) taken.push_back(pool.take());
  HeadTable table(pool);
  for (Position p = 0; p < 10000; ++p) table.exchange(p * 0x9e3779b9U, p, true, always);
  CHECK(table.num_pages() == 3 && table.num_lost() > 5000);
  CHECK(table.find(9999 * 0x9e3779b9U) == 9999);
  pool.give_all(std::move(taken));
  HeadTable none(pool);
  while (pool.take() != nullptr) {
  }
  CHECK(none.exchange(1, 1, true, always) == kNone && none.num_lost() == 1 && none.find(1) == kNone);
}

// Whatever the hashes: a constant number of steps for each, and a directory in proportion to the pages.
void check_hostile(const std::function<std::uint32_t(std::uint32_t)>& hash_of, std::uint32_t n) {
  PagePool pool(std::size_t{16} << 20);
  HeadTable table(pool);
  std::size_t steps = 0;
  const auto alive = [&steps](Position) { return ++steps > 0; };
  for (Position position = 0; position < n; ++position) {
    table.exchange(hash_of(position), position, true, alive);
    CHECK(table.find(hash_of(position)) == position);
  }
  CHECK(steps <= 4 * kHeads * n);
  CHECK(table.table_bytes() <= 2 * 8 * 16 * (table.num_pages() + 1));
  // A page is split once 24 heads stand in a row.
  CHECK(table.num_pages() <= 64 + n / 8);
  const std::size_t num_pages = table.num_pages();
  const std::vector<void*> pages = release(table);
  CHECK(std::set<void*>(pages.begin(), pages.end()).size() == num_pages);
}

TEST(hostile_hashes_cost_no_more_than_a_page_each) {
  check_hostile([](std::uint32_t) { return 7U; }, 20000);
  check_hostile([](std::uint32_t i) { return 0xabcde000U | i % 4096; }, 20000);        // all first bits equal
  check_hostile([](std::uint32_t i) { return (i * 0x9e3779b9U) & 0xffffff00U; }, 20000);  // one slot of every page
  check_hostile([](std::uint32_t i) { return i << 12 | 5U; }, 20000);
  check_hostile([](std::uint32_t i) { return i % 2 == 0 ? i : ~i; }, 20000);           // both ends of the directory
  check_hostile([](std::uint32_t i) { return 0xffffffffU - i; }, 20000);
}

TEST(heads_come_back_after_a_release) {
  PagePool pool(std::size_t{2} << 20);
  HeadTable table(pool);
  for (int round = 0; round < 3; ++round) {
    for (Position p = 0; p < 5000; ++p) table.exchange(p * 0x9e3779b9U, p, true, always);
    for (Position p = 0; p < 5000; ++p) CHECK(table.find(p * 0x9e3779b9U) == p);
    pool.give_all(release(table));
    CHECK(table.find(0) == kNone);
  }
}

}  // namespace
}  // namespace seer
