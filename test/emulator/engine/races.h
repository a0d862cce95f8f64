// races.h - who touched a word last: the records behind races between threads, blocks, streams and the host
#pragma once
#include <string>

#include "access.h"
#include "memory.h"

namespace emu {

// Each lane did just this last, and nothing has happened since that could change the verdict: there is nothing to
// check.
bool known_shared(const Warp& w, uint32_t size, Touch touch, const Reach& r);
bool known_global(const Warp& w, uint32_t size, Touch touch, const Reach& r);

// shared_races.cpp
void start_shared_races(Block& b);
void check_shared_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);

// global_races.cpp
void start_global_races(Block& b);
void check_global_races(Warp& w, const Instr* i, uint32_t size, Touch touch, const Reach& r);
void note_api_access(Address a, size_t bytes, bool write, const char* what, uint32_t op);
void forget_races(Address a, size_t bytes);  // the memory has been freed

// host_guard.cpp: the host must keep off; see Memory::own.
struct HostOwner {
    Address begin;
    size_t bytes;
    Access access;
    std::string what;
};
void install_fault_handler();

// A write that met another write of the same epoch: a race, unless it turns out to have stored the same value.
struct Suspect {
    Finding finding;
    std::byte* at;
    uint32_t bytes;
    std::byte before[16];
};
void settle_suspects(Worker& worker);

}  // namespace emu
