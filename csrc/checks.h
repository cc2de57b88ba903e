// Bad arguments: std::invalid_argument with the field, what was seen and what was wanted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace seer {

inline std::string at(const char* field, std::size_t i) { return std::string(field) + "[" + std::to_string(i) + "]"; }

[[noreturn]] inline void reject(const std::string& field, std::int64_t seen, const std::string& wanted) {
  throw std::invalid_argument(field + " is " + std::to_string(seen) + ", wanted " + wanted);
}

inline void check_range(const char* field, std::int64_t seen, std::int64_t low, std::int64_t high) {
  if (seen < low || seen > high) {
    reject(field, seen, "a value from " + std::to_string(low) + " to " + std::to_string(high));
  }
}

inline void check_range_at(const char* field, std::size_t i, std::int64_t seen, std::int64_t low, std::int64_t high) {
  if (seen < low || seen > high) check_range(at(field, i).c_str(), seen, low, high);
}

inline void check_size(const char* field, std::size_t seen, std::size_t wanted, const char* of) {
  if (seen != wanted) {
    throw std::invalid_argument(std::string(field) + " has " + std::to_string(seen) + " elements, wanted " +
                                std::to_string(wanted) + ", one for each of " + of);
  }
}

}  // namespace seer
