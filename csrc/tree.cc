#include "tree.h"

#include <algorithm>

namespace seer {
namespace {

// A share of the votes as an integer: sums are exact then, so that the order of candidates changes nothing.
constexpr float kPointsOne = 1 << 26;

// As above for the counts of what followed one token and two tokens anywhere.
constexpr std::array<float, SuccessorTable::kLongest> kSuccessorPriors = {40, 20};
// Successors of a context that are looked at.
constexpr std::size_t kAsked = 4;
// Nodes less probable are not worth asking what usually follows; the second where nothing else is known of it.
constexpr float kAskedFrom = 0.1F;
constexpr float kAskedAloneFrom = 0.03F;

}  // namespace

void DraftBatch::clear() {
  tokens.clear();
  parents.clear();
  probabilities.clear();
  depths.clear();
  evidence.clear();
  starts.assign(1, 0);
}

void DraftBatch::append(const DraftBatch& other) {
  const std::int64_t before = starts.back();
  tokens.insert(tokens.end(), other.tokens.begin(), other.tokens.end());
  parents.insert(parents.end(), other.parents.begin(), other.parents.end());
  probabilities.insert(probabilities.end(), other.probabilities.begin(), other.probabilities.end());
  depths.insert(depths.end(), other.depths.begin(), other.depths.end());
  evidence.insert(evidence.end(), other.evidence.begin(), other.evidence.end());
  for (std::size_t i = 1; i < other.starts.size(); ++i) starts.push_back(before + other.starts[i]);
}

TreeBuilder::TreeBuilder(const Calibration& calibration, const SuccessorTable& successors, int max_match)
    : calibration_(calibration),
      successors_(successors),
      class_of_(static_cast<std::size_t>(max_match + kMaxDepth) + 1) {
  for (std::size_t length = 1; length < class_of_.size(); ++length) {
    const auto above = std::upper_bound(kClassFloors.begin(), kClassFloors.end(), static_cast<int>(length));
    class_of_[length] = static_cast<std::uint8_t>(above - kClassFloors.begin() - 1);
  }
  for (std::size_t weight = 1; weight < single_.size(); ++weight) {
    for (std::size_t c = 0; c < kNumClasses; ++c) {
      Totals totals{};
      totals[c] = static_cast<std::int32_t>(weight);
      single_[weight][c] = worths_of(totals);
    }
  }
}

void TreeBuilder::build(Span<Token> context, const std::vector<Candidate>& candidates, int budget,
                        const DraftShape& shape, DraftBatch& batch) {
  nodes_.clear();
  frontier_size_ = 0;
  tree_size_ = 0;
  context_ = context;
  const auto most = static_cast<std::size_t>(budget);
  if (budget > 0 && context.size > 0) {
    read_runs(candidates, std::min(budget, shape.max_depth));
    expand(-1, candidates.empty() ? -1 : 0, shape.chain, most);
  }
  while (tree_size_ < most && frontier_size_ > 0) {
    const Node& taken = tree_[tree_size_++] = nodes_[static_cast<std::size_t>(frontier_[--frontier_size_].node)];
    prefetch_next();
    if (tree_size_ < most && taken.depth < shape.max_depth) {
      expand(static_cast<int>(tree_size_) - 1, taken.first_vote, shape.chain, most - tree_size_);
    }
  }
  emit(batch);
}

// A total order on content alone: nodes with one parent differ in their token, and parents are numbered in the order
// taken.
inline bool TreeBuilder::worse(const Node& a, const Open& other) const {
  if (a.probability != other.probability) return a.probability < other.probability;
  const Node& b = nodes_[static_cast<std::size_t>(other.node)];
  if (a.depth != b.depth) return a.depth > b.depth;
  if (a.parent != b.parent) return a.parent > b.parent;
  return a.token > b.token;
}

// The node that is best so far is most likely taken next.
void TreeBuilder::prefetch_next() const {
  if (frontier_size_ == 0) return;
  const Node& next = nodes_[static_cast<std::size_t>(frontier_[frontier_size_ - 1].node)];
  const auto last = last_tokens(next);
  const Hashes hashes = suffix_hashes(last.data() + last.size(), static_cast<int>(last.size()));
  for (std::size_t o = 0; o < last.size(); ++o) successors_.prefetch(hashes[o]);
}

void TreeBuilder::read_runs(const std::vector<Candidate>& candidates, int length) {
  const std::size_t n = candidates.size();
  run_length_ = length;
  runs_.resize(n * static_cast<std::size_t>(length));
  votes_.resize(n);
  children_.resize(n + SuccessorTable::kLongest * kAsked);
  for (std::size_t i = 0; i < n; ++i) {
    const Candidate& candidate = candidates[i];
    Token* const row = &runs_[i * static_cast<std::size_t>(length)];
    const int copied = candidate.group->run(candidate.next, length, row);
    votes_[i] = {i + 1 < n ? static_cast<int>(i) + 1 : -1, copied, candidate.matched, candidate.weight, 0};
  }
}

void TreeBuilder::expand(int parent, int first_vote, bool chain, std::size_t room) {
  const Node* const above = parent < 0 ? nullptr : &tree_[static_cast<std::size_t>(parent)];
  const int depth = above == nullptr ? 0 : above->depth;
  const float reach = above == nullptr ? 1.0F : above->probability;
  const Span<Token> before = tokens_before(parent);
  float left = 1.0F;
  std::size_t n = 0;
  if (first_vote >= 0) {
    const Totals totals = classify(first_vote, depth);
    const Vote& first = votes_[static_cast<std::size_t>(first_vote)];
    const Worths worths =
        first.next < 0 ? single_[static_cast<std::size_t>(first.weight)][static_cast<std::size_t>(first.match_class)]
                       : worths_of(totals);
    left = worths.left;
    n = count(first_vote, depth, worths.points);
  }
  if (first_vote < 0 ? reach >= kAskedAloneFrom : !chain && reach >= kAskedFrom) n = add_successors(n, before, left);
  Node best{};
  for (std::size_t i = 0; i < n; ++i) {
    const Child& child = children_[i];
    // Rounding may carry the sum of a few thousand votes just over 1.
    const float share = std::min(static_cast<float>(child.points) / kPointsOne, 1.0F);
    // Most children cannot be taken, whatever the calibration says.
    if (!chain && frontier_size_ >= room &&
        reach * share * Calibration::kMaxRatio < frontier_[frontier_size_ - room].probability) {
      continue;
    }
    const Evidence evidence(child.match_class, child.votes, share, child.token, before[before.size - 1]);
    const Node node{reach * calibration_.probability(evidence),
                    child.token,
                    evidence.packed(),
                    static_cast<std::int16_t>(child.first_vote),
                    static_cast<std::int8_t>(parent),
                    static_cast<std::int8_t>(depth + 1)};
    if (!chain) {
      offer(node, room);
    } else if (node.probability > best.probability ||
               (node.probability == best.probability && node.token < best.token) || i == 0) {
      best = node;
    }
  }
  if (chain && n > 0) offer(best, room);
}

// The last one or two tokens up to a node.
Span<Token> TreeBuilder::tokens_before(int parent) {
  if (parent < 0) {
    const std::size_t n = std::min(context_.size, before_.size());
    return {context_.data + context_.size - n, n};
  }
  before_ = last_tokens(tree_[static_cast<std::size_t>(parent)]);
  return {before_.data(), before_.size()};
}

std::array<Token, SuccessorTable::kLongest> TreeBuilder::last_tokens(const Node& node) const {
  const Token before =
      node.parent < 0 ? context_[context_.size - 1] : tree_[static_cast<std::size_t>(node.parent)].token;
  return {before, node.token};
}

// Sets the votes' classes at this depth; returns the votes of each class.
TreeBuilder::Totals TreeBuilder::classify(int first_vote, int depth) {
  Totals totals{};
  for (int v = first_vote; v >= 0; v = votes_[static_cast<std::size_t>(v)].next) {
    Vote& vote = votes_[static_cast<std::size_t>(v)];
    vote.match_class = class_of_[static_cast<std::size_t>(vote.matched + depth)];
    totals[static_cast<std::size_t>(vote.match_class)] += vote.weight;
  }
  return totals;
}

// From the shortest matches to the longest, the estimate so far is the prior of the next class, whose votes include
// all longer matches:
//   share_c = (votes_c(token) + prior_c * share_(c-1)) / (votes_c + prior_c),  share_(-1) = 0.
// What the shares of all children leave to 1 is the estimate that none of them is right. The share is linear in the
// token's votes, so a vote is worth the same for every token: here are the points of one vote of each class. What
// share_(-1) would count for is left to what usually follows.
TreeBuilder::Worths TreeBuilder::worths_of(const Totals& totals) {
  std::array<float, kNumClasses> votes;
  std::int32_t longer = 0;
  for (std::size_t c = kNumClasses; c-- > 0;) {
    longer += totals[c];
    votes[c] = static_cast<float>(longer);
  }
  std::array<float, kNumClasses> scales;
  std::array<float, kNumClasses> kept;  // share of the estimate below that is kept in a class
  for (std::size_t c = 0; c < kNumClasses; ++c) {
    const float prior = kPriorVotes[c] * static_cast<float>(Finder::kSiblingWeight);
    scales[c] = 1.0F / (votes[c] + prior);
    kept[c] = prior * scales[c];
  }
  std::array<float, kNumClasses> worths;  // of a vote of the class, in that class's estimate
  float worth = 0;
  std::size_t num_classes = 0;
  for (; num_classes < kNumClasses && votes[num_classes] > 0; ++num_classes) {
    worth = worth * kept[num_classes] + scales[num_classes];
    worths[num_classes] = worth;
  }
  Worths result{};
  float carried = kPointsOne;
  for (std::size_t c = num_classes; c-- > 0;) {
    result.points[c] = static_cast<std::int32_t>(worths[c] * carried);
    carried *= kept[c];
  }
  result.left = carried / kPointsOne;
  return result;
}

// Fills children_ from the votes, hands each vote on to its child, and returns how many children there are.
std::size_t TreeBuilder::count(int first_vote, int depth, const Totals& points) {
  std::size_t n = 0;
  for (int v = first_vote; v >= 0;) {
    Vote& vote = votes_[static_cast<std::size_t>(v)];
    const int following = vote.next;
    const Token token = runs_[static_cast<std::size_t>(v * run_length_ + depth)];
    std::size_t i = 0;
    while (i < n && children_[i].token != token) ++i;
    Child& child = children_[i];
    if (i == n) {
      ++n;
      child = {token, -1, 0, 0, 0};
    }
    child.points += points[static_cast<std::size_t>(vote.match_class)] * vote.weight;
    child.match_class = std::max(child.match_class, vote.match_class);
    ++child.votes;
    if (vote.length > depth + 1) {
      vote.next = child.first_vote;
      child.first_vote = v;
    }
    v = following;
  }
  return n;
}

// Adds what followed the last two tokens and the last token anywhere, as further classes below the shortest match.
// left: the share that these have in the estimate. Returns the number of children.
std::size_t TreeBuilder::add_successors(std::size_t n, Span<Token> before, float left) {
  const Hashes hashes = suffix_hashes(before.data + before.size, static_cast<int>(before.size));
  for (std::size_t length = before.size; length > 0; --length) {
    const SuccessorTable::Line* const line = successors_.find(hashes[length - 1]);
    if (line == nullptr) continue;
    const float prior = kSuccessorPriors[length - 1];
    const float scale = left / (static_cast<float>(line->total) + prior);
    for (std::size_t k = 0; k < kAsked && line->successors[k] != 0; ++k) {
      const Token token = SuccessorTable::Line::token(line->successors[k]);
      const auto times = static_cast<int>(SuccessorTable::Line::count(line->successors[k]));
      std::size_t i = 0;
      while (i < n && children_[i].token != token) ++i;
      Child& child = children_[i];
      if (i == n) {
        ++n;
        child = {token, -1, 0, length == 1 ? kAfterOne : kAfterTwo, times >= 16 ? 3 : times >= 4 ? 2 : 1};
      }
      child.points += static_cast<std::int32_t>(static_cast<float>(times) * scale * kPointsOne);
    }
    left = prior * scale;
  }
  return n;
}

// Puts a node in its place of the frontier; a node for which no room will be left is never taken.
void TreeBuilder::offer(const Node& node, std::size_t room) {
  std::size_t place = frontier_size_;
  if (frontier_size_ >= room) {
    const std::size_t worst = frontier_size_ - room;
    if (worse(node, frontier_[worst])) return;
    // What lies below the `room` best is garbage: the others move down over it.
    for (place = worst; place + 1 < frontier_size_ && !worse(node, frontier_[place + 1]); ++place) {
      frontier_[place] = frontier_[place + 1];
    }
  } else {
    ++frontier_size_;
    for (; place > 0 && worse(node, frontier_[place - 1]); --place) frontier_[place] = frontier_[place - 1];
  }
  frontier_[place] = {node.probability, static_cast<std::int32_t>(nodes_.size())};
  nodes_.push_back(node);
}

// Writes the tree breadth first: by depth, then by the parent's place, then best first.
void TreeBuilder::emit(DraftBatch& batch) {
  // Slot 0 is the root and slot i + 1 node i, so that the root's children need no special case.
  std::array<int, kMaxBudget + 1> first_child;
  std::array<int, kMaxBudget> next_sibling;
  std::array<int, kMaxBudget> order;
  std::fill_n(first_child.begin(), tree_size_ + 1, -1);
  for (std::size_t i = tree_size_; i-- > 0;) {
    int& first = first_child[static_cast<std::size_t>(tree_[i].parent + 1)];
    next_sibling[i] = first;
    first = static_cast<int>(i);
  }
  std::size_t written = 0;
  for (std::size_t parent = 0; parent <= written; ++parent) {
    const std::size_t slot = parent == 0 ? 0 : static_cast<std::size_t>(order[parent - 1] + 1);
    for (int i = first_child[slot]; i >= 0; i = next_sibling[static_cast<std::size_t>(i)]) {
      const Node& node = tree_[static_cast<std::size_t>(i)];
      order[written++] = i;
      batch.tokens.push_back(node.token);
      batch.parents.push_back(static_cast<std::int32_t>(parent) - 1);
      batch.probabilities.push_back(node.probability);
      batch.depths.push_back(node.depth);
      batch.evidence.push_back(node.evidence);
    }
  }
  batch.starts.push_back(static_cast<std::int64_t>(batch.tokens.size()));
}

}  // namespace seer
