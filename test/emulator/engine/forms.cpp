// forms.cpp - the lookup in the instruction table, whose rows are in the files of their handlers
#include "forms.h"

#include <atomic>
#include <map>
#include <memory>

namespace emu {
namespace {

// The shapes of wgmma: m64n8k16, m64n16k16 … m64n256k16.
std::vector<std::string> shapes_of_64(const std::string& k) {
    std::vector<std::string> all;
    for (int n = 8; n <= 256; n += 8) all.push_back("m64n" + std::to_string(n) + k);
    return all;
}

// This is never destroyed, because kernels may still be decoded when the program ends.
const auto& kFamilies = *new std::map<std::string, std::vector<std::string>, std::less<>>{
    {"INT", {"u16", "s16", "u32", "s32", "u64", "s64"}},
    {"INT8", {"u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"}},
    {"BITS", {"b16", "b32", "b64"}},
    {"ANY",
     {"b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16", "f16x2", "bf16",
      "bf16x2", "f32", "f64"}},
    {"FLOAT", {"f32", "f64"}},
    {"ROUND", {"rn", "rz", "rm", "rp", "rna"}},
    {"IROUND", {"rni", "rzi", "rmi", "rpi"}},
    {"SPACE",
     {"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param", "param::entry", "param::func"}},
    {"SHARED", {"shared", "shared::cta", "shared::cluster"}},
    {"CACHE", {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"}},
    {"L1HINT", {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"}},
    {"L2HINT",
     {"L2::cache_hint", "L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::64B", "L2::128B", "L2::256B"}},
    {"VEC", {"v2", "v4", "v8"}},
    {"SEM", {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "sc", "mmio"}},
    {"SCOPE", {"cta", "cluster", "gpu", "sys"}},
    {"CMP",
     {"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num",
      "nan"}},
    {"BOOL", {"and", "or", "xor"}},
    {"M64K8", shapes_of_64("k8")},
    {"M64K16", shapes_of_64("k16")},
    {"M64K32", shapes_of_64("k32")},
};

struct Slot {
    std::vector<std::string> choices;
    bool optional;
};

struct Pattern {
    std::vector<Slot> slots;
    const Row* row;
    std::shared_ptr<std::atomic<bool>> used = std::make_shared<std::atomic<bool>>(false);
};

std::vector<Slot> compile(const char* text) {
    std::vector<Slot> slots;
    for (const char* p = text; *p;) {
        while (*p == ' ' || *p == '.') p++;
        Slot s{{}, false};
        const bool set = *p == '{';
        if (set) p++;
        for (;;) {
            const char* from = p;
            while (*p && *p != ',' && *p != '}' && *p != '?' && *p != ' ' && *p != '.') p++;
            const std::string_view word(from, p - from);
            if (auto family = kFamilies.find(word); family != kFamilies.end())
                s.choices.insert(s.choices.end(), family->second.begin(), family->second.end());
            else s.choices.emplace_back(word);
            if (!set || *p != ',') break;
            p++;
        }
        if (set && *p == '}') p++;
        if (*p == '?') s.optional = true, p++;
        slots.push_back(std::move(s));
    }
    return slots;
}

// Assemblers accept modifiers in any order (atom.add.release.gpu.u32). Only the order of types matters.
bool matches(const std::vector<Slot>& slots, const std::vector<std::string_view>& mods, size_t m, uint32_t used,
             size_t last_type) {
    if (m == mods.size()) {
        for (size_t s = 1; s < slots.size(); s++)
            if (!slots[s].optional && !(used >> s & 1)) return false;
        return true;
    }
    const bool type = ptx::type_of(mods[m]) != ptx::Type::none;
    for (size_t s = type ? last_type + 1 : 1; s < slots.size(); s++) {
        if (used >> s & 1) continue;
        for (const auto& choice : slots[s].choices)
            if (choice == mods[m] && matches(slots, mods, m + 1, used | 1u << s, type ? s : last_type)) return true;
    }
    return false;
}

struct Table {
    std::vector<Row> rows;
    std::map<std::string, std::vector<Pattern>, std::less<>> by_opcode;
    Table() {
        for (auto* more :
             {integer_rows, float_rows, half_rows, convert_rows, move_rows, memory_rows, atomic_rows, control_rows,
              warp_rows, tensor_rows, matrix_rows, video_rows, mbarrier_rows, bulk_rows, wgmma_rows})
            for (const Row& row : more()) rows.push_back(row);
        for (const Row& row : rows) {
            Pattern p{compile(row.pattern), &row};
            for (const auto& opcode : p.slots[0].choices) by_opcode[opcode].push_back(p);
        }
    }
};

const Table& table() {
    static const auto& t = *new Table;
    return t;
}

}  // namespace

const Row* find_row(const ptx::Instruction& i) {
    const auto opcode = table().by_opcode.find(i.mods[0]);
    if (opcode == table().by_opcode.end()) return nullptr;
    for (const Pattern& p : opcode->second)
        if (matches(p.slots, i.mods, 1, 1, 0)) {
            p.used->store(true, std::memory_order_relaxed);
            return p.row;
        }
    return nullptr;
}

std::vector<std::string> rows_without_use() {
    std::map<const Row*, bool> used;
    for (const auto& [opcode, patterns] : table().by_opcode)
        for (const Pattern& p : patterns) used[p.row] |= *p.used;
    std::vector<std::string> unused;
    for (const auto& [row, met] : used)
        if (!met) unused.push_back(row->pattern);
    return unused;
}

size_t row_count() { return table().rows.size(); }

}  // namespace emu
