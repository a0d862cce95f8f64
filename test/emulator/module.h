// module.h - a loaded fat binary: its kernels and variables
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"

namespace emu {

struct Param {
    std::string name;
    uint32_t offset, bytes;
};

struct Function;  // decoded code, engine's own

struct Kernel {
    std::string name;    // mangled, as __cudaRegisterFunction says it
    std::string pretty;  // demangled, for people
    std::vector<Param> params;
    uint32_t param_bytes   = 0;
    uint32_t static_shared = 0;
    uint32_t local_bytes   = 0;  // per thread
    uint32_t const_bytes   = 0;
    int registers          = 0;     // from the cubin, else our estimate
    int max_threads        = 1024;  // .maxntid, or what registers allow
    uint32_t maxntid[3]    = {};    // 0: not given
    uint32_t reqntid[3]    = {};
    int ptx_version = 0, ptx_target = 0;  // 80, 90: cudaFuncAttributes
    std::shared_ptr<Function> code;       // decoded at first launch
    struct Module* module = nullptr;
};

struct Variable {
    std::string name;
    Address address;
    size_t bytes;
    bool constant, managed;
};

struct Module;  // opaque; module.cpp

// Reads the fat binary that the data field of a __cudaRegisterFatBinary wrapper points to. It picks the PTX that suits
// the emulated device best, parses it and places its variables. A binary without usable PTX gives a module without
// kernels, which says so when one is asked for. `units` lists, ending with null, the fat binaries of the units of a
// program that was built with -rdc=true: their PTX is linked.
Module* load_module(const void* fatbin, const void* const* units = nullptr);
void unload_module(Module* module);
Kernel* find_kernel(Module* module, const std::string& name);  // null: not there; why() says
Variable* find_variable(Module* module, const std::string& name);
std::string why_missing(Module* module, const std::string& name);  // "no PTX: built with -arch=sm_80 -code=sm_80; …"

}  // namespace emu
