#include "tree.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "calibration_prior.h"
#include "check.h"

namespace seer {
namespace {

const Token kLast = 1000;  // of a context that says nothing

// A group whose prompt holds runs of tokens, and a candidate for the start of each.
struct Runs {
  explicit Runs(const std::vector<std::vector<Token>>& runs) : pool(std::size_t{4} << 20), group(pool, 1, 0, 1) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const TextId text = group.find_or_add(static_cast<std::int64_t>(i));
      std::size_t done = 0;
      while (done < runs[i].size()) done += group.store(text, runs[i].data() + done, runs[i].size() - done);
      starts.push_back(group.text(text).first_page * kPageTokens);
    }
  }
  std::vector<Candidate> candidates(const std::vector<std::pair<int, int>>& matches) const {
    std::vector<Candidate> found;
    for (std::size_t i = 0; i < matches.size(); ++i) {
      found.push_back({&group, starts[i], matches[i].first, matches[i].second});
    }
    return found;
  }
  PagePool pool;
  Group group;
  std::vector<Position> starts;
};

void check_tree(const DraftBatch& batch, int budget, const DraftShape& shape) {
  const std::size_t n = batch.tokens.size();
  CHECK(static_cast<int>(n) <= budget && batch.starts.back() == static_cast<std::int64_t>(n));
  std::set<std::pair<std::int32_t, Token>> seen;
  std::vector<double> left(n + 1, 1.0);
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t parent = batch.parents[i];
    CHECK(parent >= -1 && parent < static_cast<std::int32_t>(i));
    CHECK(seen.insert({parent, batch.tokens[i]}).second);
    const auto p = static_cast<std::size_t>(parent);
    CHECK(batch.depths[i] == (parent < 0 ? 1 : batch.depths[p] + 1) && batch.depths[i] <= shape.max_depth);
    const float reach = parent < 0 ? 1.0F : batch.probabilities[p];
    CHECK(batch.probabilities[i] >= 0 && batch.probabilities[i] <= reach);
    CHECK(Evidence::is_valid(batch.evidence[i]));
    CHECK(!shape.chain || parent == static_cast<std::int32_t>(i) - 1);
    CHECK(i == 0 || batch.parents[i - 1] <= parent);
  }
}

TEST(trees_of_any_size_hold) {
  std::mt19937 random(1);
  const Calibration calibration;
  SuccessorTable successors(1 << 14);
  for (int i = 0; i < 20000; ++i) {
    successors.add(static_cast<std::uint32_t>(random() % 3000), static_cast<Token>(random() % 500));
  }
  for (Token token = 0; token < 3; ++token) {
    for (int i = 0; i < 300; ++i) successors.add(suffix_hashes(&token + 1, 1)[0], static_cast<Token>(random() % 5));
  }
  for (int round = 0; round < 60; ++round) {
    const int max_match = round % 2 == 0 ? 256 : 4;
    TreeBuilder builder(calibration, successors, max_match);
    const std::size_t n = round % 5 == 0 ? 384 : 1 + random() % 24;
    const auto kinds = static_cast<std::uint32_t>(1 + random() % (round % 3 == 0 ? 500 : 3));
    std::vector<std::vector<Token>> runs(n);
    std::vector<std::pair<int, int>> matches;
    for (auto& run : runs) {
      run.resize(1 + random() % 90);
      for (Token& token : run) token = static_cast<Token>(random() % kinds);
      const int matched = 1 + static_cast<int>(random() % static_cast<std::uint32_t>(max_match));
      matches.emplace_back(matched, 3 + static_cast<int>(random() % 6));
    }
    const Runs stored(runs);
    std::vector<Candidate> candidates = stored.candidates(matches);
    if (round % 7 == 0) candidates.clear();
    std::vector<Token> context(1 + random() % 5);
    for (Token& token : context) token = static_cast<Token>(random() % kinds);
    for (const bool chain : {false, true}) {
      std::set<std::pair<std::int32_t, Token>> smaller;
      for (const int budget : {0, 1, 2, 31, kMaxBudget - 1, kMaxBudget}) {
        const DraftShape shape{1 + static_cast<int>(random() % kMaxDepth), chain};
        DraftBatch batch;
        batch.clear();
        builder.build({context.data(), context.size()}, candidates, budget, shape, batch);
        check_tree(batch, budget, shape);
        // The order of candidates changes nothing.
        std::shuffle(candidates.begin(), candidates.end(), random);
        DraftBatch again;
        again.clear();
        builder.build({context.data(), context.size()}, candidates, budget, shape, again);
        CHECK(again.tokens == batch.tokens && again.parents == batch.parents && again.evidence == batch.evidence);
        CHECK(again.probabilities == batch.probabilities && again.depths == batch.depths);
      }
    }
  }
}

TEST(a_chain_of_the_greatest_depth_and_a_star_of_the_greatest_width) {
  const Calibration calibration;
  const SuccessorTable none(0);
  TreeBuilder builder(calibration, none, 256);
  std::vector<Token> deep(200);
  for (std::size_t i = 0; i < deep.size(); ++i) deep[i] = static_cast<Token>(i);
  const Runs one({deep});
  DraftBatch batch;
  batch.clear();
  builder.build({&kLast, 1}, one.candidates({{256, 8}}), kMaxBudget, {kMaxDepth, false}, batch);
  CHECK(batch.tokens.size() == kMaxBudget && batch.depths.back() == kMaxDepth);
  CHECK(std::equal(batch.tokens.begin(), batch.tokens.end(), deep.begin()));

  std::vector<std::vector<Token>> runs;
  std::vector<std::pair<int, int>> matches;
  for (Token t = 383; t >= 0; --t) {
    runs.push_back({t});
    matches.emplace_back(256, 8);
  }
  const Runs wide(runs);
  batch.clear();
  builder.build({&kLast, 1}, wide.candidates(matches), kMaxBudget, {kMaxDepth, false}, batch);
  CHECK(batch.tokens.size() == kMaxBudget && batch.depths.back() == 1);
  // Equal votes: the smallest tokens, in order.
  for (Token t = 0; t < kMaxBudget; ++t) CHECK(batch.tokens[static_cast<std::size_t>(t)] == t);
}

TEST(trees_follow_one_another_in_a_batch) {
  const Calibration calibration;
  const SuccessorTable none(0);
  TreeBuilder builder(calibration, none, 8);
  const Runs runs({{1, 2, 3}, {1, 5}});
  DraftBatch batch;
  batch.clear();
  builder.build({&kLast, 1}, runs.candidates({{3, 8}}), 2, {8, false}, batch);
  builder.build({&kLast, 1}, {}, 8, {8, false}, batch);
  builder.build({nullptr, 0}, {}, 8, {8, false}, batch);
  DraftBatch other;
  other.clear();
  builder.build({&kLast, 1}, runs.candidates({{3, 8}, {3, 8}}), 8, {8, false}, other);
  batch.append(other);
  CHECK((batch.starts == std::vector<std::int64_t>{0, 2, 2, 2, 6}));
  CHECK((batch.tokens == std::vector<Token>{1, 2, 1, 2, 5, 3}));
  CHECK((batch.parents == std::vector<std::int32_t>{-1, 0, -1, 0, 0, 1}));
}

TEST(evidence_keeps_what_it_is_made_of) {
  std::map<std::size_t, int> cells;
  for (int match_class = 0; match_class < Evidence::kMatchClasses; ++match_class) {
    for (int votes = 1; votes <= 4; ++votes) {
      std::size_t before = 0;
      for (int i = 0; i <= 1000; ++i) {
        const float share = static_cast<float>(i) / 1000.0F;
        const Evidence evidence(match_class, votes, share, 149999, i);
        CHECK(Evidence::is_valid(evidence.packed()) && Evidence(evidence.packed()).cell() == evidence.cell());
        CHECK(evidence.token() < Evidence::kNumBuckets && evidence.before() < Evidence::kNumBuckets);
        CHECK(std::abs(static_cast<float>(evidence.share()) / Evidence::kOne - share) < 2e-5F);
        CHECK(i == 0 || evidence.cell() >= before);  // a greater share is in no lower class
        before = evidence.cell();
        ++cells[evidence.cell()];
      }
    }
  }
  CHECK(cells.size() == Evidence::kNumCells && cells.rbegin()->first == Evidence::kNumCells - 1);
  constexpr std::int64_t kFirstInvalid = std::int64_t{Evidence::kNumCells} << 48;
  for (const std::int64_t packed : {std::int64_t{-1}, INT64_MIN, INT64_MAX, kFirstInvalid}) {
    CHECK(!Evidence::is_valid(packed));
  }
  CHECK(Evidence::is_valid(kFirstInvalid - 1));
  // Whatever the bits, all that is read from evidence that counts as valid is within the tables.
  const Evidence last(kFirstInvalid - 1);
  CHECK(last.token() < Evidence::kNumBuckets && last.before() < Evidence::kNumBuckets);
}

TEST(calibration_follows_what_is_observed) {
  const Evidence evidence(3, 2, 0.5F, 1, 2);
  const Evidence other(4, 2, 0.5F, 3, 4);
  const float prior = kPriorRatios[evidence.cell()];
  Calibration calibration;
  CHECK(std::abs(calibration.probability(evidence) - 0.5F * prior) < 1e-4F);
  const float before = calibration.probability(other);
  // 100 nodes of share 1/2, of which 20 are accepted: 50 expected ones on top of the prior's 20 of the cell and 10 of
  // the token and the one before it.
  for (int i = 0; i < 100; ++i) calibration.observe(evidence, i % 5 == 0);
  CHECK(std::abs(calibration.probability(evidence) - 0.5F * prior) < 1e-4F);  // not in use yet
  calibration.update();
  const float cell = (20 + 20 * prior) / 70;
  const float token = (20.0F + 10) / (50 * prior + 10);
  CHECK(std::abs(calibration.probability(evidence) - 0.5F * cell * token * token) < 1e-3F);
  CHECK(calibration.probability(other) == before);
  // Each part serves other nodes, too.
  const Evidence same_token(4, 2, 0.5F, 1, 4);
  CHECK(std::abs(calibration.probability(same_token) - before * token) < 1e-3F);
  // In the long run the rate observed; after a change, the new one within as many nodes as are remembered.
  for (const double rate : {0.9, 0.1}) {
    for (int i = 0; i < 60000; ++i) {
      calibration.observe(evidence, i % 10 < rate * 10);
      if (i % 100 == 0) calibration.update();
    }
    calibration.update();
    CHECK(std::abs(calibration.probability(evidence) - rate) < 0.03);
  }
}

TEST(no_node_is_certain_and_no_ratio_is_beyond_its_limit) {
  Calibration calibration;
  const Evidence certain(7, 3, 1.0F, 1, 2);
  const Evidence faint(0, 1, 0.01F, 3, 4);
  for (int i = 0; i < 1000; ++i) {
    calibration.observe(certain, true);
    calibration.observe(faint, true);
  }
  calibration.update();
  CHECK(calibration.probability(certain) < 1.0F && calibration.probability(certain) > 0.99F);
  CHECK(calibration.probability(faint) <= 0.01F * Calibration::kMaxRatio);
}

}  // namespace
}  // namespace seer
