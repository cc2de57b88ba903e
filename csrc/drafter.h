// Drafts one token tree from the occurrences of a context's suffixes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "group_history.h"
#include "token_store.h"

namespace seer {

// Votes are counted by classes of match length: class c holds the lengths from kClassFloors[c] on and
// below the next floor.
constexpr int kNumClasses = 8;
constexpr std::array<int, kNumClasses> kClassFloors = {1, 2, 3, 4, 6, 9, 14, 22};
// How many votes the estimate from all shorter matches counts as in a class: the concentration of a
// Dirichlet prior whose mean is the estimate of the class below, as in hierarchical Dirichlet language
// models. Fitted to recorded responses of several models, for acceptance and calibration together.
constexpr std::array<float, kNumClasses> kPriorVotes = {40, 8, 20, 6, 5, 4, 2, 1};

struct DraftShape {
  int budget;     // most nodes
  int max_depth;  // deepest node; the root's children have depth 1
  bool chain;     // one child a node
};

// Trees of a batch, one after the other; parents count from the first node of their own tree.
struct DraftBatch {
  std::vector<Token> tokens;
  std::vector<std::int32_t> parents;
  std::vector<float> probabilities;
  std::vector<std::int32_t> depths;
  std::vector<std::int64_t> starts{0};
};

// Every candidate votes for the token that followed it, at its match length; a candidate whose token
// was drafted votes again below it, with a match longer by one. A node's probability is its parent's
// times the share that the votes give its token, and nodes are taken best first.
class Drafter {
 public:
  Drafter(const TokenStore& store, const MatchLimits& limits);

  // Appends the tree of `sequence` in `history` to `batch`.
  void draft(const GroupHistory& history, std::int64_t sequence, const DraftShape& shape,
             DraftBatch& batch);

 private:
  struct Node {
    Token token;
    int parent;  // index in tree_, -1 below the root
    int depth;
    float probability;
    int first_vote;  // of the votes that continue below this node, -1 if there is none
  };
  struct Vote {
    Candidate candidate;
    int next;  // next vote of the same node, -1 at the end
  };
  struct Child {
    Token token;
    int first_vote;
    std::array<int, kNumClasses> counts;
  };

  static bool worse(const Node& a, const Node& b);

  void expand(int parent, const GroupHistory& history, const DraftShape& shape);
  int look_up(int parent, const GroupHistory& history);
  void count(int first_vote);
  float share(const Child& child, const std::array<int, kNumClasses>& totals) const;
  void emit(DraftBatch& batch);

  const TokenStore& store_;
  const MatchLimits limits_;

  // Work space of one draft, kept so that a draft allocates nothing once warm.
  std::vector<Token> context_;  // the known tokens end at limits_.max_match, drafted ones follow
  int context_length_ = 0;
  std::vector<Candidate> candidates_;
  std::vector<Vote> votes_;
  std::vector<Child> children_;
  std::vector<Node> frontier_;  // a heap
  std::vector<Node> tree_;      // taken nodes, in the order taken
  std::vector<int> first_child_, next_sibling_, order_;  // of emit
};

}  // namespace seer
