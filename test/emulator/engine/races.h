// races.h - who touched a word last: the records behind races between blocks, streams and the host
#pragma once
#include <string>

#include "memory.h"

namespace emu {

// An API call (copy, memset, library) touches a range as operation `op`.
void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op);
void forget_races(Address a, size_t bytes);   // the memory has been freed

// host_guard.cpp: the host must keep off; see Memory::own.
struct HostOwner {
    Address begin;
    size_t bytes;
    Access access;
    std::string what;
};
void install_fault_handler();

}  // namespace emu
