#include "calibration.h"

#include <algorithm>

#include "calibration_prior.h"

namespace seer {
namespace {

// Expected nodes that the first value of a ratio counts as.
constexpr double kCellPrior = 20.0;
constexpr double kTokenPrior = 10.0;
// Ratios of more expected nodes forget half of them: models change while they are trained.
constexpr std::int64_t kMostExpected = std::int64_t{4096} * Evidence::kOne;

}  // namespace

template <std::size_t n>
void Calibration::Ratios<n>::observe(std::size_t kind, double share, bool was_accepted) {
  expected[kind] += static_cast<std::int64_t>(std::min(share, static_cast<double>(Evidence::kOne)));
  accepted[kind] += was_accepted ? 1 : 0;
  if (!is_changed[kind]) changed.push_back(kind);
  is_changed[kind] = true;
}

// priors: the first values, which count as `weight` expected nodes; nullptr for 1.
template <std::size_t n>
void Calibration::Ratios<n>::update(double weight, const float* priors) {
  for (const std::size_t kind : changed) {
    is_changed[kind] = false;
    const double prior = priors == nullptr ? 1.0 : static_cast<double>(priors[kind]);
    const double nodes = static_cast<double>(expected[kind]) / Evidence::kOne;
    values[kind] = static_cast<float>((static_cast<double>(accepted[kind]) + weight * prior) / (nodes + weight));
    if (expected[kind] > kMostExpected) {
      expected[kind] /= 2;
      accepted[kind] /= 2;
    }
  }
  changed.clear();
}

Calibration::Calibration() {
  cells_.values = kPriorRatios;
  tokens_.values.fill(1.0F);
  befores_.values.fill(1.0F);
}

void Calibration::observe(const Evidence& evidence, bool accepted) {
  const double cell = cells_.values[evidence.cell()];
  const double token = tokens_.values[evidence.token()];
  const double before = befores_.values[evidence.before()];
  const double share = evidence.share();
  // Each of the token's two ratios corrects what the others leave.
  cells_.observe(evidence.cell(), share, accepted);
  tokens_.observe(evidence.token(), share * cell * before, accepted);
  befores_.observe(evidence.before(), share * cell * token, accepted);
}

void Calibration::update() {
  cells_.update(kCellPrior, kPriorRatios.data());
  tokens_.update(kTokenPrior, nullptr);
  befores_.update(kTokenPrior, nullptr);
}

}  // namespace seer
