// sglang_seer.draft._index: SuffixIndex on numpy arrays. Arrays of any other dtype or layout than
// the declared one are refused (TypeError); the Python wrapper converts before it calls.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

// Hands a vector's memory to numpy.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const auto size = static_cast<py::ssize_t>(owned->size());
  T* const data = owned->data();
  const py::capsule owner(owned.get(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  owned.release();
  return py::array_t<T>(size, data, owner);
}

void open_group(seer::SuffixIndex& index, std::int64_t group, const Array<seer::Token>& prompt) {
  const auto tokens = span(prompt, "prompt");
  const py::gil_scoped_release release;
  index.open_group(group, tokens);
}

void append(seer::SuffixIndex& index, const Array<std::int64_t>& groups,
            const Array<std::int64_t>& sequences, const Array<std::int64_t>& offsets,
            const Array<seer::Token>& tokens, const Array<std::int64_t>& lengths) {
  const seer::AppendBatch batch{span(groups, "groups"), span(sequences, "sequences"),
                                span(offsets, "offsets"), span(tokens, "tokens"),
                                span(lengths, "lengths")};
  const py::gil_scoped_release release;
  index.append(batch);
}

py::tuple propose(seer::SuffixIndex& index, const Array<std::int64_t>& groups,
                  const Array<std::int64_t>& sequences, const Array<std::int32_t>& budgets,
                  std::int64_t max_depth, bool chain) {
  const seer::ProposeBatch batch{span(groups, "groups"), span(sequences, "sequences"),
                                 span(budgets, "budgets"), max_depth, chain};
  seer::DraftBatch drafts;
  {
    const py::gil_scoped_release release;
    drafts = index.propose(batch);
  }
  return py::make_tuple(to_array(std::move(drafts.tokens)), to_array(std::move(drafts.parents)),
                        to_array(std::move(drafts.probabilities)),
                        to_array(std::move(drafts.depths)), to_array(std::move(drafts.starts)));
}

}  // namespace

PYBIND11_MODULE(_index, m) {
  m.attr("MAX_BUDGET") = seer::SuffixIndex::kMaxBudget;
  m.attr("MAX_DEPTH") = seer::SuffixIndex::kMaxDepth;
  m.attr("CLASS_FLOORS") = seer::kClassFloors;
  m.attr("PRIOR_VOTES") = seer::kPriorVotes;
  // The GIL is released wherever the index's mutex may be waited for: a thread that holds the mutex
  // never asks for the GIL, so the two cannot deadlock.
  py::class_<seer::SuffixIndex>(m, "SuffixIndex")
      .def(py::init<std::int64_t, std::int64_t, std::int64_t>(), py::kw_only(),
           py::arg("vocab_size"), py::arg("max_match"), py::arg("max_candidates"))
      .def("open_group", &open_group, py::arg("group"), py::arg("prompt").noconvert())
      .def("append", &append, py::arg("groups").noconvert(), py::arg("sequences").noconvert(),
           py::arg("offsets").noconvert(), py::arg("tokens").noconvert(),
           py::arg("lengths").noconvert())
      .def("propose", &propose, py::arg("groups").noconvert(), py::arg("sequences").noconvert(),
           py::arg("budgets").noconvert(), py::arg("max_depth"), py::arg("chain"))
      .def("drop_sequence", &seer::SuffixIndex::drop_sequence, ReleaseGil(), py::arg("group"),
           py::arg("sequence"))
      .def("drop_group", &seer::SuffixIndex::drop_group, ReleaseGil(), py::arg("group"))
      .def("clear", &seer::SuffixIndex::clear, ReleaseGil())
      .def("length", &seer::SuffixIndex::length, ReleaseGil(), py::arg("group"),
           py::arg("sequence"))
      .def("num_groups", &seer::SuffixIndex::num_groups, ReleaseGil())
      .def("num_tokens", &seer::SuffixIndex::num_tokens, ReleaseGil())
      .def("memory_bytes", &seer::SuffixIndex::memory_bytes, ReleaseGil());
}
