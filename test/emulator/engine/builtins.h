// builtins.h - device functions the driver provides: vprintf, __assertfail, malloc, free
#pragma once
#include "exec.h"

namespace emu {

struct BuiltinCall {
    Warp& w;
    const Instr* i;
    std::vector<std::byte*> arguments;  // 32 lanes each
    std::byte* result;
    template <class T> T argument(size_t k, int lane) const {
        T v;
        std::memcpy(&v, arguments[k] + size_t(lane) * sizeof(T), sizeof v);
        return v;
    }
};

struct Builtin {
    const char* name;
    bool (*run)(BuiltinCall&);  // false: the launch has ended
    size_t arguments;
};
extern const Builtin kBuiltins[];
int find_builtin(const std::string& name);  // -1: none

}  // namespace emu
