// move.cpp - mov, packing and unpacking, special registers, address conversions, selections
#include <algorithm>

#include "checker.h"
#include "floats.h"
#include "handlers.h"
#include "lanes.h"
#include "spec.h"

namespace emu {
namespace {

template <class From, class To> struct Cast {
    static To f(From a) { return To(a); }
};

template <class T> const Instr* shared_address_of(Warp& w, const Instr* i) {
    const T v = T(i->imm) + w.block->window;
    for_lanes(w, w.reg<T>(i->d), [=](int) { return v; });
    return i + 1;
}
template <class T> const Instr* add_offset_of(Warp& w, const Instr* i) {
    const uint64_t* a = w.reg<uint64_t>(i->a);
    const T add       = T(i->imm);
    for_lanes(w, w.reg<T>(i->d), [=](int l) { return T(T(a[l]) + add); });
    return i + 1;
}

// clang-format off
enum Special {
    kTidX, kTidY, kTidZ, kNtidX, kNtidY, kNtidZ, kCtaidX, kCtaidY, kCtaidZ, kNctaidX, kNctaidY, kNctaidZ,
    kLaneId, kWarpId, kNwarpId, kSmId, kNsmId, kGridId,
    kClock, kClock64, kClockHi, kTimer, kTimerLo, kTimerHi,
    kEqMask, kLeMask, kLtMask, kGeMask, kGtMask,
    kDynamicSmem, kTotalSmem, kReservedBegin, kReservedEnd, kReservedCap,
    kEnvreg1, kEnvreg2,
    kClusterX, kClusterY, kClusterZ, kNclusterX, kNclusterY, kNclusterZ,
    kRankX, kRankY, kRankZ, kRank, kNrankX, kNrankY, kNrankZ, kNrank
};
constexpr struct {
    const char* name;
    Special what;
} kSpecials[] = {
    {"tid.x", kTidX},       {"tid.y", kTidY},       {"tid.z", kTidZ},
    {"ntid.x", kNtidX},     {"ntid.y", kNtidY},     {"ntid.z", kNtidZ},
    {"ctaid.x", kCtaidX},   {"ctaid.y", kCtaidY},   {"ctaid.z", kCtaidZ},
    {"nctaid.x", kNctaidX}, {"nctaid.y", kNctaidY}, {"nctaid.z", kNctaidZ},
    {"laneid", kLaneId},    {"warpid", kWarpId},    {"nwarpid", kNwarpId},
    {"smid", kSmId},        {"nsmid", kNsmId},      {"gridid", kGridId},
    {"clock", kClock},      {"clock64", kClock64},  {"clock_hi", kClockHi},
    {"globaltimer", kTimer}, {"globaltimer_lo", kTimerLo}, {"globaltimer_hi", kTimerHi},
    {"lanemask_eq", kEqMask}, {"lanemask_le", kLeMask}, {"lanemask_lt", kLtMask},
    {"lanemask_ge", kGeMask}, {"lanemask_gt", kGtMask},
    {"dynamic_smem_size", kDynamicSmem}, {"total_smem_size", kTotalSmem}, {"aggr_smem_size", kTotalSmem},
    {"reserved_smem_offset_begin", kReservedBegin}, {"reserved_smem_offset_end", kReservedEnd},
    {"reserved_smem_offset_cap", kReservedCap},
    {"reserved_smem_offset_0", kReservedBegin}, {"reserved_smem_offset_1", kReservedBegin},
    {"envreg1", kEnvreg1}, {"envreg2", kEnvreg2},
    {"clusterid.x", kClusterX},     {"clusterid.y", kClusterY},     {"clusterid.z", kClusterZ},
    {"nclusterid.x", kNclusterX},   {"nclusterid.y", kNclusterY},   {"nclusterid.z", kNclusterZ},
    {"cluster_ctaid.x", kRankX},    {"cluster_ctaid.y", kRankY},    {"cluster_ctaid.z", kRankZ},
    {"cluster_nctaid.x", kNrankX},  {"cluster_nctaid.y", kNrankY},  {"cluster_nctaid.z", kNrankZ},
    {"cluster_ctarank", kRank},     {"cluster_nctarank", kNrank},
};
// clang-format on

uint64_t special_value(Warp& w, int what, int l) {
    const Block& b  = *w.block;
    const auto& cfg = b.launch->config;
    switch (what) {
        case kNtidX: return cfg.block.x;
        case kNtidY: return cfg.block.y;
        case kNtidZ: return cfg.block.z;
        case kCtaidX:
        case kCtaidY:
        case kCtaidZ: return b.ctaid[what - kCtaidX];
        case kNctaidX: return cfg.grid.x;
        case kNctaidY: return cfg.grid.y;
        case kNctaidZ: return cfg.grid.z;
        case kLaneId: return uint64_t(l);
        case kWarpId: return w.index;
        case kNwarpId: return b.warps.size();
        case kSmId: return b.index % uint64_t(device_spec().sms);
        case kNsmId: return uint64_t(device_spec().sms);
        case kGridId: return b.launch->number;
        // The clock counts the instructions that the block has run.
        case kClock:
        case kClock64: return b.launch->clock_base + b.issued + w.issued;
        case kTimer:
        case kTimerLo: return (b.launch->clock_base + b.issued + w.issued) / 32 * 32;
        case kTimerHi:
        case kClockHi: return (b.launch->clock_base + b.issued + w.issued) >> 32;
        case kEqMask: return 1u << l;
        case kLtMask: return (1u << l) - 1;
        case kLeMask: return (2u << l) - 1;
        case kGeMask: return ~((1u << l) - 1);
        case kGtMask: return ~uint32_t((2ull << l) - 1);
        case kDynamicSmem: return cfg.dynamic_shared;
        case kTotalSmem: return b.shared_bytes;
        case kReservedBegin: return b.shared_bytes - kReservedShared;
        case kReservedEnd: return b.shared_bytes;
        case kReservedCap: return kReservedShared;
        case kEnvreg1: return b.launch->workspace >> 32;
        case kEnvreg2: return b.launch->workspace & 0xffffffff;
        case kClusterX: return b.ctaid[0] / cfg.cluster.x;
        case kClusterY: return b.ctaid[1] / cfg.cluster.y;
        case kClusterZ: return b.ctaid[2] / cfg.cluster.z;
        case kNclusterX: return cfg.grid.x / cfg.cluster.x;
        case kNclusterY: return cfg.grid.y / cfg.cluster.y;
        case kNclusterZ: return cfg.grid.z / cfg.cluster.z;
        case kRankX: return b.ctaid[0] % cfg.cluster.x;
        case kRankY: return b.ctaid[1] % cfg.cluster.y;
        case kRankZ: return b.ctaid[2] % cfg.cluster.z;
        case kRank: return b.rank;
        case kNrankX: return cfg.cluster.x;
        case kNrankY: return cfg.cluster.y;
        case kNrankZ: return cfg.cluster.z;
        case kNrank: return cfg.cluster.count();
        default: return 0;
    }
}
template <class T> const Instr* read_special(Warp& w, const Instr* i) {
    T* d = w.reg<T>(i->d);
    if (i->imm <= kTidZ) {
        const uint32_t* tid = w.tid[i->imm];
        for_lanes(w, d, [=](int l) { return T(tid[l]); });
    } else if ((i->imm >= kEqMask && i->imm <= kGtMask) || i->imm == kLaneId) {
        each_lane(w.mask, [&](int l) { d[l] = T(special_value(w, int(i->imm), l)); });
    } else {
        if (i->imm >= kClock && i->imm <= kTimerHi) w.polls += 2;  // a loop that reads the clock is waiting
        const T v = T(special_value(w, int(i->imm), 0));
        for_lanes(w, d, [=](int) { return v; });
    }
    return i + 1;
}

const Instr* is_explicit_cluster(Warp& w, const Instr* i) {
    put_pred(w, i->d, w.block->launch->config.explicit_cluster ? kAll : 0);
    return i + 1;
}

// mov d, {a, b, …} and mov {a, b, …}, d, with n parts of equal width.
template <class Part, class Whole> const Instr* pack(Warp& w, const Instr* i) {
    Whole* d        = w.reg<Whole>(i->d);
    const Ref* r    = &w.frame->function->more[i->more];
    constexpr int n = sizeof(Whole) / sizeof(Part);
    const Part* part[n];
    for (int k = 0; k < n; k++) part[k] = w.reg<Part>(r[k]);
    each_lane(w.mask, [&](int l) {
        Part v[n];
        for (int k = 0; k < n; k++) v[k] = part[k][l];
        std::memcpy(&d[l], v, sizeof(Whole));
    });
    return i + 1;
}
template <class Part, class Whole> const Instr* unpack(Warp& w, const Instr* i) {
    const Whole* a  = w.reg<Whole>(i->a);
    const Ref* r    = &w.frame->function->more[i->more];
    constexpr int n = sizeof(Whole) / sizeof(Part);
    Part* part[n];
    for (int k = 0; k < n; k++) part[k] = w.reg<Part>(r[k]);
    each_lane(w.mask, [&](int l) {
        Part v[n];
        std::memcpy(v, &a[l], sizeof(Whole));
        for (int k = 0; k < n; k++) part[k][l] = v[k];
    });
    return i + 1;
}
// This is the usual case, two halves of a word, in a form that vectorises.
const Instr* pack2x16(Warp& w, const Instr* i) {
    const Ref* r       = &w.frame->function->more[i->more];
    const uint16_t *lo = w.reg<uint16_t>(r[0]), *hi = w.reg<uint16_t>(r[1]);
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) { return uint32_t(hi[l]) << 16 | lo[l]; });
    return i + 1;
}
// A part of one byte is in a register of 16 bits.
template <class Whole> const Instr* pack_bytes(Warp& w, const Instr* i) {
    const Ref* r = &w.frame->function->more[i->more];
    for_lanes(w, w.reg<Whole>(i->d), [&](int l) {
        Whole v = 0;
        for (size_t k = 0; k < sizeof(Whole); k++) v = Whole(v | Whole(w.reg<uint16_t>(r[k])[l] & 255) << (8 * k));
        return v;
    });
    return i + 1;
}
template <class Whole> const Instr* unpack_bytes(Warp& w, const Instr* i) {
    const Whole* a = w.reg<Whole>(i->a);
    const Ref* r   = &w.frame->function->more[i->more];
    each_lane(w.mask, [&](int l) {
        const Whole v = a[l];
        for (size_t k = 0; k < sizeof(Whole); k++) w.reg<uint16_t>(r[k])[l] = uint16_t(v >> (8 * k) & 255);
    });
    return i + 1;
}
Handler pack_handler(int part, int whole, bool packs) {
    if (part == 1 && whole == 2) return packs ? pack_bytes<uint16_t> : unpack_bytes<uint16_t>;
    if (part == 1 && whole == 4) return packs ? pack_bytes<uint32_t> : unpack_bytes<uint32_t>;
    if (part == 2 && whole == 4) return packs ? pack2x16 : unpack<uint16_t, uint32_t>;
    if (part == 2 && whole == 8) return packs ? pack<uint16_t, uint64_t> : unpack<uint16_t, uint64_t>;
    if (part == 4 && whole == 8) return packs ? pack<uint32_t, uint64_t> : unpack<uint32_t, uint64_t>;
    if (part == 4 && whole == 16) return packs ? pack<uint32_t, Bits128> : unpack<uint32_t, Bits128>;
    if (part == 8 && whole == 16) return packs ? pack<uint64_t, Bits128> : unpack<uint64_t, Bits128>;
    throw Undecodable("parts of " + std::to_string(part) + " bytes in a register of " + std::to_string(whole));
}

void build_mov(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 2) throw Undecodable("2 operands expected");
    const Type t      = type_of(i);
    const int bytes   = reg_bytes(t);
    const Operand &to = i.ops[0], &from = i.ops[1];
    if (const size_t n = has(i, "v2") ? 2 : has(i, "v4") ? 4 : 0) {
        if (to.parts.size() != n || from.parts.size() != n)
            throw Undecodable("two vectors of " + std::to_string(n) + " parts expected");
        std::vector<Ref> values;  // are copies, because a part may be overwritten before it is read
        for (const Operand& p : from.parts) {
            const Ref a = b.read(p, t), copy = b.scratch(bytes);
            Instr& x = b.emit(op::resize(bytes, bytes, false));
            x.a = a, x.d = copy;
            values.push_back(copy);
        }
        for (size_t k = 0; k < n; k++) {
            const Ref d = b.write(to.parts[k], t);
            Instr& x    = b.emit(op::resize(bytes, bytes, false));
            x.a = values[k], x.d = d;
        }
        return;
    }
    if (from.kind == Operand::Vector || to.kind == Operand::Vector) {
        const bool packs  = from.kind == Operand::Vector;
        const auto& parts = packs ? from.parts : to.parts;
        if (parts.size() != 2 && parts.size() != 4) throw Undecodable("2 or 4 parts expected");
        const int part = bytes / int(parts.size());
        const Type of  = part == 1 ? Type::b8 : bits_type(part);
        std::vector<Ref> refs;
        for (const Operand& p : parts) refs.push_back(packs ? b.read(p, of) : b.write(p, of));
        const Ref whole = packs ? b.write(to, t) : b.read(from, t);
        Instr& x        = b.emit(pack_handler(part, bytes, packs));
        if (packs) x.d = whole, b.more(x, {}, refs);
        else x.a = whole, b.more(x, refs, {});
        return;
    }
    if (from.kind == Operand::Special) {
        const Ref d = b.write(to, t);
        return op::special(b, d, from.name, bytes);
    }
    const Ref a = b.read(from, t), d = b.write(to, t);
    Instr& x = b.emit(op::resize(bytes, bytes, false));
    x.a = a, x.d = d;
}

// cvta adds the window to shared, local and param addresses. Global and const addresses are generic already.
const Instr* to_generic(Warp& w, const Instr* i) {
    const uint64_t* a     = w.reg<uint64_t>(i->a);
    const uint64_t window = uint64_t(i->imm);
    for_lanes(w, w.reg<uint64_t>(i->d), [=](int l) { return a[l] | window; });
    return i + 1;
}
const Instr* from_generic(Warp& w, const Instr* i) {
    const uint64_t* a   = w.reg<uint64_t>(i->a);
    const uint64_t keep = uint64_t(i->imm);
    for_lanes(w, w.reg<uint64_t>(i->d), [=](int l) { return a[l] & keep; });
    return i + 1;
}
uint64_t window_of(std::string_view space) {
    return space.starts_with("shared")  ? kSharedWindow
           : space == "local"           ? kLocalWindow
           : space.starts_with("param") ? kParamWindow
                                        : 0;
}
void build_cvta(Builder& b, const ptx::Instruction& i) {
    const bool to          = has(i, "to");
    std::string_view space = i.mods[to ? 2 : 1];
    const uint64_t window  = window_of(space);
    Instr& x               = emit_op(b, i, to ? from_generic : to_generic, Type::u64, {Type::u64});
    x.imm = to ? int64_t(window && window != kParamWindow ? (1ull << kWindowShift) - 1 : ~0ull) : int64_t(window);
}
// The address of the same variable in the block of rank b. A rank that does not exist is found at the access.
template <class T> const Instr* mapa(Warp& w, const Instr* i) {
    const T* a           = w.reg<T>(i->a);
    const uint32_t* rank = w.reg<uint32_t>(i->b);
    for_lanes(w, w.reg<T>(i->d), [=](int l) {
        return T((a[l] & ~(T(255) << kRankShift)) | T(std::min(rank[l], 254u) + 1) << kRankShift);
    });
    return i + 1;
}
template <class T> const Instr* rank_of(Warp& w, const Instr* i) {
    const T* a         = w.reg<T>(i->a);
    const uint32_t own = w.block->rank;
    for_lanes(w, w.reg<uint32_t>(i->d), [=](int l) {
        const auto block = uint32_t(a[l] >> kRankShift & 255);
        return block ? block - 1 : own;
    });
    return i + 1;
}
void build_mapa(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, t == Type::u32 ? mapa<uint32_t> : mapa<uint64_t>, t, {t, Type::u32});
}
void build_rank_of(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i);
    emit_op(b, i, t == Type::u32 ? rank_of<uint32_t> : rank_of<uint64_t>, Type::u32, {t});
}
// A cache policy is a hint, which no instruction reads here.
void build_policy(Builder& b, const ptx::Instruction& i) {
    if (i.ops.empty()) throw Undecodable("an operand expected");
    Instr& x = b.emit(op::resize(8, 8, false));
    x.a = b.constant(0, 8), x.d = b.write(i.ops[0], Type::b64);
}
const Instr* is_space(Warp& w, const Instr* i) {
    const uint64_t* a  = w.reg<uint64_t>(i->a);
    const auto window  = uint64_t(i->imm);
    // shared::cta is a part of shared::cluster: the own block's memory, also by an address that mapa has made.
    const uint64_t own = (uint64_t(w.block->rank) + 1) << kRankShift, bits = 255ull << kRankShift;
    const bool in_block = i->imm2;
    put_pred(w, i->d, mask_of([=](int l) {
                 return a[l] >> kWindowShift == window && (!in_block || !(a[l] & bits) || (a[l] & bits) == own);
             }));
    return i + 1;
}
// Constants have addresses among those of global memory. Parameters lie in global memory, as the PTX manual says. imm:
// whether constants are meant.
const Instr* is_constant_or_global(Warp& w, const Instr* i) {
    const uint64_t* a    = w.reg<uint64_t>(i->a);
    const Allocation* in = nullptr;  // mostly that of the lane before, too
    uint32_t yes         = 0;
    each_lane(w.mask, [&](int l) {
        const uint64_t window = a[l] >> kWindowShift;
        if (!window && !(in && in->holds(a[l], 1))) in = Memory::get().find(a[l]);
        const bool constant = !window && in && in->space == Space::Constant;
        yes |= uint32_t(i->imm ? constant : (!window && !constant) || window == kParamWindow >> kWindowShift) << l;
    });
    put_pred(w, i->d, yes);
    return i + 1;
}
void build_isspacep(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 2) throw Undecodable("2 operands expected");
    const Ref a = b.read(i.ops[1], Type::u64), d = b.write_pred(i.ops[0].reg);
    const bool constant = i.mods[1] == "const", global = i.mods[1] == "global";
    Instr& x = b.emit(constant || global ? is_constant_or_global : is_space);
    x.a = a, x.d = d;
    x.imm  = constant || global ? constant : int64_t(window_of(i.mods[1]) >> kWindowShift);
    x.imm2 = i.mods[1] == "shared" || i.mods[1] == "shared::cta";
}

template <class T> const Instr* selp(Warp& w, const Instr* i) {
    const T *a = w.reg<T>(i->a), *b = w.reg<T>(i->b);
    const uint32_t p = w.pred(i->c) ^ (i->imm ? kAll : 0);
    for_lanes(w, w.reg<T>(i->d), [=](int l) { return p >> l & 1 ? a[l] : b[l]; });
    return i + 1;
}
void build_selp(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 4) throw Undecodable("4 operands expected");
    const Type t = type_of(i);
    bool negated;
    const Ref x = b.read(i.ops[1], t), y = b.read(i.ops[2], t), p = b.read_pred(i.ops[3], negated),
              d = b.write(i.ops[0], t);
    Instr& n    = b.emit(with_bits(t, []<class T> { return &selp<T>; }));
    n.d = d, n.a = x, n.b = y, n.c = p, n.imm = negated;
}
struct SelectInt {
    template <class T> static T f(T a, T b, int32_t c) { return c >= 0 ? a : b; }
};
template <bool Ftz> struct SelectFloat {
    template <class T> static T f(T a, T b, float c) { return ftz<Ftz>(c) >= 0 ? a : b; }
};
void build_slct(Builder& b, const ptx::Instruction& i) {
    const Type t = type_of(i), c = type_at(i, 1);
    emit_op(b, i,
            with_bits(t,
                      [&]<class T> {
                          return c != Type::f32  ? &ternary<SelectInt, T, T, T, int32_t>
                                 : has(i, "ftz") ? &ternary<SelectFloat<true>, T, T, T, float>
                                                 : &ternary<SelectFloat<false>, T, T, T, float>;
                      }),
            t, {t, t, c});
}

template <class From> Handler resize_from(int to, bool sign) {
    using S = std::make_signed_t<From>;
    if (to == 2) return &unary<Cast<From, uint16_t>, uint16_t, From>;
    if (to == 4) return sign ? &unary<Cast<S, int32_t>, int32_t, S> : &unary<Cast<From, uint32_t>, uint32_t, From>;
    return sign ? &unary<Cast<S, int64_t>, int64_t, S> : &unary<Cast<From, uint64_t>, uint64_t, From>;
}
template <class T> const Instr* copy16(Warp& w, const Instr* i) {
    const T* a = w.reg<T>(i->a);
    T* d       = w.reg<T>(i->d);
    each_lane(w.mask, [&](int l) { d[l] = a[l]; });
    return i + 1;
}

}  // namespace

namespace op {

Handler resize(int from, int to, bool sign) {
    if (from == 16 && to == 16) return copy16<Bits128>;
    if (from == 2) return resize_from<uint16_t>(to, sign);
    if (from == 4) return resize_from<uint32_t>(to, sign);
    if (from == 8) return resize_from<uint64_t>(to, sign);
    throw Undecodable("no register of this width");
}
Handler add_offset(int bytes) { return bytes == 4 ? add_offset_of<uint32_t> : add_offset_of<uint64_t>; }

Handler shared_address(int bytes) { return bytes == 4 ? shared_address_of<uint32_t> : shared_address_of<uint64_t>; }

const Instr* local_base(Warp& w, const Instr* i) {
    const uint64_t v = uint64_t(i->imm) + w.frame->local_base;
    for_lanes(w, w.reg<uint64_t>(i->d), [=](int) { return v; });
    return i + 1;
}

void special(Builder& b, Ref to, const std::string& name, int bytes) {
    for (const auto& s : kSpecials)
        if (name == s.name) {
            Instr& x = b.emit(bytes == 8   ? read_special<uint64_t>
                              : bytes == 4 ? read_special<uint32_t>
                                           : read_special<uint16_t>);
            x.d = to, x.imm = s.what;
            return;
        }
    throw Undecodable("unknown special register %" + name);
}

void special_pred(Builder& b, Ref to, const std::string& name) {
    if (name != "is_explicit_cluster") throw Undecodable("unknown special register %" + name);
    b.emit(is_explicit_cluster).d = to;
}

}  // namespace op

std::vector<Row> move_rows() {
    return {
        {"mov .{v2,v4}? .{ANY}", build_mov},
        {"cvta .{global,shared,shared::cta,shared::cluster,local,const,param} .u64", build_cvta},
        {"cvta .to .{global,shared,shared::cta,shared::cluster,local,const,param} .u64", build_cvta},
        {"createpolicy .fractional .{L2HINT} .L2::evict_unchanged? .b64", build_policy},
        {"mapa .shared::cluster? .{u32,u64}", build_mapa},
        {"getctarank .shared::cluster? .{u32,u64}", build_rank_of},
        {"isspacep .{global,shared,shared::cta,shared::cluster,local,const,param}", build_isspacep},
        {"selp .{b16,b32,b64,u16,s16,u32,s32,u64,s64,f32,f64}", build_selp},
        {"slct .ftz? .{b16,b32,b64,u16,s16,u32,s32,u64,s64,f32,f64} .{s32,f32}", build_slct},
    };
}

}  // namespace emu
