// What followed one or two tokens in all groups together: a small n-gram model of fixed size.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "tokens.h"

namespace seer {

// One cache line a context, with its most frequent successors, the most frequent first. Contexts that share a line
// compete for it: each use of one strengthens it, each of another weakens it.
class SuccessorTable {
 public:
  static constexpr int kLongest = 2;  // tokens of a context
  static constexpr std::size_t kSuccessors = 14;
  static constexpr Token kMaxToken = (1 << 20) - 1;  // larger ones are not counted

  struct alignas(64) Line {
    std::uint32_t hash = 0;
    std::uint16_t strength = 0;  // 0: empty
    std::uint16_t total = 0;     // sum of the counts
    std::array<std::uint32_t, kSuccessors> successors{};  // token << 12 | count

    static std::uint32_t count(std::uint32_t successor) { return successor % (1U << kCountBits); }
    static Token token(std::uint32_t successor) { return static_cast<Token>(successor >> kCountBits); }
  };

  // The largest power of two of lines within `bytes`; with none, nothing is kept and nothing found.
  explicit SuccessorTable(std::size_t bytes) {
    std::size_t lines = bytes / sizeof(Line);
    while ((lines & (lines - 1)) != 0) lines &= lines - 1;
    lines_.resize(lines);
  }

  void prefetch(std::uint32_t hash) const {
    if (!lines_.empty()) __builtin_prefetch(&lines_[index(hash)]);
  }

  const Line* find(std::uint32_t hash) const {
    if (lines_.empty()) return nullptr;
    const Line& line = lines_[index(hash)];
    return line.strength > 0 && line.hash == hash ? &line : nullptr;
  }

  void add(std::uint32_t hash, Token token) {
    if (lines_.empty() || token > kMaxToken) return;
    Line& line = lines_[index(hash)];
    if (line.hash != hash) {
      if (line.strength > 1) {
        --line.strength;
        return;
      }
      line = Line{};
      line.hash = hash;
    }
    if (line.strength < kMaxStrength) ++line.strength;
    count(line, token);
  }

  void clear() { std::fill(lines_.begin(), lines_.end(), Line{}); }
  std::size_t bytes() const { return lines_.size() * sizeof(Line); }

 private:
  static constexpr int kCountBits = 12;
  static constexpr std::uint16_t kMaxStrength = 255;
  static constexpr std::uint32_t kMaxCount = 1024;

  // Other bits than those of the hash tables, whose probes would otherwise meet in the same lines.
  std::size_t index(std::uint32_t hash) const { return (hash * 0x9e3779b1U >> 8) & (lines_.size() - 1); }

  // A token that is new takes the place of the least frequent one.
  static void count(Line& line, Token token) {
    auto& successors = line.successors;
    std::size_t i = 0;
    while (i + 1 < kSuccessors && successors[i] != 0 && Line::token(successors[i]) != token) ++i;
    if (successors[i] == 0 || Line::token(successors[i]) != token) {
      line.total = static_cast<std::uint16_t>(line.total - Line::count(successors[i]) + 1);
      successors[i] = static_cast<std::uint32_t>(token) << kCountBits | 1;
      return;
    }
    ++successors[i];
    ++line.total;
    for (; i > 0 && Line::count(successors[i]) > Line::count(successors[i - 1]); --i) {
      std::swap(successors[i], successors[i - 1]);
    }
    if (Line::count(successors[0]) == kMaxCount) halve(line);
  }

  static void halve(Line& line) {
    line.total = 0;
    for (std::uint32_t& successor : line.successors) {
      successor -= Line::count(successor) / 2;
      line.total = static_cast<std::uint16_t>(line.total + Line::count(successor));
    }
  }

  std::vector<Line> lines_;  // a power of two
};

}  // namespace seer
