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

struct Function;  // the decoded code: exec.h

struct Kernel {
    std::string name;    // mangled, as __cudaRegisterFunction gives it
    std::string pretty;  // demangled, for messages
    std::vector<Param> params;
    uint32_t param_bytes   = 0;
    uint32_t static_shared = 0;
    uint32_t local_bytes   = 0;  // per thread
    uint32_t const_bytes   = 0;
    int registers          = 0;  // from the cubin, else an estimate
    bool registers_known   = false;
    int max_threads        = 1024;  // by .maxntid, or by the registers
    uint32_t maxntid[3]    = {};    // 0 when not given
    uint32_t reqntid[3]    = {};
    uint32_t cluster[3]    = {};     // of .reqnctapercluster
    bool wants_cluster     = false;  // .explicitcluster
    bool counts_clusters   = false;  // .blocksareclusters
    int ptx_target         = 0;      // 80 for sm_80
    std::shared_ptr<Function> code;  // decoded at the first launch
    struct Module* module = nullptr;
};

struct Module;  // opaque; module.cpp

struct Variable {
    std::string name;
    Address address;
    size_t bytes;
    bool constant, managed;
};

// Reads the fat binary that the data field of a __cudaRegisterFatBinary wrapper points to. It picks the PTX that suits
// the emulated device best, parses it and allocates its variables. A binary without usable PTX gives a module without
// kernels, and why_missing() tells the reason. For a program that was built with -rdc=true, `units` lists the fat
// binaries of its units and ends with null. Their PTX is linked. `other` is the module of another device, with which
// this one shares its managed variables.
Module* load_module(const void* fatbin, const void* const* units = nullptr, int device = 0,
                    const Module* other = nullptr);
Kernel* find_kernel(Module* module, const std::string& name);  // null when it is missing
Variable* find_variable(Module* module, const std::string& name);
std::string why_missing(Module* module, const std::string& name);  // "no PTX: built with -arch=sm_80 -code=sm_80; …"

// Returns a C++ name as people read it; any other name comes back unchanged.
std::string demangle(const std::string& name);

}  // namespace emu
