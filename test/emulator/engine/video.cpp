// video.cpp - the SIMD video instructions on 2 halves or 4 bytes of a word, which __vabsdiffu4 and the like use
#include <algorithm>

#include "compare.h"
#include "forms.h"
#include "handlers.h"
#include "lanes.h"

namespace emu {
namespace {

enum class Video { Add, Sub, Average, AbsDiff, Min, Max, Set };

struct VideoOp {
    Video op;
    int parts;  // 2 or 4
    bool a_signed, b_signed, d_signed, saturates;
    bool sums;  // with .add, d is c + the results of the parts
    int cmp;
};
constexpr const char* kComparisons[] = {"eq", "ne", "lt", "le", "gt", "ge"};  // in the order of Comparison

int64_t part(uint32_t word, int k, int bits, bool sign) {
    const uint32_t x = bits == 8 ? word >> (8 * k) & 0xff : word >> (16 * k) & 0xffff;
    return sign && x >> (bits - 1) ? int64_t(x) - (int64_t(1) << bits) : int64_t(x);
}

int64_t combine(const VideoOp& v, int64_t a, int64_t b) {
    switch (v.op) {
        case Video::Add: return a + b;
        case Video::Sub: return a - b;
        case Video::Average: return (a + b + (a + b >= 0)) >> 1;
        case Video::AbsDiff: return a > b ? a - b : b - a;
        case Video::Min: return std::min(a, b);
        case Video::Max: return std::max(a, b);
        case Video::Set: break;
    }
    return compare(v.cmp, a, b);
}

uint32_t video(const VideoOp& v, uint32_t a, uint32_t b, uint32_t c) {
    const int bits     = 32 / v.parts;
    const int64_t low  = v.d_signed ? -(int64_t(1) << (bits - 1)) : 0;
    const int64_t high = v.d_signed ? (int64_t(1) << (bits - 1)) - 1 : (int64_t(1) << bits) - 1;
    uint32_t d         = v.sums ? c : 0;
    for (int k = 0; k < v.parts; k++) {
        int64_t r = combine(v, part(a, k, bits, v.a_signed), part(b, k, bits, v.b_signed));
        if (v.saturates) r = std::clamp(r, low, high);
        d = v.sums ? d + uint32_t(r) : d | (uint32_t(r) & uint32_t((1ull << bits) - 1)) << (k * bits);
    }
    return d;
}

const Instr* run_video(Warp& w, const Instr* i) {
    const uint64_t bits = uint64_t(i->imm);
    auto flag           = [=](int k) { return bool(bits >> k & 1); };
    const VideoOp v{Video(bits & 15), int(bits >> 4 & 7), flag(8),  flag(9),
                    flag(10),         flag(11),           flag(12), int(bits >> 16)};
    const uint32_t *a = w.reg<uint32_t>(i->a), *b = w.reg<uint32_t>(i->b), *c = w.reg<uint32_t>(i->c);
    for_lanes(w, w.reg<uint32_t>(i->d), [&](int l) { return video(v, a[l], b[l], c[l]); });
    return i + 1;
}

void build_video(Builder& b, const ptx::Instruction& i) {
    constexpr std::pair<const char*, Video> ops[] = {
        {"vadd", Video::Add}, {"vsub", Video::Sub}, {"vavrg", Video::Average}, {"vabsdiff", Video::AbsDiff},
        {"vmin", Video::Min}, {"vmax", Video::Max}, {"vset", Video::Set}};
    const std::string name(i.mods[0].substr(0, i.mods[0].size() - 1));
    uint64_t op = 0, cmp = 0;
    for (const auto& [text, code] : ops)
        if (name == text) op = uint64_t(code);
    const bool set = op == uint64_t(Video::Set);
    for (uint64_t k = 0; k < 6; k++)
        if (has(i, kComparisons[k])) cmp = k;
    const Type d = set ? Type::u32 : type_at(i, 0), ta = type_at(i, !set), tb = type_at(i, 1 + !set);
    Instr& x = emit_op(b, i, run_video, Type::u32, {Type::u32, Type::u32, Type::u32});
    x.imm    = int64_t(op | uint64_t(i.mods[0].back() - '0') << 4 | uint64_t(ta == Type::s32) << 8 |
                       uint64_t(tb == Type::s32) << 9 | uint64_t(d == Type::s32) << 10 | uint64_t(has(i, "sat")) << 11 |
                       uint64_t(has(i, "add")) << 12 | cmp << 16);
}

}  // namespace

std::vector<Row> video_rows() {
    return {
        {"{vadd2,vadd4,vsub2,vsub4,vavrg2,vavrg4,vabsdiff2,vabsdiff4,vmin2,vmin4,vmax2,vmax4} "
         ".{u32,s32} .{u32,s32} .{u32,s32} .{sat,add}?",
         build_video},
        {"{vset2,vset4} .{u32,s32} .{u32,s32} .{eq,ne,lt,le,gt,ge} .add?", build_video},
    };
}

}  // namespace emu
