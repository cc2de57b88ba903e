#include "drafter.h"

#include <algorithm>

namespace seer {
namespace {

int class_of(int matched) {
  int c = kNumClasses - 1;
  while (kClassFloors[c] > matched) --c;
  return c;
}

}  // namespace

Drafter::Drafter(const TokenStore& store, const MatchLimits& limits)
    : store_(store), limits_(limits) {}

void Drafter::draft(const GroupHistory& history, std::int64_t sequence, const DraftShape& shape,
                    DraftBatch& batch) {
  votes_.clear();
  frontier_.clear();
  tree_.clear();
  const auto budget = static_cast<std::size_t>(shape.budget);
  if (budget > 0) {
    context_.resize(limits_.max_match + shape.max_depth);
    context_length_ =
        history.context(sequence, limits_.max_match, context_.data() + limits_.max_match);
    expand(-1, history, shape);
  }
  while (tree_.size() < budget && !frontier_.empty()) {
    std::pop_heap(frontier_.begin(), frontier_.end(), worse);
    tree_.push_back(frontier_.back());
    frontier_.pop_back();
    if (tree_.size() < budget && tree_.back().depth < shape.max_depth) {
      expand(static_cast<int>(tree_.size()) - 1, history, shape);
    }
  }
  emit(batch);
}

// A total order on content alone: nodes with one parent differ in their token, and parents are
// numbered in the order taken.
bool Drafter::worse(const Node& a, const Node& b) {
  if (a.probability != b.probability) return a.probability < b.probability;
  if (a.depth != b.depth) return a.depth > b.depth;
  if (a.parent != b.parent) return a.parent > b.parent;
  return a.token > b.token;
}

void Drafter::expand(int parent, const GroupHistory& history, const DraftShape& shape) {
  int first_vote = parent < 0 ? -1 : tree_[parent].first_vote;
  if (first_vote < 0) first_vote = look_up(parent, history);
  count(first_vote);

  std::array<int, kNumClasses> totals{};
  for (const Child& child : children_) {
    for (int c = 0; c < kNumClasses; ++c) totals[c] += child.counts[c];
  }
  const int depth = parent < 0 ? 1 : tree_[parent].depth + 1;
  const float reach = parent < 0 ? 1.0F : tree_[parent].probability;
  const std::size_t before = frontier_.size();
  for (const Child& child : children_) {
    const Node node{child.token, parent, depth, reach * share(child, totals), child.first_vote};
    if (shape.chain && frontier_.size() > before) {
      if (worse(frontier_.back(), node)) frontier_.back() = node;
      continue;
    }
    frontier_.push_back(node);
    // A chain's frontier holds one node, and a heap of one needs no order.
    if (!shape.chain) std::push_heap(frontier_.begin(), frontier_.end(), worse);
  }
}

int Drafter::look_up(int parent, const GroupHistory& history) {
  int drafted = 0;
  Token* const known_end = context_.data() + limits_.max_match;
  for (int n = parent; n >= 0; n = tree_[n].parent) {
    const Node& node = tree_[n];
    known_end[node.depth - 1] = node.token;
    ++drafted;
  }
  candidates_.clear();
  history.collect(known_end + drafted, context_length_ + drafted, limits_, candidates_);
  int first = -1;
  for (const Candidate& candidate : candidates_) {
    votes_.push_back({candidate, first});
    first = static_cast<int>(votes_.size()) - 1;
  }
  return first;
}

// Fills children_ from the votes and hands each vote on to its child.
void Drafter::count(int first_vote) {
  children_.clear();
  for (int v = first_vote; v >= 0;) {
    Vote& vote = votes_[v];
    const int following = vote.next;
    const Token token = store_.token(vote.candidate.next);
    auto child = std::find_if(children_.begin(), children_.end(),
                              [token](const Child& c) { return c.token == token; });
    if (child == children_.end()) child = children_.insert(child, Child{token, -1, {}});
    ++child->counts[class_of(vote.candidate.matched)];
    vote.candidate.next = store_.after(vote.candidate.next);
    if (vote.candidate.next != kNone) {
      vote.candidate.matched = std::min(vote.candidate.matched + 1, limits_.max_match);
      vote.next = child->first_vote;
      child->first_vote = v;
    }
    v = following;
  }
}

// The estimated probability that the token comes next. From the shortest matches to the longest,
// the estimate so far is the prior of the next class, whose votes include all longer matches:
//   share_c = (votes_c(token) + prior_c * share_(c-1)) / (votes_c + prior_c),  share_(-1) = 0.
// What the shares of all children leave to 1 is the estimate that none of them is right.
float Drafter::share(const Child& child, const std::array<int, kNumClasses>& totals) const {
  int votes = 0;
  int all = 0;
  for (int c = 0; c < kNumClasses; ++c) {
    votes += child.counts[c];
    all += totals[c];
  }
  float estimate = 0.0F;
  for (int c = 0; c < kNumClasses && all > 0; ++c) {
    estimate = (static_cast<float>(votes) + kPriorVotes[c] * estimate) /
               (static_cast<float>(all) + kPriorVotes[c]);
    votes -= child.counts[c];
    all -= totals[c];
  }
  return estimate;
}

// Writes the tree breadth first: by depth, then by the parent's place, then best first.
void Drafter::emit(DraftBatch& batch) {
  const int size = static_cast<int>(tree_.size());
  // Slot 0 is the root and slot i + 1 node i, so that the root's children need no special case.
  first_child_.assign(tree_.size() + 1, -1);
  next_sibling_.assign(tree_.size(), -1);
  for (int i = size - 1; i >= 0; --i) {
    int& first = first_child_[tree_[i].parent + 1];
    next_sibling_[i] = first;
    first = i;
  }
  order_.clear();
  for (int place = -1; place < static_cast<int>(order_.size()); ++place) {
    const int slot = place < 0 ? 0 : order_[place] + 1;
    for (int child = first_child_[slot]; child >= 0;
         child = next_sibling_[child]) {
      const Node& node = tree_[child];
      order_.push_back(child);
      batch.tokens.push_back(node.token);
      batch.parents.push_back(place);
      batch.probabilities.push_back(node.probability);
      batch.depths.push_back(node.depth);
    }
  }
  batch.starts.push_back(static_cast<std::int64_t>(batch.tokens.size()));
}

}  // namespace seer
