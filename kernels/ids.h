// ids.h - ids that index a table are checked before anything is read or written with them
#pragma once
#include "tensor.h"

// The half-open range of the ids in one tensor (…, columns), and the words of the error about an id outside it.
struct IdRule {
    const char* op;     // "embedding_forward"
    const char* what;   // "token"
    int64_t columns;    // the width of the tensor of ids; 0 when it has one dimension
    int64_t low, high;  // low <= id < high
    const char* file;   // the source that made the rule
    int line;

    IdRule() = default;
    IdRule(const char* op, const char* what, Tensor ids, int64_t low, int64_t high, const char* file = __builtin_FILE(),
           int line = __builtin_LINE())
        : op(op),
          what(what),
          columns(ids.shape.dims > 1 ? ids.shape[-1] : 0),
          low(low),
          high(high),
          file(file),
          line(line) {}
    HD bool allows(int32_t id) const { return id >= low && id < high; }
    // Throws the error about an id. `at` is the index of the id in its tensor.
    [[noreturn]] void complain(int64_t at, int32_t id) const {
        const std::string place = columns ? fmt::format("at ({}, {})", at / columns, at % columns) : std::to_string(at);
        throw_at<CallError>(file, line, "{}: {} {} is {}, expected {}..{}", op, what, place, id, low, high - 1);
    }
};

namespace cpu {
inline void expect_ids(Tensor ids, const IdRule& rule) {
    const int32_t* id = ids.data<int32_t>();
    for (int64_t i = 0; i < ids.numel(); i++)
        if (!rule.allows(id[i])) rule.complain(i, id[i]);
}
}  // namespace cpu
