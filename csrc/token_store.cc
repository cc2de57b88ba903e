#include "token_store.h"

namespace seer {

BlockId TokenStore::allocate(Position previous) {
  if (free_.empty()) {
    const auto first = static_cast<BlockId>(slabs_.size() * kSlabBlocks);
    slabs_.emplace_back(new Block[kSlabBlocks]);
    for (BlockId i = kSlabBlocks; i-- > 0;) free_.push_back(first + i);
  }
  const BlockId id = free_.back();
  free_.pop_back();
  Block& fresh = block(id);
  fresh.tokens.fill(kNoToken);
  fresh.previous = previous;
  fresh.next = kNone;
  fresh.used = 0;
  fresh.dropped = false;
  return id;
}

void TokenStore::release(BlockId first) {
  for (BlockId id = first; id != kNone; id = block(id).next) free_.push_back(id);
}

void TokenStore::clear() {
  slabs_.clear();
  slabs_.shrink_to_fit();
  free_.clear();
  free_.shrink_to_fit();
}

int TokenStore::copy_back(Position last, int limit, Token* end) const {
  int copied = 0;
  for (Position p = last; p != kNone && copied < limit; p = before(p)) {
    *--end = token(p);
    ++copied;
  }
  return copied;
}

int TokenStore::match_length(Position position, const Token* end, int limit) const {
  int matched = 0;
  const Block* here = &block_of(position);
  std::uint32_t place = position % kBlockTokens;
  while (matched < limit) {
    if (place == 0) {
      if (here->previous == kNone) break;
      place = here->previous % kBlockTokens + 1;
      here = &block_of(here->previous);
    }
    --place;
    if (here->tokens[place] != end[-1 - matched]) break;
    ++matched;
  }
  return matched;
}

std::size_t TokenStore::bytes() const {
  return slabs_.size() * kSlabBlocks * sizeof(Block) + slabs_.capacity() * sizeof(slabs_[0]) +
         free_.capacity() * sizeof(BlockId);
}

}  // namespace seer
