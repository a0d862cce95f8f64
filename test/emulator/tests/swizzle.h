// swizzle.h - the tables of swizzling in NVIDIA's documentation, for bulk copies and for products of warpgroups
#pragma once
#include <array>
#include <vector>

namespace emu::test {

// Rows of 128 bytes of shared memory have 8 chunks of 16 bytes. A table says which of them stands at each place, row
// after row, and the rows repeat. The tables are in the order of CUtensorMapSwizzle: none, 32, 64 and 128 bytes.
using Swizzle             = std::vector<std::array<int, 8>>;
const Swizzle kSwizzles[] = {
    {{0, 1, 2, 3, 4, 5, 6, 7}},
    {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}},
    {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5}, {3, 2, 1, 0, 7, 6, 5, 4}},
    {{0, 1, 2, 3, 4, 5, 6, 7},
     {1, 0, 3, 2, 5, 4, 7, 6},
     {2, 3, 0, 1, 6, 7, 4, 5},
     {3, 2, 1, 0, 7, 6, 5, 4},
     {4, 5, 6, 7, 0, 1, 2, 3},
     {5, 4, 7, 6, 1, 0, 3, 2},
     {6, 7, 4, 5, 2, 3, 0, 1},
     {7, 6, 5, 4, 3, 2, 1, 0}}};

// The table of a mode in the descriptor of a matrix: 0 is no swizzle, 1 is that of 128 bytes, 2 of 64, and 3 of 32.
inline const Swizzle& swizzle_of_matrix(int mode) { return kSwizzles[mode ? 4 - mode : 0]; }

}  // namespace emu::test
