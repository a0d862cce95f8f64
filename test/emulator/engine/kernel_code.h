// kernel_code.h - the functions one kernel can reach, decoded against its own shared-memory layout
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

    Function* get(const ptx::Function* f);   // decodes on first use; null for what is only declared
    Function* by_address(uint64_t address);  // of an indirect call: code addresses are ptx::Function pointers
};

std::shared_ptr<KernelCode> code_of(Kernel& kernel);  // null: its module has trouble

}  // namespace emu
