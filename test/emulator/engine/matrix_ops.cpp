// matrix_ops.cpp - instructions that move data for the tensor cores: ldmatrix, stmatrix, movmatrix, cp.async
#include "access.h"
#include "handlers.h"
#include "lanes.h"
#include "races.h"

namespace emu {
namespace {

// ldmatrix and stmatrix of up to four matrices of 8×8 halves. Lane 8j + row has the address of a row of matrix j. Lane
// l holds the elements 2(l%4) and 2(l%4)+1 of row l/4, or with .trans of column l/4. a: the address, imm2: whether it
// is transposed, more: a register per matrix.
template <bool Stores> const Instr* matrix_memory(Warp& w, const Instr* i) {
    if (!gather_warp(w, i)) return kStop;
    const int count = int(i->more_count);
    Reach r;
    for (int l = 0; l < kLanes; l++)
        r.addr[l] = uint64_t(i->imm) + (i->a.none()             ? 0
                                        : i->flags & kAddress32 ? uint64_t(w.reg<uint32_t>(i->a)[l])
                                                                : w.reg<uint64_t>(i->a)[l]);
    const uint32_t wanted = count == 4 ? kAll : (1u << (8 * count)) - 1;
    r.mask                = wanted & w.mask;
    if (r.mask != wanted)
        report(finding_at(w, i, Kind::AbsentLane, __builtin_ctz(wanted & ~r.mask),
                          "this lane does not take part but holds the address of a matrix row"));
    reach_addresses(w, i, Window(i->window), 16, Stores ? Touch::Store : Touch::Load, r);
    const Ref* more = &w.frame->function->more[i->more];
    uint16_t matrix[8][8];
    for (int j = 0; j < count; j++) {
        uint32_t* v = w.reg<uint32_t>(more[j]);
        if (Stores) {
            for (int l = 0; l < kLanes; l++)
                for (int e = 0; e < 2; e++) {
                    const int x = l / 4, y = (l % 4) * 2 + e;
                    (i->imm2 ? matrix[y][x] : matrix[x][y]) = uint16_t(v[l] >> (16 * e));
                }
            for (int row = 0; row < 8; row++)
                if (r.mask >> (8 * j + row) & 1) std::memcpy(r.place(8 * j + row, 16), matrix[row], 16);
        } else {
            for (int row = 0; row < 8; row++)
                if (r.mask >> (8 * j + row) & 1) std::memcpy(matrix[row], r.place(8 * j + row, 16), 16);
            if (i->imm2)
                for_lanes(w, v, [&](int l) {
                    return uint32_t(matrix[(l % 4) * 2 + 1][l / 4]) << 16 | matrix[(l % 4) * 2][l / 4];
                });
            else {
                uint32_t pairs[kLanes];  // lane l's pair is the l-th word of the matrix
                std::memcpy(pairs, matrix, sizeof pairs);
                for_lanes(w, v, [&](int l) { return pairs[l]; });
            }
        }
    }
    if (Stores) settle(w);
    return i + 1;
}
void build_matrix_memory(Builder& b, const ptx::Instruction& i) {
    const bool stores    = i.mods[0] == "stmatrix";
    const Operand &place = i.ops.at(stores ? 0 : 1), &regs = i.ops.at(stores ? 1 : 0);
    const auto parts = parts_of(regs);
    if (parts.size() != (has(i, "x4") ? 4u : has(i, "x2") ? 2u : 1u)) throw Undecodable("wrong number of registers");
    const bool shared = has(i, "shared") || has(i, "shared::cta");
    const auto at     = b.address(place, shared);
    std::vector<Ref> refs;
    for (const Operand& p : parts) refs.push_back(stores ? b.read(p, Type::b32) : b.write(p, Type::b32));
    const uint16_t site = b.site();
    Instr& x            = b.emit(stores ? matrix_memory<true> : matrix_memory<false>);
    x.a = at.base, x.imm = at.offset, x.site = site;
    x.imm2   = has(i, "trans");
    x.window = uint8_t(shared ? Window::Shared : Window::Generic);
    x.flags  = kSplits | (at.narrow ? kAddress32 : 0);
    if (stores) b.more(x, {}, refs);
    else b.more(x, refs, {});
}

const Instr* movmatrix(Warp& w, const Instr* i) {
    if (!gather_warp(w, i)) return kStop;
    const uint32_t* a = w.reg<uint32_t>(i->a);
    uint16_t m[8][8];
    for (int l = 0; l < kLanes; l++)
        for (int e = 0; e < 2; e++) m[l / 4][(l % 4) * 2 + e] = uint16_t(a[l] >> (16 * e));
    for_lanes(w, w.reg<uint32_t>(i->d),
              [&](int l) { return uint32_t(m[(l % 4) * 2 + 1][l / 4]) << 16 | m[(l % 4) * 2][l / 4]; });
    return i + 1;
}
void build_movmatrix(Builder& b, const ptx::Instruction& i) {
    emit_op(b, i, movmatrix, Type::b32, {Type::b32}).flags = kSplits;
}

// cp.async is remembered, and the copy is made when its group is waited for. a: the shared address, b: the global
// address, c: the source's size or none, imm and imm4: displacements, imm3: the number of bytes.
const Instr* async_copy(Warp& w, const Instr* i) {
    AsyncCopy copy;
    copy.instr           = i;
    copy.bytes           = i->imm3;
    const uint64_t* from = i->b.none() ? nullptr : w.reg<uint64_t>(i->b);
    const uint32_t* size = i->c.none() ? nullptr : w.reg<uint32_t>(i->c);
    for (int l = 0; l < kLanes; l++) {
        copy.dst[l]  = uint64_t(i->imm) + (i->a.none()             ? 0
                                           : i->flags & kAddress32 ? uint64_t(w.reg<uint32_t>(i->a)[l])
                                                                   : w.reg<uint64_t>(i->a)[l]);
        copy.dst[l]  = own_offset(*w.block, copy.dst[l]);
        copy.src[l]  = uint64_t(i->imm4) + (from ? from[l] : 0);
        copy.from[l] = size ? std::min(size[l], copy.bytes) : copy.bytes;
    }
    if (i->imm2) {  // a predicate can ask to ignore the source
        const uint32_t ignore = w.pred(w.frame->function->more[i->more]);
        for (int l = 0; l < kLanes; l++)
            if (ignore >> l & 1) copy.from[l] = 0;
    }
    // Lanes may have committed different numbers of groups. Each number gets an entry of its own.
    uint32_t left = w.mask;
    while (left) {
        copy.group = w.committed[__builtin_ctz(left)];
        copy.mask  = 0;
        each_lane(left, [&](int l) { copy.mask |= uint32_t(w.committed[l] == copy.group) << l; });
        left &= ~copy.mask;
        w.copies.push_back(copy);
        note_pending(w, copy, true);
    }
    return i + 1;
}

void carry_out(Warp& w, AsyncCopy& copy, uint32_t lanes) {
    copy.mask &= ~lanes;
    Reach to;
    to.mask = lanes;
    std::memcpy(to.addr, copy.dst, sizeof to.addr);
    AsyncCopy done = copy;
    done.mask      = lanes;
    note_pending(w, done, false);
    reach_addresses(w, copy.instr, Window::Shared, copy.bytes, Touch::AsyncCopy, to);
    Reach from;
    from.mask = 0;
    std::memcpy(from.addr, copy.src, sizeof from.addr);
    each_lane(to.mask, [&](int l) { from.mask |= uint32_t(copy.from[l] == copy.bytes) << l; });
    uint32_t partial = to.mask & ~from.mask;
    if (from.mask) reach_addresses(w, copy.instr, Window::Global, copy.bytes, Touch::Load, from);
    each_lane(from.mask, [&](int l) { std::memcpy(to.place(l, copy.bytes), from.place(l, copy.bytes), copy.bytes); });
    each_lane(partial, [&](int l) {
        std::byte* at = to.place(l, copy.bytes);
        std::memset(at, 0, copy.bytes);
        for (uint32_t k = 0; k < copy.from[l]; k++) {
            Reach one;
            one.mask    = 1u << l;
            one.addr[l] = copy.src[l] + k;
            reach_addresses(w, copy.instr, Window::Global, 1, Touch::Load, one);
            if (one.mask) at[k] = *one.place(l, 1);
        }
    });
}

const Instr* async_commit(Warp& w, const Instr* i) {
    each_lane(w.mask, [&](int l) { w.committed[l]++; });
    return i + 1;
}
// imm: the number of groups that may stay open, or -1 for wait_all, which includes copies that are not committed.
const Instr* async_wait(Warp& w, const Instr* i) {
    for (AsyncCopy& copy : w.copies) {
        uint32_t due = 0;
        each_lane(copy.mask & w.mask, [&](int l) {
            due |= uint32_t(i->imm < 0 || uint64_t(copy.group) + uint64_t(i->imm) < w.committed[l]) << l;
        });
        if (due) carry_out(w, copy, due);
    }
    std::erase_if(w.copies, [](const AsyncCopy& c) { return c.mask == 0; });
    return i + 1;
}
void build_async_copy(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() < 3 || i.ops[2].kind != Operand::Int)
        throw Undecodable("two addresses and a constant size expected");
    const auto to = b.address(i.ops[0], true), from = b.address(i.ops[1]);
    Ref size{}, ignore{};
    if (i.ops.size() > 3) {
        if (b.reg_type(i.ops[3]) == Type::pred) {
            bool negated;
            ignore = b.read_pred(i.ops[3], negated);
            if (negated) throw Undecodable("a negated ignore-src predicate is not supported");
        } else if (b.reg_type(i.ops[3]) != Type::b64)
            size = b.read(i.ops[3], Type::b32);  // an operand of 64 bits is a cache policy
    }
    const uint16_t site = b.site();
    Instr& x            = b.emit(async_copy);
    x.a = to.base, x.imm = to.offset, x.b = from.base, x.imm4 = from.offset, x.c = size, x.site = site;
    x.imm3 = uint32_t(i.ops[2].bits);
    x.imm2 = !ignore.none();
    if (to.narrow) x.flags |= kAddress32;
    if (!ignore.none()) b.more(x, {}, {ignore});
    if (x.imm3 != 4 && x.imm3 != 8 && x.imm3 != 16) throw Undecodable("a size of 4, 8 or 16 bytes expected");
}
void build_async_commit(Builder& b, const ptx::Instruction&) { b.emit(async_commit); }
void build_async_wait(Builder& b, const ptx::Instruction& i) {
    int64_t n = -1;
    if (i.mods[2] == "wait_group") {
        if (i.ops.size() != 1 || i.ops[0].kind != Operand::Int) throw Undecodable("a constant expected");
        n = int64_t(i.ops[0].bits);
    }
    b.emit(async_wait).imm = n;
}

}  // namespace

void finish_copies(Warp& w) {
    for (AsyncCopy& copy : w.copies)
        if (const uint32_t due = copy.mask & w.mask) carry_out(w, copy, due);
    std::erase_if(w.copies, [](const AsyncCopy& c) { return c.mask == 0; });
}

std::vector<Row> matrix_rows() {
    return {
        {"{ldmatrix,stmatrix} .sync .aligned .m8n8 .{x1,x2,x4} .trans? .{shared,shared::cta}? .b16",
         build_matrix_memory},
        {"movmatrix .sync .aligned .m8n8 .trans .b16", build_movmatrix},
        {"cp .async .{ca,cg} .{shared,shared::cta} .global .{L2HINT}? .{L2HINT}?", build_async_copy},
        {"cp .async .commit_group", build_async_commit},
        {"cp .async .wait_group", build_async_wait},
        {"cp .async .wait_all", build_async_wait},
    };
}

}  // namespace emu
