// Groups by last use.
#pragma once

#include "group.h"

namespace seer {

// A list through the groups themselves: moving one costs no memory and no search.
class GroupQueue {
 public:
  Group* oldest() const { return oldest_; }

  void push(Group& group) {
    group.older = newest_;
    group.newer = nullptr;
    (newest_ == nullptr ? oldest_ : newest_->newer) = &group;
    newest_ = &group;
  }

  void remove(Group& group) {
    (group.older == nullptr ? oldest_ : group.older->newer) = group.newer;
    (group.newer == nullptr ? newest_ : group.newer->older) = group.older;
  }

 private:
  Group* oldest_ = nullptr;
  Group* newest_ = nullptr;
};

}  // namespace seer
