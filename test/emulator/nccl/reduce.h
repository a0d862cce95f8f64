// reduce.h - sums and the other reductions of the ranks' chunks, always in the order of the ranks
#pragma once
#include <nccl.h>

#include <cstddef>
#include <vector>

namespace emu {

size_t size_of(ncclDataType_t type);  // 0 for an unknown type
const char* name_of(ncclDataType_t type);
const char* name_of(ncclRedOp_t op);

// Computes out[i] = inputs[0][i] op inputs[1][i] op …; 16-bit and 8-bit floats are summed in float and rounded once.
// `scale` has a factor per input for a pre-multiplied sum and is empty for the built-in operations.
void reduce(void* out, const std::vector<const void*>& inputs, size_t count, ncclDataType_t type, ncclRedOp_t op,
            const std::vector<double>& scale);

double scalar_of(const void* value, ncclDataType_t type);

}  // namespace emu
