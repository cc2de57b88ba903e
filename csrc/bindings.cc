// sglang_seer.draft._index: SuffixIndex on numpy arrays. Arrays of any other dtype or layout than
// the declared one are refused (TypeError); the Python wrapper converts before it calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "calibration_prior.h"
#include "suffix_index.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

template <typename T>
seer::Span<T> span(const Array<T>& array, const char* field) {
  if (array.ndim() != 1) {
    throw std::invalid_argument(std::string(field) + " has " + std::to_string(array.ndim()) +
                                " dimensions, wanted 1");
  }
  return {array.data(), static_cast<std::size_t>(array.size())};
}

template <typename T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

seer::SuffixIndex* make_index(std::int64_t vocab_size, std::int64_t max_match, std::int64_t max_candidates,
                              std::int64_t max_bytes, std::int64_t max_tokens, std::int64_t group_max_bytes,
                              std::int64_t group_max_tokens, std::int64_t ttl_steps, std::int64_t shared_bytes,
                              std::int64_t threads) {
  return new seer::SuffixIndex({vocab_size, max_match, max_candidates, max_bytes, max_tokens, group_max_bytes,
                                group_max_tokens, ttl_steps, shared_bytes, threads});
}

void open_group(seer::SuffixIndex& index, std::int64_t group, const Array<seer::Token>& prompt, std::int64_t version,
                std::int64_t memory) {
  const auto tokens = span(prompt, "prompt");
  const py::gil_scoped_release release;
  index.open_group(group, tokens, version, memory);
}

void append(seer::SuffixIndex& index, const Array<std::int64_t>& groups, const Array<std::int64_t>& sequences,
            const Array<std::int64_t>& offsets, const Array<seer::Token>& tokens, const Array<std::int64_t>& lengths) {
  const seer::AppendBatch batch{span(groups, "groups"), span(sequences, "sequences"), span(offsets, "offsets"),
                                span(tokens, "tokens"), span(lengths, "lengths")};
  const py::gil_scoped_release release;
  index.append(batch);
}

py::tuple propose(seer::SuffixIndex& index, const Array<std::int64_t>& groups, const Array<std::int64_t>& sequences,
                  const Array<std::int32_t>& budgets, std::int64_t max_depth, bool chain) {
  const seer::ProposeBatch batch{span(groups, "groups"), span(sequences, "sequences"), span(budgets, "budgets"),
                                 max_depth, chain};
  // Kept from call to call: memory fresh from the system would cost more than the drafts.
  static thread_local seer::DraftBatch drafts;
  {
    const py::gil_scoped_release release;
    index.propose(batch, drafts);
  }
  return py::make_tuple(to_array(drafts.tokens), to_array(drafts.parents),
                        to_array(drafts.probabilities), to_array(drafts.depths),
                        to_array(drafts.evidence), to_array(drafts.starts));
}

void observe(seer::SuffixIndex& index, const Array<std::int64_t>& evidence, const Array<std::int32_t>& parents,
             const Array<std::int64_t>& starts, const Array<bool>& accepted) {
  const seer::Outcome outcome{span(evidence, "evidence"), span(parents, "parents"), span(starts, "starts"),
                              span(accepted, "accepted")};
  const py::gil_scoped_release release;
  index.observe(outcome);
}

py::dict counters(const seer::SuffixIndex& index) {
  const seer::Counters counted = [&index] {
    const py::gil_scoped_release release;
    return index.counters();
  }();
  py::dict result;
  result["evicted_tokens"] = counted.evicted_tokens;
  result["evicted_groups"] = counted.evicted_groups;
  result["expired_groups"] = counted.expired_groups;
  result["refused_tokens"] = counted.refused_tokens;
  result["lost_heads"] = counted.lost_heads;
  return result;
}

}  // namespace

PYBIND11_MODULE(_index, m) {
  m.attr("MAX_BUDGET") = seer::kMaxBudget;
  m.attr("MAX_DEPTH") = seer::kMaxDepth;
  // For a reference implementation to compare with.
  m.attr("CLASS_FLOORS") = seer::kClassFloors;
  m.attr("PRIOR_VOTES") = seer::kPriorVotes;
  m.attr("PRIOR_RATIOS") = seer::kPriorRatios;
  m.attr("VOTE_WEIGHTS") =
      py::make_tuple(seer::Finder::kOwnWeight, seer::Finder::kSiblingWeight, seer::Finder::kOtherWeight);
  // The GIL is released wherever the index's mutex may be waited for: a thread that holds the mutex never asks for the
  // GIL, so the two cannot deadlock.
  py::class_<seer::SuffixIndex>(m, "SuffixIndex")
      .def(py::init(&make_index), py::kw_only(), py::arg("vocab_size"), py::arg("max_match"),
           py::arg("max_candidates"), py::arg("max_bytes"), py::arg("max_tokens"), py::arg("group_max_bytes"),
           py::arg("group_max_tokens"), py::arg("ttl_steps"), py::arg("shared_bytes"), py::arg("threads"))
      .def("open_group", &open_group, py::arg("group"), py::arg("prompt").noconvert(), py::arg("version"),
           py::arg("memory"))
      .def("append", &append, py::arg("groups").noconvert(), py::arg("sequences").noconvert(),
           py::arg("offsets").noconvert(), py::arg("tokens").noconvert(), py::arg("lengths").noconvert())
      .def("propose", &propose, py::arg("groups").noconvert(), py::arg("sequences").noconvert(),
           py::arg("budgets").noconvert(), py::arg("max_depth"), py::arg("chain"))
      .def("observe", &observe, py::arg("evidence").noconvert(), py::arg("parents").noconvert(),
           py::arg("starts").noconvert(), py::arg("accepted").noconvert())
      .def("drop_sequence", &seer::SuffixIndex::drop_sequence, ReleaseGil(), py::arg("group"), py::arg("sequence"))
      .def("drop_group", &seer::SuffixIndex::drop_group, ReleaseGil(), py::arg("group"))
      .def("drop_version", &seer::SuffixIndex::drop_version, ReleaseGil(), py::arg("version"))
      .def("clear", &seer::SuffixIndex::clear, ReleaseGil())
      .def("has_group", &seer::SuffixIndex::has_group, ReleaseGil(), py::arg("group"))
      .def("length", &seer::SuffixIndex::length, ReleaseGil(), py::arg("group"), py::arg("sequence"))
      .def("num_groups", &seer::SuffixIndex::num_groups, ReleaseGil())
      .def("num_tokens", &seer::SuffixIndex::num_tokens, ReleaseGil())
      .def("memory_bytes", &seer::SuffixIndex::memory_bytes, ReleaseGil())
      .def("counters", &counters);
}
