// wgmma.cpp - wgmma.mma_async and its fence, commit_group and wait_group
//
// Four warps make a product together. It is computed when the first of them waits for it, which is as late as the
// program allows: without a wait the accumulators keep their old values. A wait lasts until all four warps have come to
// the products that it waits for, so after it each of the warps may let others overwrite the matrices. For --check all
// a product in flight owns its registers and what it reads of shared memory. Its reads are those of the async proxy, so
// they have a column of their own among the clocks of the warps (races.h), which a wait adds to what its warp knows.
#include "wgmma.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "access.h"
#include "checker.h"
#include "floats.h"
#include "forms.h"
#include "handlers.h"
#include "lanes.h"
#include "options.h"
#include "races.h"

namespace emu {

namespace {

constexpr uint32_t kMembers = 4;

// A register of a product, in one warp.
struct Slot {
    uint64_t until   = 0;        // it is in flight when a product before this one has not been waited for
    uint64_t touched = 1;        // 1 + the number of fences before its last use by another instruction
    uint64_t fences  = 0;        // the number of fences before its last use by a product,
    uint64_t role    = 0;        // and what it was there: kMatrixA, or the shape of which it is an accumulator
    const Instr* by  = nullptr;  // that product
};
constexpr uint64_t kMatrixA = 1;

struct Member {
    Warp* warp      = nullptr;
    Frame* frame    = nullptr;
    uint64_t issued = 0, waited = 0;  // numbers of products
    uint64_t fences = 0;
    std::vector<uint64_t> groups;  // the number of products up to each commit that has not been waited for
    std::vector<Slot> slots;       // for --check all: the function's wgmma_registers
};

struct Product {
    const Instr* instr;
    uint64_t a, b;  // descriptors
    bool adds;      // to the accumulators; otherwise it replaces them
    bool bad;       // its operands lie outside of shared memory
    uint64_t time;  // of its reads, in the block's SharedRaces
};

}  // namespace

// The products of a warpgroup that one of its warps has not waited for.
struct Wgmma {
    Function* function = nullptr;
    std::array<Member, kMembers> members;
    std::deque<Product> products;
    uint64_t first = 0, done = 0;  // the numbers of products[0], and of the first that is not computed
};

namespace {

// Instr::imm of mma_async. imm2: the type of A, imm3: N and the type of B, imm4: the index in Function::tables of its
// registers among wgmma_registers. a, b: the descriptors, c: scale-d. more: d, then d again unless it is only written,
// then A. A function that is called computes its products at once, as ptxas makes them wait there.
constexpr int kNegative = 1, kAcrossA = 2, kAcrossB = 4, kHalf = 8, kRegisters = 16, kNegated = 32, kAtOnce = 64;

int element_bytes(Type t) { return t == Type::e4m3x2 || t == Type::e5m2x2 ? 1 : t == Type::tf32 ? 4 : 2; }

struct Form {
    const Function& f;
    const Instr* i;
    uint32_t n() const { return i->imm3 & 0xffff; }
    Type a() const { return Type(i->imm2); }
    Type b() const { return Type(i->imm3 >> 16); }
    bool is(int flag) const { return i->imm & flag; }
    const Ref* d() const { return &f.more[i->more]; }
    const Ref* registers_of_a() const { return &f.more[i->more + i->more_count - 4]; }
    uint64_t shape() const {
        return uint64_t(n()) << 8 | uint64_t(is(kHalf)) << 32 | uint64_t(element_bytes(a())) << 40;
    }
};

uint32_t group_of(const Warp& w) { return w.index / kMembers; }

bool refuse(Warp& w, const Instr* i, Kind kind, const std::string& what) {
    if (options().check == Check::Off) fail_launch(w, Fault::IllegalInstruction, what);
    else report(finding_at(w, i, kind, 0, what));
    return false;
}

// Returns this warp among those of its warpgroup, or null when it has to wait for its lanes or the launch has failed.
Member* member_of(Warp& w, const Instr* i) {
    if (!gather_warp(w, i)) return nullptr;
    if (w.mask != kAll && w.started != kAll)
        report(finding_at(w, i, Kind::AbsentLane, __builtin_ctz(~w.mask),
                          "the block has no such lane, and the instruction needs all of the warpgroup"));
    if (!w.wgmma) {
        Block& b           = *w.block;
        const size_t first = size_t(group_of(w)) * kMembers;
        if (first + kMembers > b.warps.size()) {
            fail_launch(w, Fault::IllegalInstruction,
                        place_of(*w.frame->function, i) +
                            ": wgmma needs the four warps of a warpgroup, but the block ends before them");
            return nullptr;
        }
        auto g      = std::make_shared<Wgmma>();
        g->function = b.launch->function;
        for (uint32_t k = 0; k < kMembers; k++) {
            Warp& x            = b.warps[first + k];
            x.wgmma            = g;
            g->members[k].warp = &x;
            g->members[k].slots.resize(g->function->wgmma_registers.size());
        }
    }
    return &w.wgmma->members[w.index % kMembers];
}

// --- operands --------------------------------------------------------------------------------------------------------

// The places in shared memory of the chunks of A (64 rows) or B (n columns).
size_t places(const Descriptor& d, uint32_t rows, uint32_t per_chunk, bool transposed, uint32_t* at) {
    if (transposed)
        for (uint32_t k = 0; k < 16; k++)
            for (uint32_t c = 0; c < rows / per_chunk; c++) *at++ = d.across_k(k, c);
    else
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < 2; c++) *at++ = d.along_k(r, c);
    return rows * 2;
}

struct Places {
    uint32_t at[kMostChunks + kWgmmaRows * 2];  // those of A, then those of B
    size_t a = 0, all = 0;
    Places(const Form& form, uint64_t a_bits, uint64_t b_bits) {
        const uint32_t per = 16 / uint32_t(element_bytes(form.a()));
        if (!form.is(kRegisters)) a = places(Descriptor(a_bits), kWgmmaRows, per, form.is(kAcrossA), at);
        all = a + places(Descriptor(b_bits), form.n(), per, form.is(kAcrossB), at + a);
    }
};

// What one warp reads: its own 16 rows of A, in `at` up to `a`, and all of B.
struct Reads {
    uint32_t at[kMostChunks + kWgmmaRows * 2 / kMembers];
    size_t a = 0, all;
    Reads(const Form& form, const Places& p, uint32_t member) {
        for (size_t k = 0; k < p.a; k++)
            if ((form.is(kAcrossA) ? k % 8 / 2 : k / 32) == member) at[a++] = p.at[k];
        all = size_t(std::copy(p.at + p.a, p.at + p.all, at + a) - at);
    }
};

// Returns whether all bytes of a chunk have been written, and no copy is going to write them.
bool is_ready(const Block& b, uint32_t at) {
    uint64_t shadow[2];
    std::memcpy(shadow, b.shared_shadow.data() + at, sizeof shadow);
    const uint64_t ones = 0x0101010101010101, differ = (shadow[0] ^ ones) | (shadow[1] ^ ones);
    return !(differ & ~(ones * 2)) && (!differ || async_read(b, at));
}

// Checks what a warp's part of a product reads of shared memory, when the warp has come to it. Bytes of B that the
// first warp found written stay so, because a copy that starts before the wait is a finding itself.
void check_operands(Warp& w, const Instr* i, const Reads& r, bool first) {
    Block& b = *w.block;
    check_wgmma_reads(w, i, r.at, r.all);
    for (size_t k = 0; k < (first ? r.all : r.a); k++) {
        const uint32_t at = r.at[k];
        if (is_ready(b, at)) continue;
        const char* matrix = k < r.a ? "matrix A of a wgmma" : "matrix B of a wgmma";
        if (const uint64_t bad = clash_with_copies(b, at, 16, false); bad != kNoClash)
            report(finding_at(w, i, Kind::AsyncCopyRace, 0,
                              std::string(matrix) + " has shared " + hex(bad) + clash_text(b, bad)));
        for (uint32_t x = at; x < at + 16; x++)
            if (const uint8_t s = b.shared_shadow[x]; (!(s & kWritten) || s & kUnset) && b.unwritten.empty())
                b.unwritten.push_back(
                    finding_at(w, i, Kind::Uninitialised, 0,
                               std::string(matrix) + " has shared " + hex(x) + ", which " +
                                   (s & kWritten ? "got a value that was never set" : "was never written")));
    }
}

// --- the arithmetic --------------------------------------------------------------------------------------------------

// The accumulators of all rows. A lane's registers alternate between two neighbouring columns and between two rows
// eight apart. c is that of multiply_warpgroup.
template <class F32, class F16>
void each_accumulator(const Form& form, const Wgmma& g, uint32_t warps, float* c, F32 f32, F16 f16) {
    const Ref* d = form.d();
    for (uint32_t k = 0; k < kMembers; k++) {
        if (!(warps >> k & 1) || !g.members[k].warp->live) continue;
        std::byte* regs = g.members[k].frame->regs;
        for (uint32_t j = 0; j < form.n() / 8; j++)
            for (uint32_t h = 0; h < 2; h++) {
                float* at = c + (j / 2 * kWgmmaRows + k * 16 + h * 8) * 16 + j % 2 * 8;
                if (form.is(kHalf)) f16(at, reinterpret_cast<uint32_t*>(regs + d[2 * j + h].offset));
                else
                    f32(at, reinterpret_cast<float*>(regs + d[4 * j + 2 * h].offset),
                        reinterpret_cast<float*>(regs + d[4 * j + 2 * h + 1].offset));
            }
    }
}
template <class F> inline void each_pair(F f) {
    for (int g = 0; g < 8; g++)
        for (int t = 0; t < 4; t++) f(g * 16 + t * 2, g * 4 + t);
}

void load(const Form& form, const Wgmma& g, uint32_t warps, float* c) {
    each_accumulator(
        form, g, warps, c,
        [](float* to, const float* even, const float* odd) {
            each_pair([&](int at, int l) { to[at] = even[l], to[at + 1] = odd[l]; });
        },
        [](float* to, const uint32_t* both) {
            each_pair([&](int at, int l) {
                to[at] = half_to_float(uint16_t(both[l])), to[at + 1] = half_to_float(uint16_t(both[l] >> 16));
            });
        });
}
void store(const Form& form, const Wgmma& g, uint32_t warps, float* c) {
    each_accumulator(
        form, g, warps, c,
        [](const float* from, float* even, float* odd) {
            each_pair([&](int at, int l) { even[l] = from[at], odd[l] = from[at + 1]; });
        },
        [](const float* from, uint32_t* both) {
            each_pair([&](int at, int l) {
                both[l] = uint32_t(float_to_half(from[at + 1])) << 16 | float_to_half(from[at]);
            });
        });
}

void multiply(const Form& form, const Wgmma& g, const Product& p, const Places& places, uint32_t warps, float* c) {
    const std::byte* shared = g.members[0].warp->block->shared.data.get();
    Operands a, b;
    a.transposed = form.is(kAcrossA), b.transposed = form.is(kAcrossB);
    for (size_t k = 0; k < places.a; k++) a.chunk[k] = shared + places.at[k];
    for (size_t k = places.a; k < places.all; k++) b.chunk[k - places.a] = shared + places.at[k];
    if (form.is(kRegisters)) {  // a register holds a chunk of eight rows
        const Ref* regs = form.registers_of_a();
        for (uint32_t r = 0; r < kWgmmaRows; r++)
            for (uint32_t k = 0; k < 2; k++) {
                const Ref x        = regs[2 * k + r / 8 % 2];
                const auto* base   = x.pool ? g.function->pool.data.get() : g.members[r / 16].frame->regs;
                a.chunk[2 * r + k] = base + x.offset + r % 8 * 16;
            }
    }
    const uint32_t blocks = (form.n() + 15) / 16;
    if (!p.adds) std::memset(c, 0, sizeof(float) * blocks * kWgmmaRows * 16);
    multiply_warpgroup(form.a(), form.b(), c, a, b, form.n(), form.is(kNegative), warps);
    if (form.is(kHalf))
        for (uint32_t k = 0; k < blocks * kWgmmaRows * 16; k++) c[k] = half_to_float(float_to_half(c[k]));
}

// Computes the products up to this number. Those in a row with the same accumulators pass them on.
void compute(Warp& w, Wgmma& g, uint64_t until) {
    alignas(64) static thread_local float c[16 * kWgmmaRows * 16];
    Block& b        = *w.block;
    const auto at   = [&](uint64_t number) -> Product& { return g.products[number - g.first]; };
    const auto same = [&](const Form& x, const Form& y) {
        if (x.shape() != y.shape()) return false;
        for (uint32_t k = 0; k < x.i->more_defs; k++)
            if (x.d()[k].offset != y.d()[k].offset) return false;
        return true;
    };
    for (bool loaded = false; g.done < until; g.done++) {
        Product& p = at(g.done);
        const Form form{*g.function, p.instr};
        const Places places(form, p.a, p.b);
        if (!loaded) load(form, g, 15, c);
        if (!p.bad) multiply(form, g, p, places, 15, c);
        loaded = g.done + 1 < until && same(form, {*g.function, at(g.done + 1).instr});
        if (!loaded) store(form, g, 15, c);
        if (!b.launch->check_all) continue;
        if (!p.bad)
            for (size_t k = 0; k < places.all; k++) mark_async_reads(b, places.at[k], 16, -1);
        p.time = record_wgmma_reads(w, group_of(w), places.at, p.bad ? 0 : places.all);
    }
}

// --- registers -------------------------------------------------------------------------------------------------------

std::string name_of(const Wgmma& g, uint32_t slot) {
    return g.function->source->regs[size_t(g.function->wgmma_registers[slot])].name;
}
std::string in_flight_text(const Wgmma& g, const Slot& s) {
    return std::string(", which the wgmma at ") + place_of(*g.function, s.by) +
           (s.role == kMatrixA ? " may still read" : " may still add to") + ": no wgmma.wait_group has waited for it";
}

void check_registers(Warp& w, const Instr* i, const Form& form, Member& m) {
    Wgmma& g          = *w.wgmma;
    const auto& slots = form.f.tables[size_t(i->imm4)];
    for (size_t k = 0; k < slots.size(); k++) {
        Slot& s             = m.slots[slots[k]];
        const bool matrix   = k >= i->more_defs;
        const uint64_t role = matrix ? kMatrixA : form.shape();
        std::string wrong;
        if (s.until > m.waited && s.role != role)
            wrong =
                (matrix ? "its matrix A is in " : "its accumulator is ") + name_of(g, slots[k]) + in_flight_text(g, s);
        else if (s.touched > m.fences || (s.by && s.role != role && s.fences == m.fences))
            wrong = (matrix ? "its matrix A is in " : "its accumulator is ") + name_of(g, slots[k]) +
                    (m.fences ? ", which has been used since the last wgmma.fence"
                              : ", and no wgmma.fence comes before it");
        if (!wrong.empty()) report(finding_at(w, i, Kind::WgmmaRegisters, 0, wrong));
        s = {m.issued + 1, wrong.empty() ? s.touched : m.fences, m.fences, role, i};
    }
}

// --- instructions ----------------------------------------------------------------------------------------------------

// Reads the descriptors and scale-d, which all threads of the warp must have in common.
Product read_product(Warp& w, const Instr* i, const Form& form) {
    Product p{i, 0, 0, true, false, 0};
    bool uniform        = true;
    const auto the_same = [&](Ref r) {
        const uint64_t* v = w.reg<uint64_t>(r);
        for (int l = 1; l < kLanes; l++) uniform &= v[l] == v[0];
        return v[0];
    };
    if (!form.is(kRegisters)) p.a = the_same(i->a);
    p.b                  = the_same(i->b);
    const uint32_t scale = w.pred(i->c);
    p.adds               = bool(scale & 1) != form.is(kNegated);
    uniform &= scale == 0 || scale == kAll;
    if (!uniform)
        refuse(w, i, Kind::BarrierDivergence,
               "the threads of a warp have different descriptors or scale-d for one wgmma");
    if (!Descriptor::valid(p.a) || !Descriptor::valid(p.b))
        p.bad =
            !refuse(w, i, Kind::OutOfBounds,
                    "the descriptor " + hex(Descriptor::valid(p.a) ? p.b : p.a) +
                        " has bits set that must be zero; addresses and offsets have 18 bits and lose the lowest 4");
    return p;
}

// Whether the matrices lie in shared memory.
bool inside(Warp& w, const Instr* i, const Places& places) {
    const uint32_t last = *std::max_element(places.at, places.at + places.all), have = w.block->shared_bytes;
    return last + 16 <= have || refuse(w, i, Kind::OutOfBounds,
                                       "a matrix reaches to shared " + hex(last + 16) +
                                           ", but shared memory has only " + std::to_string(have) + " bytes");
}

// Computes the rows of one warp, in a function that is called.
void multiply_at_once(Warp& w, const Form& form, const Product& p, const Places& places, Member& m) {
    alignas(64) static thread_local float c[16 * kWgmmaRows * 16];
    Wgmma& g               = *w.wgmma;
    Function* const entry  = std::exchange(g.function, w.frame->function);
    Frame* const frame     = std::exchange(m.frame, w.frame);
    const uint32_t only_me = 1u << w.index % kMembers;
    load(form, g, only_me, c);
    multiply(form, g, p, places, only_me, c);
    store(form, g, only_me, c);
    m.frame = frame, g.function = entry;
}

const Instr* mma_async(Warp& w, const Instr* i) {
    Member* m = member_of(w, i);
    if (!m) return kStop;
    Wgmma& g = *w.wgmma;
    Block& b = *w.block;
    const Form form{*w.frame->function, i};
    Product p          = read_product(w, i, form);
    const bool at_once = form.is(kAtOnce), first = at_once || m->issued == g.first + g.products.size();
    if (first || b.launch->check_all) {
        const Places places(form, p.a, p.b);
        p.bad = p.bad || !inside(w, i, places);
        if (b.launch->check_all && !p.bad) {
            const Reads reads(form, places, w.index % kMembers);
            check_operands(w, i, reads, first);
            for (size_t k = 0; k < (first ? reads.all : reads.a) && !at_once; k++)
                mark_async_reads(b, reads.at[k], 16, 1);
        }
        if (b.launch->profiling && first) w.worker->counts.shared_wavefronts += places.all / 8;  // core matrices
        if (at_once && !p.bad) multiply_at_once(w, form, p, places, *m);
    }
    if (at_once) return i + 1;
    if (b.launch->check_all) check_registers(w, i, form, *m);
    m->frame = w.frame;
    if (first) g.products.push_back(p);
    else if (const Product& other = g.products[m->issued - g.first];
             other.instr != i || other.a != p.a || other.b != p.b || other.adds != p.adds)
        refuse(w, i, Kind::BarrierDivergence,
               "the warps of a warpgroup come to different products: this is the one at " + place_of(*g.function, i) +
                   ", and another warp's was the one at " + place_of(*g.function, other.instr) +
                   (other.instr == i ? " with other descriptors or scale-d" : ""));
    m->issued++;
    b.cluster->signals++;
    return i + 1;
}

const Instr* fence(Warp& w, const Instr* i) {
    Member* m = member_of(w, i);
    if (m) m->fences++;
    return m ? i + 1 : kStop;
}
const Instr* commit(Warp& w, const Instr* i) {
    Member* m = member_of(w, i);
    if (m) m->groups.push_back(m->issued);
    return m ? i + 1 : kStop;
}
// imm: the number of groups that may stay open.
const Instr* wait_group(Warp& w, const Instr* i) {
    Member* m = member_of(w, i);
    if (!m) return kStop;
    Wgmma& g = *w.wgmma;
    if (m->groups.size() <= uint64_t(i->imm)) return i + 1;
    const size_t ended   = m->groups.size() - size_t(i->imm);
    const uint64_t until = m->groups[ended - 1];
    for (const Member& other : g.members)
        if (other.issued < until) return failed_wait(w, i, i, 0);
    compute(w, g, until);
    m->groups.erase(m->groups.begin(), m->groups.begin() + long(ended));
    if (until > m->waited) {
        if (w.block->launch->check_all) learn_wgmma_reads(w, group_of(w), g.products[until - 1 - g.first].time);
        m->waited      = until;
        w.failed.times = 0;
        w.block->cluster->signals++;
    }
    uint64_t least = until;
    for (const Member& other : g.members) least = std::min(least, other.waited);
    for (; g.first < least; g.first++) g.products.pop_front();
    return i + 1;
}

Ref own_register(Builder& b, const Operand& o, bool writes) {
    if (o.kind == Operand::Reg && ptx::bytes_of(b.reg_type(o)) != 4)
        throw Undecodable("the registers of a wgmma must have 32 bits");
    const Ref r = writes ? b.write(o, Type::b32) : b.read(o, Type::b32);
    b.keep(r);
    return r;
}

void build_mma(Builder& b, const ptx::Instruction& i) {
    std::vector<Type> types;
    int m = 0, n = 0, k = 0;
    for (auto mod : i.mods) {
        const Type t = mod == "e4m3" ? Type::e4m3x2 : mod == "e5m2" ? Type::e5m2x2 : ptx::type_of(mod);
        if (t != Type::none) types.push_back(t);
        else if (mod[0] == 'm') std::sscanf(std::string(mod).c_str(), "m%dn%dk%d", &m, &n, &k);
    }
    if (types.size() != 3 || i.ops.size() < 6) throw Undecodable("3 types and at least 6 operands expected");
    const bool registers = i.ops[1].kind == Operand::Vector, half = types[0] == Type::f16;
    const bool sixteen = types[1] == Type::f16 || types[1] == Type::bf16;
    const size_t count = size_t(half ? n / 4 : n / 2), last = 6 + (sixteen ? registers ? 1 : 2 : 0);
    if (i.ops[0].parts.size() != count)
        throw Undecodable(std::to_string(count) + " accumulators expected, found " +
                          std::to_string(i.ops[0].parts.size()));
    if (registers && i.ops[1].parts.size() != 4) throw Undecodable("4 registers expected for matrix A");
    if (i.ops.size() != last) throw Undecodable(std::to_string(last) + " operands expected");
    const auto number = [&](size_t at) {
        if (i.ops[at].kind != Operand::Int) throw Undecodable("constants expected after scale-d");
        return int64_t(i.ops[at].bits);
    };
    int flags = (half ? kHalf : 0) | (registers ? kRegisters : 0) | (b.entry ? 0 : kAtOnce);
    for (size_t at : {4, 5}) {
        if (number(at) != 1 && number(at) != -1) throw Undecodable("imm-scale must be 1 or -1");
        if (number(at) == -1) flags ^= kNegative;
    }
    if (last == 8 && number(6)) flags |= kAcrossA;
    if (last > 6 && number(last - 1)) flags |= kAcrossB;

    bool negated      = false;
    const Ref scale   = b.read_pred(i.ops[3], negated);
    const bool always = i.ops[3].kind == Operand::Int;
    const bool reads  = !always || i.ops[3].bits;
    const Ref left = registers ? Ref{} : b.read(i.ops[1], Type::b64), right = b.read(i.ops[2], Type::b64);
    std::vector<Ref> out, in;
    if (registers)
        for (const Operand& o : i.ops[1].parts) in.push_back(own_register(b, o, false));
    if (reads) {  // the accumulators are used only when scale-d holds
        const size_t from = b.f.code.size();
        std::vector<Ref> sums;
        for (const Operand& o : i.ops[0].parts) sums.push_back(own_register(b, o, false));
        in.insert(in.begin(), sums.begin(), sums.end());
        for (size_t x = from; !always && x < b.f.code.size(); x++) {
            Instr& check = b.f.code[x];
            check.inner = check.run, check.run = op::guarded, check.guard = scale, check.guard_negated = negated;
        }
    }
    for (const Operand& o : i.ops[0].parts) out.push_back(own_register(b, o, true));
    const int64_t slots = b.watched(i, 2);
    Instr& x            = b.emit(mma_async);
    x.a = left, x.b = right, x.c = scale;
    x.imm  = flags | (negated ? kNegated : 0);
    x.imm2 = uint8_t(types[1]), x.imm3 = uint32_t(n) | uint32_t(types[2]) << 16, x.imm4 = slots;
    x.flags = kSplits;
    b.more(x, out, in);
}

template <Handler Run> void build(Builder& b, const ptx::Instruction& i) {
    int64_t n = 0;
    if (!i.ops.empty()) {
        if (i.ops[0].kind != Operand::Int) throw Undecodable("a constant expected");
        n = int64_t(i.ops[0].bits);
    }
    Instr& x = b.emit(Run);
    x.imm = n, x.flags = kSplits;
}

}  // namespace

namespace op {

// Runs before an instruction that uses registers of a wgmma. imm: the index of these in Function::tables, imm2: whether
// it is a mov. nvcc puts the movs that give an accumulator its first value behind a wgmma.fence that comes later in the
// source, and ptxas orders them again. So a mov needs no fence.
const Instr* touch_wgmma(Warp& w, const Instr* i) {
    if (!w.wgmma) return i + 1;
    Wgmma& g  = *w.wgmma;
    Member& m = g.members[w.index % kMembers];
    for (uint32_t k : w.frame->function->tables[size_t(i->imm)]) {
        Slot& s = m.slots[k];
        if (s.until > m.waited) {
            report(finding_at(w, i, Kind::WgmmaRegisters, __builtin_ctz(w.mask),
                              "this uses " + name_of(g, k) + in_flight_text(g, s)));
            s.until = 0;
        }
        if (!i->imm2) s.touched = m.fences + 1;
    }
    return i + 1;
}

}  // namespace op

void end_wgmma(Block& b) {
    if (!b.launch->check_all || b.launch->stop->load()) return;
    for (size_t k = 0; k < b.warps.size(); k += kMembers) {
        if (!b.warps[k].wgmma) continue;
        const Wgmma& g = *b.warps[k].wgmma;
        uint64_t most  = 0;
        for (const Member& m : g.members) most = std::max(most, m.issued);
        for (const Member& m : g.members) {
            if (m.issued < most)
                return void(report(finding_at(*m.warp, g.products[m.issued - g.first].instr, Kind::BarrierDivergence, 0,
                                              "this warp has not come to a wgmma of its warpgroup")));
            if (m.waited < m.issued)
                return void(report(finding_at(*m.warp, g.products[m.waited - g.first].instr, Kind::WgmmaRegisters, 0,
                                              "the block ends before a wgmma.wait_group for this wgmma")));
        }
    }
}

// Calls f with each warp that has not come to all products of its warpgroup.
template <class F> static void each_late_warp(const Warp& w, F f) {
    uint64_t most = 0;
    for (const Member& m : w.wgmma->members) most = std::max(most, m.issued);
    for (const Member& m : w.wgmma->members)
        if (m.issued < most) f(*m.warp);
}
std::string describe_wgmma(const Warp& w) {
    std::string warps;
    each_late_warp(w, [&](const Warp& late) { warps += (warps.empty() ? " " : ", ") + std::to_string(late.index); });
    return "wgmma.wait_group waits for a product to which these warps of the warpgroup have not come:" + warps;
}
bool wgmma_lacks_warp(const Warp& w) {
    bool lacks = false;
    each_late_warp(w, [&](const Warp& late) { lacks |= !late.live; });
    return lacks;
}

std::vector<Row> wgmma_rows() {
    return {
        {"wgmma .mma_async .sync .aligned .{M64K16} .{f16,f32} .f16 .f16", build_mma},
        {"wgmma .mma_async .sync .aligned .{M64K16} .f32 .bf16 .bf16", build_mma},
        {"wgmma .mma_async .sync .aligned .{M64K8} .f32 .tf32 .tf32", build_mma},
        {"wgmma .mma_async .sync .aligned .{M64K32} .{f16,f32} .{e4m3,e5m2} .{e4m3,e5m2}", build_mma},
        {"wgmma .fence .sync .aligned", build<fence>},
        {"wgmma .commit_group .sync .aligned", build<commit>},
        {"wgmma .wait_group .sync .aligned", build<wait_group>},
    };
}

}  // namespace emu
