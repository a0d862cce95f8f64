// packing.h - a batch in which several texts lie one after another in each sequence and do not see each other
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "data/loader.h"

// Short texts fill a batch so. Each begins at position 0, and none crosses from one sequence of the batch into the
// next.
class PackedTexts {
  public:
    PackedTexts(int64_t batch, int64_t context) : shape_{batch, context} { clear(); }

    void clear() {
        const int64_t N = shape_.numel(), T = shape_[1];
        tokens_.assign(size_t(N), 0);
        targets_.assign(size_t(N), -1);
        positions_.assign(size_t(N), 0);
        starts_.resize(size_t(N));
        for (int64_t n = 0; n < N; n++) starts_[size_t(n)] = int32_t(n % T);  // an unused row sees itself
        used_ = 0;
    }
    // Puts n ids, which are at most a context, into the next rows that are free. Returns the first of these rows, or -1
    // when the batch has no room for them.
    int64_t place(const int32_t* ids, int64_t n) {
        const int64_t T = shape_[1], first = used_ % T + n > T ? round_up(used_, T) : used_;
        if (first + n > shape_.numel()) return -1;
        for (int64_t t = 0; t < n; t++) {
            tokens_[size_t(first + t)]    = ids[t];
            starts_[size_t(first + t)]    = int32_t(first % T);
            positions_[size_t(first + t)] = int32_t(t);
        }
        used_ = first + n;
        return first;
    }
    // The target of a row is -1 until it is set here.
    std::vector<int32_t>& targets() { return targets_; }
    int32_t position(int64_t row) const { return positions_[size_t(row)]; }

    // A view of host memory. It is valid until the next call of place() or clear().
    Batch batch() {
        const auto tensor = [&](std::vector<int32_t>& v) { return Tensor{v.data(), DType::I32, shape_}; };
        return {tensor(tokens_), tensor(targets_), tensor(starts_), tensor(positions_)};
    }

  private:
    Shape shape_;  // (B,T)
    std::vector<int32_t> tokens_, targets_, starts_, positions_;
    int64_t used_ = 0;  // rows that are filled or skipped
};
