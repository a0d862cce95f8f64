// fatbin.h - the fat binary that nvcc embeds: PTX text and cubins, one entry per architecture
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace emu {

struct DamagedBinary : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct FatbinEntry {
    bool ptx;          // otherwise a cubin (ELF)
    int arch;          // 80 for sm_80
    char suffix = 0;   // 'a' when it is for this architecture only, 'f' for its family
    std::string data;  // decompressed
};

// Reads the entries of the fat binary at `data`, which is not longer than `limit`. Throws DamagedBinary.
std::vector<FatbinEntry> read_fatbin(const void* data, size_t limit = SIZE_MAX);

std::string inflate_zstd(const uint8_t* in, size_t n, size_t expected);
std::string inflate_lz4(const uint8_t* in, size_t n, size_t expected);

// Returns the registers per thread of each kernel in a cubin. Up to sm_89 they are the top byte of sh_info of the
// section .text.NAME, from sm_90 on an attribute in the section .nv.info.
std::map<std::string, int> cubin_registers(const std::string& elf);

// link.cpp: links the PTX of several units of a program into one text, without the units that no kernel needs.
std::string link_units(std::vector<std::string> texts);

}  // namespace emu
