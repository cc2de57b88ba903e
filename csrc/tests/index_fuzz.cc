// Operations on an index, decoded from bytes, with bad input among them. Two indexes get the same calls, one of them
// with items the other way round and with more threads, and have to agree. Built with libFuzzer, or by main.cc.
#include "suffix_index.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <vector>

#include "check.h"

namespace seer::test {
namespace {

class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool done() const { return at_ >= size_; }
  // Below `n`, at most 256; 0 when there is nothing left.
  unsigned below(unsigned n) { return done() ? 0 : data_[at_++] % n; }
  template <typename T, std::size_t N>
  T one_of(const T (&values)[N]) {
    return values[below(N)];
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

template <typename T>
Span<T> span(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

struct Items {
  std::vector<std::int64_t> groups, sequences, offsets, lengths;
  std::vector<Token> tokens;

  AppendBatch batch() const { return {span(groups), span(sequences), span(offsets), span(tokens), span(lengths)}; }

  Items reversed() const {
    Items other;
    std::vector<std::size_t> begins(groups.size());
    std::exclusive_scan(lengths.begin(), lengths.end(), begins.begin(), std::size_t{0});
    for (std::size_t i = groups.size(); i-- > 0;) {
      other.groups.push_back(groups[i]);
      other.sequences.push_back(sequences[i]);
      other.offsets.push_back(offsets[i]);
      other.lengths.push_back(lengths[i]);
      const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(begins[i]);
      other.tokens.insert(other.tokens.end(), begin, begin + lengths[i]);
    }
    return other;
  }
};

struct KnownGroup {
  std::vector<Token> prompt;
  std::int64_t version;
  std::map<std::int64_t, std::int64_t> lengths;
};

class Session {
 public:
  explicit Session(Reader& reader)
      : reader_(reader), options_(read_options(reader)), index_(options_), twin_(twin_options(options_)) {}

  void run() {
    while (!reader_.done()) {
      static constexpr void (Session::*kOperations[])() = {
          &Session::open, &Session::append, &Session::append, &Session::append, &Session::append_corrupt,
          &Session::propose, &Session::propose, &Session::propose, &Session::observe, &Session::drop, &Session::misuse};
      (this->*reader_.one_of(kOperations))();
      check();
    }
  }

 private:
  static Options read_options(Reader& reader) {
    const std::int64_t many = std::int64_t{1} << 40;
    Options options{};
    options.vocab_size = 1 + reader.below(12);
    options.max_match = 4 + reader.below(253);
    options.max_candidates = 1 + reader.below(32);
    options.max_bytes = std::int64_t{4} << 20;
    options.max_tokens = reader.one_of({std::int64_t{1024}, std::int64_t{6000}, many});
    options.group_max_bytes = reader.one_of({std::int64_t{64} << 10, many});
    options.group_max_tokens = reader.one_of({std::int64_t{1024}, std::int64_t{3000}, many});
    options.ttl_steps = reader.one_of({std::int64_t{0}, std::int64_t{1}, std::int64_t{4}});
    options.shared_bytes = reader.one_of({0, 128, 8192, 1 << 20});
    options.threads = 1;
    return options;
  }

  static Options twin_options(Options options) {
    options.threads = 3;
    return options;
  }

  // A function of its arguments, so that items that overlap agree; repeats itself, so that there is much to find.
  Token token(std::int64_t group, std::int64_t sequence, std::int64_t place) const {
    const std::int64_t noise = place % 29 == 0 ? place * 7 + sequence + 1 : 0;
    return static_cast<Token>((place % 11 + place / 3 % 5 * (group % 3) + noise) % options_.vocab_size);
  }

  void open() {
    const std::int64_t group = reader_.below(12);
    const std::int64_t memory = reader_.below(12);
    if (const auto known = groups_.find(group); known != groups_.end()) {
      const auto& [prompt, version, lengths] = known->second;
      index_.open_group(group, span(prompt), 9, memory);
      twin_.open_group(group, span(prompt), 9, memory);
      std::vector<Token> longer = prompt;
      longer.push_back(0);
      CHECK(refuses([&] { index_.open_group(group, span(longer), version, memory); }));
      return;
    }
    KnownGroup fresh{std::vector<Token>(reader_.one_of({0U, 1U, 5U, 127U, 128U, 300U, 2000U})), reader_.below(3), {}};
    std::int64_t place = 0;
    for (Token& one : fresh.prompt) one = token(group % 4, -1, place++);
    index_.open_group(group, span(fresh.prompt), fresh.version, memory);
    twin_.open_group(group, span(fresh.prompt), fresh.version, memory);
    groups_[group] = std::move(fresh);
  }

  std::int64_t known_group() {
    if (groups_.empty()) return -1;
    return std::next(groups_.begin(), reader_.below(static_cast<unsigned>(groups_.size())))->first;
  }

  Items items() {
    Items made;
    std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> ends;
    const unsigned n = groups_.empty() ? 0 : 1 + reader_.below(6);
    for (unsigned i = 0; i < n; ++i) {
      const std::int64_t group = known_group();
      const std::int64_t sequence = reader_.below(5);
      const auto& lengths = groups_.at(group).lengths;
      const auto stored = lengths.find(sequence);
      auto& end = ends.try_emplace({group, sequence}, stored == lengths.end() ? 0 : stored->second).first->second;
      const std::int64_t offset = std::max<std::int64_t>(0, end - reader_.one_of({0, 0, 0, 1, 9, 200, 100000}));
      const std::int64_t length = reader_.one_of({0, 1, 2, 3, 17, 100, 128, 129, 700, 5000});
      made.groups.push_back(group);
      made.sequences.push_back(sequence);
      made.offsets.push_back(offset);
      made.lengths.push_back(length);
      for (std::int64_t k = 0; k < length; ++k) made.tokens.push_back(token(group, sequence, offset + k));
      end = std::max(end, offset + length);
    }
    return made;
  }

  void append() {
    const Items made = items();
    index_.append(made.batch());
    twin_.append(made.reversed().batch());
    for (std::size_t i = 0; i < made.groups.size(); ++i) {
      CHECK(index_.has_group(made.groups[i]));
      if (made.lengths[i] == 0) continue;
      auto& length = groups_[made.groups[i]].lengths[made.sequences[i]];
      length = std::max(length, made.offsets[i] + made.lengths[i]);
    }
  }

  void append_corrupt() {
    Items made = items();
    if (made.groups.empty()) return;
    const std::size_t i = reader_.below(static_cast<unsigned>(made.groups.size()));
    const std::int64_t absurd = reader_.one_of({std::int64_t{-1}, INT64_MIN, INT64_MAX, std::int64_t{1} << 33});
    switch (reader_.below(9)) {
      case 0: made.groups[i] = absurd; break;
      case 1: made.offsets[i] = absurd; break;
      case 2: made.lengths[i] = absurd; break;
      case 3: made.tokens.push_back(0); break;
      case 4: made.lengths.pop_back(); break;
      case 5: made.offsets.push_back(0); break;
      case 6: made.sequences.clear(); break;
      case 7: made.groups.push_back(made.groups[0]); break;
      default:
        if (made.tokens.empty()) return;
        made.tokens[made.tokens.size() / 2] = static_cast<Token>(options_.vocab_size + (absurd < 0 ? 0 : 1000));
    }
    CHECK(refuses([&] { index_.append(made.batch()); }));
    CHECK(refuses([&] { twin_.append(made.batch()); }));
  }

  void propose() {
    std::vector<std::int64_t> groups;
    std::vector<std::int64_t> sequences;
    std::vector<std::int32_t> budgets;
    const unsigned n = groups_.empty() ? 0 : reader_.one_of({0U, 1U, 2U, 5U, 33U, 200U});
    const std::int64_t first = known_group();
    for (unsigned i = 0; i < n; ++i) {
      groups.push_back(i < 8 ? known_group() : first);
      sequences.push_back(i % 6);
      budgets.push_back(i < 8 ? static_cast<std::int32_t>(reader_.below(kMaxBudget + 1)) : 4);
    }
    const std::int64_t depth = 1 + reader_.below(kMaxDepth);
    const ProposeBatch batch{span(groups), span(sequences), span(budgets), depth, reader_.below(4) == 0};
    index_.propose(batch, drafts_);
    DraftBatch other;
    twin_.propose(batch, other);
    CHECK(drafts_.tokens == other.tokens && drafts_.parents == other.parents && drafts_.starts == other.starts);
    CHECK(drafts_.probabilities == other.probabilities && drafts_.depths == other.depths);
    CHECK(drafts_.evidence == other.evidence && drafts_.starts.size() == n + 1);
    for (std::size_t r = 0; r < n; ++r) check_tree(r, batch);
  }

  void check_tree(std::size_t request, const ProposeBatch& batch) const {
    const auto first = static_cast<std::size_t>(drafts_.starts[request]);
    const auto end = static_cast<std::size_t>(drafts_.starts[request + 1]);
    CHECK(end - first <= static_cast<std::size_t>(batch.budgets[request]));
    for (std::size_t i = first; i < end; ++i) {
      const std::int32_t parent = drafts_.parents[i];
      CHECK(parent >= -1 && parent < static_cast<std::int32_t>(i - first));
      const std::size_t above = first + static_cast<std::size_t>(parent);
      CHECK(drafts_.depths[i] == (parent < 0 ? 1 : drafts_.depths[above] + 1) && drafts_.depths[i] <= batch.max_depth);
      const float reach = parent < 0 ? 1.0F : drafts_.probabilities[above];
      CHECK(drafts_.probabilities[i] >= 0 && drafts_.probabilities[i] <= reach);
      CHECK(drafts_.tokens[i] >= 0 && drafts_.tokens[i] < options_.vocab_size);
      CHECK(!batch.chain || parent == static_cast<std::int32_t>(i - first) - 1);
    }
  }

  void observe() {
    DraftBatch seen = drafts_;
    const std::size_t n = seen.tokens.size();
    const unsigned corruption = reader_.below(12);
    if (n > 0 && corruption < 6) {
      const std::size_t i = reader_.below(256) % n;
      const auto absurd = static_cast<std::int32_t>(reader_.one_of({-2, INT32_MIN, INT32_MAX, 1 << 30}));
      if (corruption == 0) seen.evidence[i] = absurd < 0 ? absurd : INT64_MAX - absurd;
      if (corruption == 1) seen.parents[i] = absurd;
      if (corruption == 2) seen.starts[reader_.below(256) % seen.starts.size()] = absurd;
      if (corruption == 3) seen.starts.clear();
      if (corruption == 4) seen.evidence.pop_back();
      if (corruption == 5) seen.starts.push_back(static_cast<std::int64_t>(n) + 1);
    }
    const bool accepted[4096] = {true, true, false, true, true, true, true, false, true};
    const Outcome outcome{span(seen.evidence), span(seen.parents), span(seen.starts), {accepted + reader_.below(9), n}};
    if (n > 4000) return;
    if (n > 0 && corruption < 6) {
      CHECK(refuses([&] { index_.observe(outcome); }));
      return;
    }
    index_.observe(outcome);
    twin_.observe(outcome);
  }

  void drop() {
    const std::int64_t group = reader_.below(13);
    const std::int64_t sequence = reader_.below(5);
    const unsigned what = reader_.below(20);
    for (SuffixIndex* const index : {&index_, &twin_}) {
      if (what < 12) index->drop_sequence(group, sequence);
      if (what >= 12 && what < 18) index->drop_group(group);
      if (what == 18) index->drop_version(sequence);
      if (what == 19) index->clear();
    }
    const auto known = groups_.find(group);
    if (what < 12 && known != groups_.end()) known->second.lengths.erase(sequence);
    if (what >= 12 && what < 18) CHECK(!index_.has_group(group));
    if (what == 18) {
      for (const auto& [id, open] : groups_) CHECK(open.version != sequence || !index_.has_group(id));
    }
    if (what == 19) CHECK(index_.num_groups() == 0 && index_.num_tokens() == 0);
  }

  void misuse() {
    const std::vector<std::int64_t> one{known_group()};
    const std::vector<std::int64_t> none;
    const auto budget = [&](std::int32_t value, std::int64_t depth) {
      const std::vector<std::int32_t> budgets{value};
      return refuses([&] { index_.propose({span(one), span(one), span(budgets), depth, false}, drafts_); });
    };
    CHECK(budget(kMaxBudget + 1, 4) && budget(-1, 4) && budget(INT32_MIN, 4));
    CHECK(budget(1, 0) && budget(1, kMaxDepth + 1) && budget(1, INT64_MIN));
    const std::vector<std::int32_t> budgets{1};
    CHECK(refuses([&] { index_.propose({span(one), span(none), span(budgets), 4, false}, drafts_); }));
    CHECK(refuses([&] { index_.length(99, 0); }));
    const std::vector<Token> prompt{static_cast<Token>(options_.vocab_size)};
    CHECK(refuses([&] { index_.open_group(99, span(prompt), 0, 99); }));
  }

  void check() {
    for (auto known = groups_.begin(); known != groups_.end();) {
      if (!index_.has_group(known->first)) {
        known = groups_.erase(known);
        continue;
      }
      for (const auto& [sequence, length] : known->second.lengths) {
        CHECK(index_.length(known->first, sequence) == length && twin_.length(known->first, sequence) == length);
      }
      ++known;
    }
    CHECK(index_.num_groups() == groups_.size() && twin_.num_groups() == groups_.size());
    CHECK(index_.num_tokens() == twin_.num_tokens());
    CHECK(index_.num_tokens() <= static_cast<std::size_t>(options_.max_tokens));
    CHECK(index_.memory_bytes() <= static_cast<std::size_t>(options_.max_bytes));
    const Counters counters = index_.counters();
    CHECK(counters.refused_tokens == 0 && counters.evicted_tokens == twin_.counters().evicted_tokens);
  }

  Reader& reader_;
  const Options options_;
  SuffixIndex index_;
  SuffixIndex twin_;
  DraftBatch drafts_;
  std::map<std::int64_t, KnownGroup> groups_;
};

}  // namespace
}  // namespace seer::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  seer::test::Reader reader(data, size);
  seer::test::Session(reader).run();
  return 0;
}
