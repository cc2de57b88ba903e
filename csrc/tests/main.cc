// usage: index_test unit | index_test threads | index_test fuzz FIRST_SEED NUM_INPUTS
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "suffix_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace seer::test {
namespace {

void run_units() {
  for (const Case* const test : Case::all()) {
    std::printf("%s\n", test->name);
    std::fflush(stdout);
    test->run();
  }
  std::printf("%zu tests\n", Case::all().size());
}

void run_fuzz(std::uint32_t first, std::uint32_t n) {
  for (std::uint32_t seed = first; seed < first + n; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::uint8_t> bytes(random() % 600);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    // Named before it runs, so that a crash tells which input it was.
    std::printf("seed %u, %zu bytes\n", seed, bytes.size());
    std::fflush(stdout);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
}

template <typename T>
Span<T> span(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

// Every call of the index from several threads at once, each of them with proposals on several threads.
void run_threads() {
  SuffixIndex index({16, 32, 16, std::int64_t{4} << 20, 20000, std::int64_t{1} << 30, 8000, 5, 1 << 16, 4});
  std::atomic<std::size_t> proposed{0};
  const auto work = [&](std::int64_t worker) {
    std::mt19937 random(static_cast<std::uint32_t>(worker));
    DraftBatch drafts;
    for (int step = 0; step < 60; ++step) {
      const std::vector<Token> prompt(40, static_cast<Token>(worker));
      index.open_group(worker, span(prompt), worker % 2, (worker + 1) % 4);
      const std::vector<std::int64_t> groups(300, worker);
      std::vector<std::int64_t> sequences(300);
      for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i] = static_cast<std::int64_t>(i % 7);
      const std::vector<std::int32_t> budgets(300, 8);
      std::vector<Token> tokens(400);
      for (Token& token : tokens) token = static_cast<Token>(random() % 3);
      // Another worker may have dropped the group meanwhile.
      try {
        const std::vector<std::int64_t> group{worker};
        const std::vector<std::int64_t> sequence{step % 7};
        const std::vector<std::int64_t> offset{index.length(worker, sequence[0])};
        const std::vector<std::int64_t> length{400};
        index.append({span(group), span(sequence), span(offset), span(tokens), span(length)});
        index.propose({span(groups), span(sequences), span(budgets), 16, step % 2 == 0}, drafts);
      } catch (const std::invalid_argument&) {
        continue;
      }
      const std::size_t n = drafts.tokens.size();
      proposed += n;
      const auto accepted = std::make_unique<bool[]>(n);
      index.observe({span(drafts.evidence), span(drafts.parents), span(drafts.starts), {accepted.get(), n}});
      if (step % 9 == 0) index.drop_sequence(worker, 3);
      if (step % 17 == 0) index.drop_group((worker + 1) % 4);
      if (step % 29 == 0) index.drop_version(0);
      CHECK(index.num_tokens() <= 20000 && index.memory_bytes() <= std::size_t{4} << 20);
      CHECK(index.counters().refused_tokens == 0 && index.num_groups() <= 4);
    }
  };
  std::vector<std::thread> threads;
  for (std::int64_t worker = 0; worker < 4; ++worker) threads.emplace_back(work, worker);
  for (std::thread& thread : threads) thread.join();
  CHECK(proposed > 0);
  std::printf("%zu nodes proposed\n", proposed.load());
}

}  // namespace
}  // namespace seer::test

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "unit" && argc == 2) {
    seer::test::run_units();
  } else if (mode == "threads" && argc == 2) {
    seer::test::run_threads();
  } else if (mode == "fuzz" && argc == 4) {
    const auto number = [argv](int i) { return static_cast<std::uint32_t>(std::atoi(argv[i])); };
    seer::test::run_fuzz(number(2), number(3));
  } else {
    std::fprintf(stderr, "usage: %s unit | threads | fuzz FIRST_SEED NUM_INPUTS\n", argv[0]);
    return 2;
  }
  return 0;
}
