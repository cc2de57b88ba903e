#include "group.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "group_queue.h"

namespace seer {
namespace {

using Tokens = std::vector<Token>;

Tokens random_tokens(std::mt19937& random, std::size_t n) {
  Tokens tokens(n);
  for (Token& token : tokens) token = static_cast<Token>(random() % 3);
  return tokens;
}

// Stores all; returns the position of each token.
std::vector<Position> store(Group& group, TextId text, const Tokens& tokens) {
  std::vector<Position> positions;
  for (std::size_t done = 0; done < tokens.size();) {
    const std::size_t stored = group.store(text, tokens.data() + done, tokens.size() - done);
    CHECK(stored > 0);
    const Position end = group.text(text).last_page * kPageTokens + kPageTokens;
    for (std::size_t i = 0; i < stored; ++i) {
      const std::size_t in_text = static_cast<std::size_t>(group.text(text).length) - stored + i;
      const auto in_page = static_cast<Position>(in_text % kPageTokens);
      positions.push_back(end - kPageTokens + in_page);
    }
    done += stored;
  }
  return positions;
}

Tokens last(const Tokens& tokens, std::size_t n) {
  return Tokens(tokens.end() - static_cast<std::ptrdiff_t>(std::min(n, tokens.size())), tokens.end());
}

TEST(texts_read_the_same_across_pages) {
  std::mt19937 random(1);
  for (const std::size_t prompt_size : {0U, 1U, 127U, 128U, 129U, 300U}) {
    PagePool pool(std::size_t{1} << 20);
    Group group(pool, 1, 0, 1);
    const Tokens prompt = random_tokens(random, prompt_size);
    store(group, kPrompt, prompt);
    const TextId text = group.find_or_add(5);
    const Tokens response = random_tokens(random, 400);
    const std::vector<Position> positions = store(group, text, response);
    Tokens whole = prompt;
    whole.insert(whole.end(), response.begin(), response.end());
    CHECK(group.prompt_equals(prompt.data(), prompt.size()));
    CHECK(group.num_tokens() == whole.size() && group.length(5) == 400 && group.length(6) == 0);
    Tokens room(256);
    for (const int limit : {1, 4, 15, 130, 256}) {
      const auto n = static_cast<std::size_t>(group.context(text, limit, room.data() + limit));
      CHECK(Tokens(room.begin() + limit - static_cast<std::ptrdiff_t>(n), room.begin() + limit) ==
            last(whole, static_cast<std::size_t>(limit)));
    }
    for (std::size_t i = 0; i < response.size(); ++i) {
      const Tokens before(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(prompt.size() + i));
      CHECK(group.token(positions[i]) == response[i] && group.text_of(positions[i]) == text);
      CHECK(group.is_usable(positions[i]));
      const auto n = static_cast<std::size_t>(group.context_of(positions[i], 20, room.data() + 20));
      CHECK(Tokens(room.begin() + 20 - static_cast<std::ptrdiff_t>(n), room.begin() + 20) == last(before, 20));
      const int copied = group.run(positions[i], 30, room.data());
      CHECK(copied == static_cast<int>(std::min<std::size_t>(30, response.size() - i)));
      CHECK(std::equal(room.begin(), room.begin() + copied, response.begin() + static_cast<std::ptrdiff_t>(i)));
      int matched = 0;
      const int most = static_cast<int>(std::min<std::size_t>(before.size(), 200));
      while (matched < most && before[before.size() - 1 - static_cast<std::size_t>(matched)] ==
                                   whole[whole.size() - 1 - static_cast<std::size_t>(matched)]) {
        ++matched;
      }
      if (i + 1 == response.size()) continue;
      CHECK(group.match_length(positions[i], whole.data() + whole.size(), 200) == matched);
    }
  }
}

TEST(an_unfilled_place_and_a_page_that_never_was_are_not_usable) {
  PagePool pool(std::size_t{1} << 20);
  Group group(pool, 1, 0, 1);
  store(group, kPrompt, {1, 2, 3});
  CHECK(group.is_usable(2) && !group.is_usable(3) && !group.is_usable(kPageTokens) && !group.is_usable(kNone - 1));
}

TEST(eviction_begins_with_dropped_text_and_then_goes_by_age) {
  PagePool pool(std::size_t{1} << 20);
  Group group(pool, 1, 0, 1);
  std::mt19937 random(2);
  const Tokens prompt = random_tokens(random, 200);
  store(group, kPrompt, prompt);                                             // pages 0, 1
  const TextId first = group.find_or_add(1);
  const std::vector<Position> kept = store(group, first, random_tokens(random, 256));  // pages 2, 3
  const TextId second = group.find_or_add(2);
  const std::vector<Position> dropped = store(group, second, random_tokens(random, 130));  // pages 4, 5
  CHECK(group.drop(second) == 130 && group.drop(second) == 0 && group.find(2) == kNone);
  CHECK(group.num_tokens() == 456 && !group.is_usable(dropped[0]) && group.is_alive(dropped[0]));
  bool evicted = false;
  std::vector<std::size_t> lost;
  while (true) {
    const std::size_t tokens = group.evict_page(evicted);
    if (!evicted) break;
    lost.push_back(tokens);
  }
  CHECK((lost == std::vector<std::size_t>{0, 0, 128, 72, 128, 128}));
  CHECK(group.num_tokens() == 0 && group.page_bytes() == 0);
  CHECK(group.length(1) == 256 && !group.is_alive(kept[0]) && !group.is_usable(kept[0]));
  // Lengths go on, positions are new, and there is no context.
  const std::vector<Position> fresh = store(group, first, {7, 8});
  CHECK(group.length(1) == 258 && fresh[0] / kPageTokens == 6 && group.is_usable(fresh[0]));
  Tokens room(8);
  CHECK(group.context(first, 8, room.data() + 8) == 2 && room[7] == 8 && room[6] == 7);
  CHECK(group.context(kNone, 8, room.data() + 8) == 0);
  // What was evicted is not compared; the length is.
  CHECK(group.prompt_equals(prompt.data(), 200) && !group.prompt_equals(prompt.data(), 199));
}

TEST(an_evicted_part_of_the_prompt_is_not_compared_but_the_rest_is) {
  PagePool pool(std::size_t{1} << 20);
  Group group(pool, 1, 0, 1);
  Tokens prompt(300, 1);
  store(group, kPrompt, prompt);
  bool evicted = false;
  group.evict_page(evicted);
  prompt[5] = 2;
  CHECK(group.prompt_equals(prompt.data(), 300));
  prompt[128] = 2;
  CHECK(!group.prompt_equals(prompt.data(), 300));
}

TEST(after_tokens_that_found_no_room_a_text_goes_on_without_a_context) {
  PagePool pool(PagePool::kSlabBytes);
  std::vector<void*> taken;
  while (pool.available() > 1) taken.push_back(pool.take());
  Group group(pool, 1, 0, 1);
  const TextId text = group.find_or_add(1);
  const std::vector<Position> before = store(group, text, Tokens(kPageTokens, 1));
  const Token refused = 2;
  CHECK(group.store(text, &refused, 1) == 0);
  group.skip(text, 10);
  Tokens room(300);
  CHECK(group.length(1) == 138 && group.context(text, 8, room.data() + 8) == 0);
  pool.give_all(std::move(taken));
  Position position = 0;
  for (std::size_t i = 0; i < kPageTokens; ++i) CHECK(group.next_unlinked(text, position) && position == before[i]);
  CHECK(group.store(text, &refused, 1) == 1);
  CHECK(group.length(1) == 139 && group.text(text).last_page == 1);
  CHECK(group.next_unlinked(text, position) && position == kPageTokens && !group.next_unlinked(text, position));
  CHECK(group.context_of(position, 8, room.data() + 8) == 0);
  CHECK(group.match_length(position, room.data() + 8, 8) == 0);
  CHECK(group.context(text, 8, room.data() + 8) == 1);
  // The tokens that are missing lie between.
  CHECK(group.run(before[100], 200, room.data()) == 28);
}

TEST(a_response_to_a_prompt_that_is_cut_off_starts_without_a_context) {
  PagePool pool(PagePool::kSlabBytes);
  Group group(pool, 1, 0, 1);
  store(group, kPrompt, {1, 2, 3});
  group.skip(kPrompt, 5);
  const TextId text = group.find_or_add(1);
  const std::vector<Position> positions = store(group, text, {4});
  Tokens room(8);
  CHECK(group.context_of(positions[0], 8, room.data() + 8) == 0 && group.context(kNone, 8, room.data() + 8) == 0);
}

TEST(a_restart_numbers_pages_anew_and_keeps_lengths) {
  PagePool pool(std::size_t{8} << 20);
  Group group(pool, 1, 0, 1);
  const TextId text = group.find_or_add(1);
  bool evicted = false;
  CHECK(!group.is_worn());
  for (int i = 0; i < 1200; ++i) {
    store(group, text, Tokens(kPageTokens, i));
    if (i >= 8) group.evict_page(evicted);
  }
  CHECK(group.is_worn() && group.num_tokens() == 8 * kPageTokens);
  const std::size_t before = group.table_bytes();
  CHECK(group.restart() == 8 * kPageTokens);
  CHECK(group.table_bytes() + 1000 * 20 < before && !group.is_worn() && group.num_tokens() == 0);
  CHECK(pool.available() == 8 * PagePool::kSlabBytes / kPageBytes);
  Position position = 0;
  CHECK(!group.next_unlinked(text, position));
  const std::vector<Position> fresh = store(group, text, {1, 2});
  CHECK(fresh[0] == 0 && group.length(1) == 1200 * 128 + 2 && group.next_unlinked(text, position) && position == 0);
}

TEST(a_chain_never_leads_to_where_it_comes_from) {
  PagePool pool(std::size_t{1} << 20);
  Group group(pool, 1, 0, 1);
  store(group, kPrompt, Tokens(100, 1));
  // All hashes of a suffix equal, as no usual text makes them; then each pair of them.
  for (Position p = 0; p < 100; ++p) {
    const std::uint32_t own = p % 4 == 1 ? 5 : 6;
    const std::uint32_t last_hash = p % 4 == 2 ? 5 : own;
    group.link(p, {5, own, last_hash}, kLongestOrder, true);
  }
  for (int order = 0; order < kNumOrders; ++order) {
    for (Position p = 0; p < 100; ++p) {
      const Position previous = group.previous(order, p);
      CHECK(previous == kNone || previous < p);
    }
  }
}

TEST(sequences_are_found_in_any_order_of_ids) {
  PagePool pool(std::size_t{1} << 20);
  Group group(pool, 1, 0, 1);
  std::vector<std::int64_t> ids = {5, -3, 0, INT64_MAX, INT64_MIN, 7, 6};
  std::vector<TextId> texts;
  for (const std::int64_t id : ids) texts.push_back(group.find_or_add(id));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    CHECK(group.find(ids[i]) == texts[i] && group.find_or_add(ids[i]) == texts[i]);
  }
  group.drop(texts[1]);
  CHECK(group.find(-3) == kNone && group.find(0) == texts[2] && group.find_or_add(-3) == ids.size() + 1);
}

TEST(the_queue_is_in_order_of_last_use) {
  PagePool pool(std::size_t{1} << 20);
  std::vector<std::unique_ptr<Group>> groups;
  GroupQueue queue;
  std::vector<Group*> wanted;
  std::mt19937 random(3);
  for (int i = 0; i < 500; ++i) {
    if (wanted.size() < 2 || random() % 2 == 0) {
      groups.push_back(std::make_unique<Group>(pool, i, 0, i));
      queue.push(*groups.back());
      wanted.push_back(groups.back().get());
    } else {
      const auto at = wanted.begin() + static_cast<std::ptrdiff_t>(random() % wanted.size());
      Group* const moved = *at;
      wanted.erase(at);
      queue.remove(*moved);
      if (random() % 3 > 0) {
        queue.push(*moved);
        wanted.push_back(moved);
      }
    }
    std::vector<Group*> seen;
    for (Group* group = queue.oldest(); group != nullptr; group = group->newer) seen.push_back(group);
    CHECK(seen == wanted);
  }
  for (Group* const group : wanted) queue.remove(*group);
  CHECK(queue.oldest() == nullptr);
}

}  // namespace
}  // namespace seer
