// Tests of the index's parts: a list of functions, and checks that stop at the first failure.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <vector>

#define CHECK(condition)                                                                      \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);            \
      std::abort();                                                                           \
    }                                                                                         \
  } while (false)

#define TEST(name)                                       \
  static void name();                                    \
  static const seer::test::Case case_##name(#name, name); \
  static void name()

namespace seer::test {

struct Case {
  Case(const char* name, void (*run)()) : name(name), run(run) { all().push_back(this); }
  static std::vector<const Case*>& all() {
    static std::vector<const Case*> cases;
    return cases;
  }
  const char* name;
  void (*run)();
};

inline bool refuses(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

}  // namespace seer::test
