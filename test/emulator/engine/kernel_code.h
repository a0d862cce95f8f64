// kernel_code.h - the functions that one kernel can reach, decoded for its layout of shared memory
#pragma once
#include <mutex>

#include "decode.h"

namespace emu {

struct KernelCode {
    ptx::Module* module;
    ptx::Function* source;
    Layout layout;
    std::unordered_map<const ptx::Function*, std::unique_ptr<Function>> functions;
    std::recursive_mutex lock;

    Function* get(const ptx::Function* f);   // decodes on first use; null when it is only declared
    Function* by_address(uint64_t address);  // for indirect calls; the addresses are those of ptx::Function
};

std::shared_ptr<KernelCode> code_of(Kernel& kernel);  // null when the module could not be read

}  // namespace emu
