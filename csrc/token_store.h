// Raw tokens in fixed-size blocks, shared by all groups of an index.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace seer {

using Token = std::int32_t;
// A stored token's place: block number times kBlockTokens plus the place in the block. 32 bits name
// 2^32 tokens, which at 16 bytes a token is more than any host this runs on spares for drafts.
using Position = std::uint32_t;
using BlockId = std::uint32_t;
constexpr std::uint32_t kNone = 0xffffffffU;

// Suffix lengths that have hash heads, ascending. Length 1 is what short histories live on; a longer
// order only saves steps, since match lengths are always verified in the raw tokens.
constexpr std::array<int, 3> kOrders = {1, 2, 4};
constexpr std::size_t kNumOrders = kOrders.size();
constexpr int kLongestOrder = kOrders.back();

constexpr std::uint32_t kBlockTokens = 128;

// Marks the places of a block that hold no token yet.
constexpr Token kNoToken = -1;

struct Block {
  std::array<Token, kBlockTokens> tokens;
  // links[o][i]: the previous position in the group that follows the same kOrders[o] tokens.
  std::array<std::array<Position, kBlockTokens>, kNumOrders> links;
  Position previous;    // the token before this block in its text (the prompt's end before a response)
  BlockId next;         // the block that continues the text; kNone in the last one
  std::uint32_t used;   // tokens filled
  bool dropped;         // its sequence was dropped: still linked, no longer a candidate
};

class TokenStore {
 public:
  BlockId allocate(Position previous);
  // Gives a chain of blocks back, from `first` along `next`. Memory stays for later blocks.
  void release(BlockId first);
  // Gives all memory back to the system; only while no block is in use.
  void clear();

  Block& block(BlockId id) { return slabs_[id / kSlabBlocks][id % kSlabBlocks]; }
  const Block& block(BlockId id) const { return slabs_[id / kSlabBlocks][id % kSlabBlocks]; }
  const Block& block_of(Position position) const { return block(position / kBlockTokens); }
  Block& block_of(Position position) { return block(position / kBlockTokens); }

  Token token(Position position) const {
    return block_of(position).tokens[position % kBlockTokens];
  }
  Position link(std::size_t order, Position position) const {
    return block_of(position).links[order][position % kBlockTokens];
  }
  void set_link(std::size_t order, Position position, Position previous) {
    block_of(position).links[order][position % kBlockTokens] = previous;
  }
  // The position of the token before / after in the same text, kNone at its start / end.
  Position before(Position position) const {
    return position % kBlockTokens != 0 ? position - 1 : block_of(position).previous;
  }
  Position after(Position position) const {
    const std::uint32_t place = position % kBlockTokens + 1;
    const Block& here = block_of(position);
    if (place < kBlockTokens) return here.tokens[place] == kNoToken ? kNone : position + 1;
    // A block is only added together with its first token, so a next one holds one.
    return here.next == kNone ? kNone : here.next * kBlockTokens;
  }

  // Asks for the memory that looking at a candidate needs.
  void prefetch(std::size_t order, Position position) const {
    const Block& here = block_of(position);
    __builtin_prefetch(&here.tokens[position % kBlockTokens]);
    __builtin_prefetch(&here.links[order][position % kBlockTokens]);
  }

  // Copies the tokens up to and including `last`, at most `limit`, to the `limit` places before
  // `end`, in text order; returns how many.
  int copy_back(Position last, int limit, Token* end) const;

  // How many tokens before `position` equal those before `end`, counted backwards, at most `limit`.
  int match_length(Position position, const Token* end, int limit) const;

  std::size_t bytes() const;

 private:
  // Blocks come in slabs, so that one allocation serves 8192 tokens and no block ever moves.
  static constexpr std::uint32_t kSlabBlocks = 64;

  std::vector<std::unique_ptr<Block[]>> slabs_;
  std::vector<BlockId> free_;
};

}  // namespace seer
