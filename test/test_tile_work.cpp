// test_tile_work.cpp - tile_work.h: every step of every tile is taken once, whatever the sizes; work is left until the
// end
#include "kernels/tile_work.h"

#include <map>
#include <set>

#include "test/close.h"

using gpu::Piece;
using gpu::StepsInTurns;
using gpu::TileWork;

// Returns what is wrong with how `blocks` blocks share these tiles, or nothing.
static std::string mistake(int rows, int columns, int steps, int blocks, bool split) {
    const TileWork work = gpu::divide_tiles(rows, columns, steps, blocks, split);
    std::vector<std::vector<int>> taken(work.tiles());
    std::set<std::pair<int, int>> places;
    std::map<int, int> tile_of_slot;
    for (int block = 0; block < blocks; block++) {
        int shared = 0;
        work.each_piece(block, [&](const Piece& piece) {
            const StepsInTurns turns(work, piece);
            for (int i = 0; i < piece.steps; i++) taken[piece.tile].push_back(turns.step(block, i));
            places.insert({piece.row, piece.column});
            if (piece.slot < 0) return;
            shared++;
            if (!tile_of_slot.emplace(piece.slot, piece.tile).second || piece.slot / 2 != block) shared = 99;
        });
        if (shared > 2) return fmt::format("block {} has {} pieces, or two in one slot", block, shared);
    }
    std::vector<int> all(steps);
    for (int i = 0; i < steps; i++) all[i] = i;
    for (int tile = 0; tile < work.tiles(); tile++) {
        std::sort(taken[tile].begin(), taken[tile].end());
        if (taken[tile] != all) return fmt::format("tile {} has other steps than each of {} once", tile, steps);
        if (tile < work.whole) continue;
        // The slots that the second kernel reads.
        const int first = work.first_block(tile), last = work.last_block(tile);
        for (int block = first; first < last && block <= last; block++) {
            const int slot = block == first ? work.slot(block, tile) : 2 * block;
            if (!tile_of_slot.count(slot) || tile_of_slot[slot] != tile)
                return fmt::format("slot {} does not hold a piece of tile {}", slot, tile);
        }
    }
    return int(places.size()) == work.tiles() ? "" : "two tiles have one place";
}

TEST_CASE("blocks that share tiles take every step along K once", "[ops]") {
    const auto check = [](int rows, int columns, int steps, int blocks) {
        for (const bool split : {false, true}) {
            const int64_t tiles = rows * columns, shared = tiles - gpu::unshared_tiles(tiles, blocks);
            if (split && shared * steps < blocks) continue;  // each block needs a step
            CAPTURE(rows, columns, steps, blocks, split);
            CHECK(mistake(rows, columns, steps, blocks, split) == "");
        }
    };
    for (int tiles = 1; tiles <= 9; tiles++)
        for (int steps = 1; steps <= 9; steps++)
            for (int blocks = 1; blocks <= 14; blocks++) check(tiles, 1, steps, blocks);
    Dice dice(1);
    for (int i = 0; i < 200; i++)
        check(1 + int(dice.below(30)), 1 + int(dice.below(12)), 1 + int(dice.below(90)), 1 + int(dice.below(144)));
    // dw of GPT-2 124M's projection, qkv and up at B 32, T 1024, on 132 multiprocessors; of 1558M's qkv, dx at B 8
    check(6, 3, 512, 132);
    check(18, 3, 512, 132);
    check(24, 3, 512, 132);
    check(64, 9, 75, 132);
}

TEST_CASE("the tiles of attention are taken once each, and work is left for all blocks until the end", "[ops]") {
    const struct {
        unsigned heads, of_head;
        double most;  // the part of the mean by which the busiest block may be above it
    } sizes[] = {{1, 1, 0},     {3, 5, 0},      {384, 8, .01}, {96, 8, .04}, {200, 8, .02},
                 {64, 16, .02}, {192, 16, .01}, {384, 2, .04}, {48, 8, .07}, {513, 1, .04}};
    for (const auto& s : sizes) {
        CAPTURE(s.heads, s.of_head);
        const unsigned count = s.heads * s.of_head;
        std::set<std::pair<unsigned, unsigned>> taken;
        // A tile has 4 squares of 64 x 64 for each tile of the other side, less one, and its begin and end take as long
        // as two. The block that has done the least takes the next tile.
        std::vector<double> done(132);
        double all = 0;
        for (unsigned i = 0; i < count; i++) {
            const auto [head, tile] = gpu::tile_in_order(i, count, s.of_head);
            REQUIRE((head < s.heads && tile < s.of_head));
            REQUIRE(taken.insert({head, tile}).second);
            const double work = 4. * (s.of_head - tile) - 1 + 2;
            *std::min_element(done.begin(), done.end()) += work;
            all += work;
        }
        if (count >= done.size())
            CHECK(*std::max_element(done.begin(), done.end()) <= (1 + s.most) * all / double(done.size()));
    }
}
