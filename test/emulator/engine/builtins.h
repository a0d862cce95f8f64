// builtins.h - device functions that the driver provides: vprintf, __assertfail, malloc, free
#pragma once
#include "exec.h"

namespace emu {

struct BuiltinCall {
    Warp& w;
    const Instr* i;
    std::vector<std::byte*> arguments;  // each points to the values of 32 lanes
    std::byte* result;
    template <class T> T argument(size_t k, int lane) const {
        T v;
        std::memcpy(&v, arguments[k] + size_t(lane) * sizeof(T), sizeof v);
        return v;
    }
};

struct Builtin {
    const char* name;
    bool (*run)(BuiltinCall&);  // returns false when the launch has ended
    size_t arguments;
};
extern const Builtin kBuiltins[];
int find_builtin(const std::string& name);  // returns an index, or -1

}  // namespace emu
