// Grows a draft tree from the candidates of a search.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "calibration.h"
#include "finder.h"
#include "successor_table.h"
#include "tokens.h"

namespace seer {

constexpr int kMaxBudget = 64;
constexpr int kMaxDepth = 64;

// How many votes the estimate from all shorter matches counts as in a class: the concentration of a Dirichlet prior
// whose mean is the estimate of the class below, as in hierarchical Dirichlet language models. Fitted to recorded
// responses of several models. In sibling votes.
constexpr std::array<float, kNumClasses> kPriorVotes = {40, 4, 20, 6, 5, 4, 2, 1};

struct DraftShape {
  int max_depth;  // deepest node; the root's children have depth 1
  bool chain;     // one child a node
};

// Trees of a batch, one after the other; parents count from the first node of their own tree.
struct DraftBatch {
  std::vector<Token> tokens;
  std::vector<std::int32_t> parents;
  std::vector<float> probabilities;
  std::vector<std::int32_t> depths;
  std::vector<std::int64_t> evidence;
  std::vector<std::int64_t> starts{0};

  void clear();
  void append(const DraftBatch& other);
};

// Every candidate votes for the token that followed it, at its match length; a candidate whose token was drafted votes
// again below it, with a match longer by one. What usually follows the last one or two tokens has a say where votes
// are few. A node's probability is its parent's times its own calibrated share, and nodes are taken best first.
class TreeBuilder {
 public:
  TreeBuilder(const Calibration& calibration, const SuccessorTable& successors, int max_match);

  // Appends the tree to `batch`. context: the last tokens of the text.
  void build(Span<Token> context, const std::vector<Candidate>& candidates, int budget, const DraftShape& shape,
             DraftBatch& batch);

 private:
  using Totals = std::array<std::int32_t, kNumClasses>;  // by class of match length

  struct Vote {
    int next;  // next vote of the same node, -1 at the end
    int length;  // tokens in the candidate's row of runs_
    int matched;
    int weight;
    int match_class;
  };
  struct Child {
    Token token;
    int first_vote;  // of the votes that go on below it
    std::int32_t points;
    int match_class;  // the longest
    int votes;
  };
  struct Node {
    float probability;
    Token token;
    std::int64_t evidence;
    std::int16_t first_vote;
    std::int8_t parent;  // index in tree_, -1 below the root
    std::int8_t depth;
  };
  // A node that may be taken; the probability lies here, too, as most comparisons need no more.
  struct Open {
    float probability;
    std::int32_t node;  // in nodes_
  };
  struct Worths {
    Totals points;  // of a vote of each class
    float left;     // to what usually follows
  };

  bool worse(const Node& a, const Open& b) const;
  void read_runs(const std::vector<Candidate>& candidates, int length);
  void expand(int parent, int first_vote, bool chain, std::size_t room);
  Totals classify(int first_vote, int depth);
  static Worths worths_of(const Totals& totals);
  void prefetch_next() const;
  std::size_t count(int first_vote, int depth, const Totals& points);
  std::size_t add_successors(std::size_t n, Span<Token> before, float left);
  Span<Token> tokens_before(int parent);
  std::array<Token, SuccessorTable::kLongest> last_tokens(const Node& node) const;
  void offer(const Node& node, std::size_t room);
  void emit(DraftBatch& batch);

  const Calibration& calibration_;
  const SuccessorTable& successors_;
  std::vector<std::uint8_t> class_of_;  // by match length
  // Of a single vote by its weight and class: what most nodes have.
  std::array<std::array<Worths, kNumClasses>, Finder::kOwnWeight + 1> single_;

  // Work space of one tree, kept so that a tree allocates nothing once warm.
  Span<Token> context_{nullptr, 0};
  std::array<Token, SuccessorTable::kLongest> before_;
  std::vector<Token> runs_;  // what followed each candidate, rows of run_length_ tokens
  int run_length_ = 0;
  std::vector<Vote> votes_;
  std::vector<Child> children_;
  std::vector<Node> nodes_;                // ever offered
  std::array<Open, kMaxBudget> frontier_;  // sorted, the best last
  std::size_t frontier_size_ = 0;
  std::array<Node, kMaxBudget> tree_;  // in the order taken
  std::size_t tree_size_ = 0;
};

}  // namespace seer
