// Tokens, where they are stored, and the hashes of suffixes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "page_pool.h"

namespace seer {

// A borrowed one-dimensional array.
template <typename T>
struct Span {
  const T* data;
  std::size_t size;
  const T& operator[](std::size_t i) const { return data[i]; }
};

using Token = std::int32_t;
// A token's place in its group: page number times kPageTokens plus the place in the page. Page numbers of a group are
// never used twice, so that a position stays dead once its page was evicted.
using Position = std::uint32_t;
constexpr std::uint32_t kNone = 0xffffffffU;

// Suffix lengths that have hash heads, ascending. Length 1 is what short histories live on; a longer order only saves
// steps, since match lengths are always verified in the raw tokens.
constexpr int kNumOrders = 3;
constexpr std::array<int, kNumOrders> kOrders = {1, 2, 4};
constexpr int kLongestOrder = 4;

using Hashes = std::array<std::uint32_t, kNumOrders>;

// The hashes of the last 1, 2 and 4 of the `available` tokens before `end`; those of longer suffixes are left 0.
inline Hashes suffix_hashes(const Token* end, int available) {
  // A random odd factor for each place; the finish spreads the high bits over the low ones.
  constexpr std::array<std::uint64_t, kLongestOrder> kFactors = {
      0x9e3779b97f4a7c15ULL, 0xc2b2ae3d27d4eb4fULL, 0x165667b19e3779f9ULL, 0x27d4eb2f165667c5ULL};
  const auto term = [end, &kFactors](int i) {
    const std::uint64_t number = static_cast<std::uint32_t>(end[-i]);
    return (number + 1) * kFactors[static_cast<std::size_t>(i) - 1];
  };
  const auto finish = [](std::uint64_t sum) {
    sum ^= sum >> 32;
    sum *= 0xd6e8feb86659fd93ULL;
    return static_cast<std::uint32_t>(sum >> 32);
  };
  Hashes hashes{};
  if (available < 1) return hashes;
  std::uint64_t sum = term(1);
  hashes[0] = finish(sum);
  if (available < 2) return hashes;
  sum += term(2);
  hashes[1] = finish(sum);
  if (available < 4) return hashes;
  hashes[2] = finish(sum + term(3) + term(4));
  return hashes;
}

constexpr std::uint32_t kPageTokens = 128;
constexpr std::uint32_t kLineTokens = 16;  // tokens of a cache line

// Tokens and, for each order, where the same suffix occurred before. Those of 16 neighbours lie side by side, so that
// a step along a chain touches memory that is close together.
struct TokenPage {
  struct Lines {
    std::array<Token, kLineTokens> tokens;
    std::array<std::array<Position, kLineTokens>, kNumOrders> links;
  };
  std::array<Lines, kPageTokens / kLineTokens> lines;

  const Lines& lines_of(std::uint32_t place) const { return lines[place / kLineTokens]; }
  Lines& lines_of(std::uint32_t place) { return lines[place / kLineTokens]; }
  Token token(std::uint32_t place) const { return lines_of(place).tokens[place % kLineTokens]; }
};
static_assert(sizeof(TokenPage) == kPageBytes, "a token page fills a page of the pool");

}  // namespace seer
