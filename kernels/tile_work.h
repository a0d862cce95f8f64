// tile_work.h - how the blocks of a product share its tiles, and the order of their steps along K; the order of the
// tiles of attention
//
// The tiles of a product may be too few for the multiprocessors, or leave most of them without work at the end. So the
// blocks can share the last tiles, or all: each gets an equal number of steps along K, and whoever ends the last piece
// of a tile adds all of them in the order of the blocks (Osama et al. 2023, "Stream-K", arXiv 2301.03598). Where two
// blocks form a cluster (matmul_hopper.cuh), a block here is a cluster, and a tile those of its two blocks.
#pragma once
#include "tensor.h"

namespace gpu {

HD int least(int a, int b) { return a < b ? a : b; }
HD int most(int a, int b) { return a > b ? a : b; }

// What a block does with the tile in this row and column of tiles: all its steps along K, or a share of them, whose
// sums go to a slot of scratch memory.
struct Piece {
    int row, column, tile, steps;
    int slot;  // -1: all steps
};

// How the blocks share the tiles. Block i computes tiles i, i + blocks, … of the first `whole` tiles. The steps of the
// other tiles, one tile after another, are shared equally: block i has those in [first_step(i), first_step(i + 1)). So
// it meets at most two tiles that it does not compute alone, its first and its last one, and has a slot for each.
struct TileWork {
    int rows = 0, columns = 0;  // tiles of c
    int steps  = 0;             // of 64 along K, of each tile
    int blocks = 0, whole = 0;
    int each = 0, longer = 0;  // steps of a block; the first `longer` blocks have one more

    HD int tiles() const { return rows * columns; }
    HD int first_step(int block) const { return each * block + least(block, longer); }
    HD int block_of(int step) const {
        const int of_longer = longer * (each + 1);
        return step < of_longer ? step / (each + 1) : longer + (step - of_longer) / each;
    }
    HD int begin(int tile) const { return (tile - whole) * steps; }
    // The blocks that share a tile.
    HD int first_block(int tile) const { return block_of(begin(tile)); }
    HD int last_block(int tile) const { return block_of(begin(tile + 1) - 1); }
    HD int slot(int block, int tile) const { return 2 * block + (first_step(block) < begin(tile)); }

    // Blocks that run at the same time should read the same rows of a and columns of b, which the L2 cache then has. So
    // 8 rows of tiles are gone through together, one column after another.
    HD Piece piece(int tile, int count, int slot) const {
        constexpr int together = 8;
        const int band = tile / (together * columns), within = tile % (together * columns);
        const int high = least(rows - band * together, together);
        return {band * together + within % high, within / high, tile, count, slot};
    }
    // Calls f for each piece of a block.
    template <class F>
    HD void each_piece(int block, F f) const {
        const int end = first_step(block + 1);
        int next = block, at = first_step(block);
        while (next < whole || at < end) {
            Piece p;
            if (next < whole) {
                p = piece(next, steps, -1);
                next += blocks;
            } else {
                const int tile = whole + at / steps, count = least(end, begin(tile + 1)) - at;
                p = piece(tile, count, count == steps ? -1 : slot(block, tile));
                at += count;
            }
            f(p);
        }
    }
};

// The order in which the blocks of a shared tile take its steps along K. They do not take a part of K each, but one
// step after another in turns, as if all of them took a step at the same time. So at any time all tiles are at about
// the same place along K, and the L2 cache needs to hold a few rows of a and b only, not all of them. Blocks do not
// wait for each other: it is only an order.
class StepsInTurns {
  public:
    HD StepsInTurns(const TileWork& work, const Piece& piece) : work_(work), whole_(piece.slot < 0) {
        if (whole_) return;
        const int begin = work.begin(piece.tile), end = work.begin(piece.tile + 1);
        first_    = work.first_block(piece.tile);
        last_     = work.last_block(piece.tile);
        late_     = most(0, begin - work.first_step(first_));
        of_first_ = work.first_step(first_ + 1) - most(begin, work.first_step(first_));
        of_last_  = end - work.first_step(last_);
    }

    // Which step is the i-th of a block. The first block of the tile may come to it late, after another tile. In front
    // of this step are those that each block takes until then, and at the same time if it is a lower block.
    HD int step(int block, int i) const {
        if (whole_) return i;
        const int now = i + (block == first_ ? late_ : 0), between = last_ - first_ - 1, each = work_.each;
        const auto below = [&](int limit) { return least(most(limit - first_ - 1, 0), between); };
        const int longer = below(work_.longer), lower = below(block), both = below(least(block, work_.longer));
        return least(most(now - late_ + (first_ < block), 0), of_first_) + least(now, of_last_) +
               both * least(now + 1, each + 1) + (lower - both) * least(now + 1, each) +
               (longer - both) * least(now, each + 1) + (between - longer - lower + both) * least(now, each);
    }

  private:
    const TileWork& work_;
    bool whole_;
    int first_ = 0, last_ = 0;        // blocks
    int late_     = 0;                // the steps that the first block has taken before
    int of_first_ = 0, of_last_ = 0;  // their steps of this tile
};

// Returns how many of the first tiles blocks compute alone when they share the others: so many that each block's share
// is less than two tiles' work, and at least one's where there are as many tiles as blocks.
HD int64_t unshared_tiles(int64_t tiles, int blocks) {
    const int64_t rounds = tiles / blocks;
    return rounds > 1 ? (rounds - 1) * blocks : 0;
}

// Divides tiles in so many rows and columns, each with so many steps, among the blocks. With `split` the blocks share
// all tiles but the unshared ones. Sizes must be so that no number is too large for an int, and each block has a step.
inline TileWork divide_tiles(int64_t rows, int64_t columns, int64_t steps, int blocks, bool split) {
    TileWork work;
    work.rows        = int(rows);
    work.columns     = int(columns);
    work.steps       = int(steps);
    work.blocks      = blocks;
    work.whole       = split ? int(unshared_tiles(work.tiles(), blocks)) : work.tiles();
    const int shared = (work.tiles() - work.whole) * work.steps;
    work.each        = shared / blocks;
    work.longer      = shared % blocks;
    return work;
}

// ---- attention -----------------------------------------------------------------------------------------------------

// Tile number `tile` of a head, in the order in which its tiles are taken.
struct TileOfHead {
    unsigned head, tile;
};

// Returns the tile with number `i` of `count`, where each head has `of_head` tiles and its first has the most work.
//
// The longest work should not begin last, or a few blocks run at the end while the rest of the GPU has nothing to do.
// On the other hand, blocks of one head should run at about the same time, so that they find each other's rows in the
// L2 cache. So heads are taken in groups of about 512 tiles, a few times as many as run at a time, all of about the
// same size, and a group begins with the first tile of each of its heads.
HD TileOfHead tile_in_order(unsigned i, unsigned count, unsigned of_head) {
    const unsigned heads = count / of_head, groups = (count + 511) / 512, size = (heads + groups - 1) / groups,
                   first = i / (size * of_head) * size, in_group = heads - first < size ? heads - first : size,
                   within = i - first * of_head;
    return {first + within % in_group, within / in_group};
}

}  // namespace gpu
