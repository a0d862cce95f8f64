// reduce.h - sums and their kin over the ranks' chunks, always in the order of the ranks
#pragma once
#include <nccl.h>

#include <cstddef>
#include <vector>

namespace emu {

size_t size_of(ncclDataType_t type);  // 0: unknown
const char* name_of(ncclDataType_t type);
const char* name_of(ncclRedOp_t op);

// out[i] = inputs[0][i] op inputs[1][i] op …; 16-bit and 8-bit floats are summed in float and rounded once. `scale` is
// the factor of a pre-multiplied sum per input, empty for the built-in operations.
void reduce(void* out, const std::vector<const void*>& inputs, size_t count, ncclDataType_t type, ncclRedOp_t op,
            const std::vector<double>& scale);

double scalar_of(const void* value, ncclDataType_t type);

}  // namespace emu
