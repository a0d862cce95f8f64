// tensor.cpp - mma.sync and wmma: small matrix products across the lanes of a warp
//
// The PTX manual ("matrix fragments") says which elements a lane holds. With g = lane / 4, t = lane % 4 and E elements
// in a 32-bit register, register r of A holds row g (+8 for odd r when there are 16 rows) and the columns from 4E·(r/2)
// + E·t on. Register r of B holds the rows from 4E·r + E·t on and column g. Register r of C holds row g + 8·(r/2) and
// column 2t + r%2.
//
// The handlers gather whole matrices, multiply them and scatter the result. A sum runs over k in order and is rounded
// at each step. Tensor cores add in another order and precision, so the last bits differ.
#include "access.h"
#include "convert8.h"
#include "floats.h"
#include "handlers.h"
#include "lanes.h"
#include "races.h"

namespace emu {
namespace {

enum class Element : uint8_t { F16, Bf16, Tf32, F64, S8, U8, E4m3, E5m2 };
constexpr int per_register(Element e) {
    return e == Element::F16 || e == Element::Bf16 ? 2 : e == Element::Tf32 || e == Element::F64 ? 1 : 4;
}

template <Element E> struct Unpack {
    using Reg = std::conditional_t<E == Element::F64, uint64_t, uint32_t>;
    using T   = std::conditional_t<E == Element::F64, double,
                                 std::conditional_t<E == Element::S8 || E == Element::U8, int32_t, float>>;
    static T at(Reg r, int e) {
        if constexpr (E == Element::F16) return half_to_float(uint16_t(r >> (16 * e)));
        else if constexpr (E == Element::Bf16) return bf16_to_float(uint16_t(r >> (16 * e)));
        else if constexpr (E == Element::Tf32) return as_float(r & ~0x1fffu);
        else if constexpr (E == Element::F64) return as_double(r);
        else if constexpr (E == Element::S8) return int8_t(r >> (8 * e));
        else if constexpr (E == Element::U8) return uint8_t(r >> (8 * e));
        else if constexpr (E == Element::E4m3) return from_fp8<4>(uint8_t(r >> (8 * e)));
        else return from_fp8<5>(uint8_t(r >> (8 * e)));
    }
};

inline float add_product(float x, float y, float sum) { return __builtin_fmaf(x, y, sum); }
inline double add_product(double x, double y, double sum) { return __builtin_fma(x, y, sum); }
inline int32_t add_product(int32_t x, int32_t y, int32_t sum) { return int32_t(uint32_t(sum) + uint32_t(x * y)); }

// c (8×8) += a (8×K) · b (K×8). Eight rows are computed at once, which hides the latency of the additions.
template <class T, int K, int Pitch>
inline void multiply(T (&c)[8][8], const T* __restrict a, const T (&__restrict b)[K][8]) {
    T sum[8][8];
    std::memcpy(sum, c, sizeof sum);
    for (int block = 0; block < K / Pitch; block++)
#pragma GCC unroll 8
        for (int k = 0; k < Pitch; k++)
#pragma GCC unroll 8
            for (int m = 0; m < 8; m++) {
                const T x = a[(block * 8 + m) * Pitch + k];
#pragma GCC unroll 1
                for (int n = 0; n < 8; n++) sum[m][n] = add_product(x, b[block * Pitch + k][n], sum[m][n]);
            }
    std::memcpy(c, sum, sizeof sum);
}

template <int K, int Pitch> void saturating_multiply(int32_t (&c)[8][8], const int32_t* a, const int32_t (&b)[K][8]) {
    for (int m = 0; m < 8; m++)
        for (int n = 0; n < 8; n++) {
            int64_t sum = c[m][n];
            for (int k = 0; k < K; k++) sum += int64_t(a[(k / Pitch) * 8 * Pitch + m * Pitch + k % Pitch]) * b[k][n];
            c[m][n] = int32_t(std::min<int64_t>(std::max<int64_t>(sum, INT32_MIN), INT32_MAX));
        }
}

constexpr int kHalfAccumulator = 1, kSaturate = 2;

// more: the registers of d, a, b and c. imm: flags.
template <Element EA, Element EB, int M, int K> const Instr* mma(Warp& w, const Instr* i) {
    if (!gather_warp(w, i)) return kStop;
    using UA        = Unpack<EA>;
    using UB        = Unpack<EB>;
    using T         = typename UA::T;
    constexpr int E = per_register(EA), regs_a = M * K / (32 * E), regs_b = 8 * K / (32 * E), values = M / 4;
    const bool half  = i->imm & kHalfAccumulator;
    const int regs_c = half ? values / 2 : values;
    const Ref* refs  = &w.frame->function->more[i->more];
    const Ref *ra = refs + regs_c, *rb = ra + regs_a, *rc = rb + regs_b;
    constexpr int pitch = 4 * E, halves = M / 8;
    // A register of A is an 8×4E block, in which the lanes follow each other row by row. That of B is transposed.
    alignas(64) T a[halves][K / pitch][8][pitch], b[K][8], c[halves][8][8], block[kLanes * E];
    for (int r = 0; r < regs_a; r++) {
        const auto* v = w.reg<typename UA::Reg>(ra[r]);
        T* to         = &a[M == 16 ? r & 1 : 0][M == 16 ? r / 2 : r][0][0];
        for (int l = 0; l < kLanes; l++)
            for (int e = 0; e < E; e++) to[l * E + e] = UA::at(v[l], e);
    }
    for (int r = 0; r < regs_b; r++) {
        const auto* v = w.reg<typename UB::Reg>(rb[r]);
        for (int l = 0; l < kLanes; l++)
            for (int e = 0; e < E; e++) block[l * E + e] = T(UB::at(v[l], e));
        for (int k = 0; k < pitch; k++)
            for (int n = 0; n < 8; n++) b[pitch * r + k][n] = block[n * pitch + k];
    }
    for (int h = 0; h < halves; h++) {
        T* to = &c[h][0][0];
        if (half) {
            const uint32_t* v = w.reg<uint32_t>(rc[h]);
            for (int l = 0; l < kLanes; l++)
                for (int e = 0; e < 2; e++) to[l * 2 + e] = T(half_to_float(uint16_t(v[l] >> (16 * e))));
        } else {
            const T *even = w.reg<T>(rc[2 * h]), *odd = w.reg<T>(rc[2 * h + 1]);
            for (int l = 0; l < kLanes; l++) to[l * 2] = even[l], to[l * 2 + 1] = odd[l];
        }
        if constexpr (std::is_same_v<T, int32_t>) {
            if (i->imm & kSaturate) {
                saturating_multiply<K, pitch>(c[h], &a[h][0][0][0], b);
                continue;
            }
        }
        multiply<T, K, pitch>(c[h], &a[h][0][0][0], b);
    }
    if (half) {
        for (int r = 0; r < regs_c; r++) {
            uint32_t* v = w.reg<uint32_t>(refs[r]);
            each_lane(w.mask, [&](int l) {
                const T* at = &c[r][0][0] + l * 2;
                v[l]        = uint32_t(float_to_half(float(at[1]))) << 16 | float_to_half(float(at[0]));
            });
        }
    } else {
        for (int r = 0; r < values; r++) {
            const T* from = &c[r / 2][0][0] + r % 2;
            for_lanes(w, w.reg<T>(refs[r]), [=](int l) { return from[l * 2]; });
        }
    }
    return i + 1;
}

struct MmaRow {
    const char* shape;
    Type a, b;
    int regs_a, regs_b, values;
    bool wide;
    Handler run;
};
const MmaRow kMma[] = {
    {"m16n8k16", Type::f16, Type::f16, 4, 2, 4, false, mma<Element::F16, Element::F16, 16, 16>},
    {"m16n8k8", Type::f16, Type::f16, 2, 1, 4, false, mma<Element::F16, Element::F16, 16, 8>},
    {"m16n8k16", Type::bf16, Type::bf16, 4, 2, 4, false, mma<Element::Bf16, Element::Bf16, 16, 16>},
    {"m16n8k8", Type::bf16, Type::bf16, 2, 1, 4, false, mma<Element::Bf16, Element::Bf16, 16, 8>},
    {"m16n8k8", Type::tf32, Type::tf32, 4, 2, 4, false, mma<Element::Tf32, Element::Tf32, 16, 8>},
    {"m16n8k4", Type::tf32, Type::tf32, 2, 1, 4, false, mma<Element::Tf32, Element::Tf32, 16, 4>},
    {"m8n8k4", Type::f64, Type::f64, 1, 1, 2, true, mma<Element::F64, Element::F64, 8, 4>},
    {"m16n8k4", Type::f64, Type::f64, 2, 1, 4, true, mma<Element::F64, Element::F64, 16, 4>},
    {"m16n8k8", Type::f64, Type::f64, 4, 2, 4, true, mma<Element::F64, Element::F64, 16, 8>},
    {"m16n8k16", Type::f64, Type::f64, 8, 4, 4, true, mma<Element::F64, Element::F64, 16, 16>},
    {"m8n8k16", Type::s8, Type::s8, 1, 1, 2, false, mma<Element::S8, Element::S8, 8, 16>},
    {"m8n8k16", Type::u8, Type::u8, 1, 1, 2, false, mma<Element::U8, Element::U8, 8, 16>},
    {"m16n8k16", Type::s8, Type::s8, 2, 1, 4, false, mma<Element::S8, Element::S8, 16, 16>},
    {"m16n8k16", Type::u8, Type::u8, 2, 1, 4, false, mma<Element::U8, Element::U8, 16, 16>},
    {"m16n8k16", Type::s8, Type::u8, 2, 1, 4, false, mma<Element::S8, Element::U8, 16, 16>},
    {"m16n8k16", Type::u8, Type::s8, 2, 1, 4, false, mma<Element::U8, Element::S8, 16, 16>},
    {"m16n8k32", Type::s8, Type::s8, 4, 2, 4, false, mma<Element::S8, Element::S8, 16, 32>},
    {"m16n8k32", Type::u8, Type::u8, 4, 2, 4, false, mma<Element::U8, Element::U8, 16, 32>},
    {"m16n8k32", Type::s8, Type::u8, 4, 2, 4, false, mma<Element::S8, Element::U8, 16, 32>},
    {"m16n8k32", Type::u8, Type::s8, 4, 2, 4, false, mma<Element::U8, Element::S8, 16, 32>},
    {"m16n8k32", Type::e4m3x2, Type::e4m3x2, 4, 2, 4, false, mma<Element::E4m3, Element::E4m3, 16, 32>},
    {"m16n8k32", Type::e5m2x2, Type::e5m2x2, 4, 2, 4, false, mma<Element::E5m2, Element::E5m2, 16, 32>},
    {"m16n8k32", Type::e4m3x2, Type::e5m2x2, 4, 2, 4, false, mma<Element::E4m3, Element::E5m2, 16, 32>},
    {"m16n8k32", Type::e5m2x2, Type::e4m3x2, 4, 2, 4, false, mma<Element::E5m2, Element::E4m3, 16, 32>},
    {"m16n8k16", Type::e4m3x2, Type::e4m3x2, 2, 1, 4, false, mma<Element::E4m3, Element::E4m3, 16, 16>},
    {"m16n8k16", Type::e5m2x2, Type::e5m2x2, 2, 1, 4, false, mma<Element::E5m2, Element::E5m2, 16, 16>},
};

// Returns the element types among the modifiers. e4m3 and e5m2 have no Type, because registers hold only pairs of them,
// so the types of the pairs are returned.
std::vector<Type> element_types(const ptx::Instruction& i) {
    std::vector<Type> list;
    for (auto m : i.mods) {
        const Type t = m == "e4m3" ? Type::e4m3x2 : m == "e5m2" ? Type::e5m2x2 : ptx::type_of(m);
        if (t != Type::none) list.push_back(t);
    }
    return list;
}

std::vector<Ref> refs_of(Builder& b, const Operand& o, Type t, bool writes, size_t count) {
    std::vector<Ref> list;
    const auto parts = parts_of(o);
    if (parts.size() != count)
        throw Undecodable(std::to_string(count) + " registers expected, found " + std::to_string(parts.size()));
    for (const Operand& p : parts) list.push_back(writes ? b.write(p, t) : b.read(p, t));
    return list;
}
void append(std::vector<Ref>& to, const std::vector<Ref>& more) { to.insert(to.end(), more.begin(), more.end()); }

void build_mma(Builder& b, const ptx::Instruction& i) {
    const auto types = element_types(i);  // d a b c
    if (types.size() != 4 || i.ops.size() < 4) throw Undecodable("4 types and 4 operands expected");
    for (const MmaRow& row : kMma) {
        if (!has(i, row.shape) || types[1] != row.a || types[2] != row.b) continue;
        const bool half = types[0] == Type::f16;
        if (half != (types[3] == Type::f16)) throw Undecodable("accumulators of two types are not supported");
        const Type reg      = row.wide ? Type::b64 : Type::b32;
        const size_t accs   = size_t(half ? row.values / 2 : row.values);
        std::vector<Ref> in = refs_of(b, i.ops[1], reg, false, size_t(row.regs_a));
        append(in, refs_of(b, i.ops[2], reg, false, size_t(row.regs_b)));
        append(in, refs_of(b, i.ops[3], reg, false, accs));
        const auto out = refs_of(b, i.ops[0], reg, true, accs);
        Instr& x       = b.emit(row.run);
        x.imm          = (half ? kHalfAccumulator : 0) | (has(i, "satfinite") ? kSaturate : 0);
        x.flags        = kSplits;
        return b.more(x, out, in);
    }
    throw Undecodable("this shape and type is not supported");
}

// In wmma it is not specified which lane holds which element; only load, mma and store must agree. Here lane l holds n
// elements from l·n on. When the registers have more room than there are elements (f16 inputs), the elements are
// repeated. A and B are held in the order of memory, which the mma names, too. Accumulators are held row by row. All
// extents are powers of two.
struct Shape {
    int m, n, k;
};
Shape shape_of(const ptx::Instruction& i) {
    for (auto m : i.mods)
        if (Shape s; m.size() > 4 && std::sscanf(std::string(m).c_str(), "m%dn%dk%d", &s.m, &s.n, &s.k) == 3) return s;
    throw Undecodable("no shape");
}
struct Fragment {
    int rows, columns;
};
Fragment fragment_of(char which, Shape s) {
    return which == 'a' ? Fragment{s.m, s.k} : which == 'b' ? Fragment{s.k, s.n} : Fragment{s.m, s.n};
}
int wmma_element_bytes(Type t) { return t == Type::tf32 ? 4 : ptx::bytes_of(t); }

// a: the address, b: the stride in elements or none, imm3: the elements of a line and of the matrix, the bytes of one
// and the order, more: the registers.
constexpr uint32_t kTransposed = 1u << 31;
const Instr* wmma_memory(Warp& w, const Instr* i) {
    if (!gather_warp(w, i)) return kStop;
    const bool stores = i->imm2;
    const int line = int(i->imm3 & 255), total = int(i->imm3 >> 8 & 1023), bytes = int(i->imm3 >> 20 & 15);
    const bool transposed = i->imm3 & kTransposed;
    const Ref* more       = &w.frame->function->more[i->more];
    const int reg_size = bytes == 8 ? 8 : 4, per_reg = reg_size / bytes, held = int(i->more_count) * per_reg;
    // Each access is for as many adjacent elements as possible, up to 16 bytes.
    int step = transposed ? 1 : std::min({16 / bytes, line, held});
    if (step < per_reg) step = 1;
    const uint64_t* base   = i->a.none() ? nullptr : w.reg<uint64_t>(i->a);
    const uint32_t* stride = i->b.none() ? nullptr : w.reg<uint32_t>(i->b);
    const int shift = __builtin_ctz(unsigned(line)), across = total / line, size = step * bytes;
    for (int e = 0; e < held; e += step) {
        Reach r;
        r.mask         = w.mask;
        uint32_t again = 0;
        for (int l = 0; l < kLanes; l++) {
            const int index      = (l * held + e) & (total - 1);
            const uint64_t outer = uint64_t(transposed ? index & (across - 1) : index >> shift);
            const uint64_t inner = uint64_t(transposed ? index >> __builtin_ctz(unsigned(across)) : index & (line - 1));
            const uint64_t at    = outer * (stride ? stride[l] : uint64_t(line)) + inner;
            r.addr[l]            = (base ? base[l] : 0) + uint64_t(i->imm) + at * uint64_t(bytes);
            again |= uint32_t(l * held + e >= total) << l;
        }
        if (stores) r.mask &= ~again;
        reach_addresses(w, i, Window(i->window), uint32_t(size), stores ? Touch::Store : Touch::Load, r);
        each_lane(r.mask, [&](int l) {
            std::byte* memory = r.place(l, size_t(size));
            const int n       = std::min(size, reg_size);
            for (int done = 0; done < size; done += n) {
                std::byte* value =
                    w.reg<std::byte>(more[e / per_reg + done / reg_size]) + l * reg_size + e % per_reg * bytes;
                std::memcpy(stores ? memory + done : value, stores ? value : memory + done, size_t(n));
            }
        });
        if (stores) settle(w);
    }
    return i + 1;
}
void build_wmma_memory(Builder& b, const ptx::Instruction& i) {
    const bool stores    = i.mods[1] == "store";
    const Fragment f     = fragment_of(i.mods[2][0], shape_of(i));
    const Type t         = type_of(i);
    const int bytes      = wmma_element_bytes(t);
    const Operand &place = i.ops.at(stores ? 0 : 1), &regs = i.ops.at(stores ? 1 : 0);
    const Type reg      = bytes == 8 ? Type::b64 : Type::b32;
    const auto at       = b.address(place);
    const Ref stride    = i.ops.size() > 2 ? b.read(i.ops[2], Type::b32) : Ref{};
    const auto refs     = refs_of(b, regs, reg, !stores, parts_of(regs).size());
    const uint16_t site = b.site();
    Instr& x            = b.emit(wmma_memory);
    x.a = at.base, x.imm = at.offset, x.b = stride, x.site = site;
    const bool by_column = has(i, "col"), input = i.mods[2] == "a" || i.mods[2] == "b";
    x.imm2 = stores;
    x.imm3 = uint32_t((by_column ? f.rows : f.columns) | f.rows * f.columns << 8 | bytes << 20) |
             (by_column && !input ? kTransposed : 0);
    x.window           = uint8_t(has(i, "shared") || has(i, "shared::cta") ? Window::Shared
                                 : has(i, "global")                        ? Window::Global
                                                                           : Window::Generic);
    x.flags            = kSplits;
    b.f.shared_granule = std::min(b.f.shared_granule, bytes >= 4 ? 2 : bytes - 1);
    if (stores) b.more(x, {}, refs);
    else b.more(x, refs, {});
}

// Gathers the elements that the lanes hold, in their order.
template <class T> void gather_fragment(Warp& w, const Ref* regs, int count, Type t, T* to) {
    auto each = [&]<class Reg>(int per_reg, Reg, auto element) {
        for (int r = 0; r < count; r++) {
            const Reg* v = w.reg<Reg>(regs[r]);
            T* at        = to + r * per_reg;
            for (int l = 0; l < kLanes; l++)
                for (int e = 0; e < per_reg; e++) at[l * count * per_reg + e] = T(element(v[l], e));
        }
    };
    switch (t) {
        case Type::f16: return each(2, uint32_t(), Unpack<Element::F16>::at);
        case Type::bf16: return each(2, uint32_t(), Unpack<Element::Bf16>::at);
        case Type::tf32: return each(1, uint32_t(), Unpack<Element::Tf32>::at);
        case Type::f64: return each(1, uint64_t(), Unpack<Element::F64>::at);
        case Type::s8: return each(4, uint32_t(), Unpack<Element::S8>::at);
        case Type::u8: return each(4, uint32_t(), Unpack<Element::U8>::at);
        case Type::f32: return each(1, uint32_t(), [](uint32_t v, int) { return as_float(v); });
        default: return each(1, uint32_t(), [](uint32_t v, int) { return int32_t(v); });
    }
}

constexpr uint8_t kSaturated = 1, kLeftByColumn = 2, kRightByColumn = 4;

// more: the registers of d, a, b and c. The offsets of the operands a, b and c are the numbers of these registers. T is
// float, or double for f64 and s32, which it holds exactly.
template <class T, int N> const Instr* wmma_mma(Warp& w, const Instr* i) {
    if (!gather_warp(w, i)) return kStop;
    const Ref* d = &w.frame->function->more[i->more];
    const int nd = i->more_defs, na = i->a.offset, nb = i->b.offset, nc = i->c.offset;
    const int M = int(i->imm3 & 255), K = int(i->imm3 >> 16 & 255);
    const Type td = Type(i->imm & 255), ta = Type(i->imm >> 8 & 255), tb = Type(i->imm >> 16 & 255),
               tc = Type(i->imm >> 24 & 255);
    const Ref *a = d + nd, *b = a + na, *c = b + nb;
    constexpr int kMost = 1024;  // the most elements of a matrix, with repeated ones
    T left[kMost], right[kMost], sum[kMost], transposed[kMost];
    gather_fragment(w, a, na, ta, left);
    gather_fragment(w, b, nb, tb, i->imm2 & kRightByColumn ? transposed : right);
    gather_fragment(w, c, nc, tc, sum);
    if (i->imm2 & kRightByColumn)
        for (int k = 0; k < K; k++)
            for (int n = 0; n < N; n++) right[k * N + n] = transposed[n * K + k];
    const bool by_column = i->imm2 & kLeftByColumn;
    for (int m = 0; m < M; m++) {
        T row[N];
        std::memcpy(row, sum + m * N, sizeof row);
        for (int k = 0; k < K; k++) {
            const T x = left[by_column ? k * M + m : m * K + k];
            for (int n = 0; n < N; n++) row[n] = add_product(x, right[k * N + n], row[n]);
        }
        std::memcpy(sum + m * N, row, sizeof row);
    }
    const int per_reg = td == Type::f16 ? 2 : 1;
    for (int r = 0; r < nd; r++)
        for (int l = 0; l < kLanes; l++) {
            const T* at = sum + (l * nd + r) * per_reg;
            if (td == Type::f64) w.reg<uint64_t>(d[r])[l] = bits(double(at[0]));
            else if (td == Type::f16)
                w.reg<uint32_t>(d[r])[l] = uint32_t(float_to_half(float(at[1]))) << 16 | float_to_half(float(at[0]));
            else if (td == Type::f32) w.reg<uint32_t>(d[r])[l] = bits(float(at[0]));
            else if (i->imm2 & kSaturated)
                w.reg<int32_t>(d[r])[l] = int32_t(std::clamp<double>(double(at[0]), INT32_MIN, INT32_MAX));
            else w.reg<uint32_t>(d[r])[l] = uint32_t(int64_t(at[0]));
        }
    return i + 1;
}
template <class T> Handler wmma_of(int n) {
    return n == 8 ? wmma_mma<T, 8> : n == 16 ? wmma_mma<T, 16> : wmma_mma<T, 32>;
}
void build_wmma_mma(Builder& b, const ptx::Instruction& i) {
    auto types = element_types(i);
    if (types.size() == 2)
        types = {types[0], Type::f16, Type::f16, types[1]};  // the types of f16 inputs are not written
    if (types.size() != 4 || i.ops.size() != 4) throw Undecodable("4 operands expected");
    const Shape s  = shape_of(i);
    const Type reg = types[0] == Type::f64 ? Type::b64 : Type::b32;
    std::vector<Ref> in;
    size_t counts[4];
    for (size_t k = 1; k < 4; k++) {
        counts[k] = parts_of(i.ops[k]).size();
        append(in, refs_of(b, i.ops[k], reg, false, counts[k]));
    }
    const auto out    = refs_of(b, i.ops[0], reg, true, parts_of(i.ops[0]).size());
    const bool narrow = types[0] == Type::f16 || types[0] == Type::f32;
    Instr& x          = b.emit(narrow ? wmma_of<float>(s.n) : wmma_of<double>(s.n));
    x.a = {int32_t(counts[1]), 1}, x.b = {int32_t(counts[2]), 1}, x.c = {int32_t(counts[3]), 1};
    x.imm   = int64_t(types[0]) | int64_t(types[1]) << 8 | int64_t(types[2]) << 16 | int64_t(types[3]) << 24;
    x.imm2  = uint8_t((has(i, "satfinite") ? kSaturated : 0) | (i.mods.at(4) == "col" ? kLeftByColumn : 0) |
                      (i.mods.at(5) == "col" ? kRightByColumn : 0));
    x.imm3  = uint32_t(s.m | s.k << 16);
    x.flags = kSplits;
    b.more(x, out, in);
}

}  // namespace

std::vector<Row> tensor_rows() {
    return {
        {"mma .sync .aligned .{m16n8k16,m16n8k8} .row .col .{f16,f32} .{f16,bf16} .{f16,bf16} .{f16,f32}", build_mma},
        {"mma .sync .aligned .{m16n8k8,m16n8k4} .row .col .f32 .tf32 .tf32 .f32", build_mma},
        {"mma .sync .aligned .{m8n8k4,m16n8k4,m16n8k8,m16n8k16} .row .col .{ROUND}? .f64 .f64 .f64 .f64", build_mma},
        {"mma .sync .aligned .{m8n8k16,m16n8k16,m16n8k32} .row .col .satfinite? .s32 .{s8,u8} .{s8,u8} .s32",
         build_mma},
        {"mma .sync .aligned .{m16n8k16,m16n8k32} .row .col .{f16,f32} .{e4m3,e5m2} .{e4m3,e5m2} .{f16,f32}",
         build_mma},
        {"wmma .load .{a,b,c} .sync .aligned .{row,col} .{m16n16k16,m32n8k16,m8n32k16,m16n16k8,m8n8k4} .{SPACE}? "
         ".{f16,bf16,tf32,f32,f64,s8,u8,s32}",
         build_wmma_memory},
        {"wmma .store .d .sync .aligned .{row,col} .{m16n16k16,m32n8k16,m8n32k16,m16n16k8,m8n8k4} .{SPACE}? "
         ".{f16,f32,f64,s32}",
         build_wmma_memory},
        {"wmma .mma .sync .aligned .{row,col} .{row,col} .{m16n16k16,m32n8k16,m8n32k16} .{f16,f32} .{f16,f32}",
         build_wmma_mma},
        {"wmma .mma .sync .aligned .{row,col} .{row,col} .{m16n16k16,m32n8k16,m8n32k16,m16n16k8,m8n8k4} .{ROUND}? "
         ".{f32,f64,s32} "
         ".{bf16,tf32,f64,s8,u8} .{bf16,tf32,f64,s8,u8} .{f32,f64,s32} .satfinite?",
         build_wmma_mma},
    };
}

}  // namespace emu
