// How often drafted tokens come true, learnt while drafting.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tokens.h"

namespace seer {

// Votes are counted by classes of match length: class c holds the lengths from kClassFloors[c] on and below the next.
constexpr int kNumClasses = 8;
constexpr std::array<int, kNumClasses> kClassFloors = {1, 2, 3, 4, 6, 9, 14, 22};
// Classes of tokens that no match speaks for, only what followed one or two tokens in other places.
constexpr int kAfterOne = kNumClasses;
constexpr int kAfterTwo = kNumClasses + 1;

constexpr int kShareClasses = 13;
inline constexpr std::array<float, kShareClasses - 1> kShareFloors = {
    0.02F, 0.05F, 0.1F, 0.2F, 0.3F, 0.4F, 0.5F, 0.6F, 0.7F, 0.8F, 0.9F, 0.95F};
constexpr int kShareSteps = 256;

// The class of a share rounded down to 1 / kShareSteps.
constexpr std::array<std::uint8_t, kShareSteps + 1> share_classes() {
  std::array<std::uint8_t, kShareSteps + 1> classes{};
  for (std::size_t i = 0; i <= kShareSteps; ++i) {
    std::size_t c = 0;
    while (c < kShareFloors.size() && kShareFloors[c] * kShareSteps <= static_cast<float>(i)) ++c;
    classes[i] = static_cast<std::uint8_t>(c);
  }
  return classes;
}
inline constexpr auto kShareClassOf = share_classes();

// What speaks for a node: the share of the votes that names its token, the class of the longest match among them, how
// many they are, the token itself and the one before it. All that is needed to learn from a node fits one number.
class Evidence {
 public:
  static constexpr std::int32_t kOne = 0xffff;  // a share of 1
  static constexpr int kMatchClasses = kNumClasses + 2;
  static constexpr int kVoteClasses = 3;  // one, two, more
  static constexpr int kNumCells = kMatchClasses * kVoteClasses * kShareClasses;
  static constexpr std::size_t kNumBuckets = 4096;  // of tokens

  // share: 0 to 1; votes: at least 1.
  Evidence(int match_class, int votes, float share, Token token, Token before);
  explicit Evidence(std::int64_t packed) : packed_(packed) {}

  static bool is_valid(std::int64_t packed) { return packed >= 0 && packed >> 48 < kNumCells; }
  std::int64_t packed() const { return packed_; }
  std::size_t cell() const { return static_cast<std::size_t>(packed_ >> 48); }
  std::int32_t share() const { return static_cast<std::int32_t>(packed_ >> 32 & kOne); }
  std::size_t token() const { return static_cast<std::size_t>(packed_ >> 16) % kNumBuckets; }
  std::size_t before() const { return static_cast<std::size_t>(packed_) % kNumBuckets; }

 private:
  std::int64_t packed_;
};

// A share of votes is no probability yet: models differ in how far they repeat what was written before, and tokens in
// how well they can be foreseen. Three ratios of accepted to expected nodes correct it: one for the cell of share,
// match and votes, which starts at a value fitted to several models' responses, one for the token and one for the
// token before, which start at 1. Observations add integers, so that their order changes nothing.
class Calibration {
 public:
  // No probability is more than this many times its share of the votes.
  static constexpr float kMaxRatio = 4.0F;

  Calibration();

  // The estimated probability that a node is accepted, given that its parent is.
  float probability(const Evidence& evidence) const;

  void observe(const Evidence& evidence, bool accepted);
  // Puts what was observed since the last call to use.
  void update();

 private:
  // Accepted over expected nodes, of many kinds. The values lie apart from what they are made of: only they are read
  // while drafting.
  template <std::size_t n>
  struct Ratios {
    std::array<float, n> values;
    std::array<std::int64_t, n> expected{};  // in 1 / Evidence::kOne
    std::array<std::int64_t, n> accepted{};
    std::array<bool, n> is_changed{};
    std::vector<std::size_t> changed;

    void observe(std::size_t kind, double share, bool was_accepted);
    void update(double weight, const float* priors);
  };

  Ratios<Evidence::kNumCells> cells_;
  Ratios<Evidence::kNumBuckets> tokens_;
  Ratios<Evidence::kNumBuckets> befores_;
};

inline Evidence::Evidence(int match_class, int votes, float share, Token token, Token before) {
  const int vote_class = std::min(votes, kVoteClasses) - 1;
  const int share_class = kShareClassOf[static_cast<std::size_t>(share * kShareSteps)];
  const std::int64_t cell = (match_class * kVoteClasses + vote_class) * kShareClasses + share_class;
  const auto bucket = [](Token t) {
    static_assert(kNumBuckets == 1 << 12, "the hash keeps its first 12 bits");
    return static_cast<std::int64_t>(static_cast<std::uint32_t>(t) * 0x9e3779b1U >> 20);
  };
  packed_ = cell << 48 | static_cast<std::int64_t>(share * static_cast<float>(kOne)) << 32 | bucket(token) << 16 |
            bucket(before);
}

inline float Calibration::probability(const Evidence& evidence) const {
  constexpr float kMostCertain = 0.995F;
  const float ratio =
      cells_.values[evidence.cell()] * tokens_.values[evidence.token()] * befores_.values[evidence.before()];
  return std::min(static_cast<float>(evidence.share()) / Evidence::kOne * std::min(ratio, kMaxRatio), kMostCertain);
}

}  // namespace seer
