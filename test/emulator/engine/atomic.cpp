// atomic.cpp - atom and red, of every type
//
// The operations are atomic on the host, because with --threads above 1 blocks on other host threads share the memory.
#include "access.h"
#include "bulk.h"
#include "checker.h"
#include "floats.h"
#include "lanes.h"

namespace emu {
namespace {

// Replaces a value by f(value) in a compare-and-swap loop, for any type of 2, 4 or 8 bytes.
template <class T, class F> T update(std::byte* at, F f) {
    T* p  = reinterpret_cast<T*>(at);
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, f(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}

template <class T> T integer_op(std::byte* at, int kind, T v) {
    T* p = reinterpret_cast<T*>(at);
    switch (kind) {
        case kAdd: return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
        case kAnd: return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
        case kOr: return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
        case kXor: return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
        case kExch: return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
        case kMin: return update<T>(at, [=](T old) { return std::min(old, v); });
        case kMax: return update<T>(at, [=](T old) { return std::max(old, v); });
        case kInc: return update<T>(at, [=](T old) { return old >= v ? T(0) : T(old + 1); });
        default: return update<T>(at, [=](T old) { return old == 0 || old > v ? v : T(old - 1); });
    }
}

// clang-format off
struct Int32 { using T = int32_t; static T f(std::byte* at, int k, T v) { return integer_op<T>(at, k, v); } };
struct Uint32 { using T = uint32_t; static T f(std::byte* at, int k, T v) { return integer_op<T>(at, k, v); } };
struct Int64 { using T = int64_t; static T f(std::byte* at, int k, T v) { return integer_op<T>(at, k, v); } };
struct Uint64 { using T = uint64_t; static T f(std::byte* at, int k, T v) { return integer_op<T>(at, k, v); } };
// clang-format on
// Sums in global memory flush subnormals to zero, sums in shared memory do not (PTX manual, "atom").
template <bool Ftz> struct Float32 {
    using T = uint32_t;
    static T f(std::byte* at, int k, T v) {
        return update<T>(at, [=](T old) {
            const float a = as_float(old), b = as_float(v);
            return bits(k == kAdd   ? ftz<Ftz>(ftz<Ftz>(a) + ftz<Ftz>(b))
                        : k == kMin ? min_number(a, b)
                                    : max_number(a, b));
        });
    }
};
struct Float64 {
    using T = uint64_t;
    static T f(std::byte* at, int, T v) {
        return update<T>(at, [=](T old) { return bits(as_double(old) + as_double(v)); });
    }
};
inline uint16_t add16(uint16_t a, uint16_t b, bool half) {
    return half ? float_to_half(half_to_float(a) + half_to_float(b))
                : float_to_bf16(bf16_to_float(a) + bf16_to_float(b));
}
inline uint16_t op16(uint16_t a, uint16_t b, bool half, int k) {
    if (k == kAdd) return add16(a, b, half);
    const float x = half ? half_to_float(a) : bf16_to_float(a), y = half ? half_to_float(b) : bf16_to_float(b);
    const float v = k == kMin ? min_number(x, y) : max_number(x, y);
    return half ? float_to_half(v) : float_to_bf16(v);
}
template <bool Half> struct Float16 {
    using T = uint16_t;
    static T f(std::byte* at, int k, T v) {
        return update<T>(at, [=](T old) { return op16(old, v, Half, k); });
    }
};
template <bool Half> struct Float16x2 {
    using T = uint32_t;
    static T f(std::byte* at, int k, T v) {
        return update<T>(at, [=](T old) {
            return uint32_t(op16(uint16_t(old >> 16), uint16_t(v >> 16), Half, k)) << 16 |
                   op16(uint16_t(old), uint16_t(v), Half, k);
        });
    }
};

void reach_window(Warp& w, const Instr* i, uint32_t size, Reach& r) {
    w.polls++;
    if (i->imm3) checker_fence(w, true);  // for .release, .acq_rel and .sc
    const Window window = Window(i->window);
    if (window == Window::Global) reach_global(w, i, size, Touch::Atomic, r);
    else if (window == Window::Shared) reach_shared(w, i, size, Touch::Atomic, r);
    else reach_any(w, i, size, Touch::Atomic, r);
}

// a: the address, b: the value, d: the old value or none for red, c.offset: the AtomicOp (c is not a register).
template <class Op> const Instr* atomic(Warp& w, const Instr* i) {
    using T = typename Op::T;
    Reach r;
    reach_window(w, i, sizeof(T), r);
    const T* v     = w.reg<T>(i->b);
    T* d           = i->d.none() ? nullptr : w.reg<T>(i->d);
    const int kind = i->c.offset;
    each_lane(r.mask, [&](int l) {
        const T old = Op::f(r.place(l, sizeof(T)), kind, v[l]);
        if (d) d[l] = old;
    });
    return i + 1;
}
const Instr* atomic_generic_float(Warp& w, const Instr* i) {
    uint32_t shared = 0;
    if (!i->a.none()) {
        const uint64_t* base = w.reg<uint64_t>(i->a);
        shared = mask_of([=](int l) { return (base[l] + uint64_t(i->imm)) >> 56 == kSharedWindow >> 56; });
    }
    const uint32_t all = w.mask;
    w.mask             = all & shared;
    if (w.mask) atomic<Float32<false>>(w, i);
    w.mask = all & ~shared;
    if (w.mask) atomic<Float32<true>>(w, i);
    w.mask = all;
    return i + 1;
}
// red.v2.f32, red.v4.f32 and the like, with several values per lane.
template <class Op, int V> const Instr* atomic_vector(Warp& w, const Instr* i) {
    using T = typename Op::T;
    Reach r;
    reach_window(w, i, sizeof(T) * V, r);
    const Ref* more = &w.frame->function->more[i->more];
    each_lane(r.mask, [&](int l) {
        for (int k = 0; k < V; k++)
            Op::f(r.place(l, sizeof(T) * V) + size_t(k) * sizeof(T), i->c.offset, w.reg<T>(more[k])[l]);
    });
    return i + 1;
}
// b: the expected value, c: the new one.
template <class T> const Instr* compare_and_swap(Warp& w, const Instr* i) {
    Reach r;
    reach_window(w, i, sizeof(T), r);
    const T *expected = w.reg<T>(i->b), *fresh = w.reg<T>(i->c);
    T* d = i->d.none() ? nullptr : w.reg<T>(i->d);
    each_lane(r.mask, [&](int l) {
        T old = expected[l];
        __atomic_compare_exchange_n(reinterpret_cast<T*>(r.place(l, sizeof(T))), &old, fresh[l], false,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        if (d) d[l] = old;
    });
    return i + 1;
}
// atom.cas.b128 and atom.exch.b128, which the host does under a lock.
const Instr* swap128(Warp& w, const Instr* i) {
    Reach r;
    reach_window(w, i, 16, r);
    const bool cas      = i->imm2;
    const Bits128* want = w.reg<Bits128>(i->b);
    const Bits128* now  = cas ? w.reg<Bits128>(i->c) : want;
    Bits128* d          = i->d.none() ? nullptr : w.reg<Bits128>(i->d);
    const std::lock_guard hold(w.block->launch->lock);
    each_lane(r.mask, [&](int l) {
        Bits128 old;
        std::memcpy(&old, r.place(l, 16), 16);
        if (!cas || (old.lo == want[l].lo && old.hi == want[l].hi)) std::memcpy(r.place(l, 16), &now[l], 16);
        if (d) d[l] = old;
    });
    return i + 1;
}

Handler handler_of(Type t, int kind, Window window) {
    switch (t) {
        case Type::u32:
        case Type::b32: return atomic<Uint32>;
        case Type::s32: return atomic<Int32>;
        case Type::u64:
        case Type::b64: return atomic<Uint64>;
        case Type::s64: return atomic<Int64>;
        case Type::f32:
            return window == Window::Shared   ? atomic<Float32<false>>
                   : window == Window::Global ? atomic<Float32<true>>
                                              : atomic_generic_float;
        case Type::f64:
            if (kind != kAdd) break;
            return atomic<Float64>;
        case Type::f16: return atomic<Float16<true>>;
        case Type::bf16: return atomic<Float16<false>>;
        case Type::f16x2: return atomic<Float16x2<true>>;
        case Type::bf16x2: return atomic<Float16x2<false>>;
        default: break;
    }
    throw Undecodable("no atomic operation on this type");
}
template <class Op> Handler vector_of(int v) {
    if (v == 2) return atomic_vector<Op, 2>;
    if (v == 4) return atomic_vector<Op, 4>;
    if constexpr (sizeof(typename Op::T) == 2)
        if (v == 8) return atomic_vector<Op, 8>;
    throw Undecodable("no atomic operation on this vector");
}
Handler vector_handler(Type t, int v) {
    switch (t) {
        case Type::f32: return vector_of<Float32<true>>(v);  // vectors exist in global memory only
        case Type::f16: return vector_of<Float16<true>>(v);
        case Type::bf16: return vector_of<Float16<false>>(v);
        case Type::f16x2: return vector_of<Float16x2<true>>(v);
        case Type::bf16x2: return vector_of<Float16x2<false>>(v);
        default: throw Undecodable("no atomic operation on this vector");
    }
}

void build_atomic(Builder& b, const ptx::Instruction& i) {
    const bool red  = i.mods[0] == "red";
    const Type t    = type_of(i);
    const Type r    = bits_type(reg_bytes(t));
    const size_t at = red ? 0 : 1;
    const bool cas  = has(i, "cas");
    const int v     = has(i, "v2") ? 2 : has(i, "v4") ? 4 : has(i, "v8") ? 8 : 1;
    if (i.ops.size() < at + (cas ? 3 : 2)) throw Undecodable("too few operands");
    const AtomicOp kind = atomic_op(i);
    const bool shared   = has(i, "shared") || has(i, "shared::cta") || has(i, "shared::cluster");
    const Window window = shared ? Window::Shared : has(i, "global") ? Window::Global : Window::Generic;
    const auto place    = b.address(i.ops[at], shared);
    std::vector<Ref> values;
    if (v > 1) {
        if (!red) throw Undecodable("atom is not supported on vectors; red is");
        for (const auto& p : i.ops[at + 1].parts) values.push_back(b.read(p, r));
        if (int(values.size()) != v) throw Undecodable("wrong number of vector parts");
    }
    const Ref value = v > 1 ? Ref{} : b.read(i.ops[at + 1], r), fresh = cas ? b.read(i.ops[at + 2], r) : Ref{};
    const Ref d = red ? Ref{} : b.write(i.ops[0], r);
    Handler h;
    if (r == Type::b128) h = swap128;
    else if (cas) h = with_bits(r, []<class T> { return &compare_and_swap<T>; });
    else h = v > 1 ? vector_handler(t, v) : handler_of(t, kind, window);
    const uint16_t site = b.site();
    Instr& x            = b.emit(h);
    x.a = place.base, x.imm = place.offset, x.b = value, x.d = d, x.site = site;
    x.c = cas ? fresh : Ref{kind, 1};
    if (place.narrow) x.flags |= kAddress32;
    x.imm2   = cas;
    x.imm3   = has(i, "release") || has(i, "acq_rel") || has(i, "sc");
    x.window = uint8_t(window);
    if (v > 1) b.more(x, {}, values);
    if (!has(i, "global")) b.f.shared_granule = std::min(b.f.shared_granule, __builtin_ctz(unsigned(reg_bytes(t))));
}

template <class Op, int Kind> void reduce(std::byte* at, const std::byte* from, uint32_t bytes) {
    for (uint32_t k = 0; k < bytes; k += sizeof(typename Op::T)) {
        typename Op::T v;
        std::memcpy(&v, from + k, sizeof v);
        Op::f(at + k, Kind, v);
    }
}
// Integers have all operations (inc and dec without sign and in 32 bits), f16 and bf16 sums, minima and maxima, f32 and
// f64 sums alone (PTX manual, "cp.reduce.async.bulk").
template <class Op> Reduction reduction(AtomicOp op) {
    using T                 = typename Op::T;
    constexpr bool integers = std::is_same_v<Op, Uint32> || std::is_same_v<Op, Int32> || std::is_same_v<Op, Uint64> ||
                              std::is_same_v<Op, Int64>;
    if (op == kAdd) return reduce<Op, kAdd>;
    if constexpr (integers || sizeof(T) == 2) {
        if (op == kMin) return reduce<Op, kMin>;
        if (op == kMax) return reduce<Op, kMax>;
    }
    if constexpr (integers) {
        if (op == kAnd) return reduce<Op, kAnd>;
        if (op == kOr) return reduce<Op, kOr>;
        if (op == kXor) return reduce<Op, kXor>;
    }
    if constexpr (std::is_same_v<Op, Uint32>) {
        if (op == kInc) return reduce<Op, kInc>;
        if (op == kDec) return reduce<Op, kDec>;
    }
    return nullptr;
}

}  // namespace

AtomicOp atomic_op(const ptx::Instruction& i) {
    constexpr std::pair<const char*, AtomicOp> names[] = {{"add", kAdd}, {"min", kMin}, {"max", kMax},
                                                          {"and", kAnd}, {"or", kOr},   {"xor", kXor},
                                                          {"inc", kInc}, {"dec", kDec}, {"exch", kExch}};
    for (const auto& [name, op] : names)
        if (has(i, name)) return op;
    return kAdd;  // atom.cas, which does not use it
}

Reduction reduction_of(AtomicOp op, Type t) {
    switch (t) {
        case Type::b32:
        case Type::u32: return reduction<Uint32>(op);
        case Type::s32: return reduction<Int32>(op);
        case Type::b64:
        case Type::u64: return reduction<Uint64>(op);
        case Type::s64: return reduction<Int64>(op);
        case Type::f16: return reduction<Float16<true>>(op);
        case Type::bf16: return reduction<Float16<false>>(op);
        case Type::f32: return reduction<Float32<true>>(op);
        case Type::f64: return reduction<Float64>(op);
        default: return nullptr;
    }
}

std::vector<Row> atomic_rows() {
    return {
        {"{atom,red} .{SEM}? .{SCOPE}? .{SPACE}? .{add,min,max} .noftz? .{L2HINT}? .{VEC}? "
         ".{u32,s32,u64,s64,f32,f64,f16,bf16,f16x2,bf16x2}",
         build_atomic},
        {"{atom,red} .{SEM}? .{SCOPE}? .{SPACE}? .{and,or,xor} .{L2HINT}? .{b32,b64}", build_atomic},
        {"{atom,red} .{SEM}? .{SCOPE}? .{SPACE}? .{inc,dec} .{L2HINT}? .u32", build_atomic},
        {"atom .{SEM}? .{SCOPE}? .{SPACE}? .exch .{L2HINT}? .{b32,b64,b128,u32,s32,u64,s64,f32}", build_atomic},
        {"atom .{SEM}? .{SCOPE}? .{SPACE}? .cas .{L2HINT}? .{b16,b32,b64,b128,u32,s32,u64,s64,f32}", build_atomic},
    };
}

}  // namespace emu
