#include "linker.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "check.h"

namespace seer {
namespace {

constexpr std::size_t kNoLimit = std::size_t{1} << 30;

struct Tables {
  explicit Tables(std::size_t bytes) : recent(bytes), successors(bytes) {}
  RecentTable recent;
  SuccessorTable successors;
};

void store(Group& group, TextId text, const std::vector<Token>& tokens, Linker& linker) {
  const bool queued = group.text(text).num_unlinked > 0;
  for (std::size_t done = 0; done < tokens.size();) {
    const std::size_t stored = group.store(text, tokens.data() + done, tokens.size() - done);
    CHECK(stored > 0);
    done += stored;
  }
  if (!queued) linker.enqueue(group, text);
}

std::vector<Token> random_tokens(std::mt19937& random, std::size_t n) {
  std::vector<Token> tokens(n);
  for (Token& token : tokens) token = static_cast<Token>(random() % 4);
  return tokens;
}

// Positions after each suffix of a length, the oldest first, from the text alone.
std::map<std::vector<Token>, std::vector<Position>> occurrences(const std::vector<Token>& text, std::size_t length) {
  std::map<std::vector<Token>, std::vector<Position>> found;
  for (std::size_t i = length; i < text.size(); ++i) {
    const auto at = text.begin() + static_cast<std::ptrdiff_t>(i);
    found[std::vector<Token>(at - static_cast<std::ptrdiff_t>(length), at)].push_back(static_cast<Position>(i));
  }
  return found;
}

// That the chains of the first `linked` tokens of a prompt lead along all occurrences, the newest first.
void check_chains(const Group& group, const std::vector<Token>& text, std::size_t linked) {
  const std::vector<Token> seen(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(linked));
  for (int o = 0; o < kNumOrders; ++o) {
    const int order = kOrders[static_cast<std::size_t>(o)];
    for (const auto& [suffix, positions] : occurrences(seen, static_cast<std::size_t>(order))) {
      const Hashes hashes = suffix_hashes(suffix.data() + suffix.size(), order);
      Position position = group.heads().find(hashes[static_cast<std::size_t>(o)]);
      for (std::size_t i = positions.size(); i-- > 0;) {
        CHECK(position == positions[i]);
        position = group.previous(o, position);
      }
      CHECK(position == kNone);
    }
  }
}

TEST(long_texts_are_linked_over_several_calls) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(0);
  Linker linker(tables.recent, tables.successors);
  Group group(pool, 1, 0, 1);
  std::mt19937 random(1);
  const std::vector<Token> text = random_tokens(random, 1000);
  store(group, kPrompt, text, linker);
  for (std::size_t linked = 0; linked < 1000;) {
    for (const std::size_t budget : {1U, 15U, 16U, 17U, 100U}) {
      linker.run(budget, kNoLimit);
      linked = std::min<std::size_t>(linked + budget, 1000);
      CHECK(static_cast<std::size_t>(group.text(kPrompt).num_unlinked) == 1000 - linked);
      check_chains(group, text, linked);
    }
  }
  linker.run(100, kNoLimit);
}

TEST(texts_are_linked_in_the_order_in_which_they_came) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(0);
  Linker linker(tables.recent, tables.successors);
  Group first(pool, 1, 0, 1);
  Group second(pool, 2, 0, 2);
  store(first, kPrompt, std::vector<Token>(50, 1), linker);
  store(second, kPrompt, std::vector<Token>(50, 1), linker);
  store(first, kPrompt, std::vector<Token>(50, 2), linker);  // goes on with what is queued
  linker.run(100, kNoLimit);
  CHECK(first.text(kPrompt).num_unlinked == 0 && second.text(kPrompt).num_unlinked == 50);
  linker.forget([&second](const Group& group) { return &group == &second; });
  linker.run(100, kNoLimit);
  CHECK(second.text(kPrompt).num_unlinked == 50);
}

TEST(pages_that_are_evicted_before_they_are_linked_are_left_out) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(0);
  Linker linker(tables.recent, tables.successors);
  Group group(pool, 1, 0, 1);
  std::mt19937 random(2);
  const std::vector<Token> text = random_tokens(random, 1000);
  store(group, kPrompt, text, linker);
  linker.run(200, kNoLimit);  // page 0 and a part of page 1
  bool evicted = false;
  for (int i = 0; i < 4; ++i) group.evict_page(evicted);  // pages 0 to 3
  linker.run(100, kNoLimit);
  CHECK(group.text(kPrompt).num_unlinked == 1000 - 512 - 100);
  linker.run(1000, kNoLimit);
  CHECK(group.text(kPrompt).num_unlinked == 0);
  // What is left is linked as if it were the whole text.
  Hashes hashes = suffix_hashes(text.data() + 700, kLongestOrder);
  bool found = false;
  for (Position p = group.heads().find(hashes[2]); p != kNone; p = group.previous(2, p)) {
    CHECK(p >= 512);
    found = found || p == 700;
  }
  CHECK(found);
  // The last pages go before they are linked, too.
  store(group, kPrompt, text, linker);
  while (true) {
    group.evict_page(evicted);
    if (!evicted) break;
  }
  linker.run(5000, kNoLimit);
  CHECK(group.text(kPrompt).num_unlinked == 0);
  store(group, kPrompt, {1, 2}, linker);
  linker.run(1, kNoLimit);
  CHECK(group.text(kPrompt).num_unlinked == 1);
}

TEST(a_dropped_text_is_linked_no_more) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(0);
  Linker linker(tables.recent, tables.successors);
  Group group(pool, 1, 0, 1);
  const TextId text = group.find_or_add(1);
  store(group, text, std::vector<Token>(300, 1), linker);
  linker.run(10, kNoLimit);
  group.drop(text);
  linker.run(1000, kNoLimit);
  const TextId fresh = group.find_or_add(1);
  CHECK(fresh != text);
  store(group, fresh, {1, 2, 3}, linker);
  linker.run(1000, kNoLimit);
  CHECK(group.text(fresh).num_unlinked == 0 && group.text(text).num_unlinked == 0);
}

TEST(other_groups_are_known_newest_first_and_once_each) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(1 << 16);
  Linker linker(tables.recent, tables.successors);
  std::vector<std::unique_ptr<Group>> groups;
  for (std::uint32_t slot = 0; slot < 12; ++slot) {
    groups.push_back(std::make_unique<Group>(pool, slot, 0, slot));
    groups.back()->slot = slot;
    store(*groups.back(), kPrompt, {3, 4, 5, 3, 4, 6}, linker);
    linker.run(100, kNoLimit);
  }
  store(*groups[7], kPrompt, {3, 4, 7}, linker);
  linker.run(100, kNoLimit);
  const std::vector<Token> suffix = {3, 4};
  std::array<Place, RecentTable::kWays> places;
  const std::uint32_t n = tables.recent.find(suffix_hashes(suffix.data() + 2, 2)[1], places.data());
  const std::vector<Place> wanted = {{7, 8}, {11, 5}, {10, 5}, {9, 5}, {8, 5}, {6, 5}, {5, 5}, {4, 5}};
  CHECK(std::vector<Place>(places.begin(), places.begin() + n) == wanted);
  RecentTable none(63);
  none.insert(5, {1, 1});
  CHECK(none.bytes() == 0 && none.find(5, places.data()) == 0);
}

TEST(a_group_at_its_limit_takes_no_more_pages_for_heads) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(0);
  Linker linker(tables.recent, tables.successors);
  Group group(pool, 1, 0, 1);
  std::vector<Token> text(4000);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<Token>(i);
  store(group, kPrompt, text, linker);
  const std::size_t limit = group.page_bytes() + 3 * kPageBytes;
  linker.run(text.size(), limit);
  CHECK(group.page_bytes() == limit && group.heads().num_lost() > 0);
}

TEST(what_followed_one_and_two_tokens_is_counted) {
  PagePool pool(std::size_t{8} << 20);
  Tables tables(1 << 16);
  Linker linker(tables.recent, tables.successors);
  Group group(pool, 1, 0, 1);
  store(group, kPrompt, {1, 2, 3, 1, 2, 4, 9, 2, 4}, linker);
  linker.run(100, kNoLimit);
  const auto check = [&](const std::vector<Token>& before, const std::vector<std::uint32_t>& wanted) {
    const Hashes hashes = suffix_hashes(before.data() + before.size(), static_cast<int>(before.size()));
    const SuccessorTable::Line* const line = tables.successors.find(hashes[before.size() - 1]);
    CHECK((line == nullptr) == wanted.empty());
    std::uint32_t total = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      CHECK(line->successors[i] == wanted[i]);
      total += SuccessorTable::Line::count(wanted[i]);
    }
    CHECK(line == nullptr || line->total == total);
  };
  const auto times = [](Token token, std::uint32_t n) { return static_cast<std::uint32_t>(token) << 12 | n; };
  check({2}, {times(4, 2), times(3, 1)});
  check({1, 2}, {times(3, 1), times(4, 1)});
  check({9, 2}, {times(4, 1)});
  check({4}, {times(9, 1)});
  check({2, 9}, {});
}

TEST(a_line_of_successors_stays_sorted_and_within_its_counts) {
  SuccessorTable table(64);
  std::mt19937 random(4);
  for (int i = 0; i < 200000; ++i) {
    // A few frequent tokens among many rare ones.
    const auto token = static_cast<Token>(random() % 3 > 0 ? random() % 4 : random() % SuccessorTable::kMaxToken);
    table.add(7, token);
    const SuccessorTable::Line& line = *table.find(7);
    std::uint32_t total = 0;
    std::vector<Token> tokens;
    for (std::size_t k = 0; k < SuccessorTable::kSuccessors; ++k) {
      const std::uint32_t count = SuccessorTable::Line::count(line.successors[k]);
      total += count;
      CHECK(k == 0 || count <= SuccessorTable::Line::count(line.successors[k - 1]));
      if (count > 0) tokens.push_back(SuccessorTable::Line::token(line.successors[k]));
    }
    CHECK(total == line.total);
    std::sort(tokens.begin(), tokens.end());
    CHECK(std::adjacent_find(tokens.begin(), tokens.end()) == tokens.end());
  }
  const SuccessorTable::Line& line = *table.find(7);
  for (std::size_t k = 0; k < 4; ++k) CHECK(SuccessorTable::Line::token(line.successors[k]) < 4);
  table.add(7, SuccessorTable::kMaxToken + 1);
  table.add(7, SuccessorTable::kMaxToken);
}

TEST(contexts_that_share_a_line_of_successors_compete) {
  SuccessorTable table(64);
  CHECK(table.bytes() == 64 && table.find(1) == nullptr);
  for (int i = 0; i < 3; ++i) table.add(1, 5);
  // The weaker one has to come as often as the other came before.
  table.add(2, 6);
  table.add(2, 6);
  CHECK(table.find(1) != nullptr && table.find(2) == nullptr);
  table.add(2, 6);
  CHECK(table.find(1) == nullptr && table.find(2)->total == 1);
  table.clear();
  CHECK(table.find(2) == nullptr);
  SuccessorTable none(63);
  none.add(1, 5);
  CHECK(none.bytes() == 0 && none.find(1) == nullptr);
}

}  // namespace
}  // namespace seer
