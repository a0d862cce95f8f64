// fatbin.cpp - see fatbin.h. The layout was found in the output of nvcc 12 and 13; all fields are little-endian.
#include "fatbin.h"

#include <elf.h>
#include <zstd.h>

#include <cstring>

namespace emu {
namespace {

template <class T> T at(const uint8_t* p, size_t offset) {
    T v;
    std::memcpy(&v, p + offset, sizeof v);
    return v;
}

constexpr uint32_t kMagic        = 0xba55ed50;
constexpr size_t kMinEntryHeader = 64;
constexpr size_t kMaxInflated    = size_t(1)
                                << 32;  // larger than any module, so that a damaged size does not take all memory
constexpr uint64_t kFlagLz4 = 0x2000, kFlagZstd = 0x8000;

std::string payload(const uint8_t* entry, size_t header, size_t size) {
    const uint64_t flags = at<uint64_t>(entry, 40);
    const uint8_t* in    = entry + header;
    if (!(flags & (kFlagLz4 | kFlagZstd))) return std::string(reinterpret_cast<const char*>(in), size);
    const uint64_t used     = at<uint32_t>(entry, 16);  // the rest of `size` is padding
    const uint64_t expected = at<uint64_t>(entry, 56);
    if (used > size) throw DamagedBinary("fat binary: compressed entry is longer than its slot");
    if (expected > kMaxInflated) throw DamagedBinary("fat binary: entry claims to inflate to more than 4 GiB");
    return flags & kFlagZstd ? inflate_zstd(in, used, expected) : inflate_lz4(in, used, expected);
}

}  // namespace

std::string inflate_zstd(const uint8_t* in, size_t n, size_t expected) {
    std::string out(expected, 0);
    const size_t got = ZSTD_decompress(out.data(), expected, in, n);
    if (ZSTD_isError(got)) throw DamagedBinary(std::string("fat binary: zstd: ") + ZSTD_getErrorName(got));
    out.resize(got);
    return out;
}

// A sequence of LZ4 is a token (number of literals, length of the match - 4), the literals and a 16-bit distance. A
// nibble of 15 continues in the following bytes.
std::string inflate_lz4(const uint8_t* in, size_t n, size_t expected) {
    std::string out;
    out.reserve(expected);
    const uint8_t* const end = in + n;
    auto damaged             = [] { return DamagedBinary("fat binary: damaged LZ4 data"); };
    auto length              = [&](size_t nibble) {
        size_t v = nibble;
        for (uint8_t more = 255; nibble == 15 && more == 255; v += more) {
            if (in == end) throw damaged();
            more = *in++;
        }
        return v;
    };
    while (in < end) {
        const uint8_t token = *in++;
        const size_t copy   = length(token >> 4);
        if (copy > size_t(end - in) || copy > expected - out.size()) throw damaged();
        out.append(reinterpret_cast<const char*>(in), copy);
        in += copy;
        if (in == end) break;  // the last sequence has no match
        if (end - in < 2) throw damaged();
        const size_t distance = at<uint16_t>(in, 0);
        in += 2;
        size_t match = length(token & 15) + 4;
        if (distance == 0 || distance > out.size() || match > expected - out.size()) throw damaged();
        for (size_t from = out.size() - distance; match--; from++) out.push_back(out[from]);
    }
    if (out.size() != expected) throw damaged();
    return out;
}

std::vector<FatbinEntry> read_fatbin(const void* data, size_t limit) {
    const uint8_t* p = static_cast<const uint8_t*>(data);
    if (limit < 16 || at<uint32_t>(p, 0) != kMagic) throw DamagedBinary("fat binary: no magic number 0xba55ed50");
    const size_t header = at<uint16_t>(p, 6);
    const uint64_t size = at<uint64_t>(p, 8);
    if (header < 16 || header > limit || size > limit - header)
        throw DamagedBinary("fat binary: size runs past the end");

    std::vector<FatbinEntry> entries;
    for (const uint8_t *e = p + header, *end = e + size; e < end;) {
        const size_t left = end - e;
        if (left < kMinEntryHeader) throw DamagedBinary("fat binary: entry header is cut off");
        const uint16_t kind  = at<uint16_t>(e, 0);
        const size_t length  = at<uint32_t>(e, 4);
        const uint64_t bytes = at<uint64_t>(e, 8);
        if (length < kMinEntryHeader || length > left || bytes > left - length)
            throw DamagedBinary("fat binary: entry runs past the end");
        if (kind == 1 || kind == 2) {
            FatbinEntry entry{kind == 1, int(at<uint32_t>(e, 28)), 0, payload(e, length, bytes)};
            if (entry.ptx) {
                entry.data.resize(std::strlen(entry.data.c_str()));  // without the padding
                const size_t target = entry.data.find(".target sm_");
                const size_t after =
                    target == std::string::npos ? target : entry.data.find_first_not_of("0123456789", target + 11);
                if (after != std::string::npos && (entry.data[after] == 'a' || entry.data[after] == 'f'))
                    entry.suffix = entry.data[after];
            }
            entries.push_back(std::move(entry));
        }
        e += length + bytes;
    }
    return entries;
}

std::map<std::string, int> cubin_registers(const std::string& elf) {
    std::map<std::string, int> registers;
    const uint8_t* p = reinterpret_cast<const uint8_t*>(elf.data());
    if (elf.size() < sizeof(Elf64_Ehdr) || std::memcmp(p, ELFMAG, SELFMAG)) return registers;
    const auto header = at<Elf64_Ehdr>(p, 0);
    auto section      = [&](size_t i, Elf64_Shdr& s) {
        if (header.e_shoff > elf.size() || (i + 1) * sizeof s > elf.size() - header.e_shoff) return false;
        s = at<Elf64_Shdr>(p, header.e_shoff + i * sizeof s);
        return true;
    };
    Elf64_Shdr names, s;
    if (!section(header.e_shstrndx, names) || names.sh_offset > elf.size()) return registers;
    Elf64_Shdr info{}, symbols{}, strings{};
    for (size_t i = 0; i < header.e_shnum && section(i, s); i++) {
        if (s.sh_name >= elf.size() - names.sh_offset) continue;
        const std::string name = elf.c_str() + names.sh_offset + s.sh_name;
        if (name.starts_with(".text.")) registers[name.substr(6)] = int(s.sh_info >> 24);
        if (s.sh_offset > elf.size() || s.sh_size > elf.size() - s.sh_offset) continue;
        if (name == ".nv.info") info = s;
        if (name == ".symtab") symbols = s;
        if (name == ".strtab") strings = s;
    }
    // An attribute is a byte of format, a byte of kind and two bytes. With format 4 these are the length of what
    // follows: for the number of registers, the index of the kernel's symbol and the number.
    constexpr uint8_t kWithData = 4, kRegisters = 0x2f;
    for (uint64_t at_byte = 0; at_byte + 4 <= info.sh_size;) {
        const uint8_t* const attribute = p + info.sh_offset + at_byte;
        const size_t length            = attribute[0] == kWithData ? at<uint16_t>(attribute, 2) : 0;
        at_byte += 4 + length;
        if (attribute[1] != kRegisters || length != 8 || at_byte > info.sh_size) continue;
        const uint32_t symbol = at<uint32_t>(attribute, 4);
        if ((symbol + 1ull) * sizeof(Elf64_Sym) > symbols.sh_size) continue;
        const auto kernel = at<Elf64_Sym>(p, symbols.sh_offset + symbol * sizeof(Elf64_Sym));
        if (kernel.st_name < strings.sh_size)
            registers[elf.c_str() + strings.sh_offset + kernel.st_name] = int(at<uint32_t>(attribute, 8));
    }
    return registers;
}

}  // namespace emu
