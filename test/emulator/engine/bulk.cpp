// bulk.cpp - cp.async.bulk, cp.async.bulk.tensor and st.async: copies that one thread starts and the async proxy makes
//
// A copy is made as late as the program allows. One to shared memory is made when its mbarrier is tested for the second
// time, so a wait that is left out reads old data, and so does a test that is not repeated. One to global memory is
// made at its wait_group. What the copy reads must not change before, and what it writes must not be touched.
#include "bulk.h"

#include <algorithm>

#include "access.h"
#include "checker.h"
#include "handlers.h"
#include "lanes.h"
#include "options.h"
#include "races.h"

namespace emu {
namespace {

constexpr uint64_t kInside  = (1ull << kWindowShift) - 1;
constexpr char kTwoBlocks[] = "the destination and the mbarrier of a copy must lie in the same block of the cluster";

// Takes the window and the rank out of a shared or generic address. Returns the block, or null when there is none.
Block* shared_at(Warp& w, uint64_t& a) {
    if (a >> kWindowShift == uint64_t(Window::Shared)) a &= kInside;
    return a >> kWindowShift ? w.block : block_at(w, a);
}

bool refuse(Warp& w, const Instr* i, int lane, Kind kind, const std::string& what) {
    if (options().check == Check::Off)
        fail_launch(w, kind == Kind::Misaligned ? Fault::MisalignedAddress : Fault::IllegalAddress, what);
    else report(finding_at(w, i, kind, lane, what));
    return false;
}

// Checks an address in the shared memory of block b.
bool good_shared(Warp& w, const Instr* i, int lane, const Block& b, uint64_t at, uint32_t bytes, uint32_t align,
                 const char* what) {
    if (b.done)
        return refuse(
            w, i, lane, Kind::UseAfterFree,
            std::string(what) + " is in the shared memory of " + name_of(b) + " of the cluster, which has ended");
    if (at % align)
        return refuse(w, i, lane, Kind::Misaligned,
                      std::string(what) + " at shared " + hex(at) + " is not a multiple of " + std::to_string(align));
    if (at > b.shared_bytes || bytes > b.shared_bytes - at)
        return refuse(w, i, lane, Kind::OutOfBounds,
                      std::string(what) + " of " + std::to_string(bytes) + " bytes at shared " + hex(at) +
                          " goes beyond the end of shared memory, which has " + std::to_string(b.shared_bytes) +
                          " bytes");
    return true;
}

// While a copy is made, findings name the instruction that started it, though another warp may be running.
struct Acting {
    Warp& w;
    Frame stub, *before;
    explicit Acting(const BulkCopy& c) : w(*c.warp), before(w.frame) { stub.function = c.function, w.frame = &stub; }
    ~Acting() { w.frame = before; }
};

// Calls f(shared address, offset in the piece, bytes) for the parts of a piece that stay together when swizzled.
template <class F> void each_part(const BulkCopy& c, uint64_t at, uint32_t bytes, F f) {
    for (uint32_t done = 0; done < bytes;) {
        const uint32_t n = c.swizzle ? std::min(bytes - done, 16 - uint32_t((at + done) & 15)) : bytes;
        f(swizzled(at + done, c.swizzle), done, n);
        done += n;
    }
}

void start(Warp& w, BulkCopy copy) {
    Block& b         = *copy.block;
    const Instr* i   = copy.instr;
    const bool loads = copy.way != BulkCopy::ToGlobal, reads = copy.way != BulkCopy::ToShared;
    if (b.launch->check_all && loads) {
        if (const uint64_t bad = clash_with_copies(b, copy.to, copy.bytes, true); bad != kNoClash)
            report(finding_at(w, i, Kind::AsyncCopyRace, copy.lane,
                              "a bulk copy writes shared " + hex(bad) + of_block(w, b) + clash_text(b, bad)));
        if (!copy.stores()) check_proxy_of_barrier(w, i, copy.lane, b, copy.barrier);
        touch_range(w, i, copy.lane, b, copy.to, copy.bytes, Touch::AsyncCopy);
        if (&b != w.block) clock_start_copy(w, copy);
        b.pending_copies = true;
        for (uint64_t k = copy.to; k < copy.to + copy.bytes; k++) b.shared_shadow[k] |= 2;
    }
    if (b.launch->check_all && reads && !copy.stores()) {
        Block& from = *w.block;
        check_async_read(w, i, copy.lane, copy.from, copy.bytes, "a bulk copy");
        for (const auto& p : copy.pieces)
            each_part(copy, p.from, p.bytes, [&](uint64_t at, uint32_t, uint32_t n) {
                for (uint64_t k = at; k < at + n && from.unwritten.empty(); k++)
                    if (!(from.shared_shadow[k] & kWritten))
                        from.unwritten.push_back(
                            finding_at(w, i, Kind::Uninitialised, copy.lane,
                                       "a bulk copy reads shared " + hex(k) + ", which was never written"));
            });
        mark_async_reads(from, copy.from, copy.bytes, 1);
    }
    if (b.launch->profiling) {
        w.worker->counts.bulk_bytes += copy.bytes;
        w.worker->counts.shared_wavefronts += (copy.bytes + 127) / 128;
    }
    b.bulk.push_back(std::move(copy));
}

// Takes the data out of shared memory, so that it may be overwritten.
void read_source(BulkCopy& c) {
    Block& b = *c.warp->block;
    if (!c.data.empty()) return;
    c.data.resize(c.bytes);
    std::byte* to = c.data.data();
    for (const auto& p : c.pieces)
        each_part(c, p.from, p.bytes, [&](uint64_t at, uint32_t, uint32_t n) {
            std::memcpy(to, b.shared.data.get() + at, n);
            to += n;
        });
    if (b.launch->check_all) mark_async_reads(b, c.from, c.bytes, -1);
}

void write_global(BulkCopy& c) {
    Acting as(c);
    read_source(c);
    const std::byte* from = c.data.data();
    for (const auto& p : c.pieces) {
        if (std::byte* to =
                reach_range(*c.warp, c.instr, c.lane, p.to, p.bytes, c.reduce ? Touch::Reduce : Touch::Store)) {
            if (c.reduce) c.reduce(to, from, p.bytes);
            else std::memcpy(to, from, p.bytes);
        }
        settle(*c.warp);
        from += p.bytes;
    }
}

void write_shared(BulkCopy& c) {
    Acting as(c);
    Warp& w              = *c.warp;
    Block& b             = *c.block;
    const Memory& memory = Memory::get();
    const bool checks    = b.launch->check_all;
    if (checks)  // the reads of global memory are checked when they are made; unwritten bytes stay unwritten
        for (uint64_t k = c.to; k < c.to + c.bytes; k++) b.shared_shadow[k] = kWritten;
    if (c.way == BulkCopy::Within) read_source(c);
    uint32_t taken = 0;
    for (const auto& p : c.pieces) {
        const bool fills      = p.from == BulkCopy::kFill;
        const std::byte* from = fills ? nullptr
                                : c.way == BulkCopy::Within
                                    ? c.data.data() + taken
                                    : reach_range(w, c.instr, c.lane, p.from, p.bytes, Touch::BulkLoad, c.counts);
        taken += p.bytes;
        if (!fills && !from) continue;
        const uint8_t* shadow = checks && !fills && c.way == BulkCopy::ToShared && memory.in_arena(p.from)
                                    ? memory.shadow(p.from)
                                    : nullptr;
        each_part(c, p.to, p.bytes, [&](uint64_t at, uint32_t done, uint32_t n) {
            if (fills) std::memset(b.shared.data.get() + at, c.fill, n);
            else std::memcpy(b.shared.data.get() + at, from + done, n);
            for (uint32_t k = 0; shadow && k < n; k++) b.shared_shadow[at + k] = shadow[done + k] & kWritten;
        });
    }
    if (checks) clock_copy(c);
    complete_transaction(c);
}

// --- instructions ----------------------------------------------------------------------------------------------------

// imm: the BulkCopy::Way, imm2: the rank of a tensor or 0, imm4: whether it goes to several blocks of the cluster,
// imm3: 0, or of a copy that reduces the AtomicOp, the Type (of a tensor it is the map's) and kReduces. more: the
// address in shared memory, that in global memory or of the tensor map, then the mbarrier (or the second shared
// address), the number of bytes, the coordinates, and with imm4 the mask of the blocks.
constexpr uint32_t kReduces = 1 << 16;
enum Operands { kShared, kGlobal, kBarrier, kRest };

const std::byte* read_map(Warp& w, const Instr* i, int lane, uint64_t at) {
    if (at >> kWindowShift != uint64_t(Window::Param)) return reach_range(w, i, lane, at, 128, Touch::Load);
    const Launch& launch = *w.block->launch;
    return (at & kInside) + 128 <= launch.param_bytes ? launch.params + (at & kInside) : nullptr;
}

bool plan_tensor(Warp& w, const Instr* i, BulkCopy& c, uint64_t map_at, const int32_t* at) {
    TensorMap m{};
    if (const std::byte* bytes = read_map(w, i, c.lane, map_at)) std::memcpy(&m, bytes, sizeof m);
    if (m.magic != TensorMap::kMagic)
        return refuse(w, i, c.lane, Kind::OutOfBounds,
                      "the address " + hex(map_at) + " holds no tensor map of cuTensorMapEncodeTiled");
    if (m.rank != i->imm2)
        return refuse(w, i, c.lane, Kind::OutOfBounds,
                      "the tensor map has " + std::to_string(m.rank) + " dimensions and the instruction " +
                          std::to_string(i->imm2));
    const bool loads   = c.way == BulkCopy::ToShared;
    const uint32_t row = uint32_t(m.box[0]) * m.element;
    uint64_t rows      = 1;
    for (int d = 1; d < m.rank; d++) rows *= m.box[d];
    if (rows * row > w.block->shared_bytes)
        return refuse(w, i, c.lane, Kind::OutOfBounds,
                      "the box of the tensor map has " + std::to_string(rows * row) +
                          " bytes, more than the block's shared memory with " + std::to_string(w.block->shared_bytes));
    c.bytes = uint32_t(rows * row), c.swizzle = m.swizzle, c.fill = m.fill;
    if (i->imm3 && !(c.reduce = reduction_of(AtomicOp(i->imm3 & 255), m.type))) {
        fail_launch(w, Fault::IllegalInstruction,
                    place_of(*w.frame->function, i) +
                        ": a bulk copy cannot reduce elements of the tensor map's data type by this operation");
        return false;
    }
    const uint64_t shared = loads ? c.to : c.from;
    // The columns of the box that lie in the tensor.
    const int64_t size = int64_t(m.last[0]) + 1, begin = std::clamp<int64_t>(-int64_t(at[0]), 0, m.box[0]),
                  end = std::clamp<int64_t>(size - at[0], begin, m.box[0]);
    for (uint32_t r = 0; r < rows; r++) {
        uint64_t global = m.address;
        bool inside     = begin < end;
        for (uint32_t d = 1, rest = r; d < m.rank; rest /= m.box[d], d++) {
            const int64_t index = int64_t(at[d]) + rest % m.box[d];
            inside &= index >= 0 && index <= int64_t(m.last[d]);
            global += uint64_t(index) * m.strides[d - 1];
        }
        const uint64_t here = shared + uint64_t(r) * row;
        const auto piece    = [&](uint64_t far, int64_t from, int64_t to) {
            const uint64_t near = here + uint64_t(from) * m.element;
            if (from < to)
                c.pieces.push_back({loads ? far : near, loads ? near : far, uint32_t(to - from) * m.element});
        };
        if (inside) piece(global + uint64_t((at[0] + begin) * m.element), begin, end);
        if (!loads) continue;
        piece(BulkCopy::kFill, 0, inside ? begin : m.box[0]);
        if (inside) piece(BulkCopy::kFill, end, m.box[0]);
    }
    return true;
}

const Instr* bulk(Warp& w, const Instr* i) {
    const Ref* more = &w.frame->function->more[i->more];
    each_lane(w.mask, [&](int l) {
        const auto shared_address = [&](int k, uint64_t& a) { return shared_at(w, a = w.reg<uint64_t>(more[k])[l]); };
        BulkCopy c;
        c.way = BulkCopy::Way(i->imm), c.warp = &w, c.instr = i, c.function = w.frame->function, c.lane = l;
        const bool loads      = c.way != BulkCopy::ToGlobal;
        c.block               = shared_address(kShared, loads ? c.to : c.from);
        const uint64_t global = w.reg<uint64_t>(more[kGlobal])[l];
        if (loads && shared_address(kBarrier, c.barrier) != c.block)
            return void(refuse(w, i, l, Kind::OutOfBounds, kTwoBlocks));
        const bool own_source =
            c.way == BulkCopy::ToShared || (loads ? shared_address(kGlobal, c.from) : c.block) == w.block;
        if (!c.block || !own_source)
            return void(refuse(w, i, l, Kind::OutOfBounds,
                               own_source ? "a bulk copy names a block that the cluster does not have"
                                          : "a bulk copy reads shared memory of another block"));
        if (i->imm2) {
            int32_t at[5];
            for (int d = 0; d < i->imm2; d++) at[d] = w.reg<int32_t>(more[kRest + d])[l];
            if (!plan_tensor(w, i, c, global, at)) return;
        } else {
            c.bytes = w.reg<uint32_t>(more[kRest])[l];
            if (c.bytes % 16)
                return void(refuse(w, i, l, Kind::Misaligned,
                                   "a bulk copy of " + std::to_string(c.bytes) + " bytes, which is no multiple of 16"));
            if (c.way != BulkCopy::Within && global % 16)
                return void(refuse(w, i, l, Kind::Misaligned,
                                   "the global address " + hex(global) + " of a bulk copy is no multiple of 16"));
            if (i->imm3) c.reduce = reduction_of(AtomicOp(i->imm3 & 255), Type(i->imm3 >> 8 & 255));
            const uint64_t source = c.way == BulkCopy::ToShared ? global : c.from;
            c.pieces.push_back({source, loads ? c.to : global, c.bytes});
        }
        if (!c.bytes) return;
        const uint32_t align = i->imm2 ? 128 : 16;
        if (c.way != BulkCopy::ToShared &&
            !good_shared(w, i, l, *w.block, c.from, c.bytes, align, "the source of a bulk copy"))
            return;
        c.group              = w.bulk_groups[l];
        // Without a mask of blocks, the copy goes to the block in which its destination is.
        const auto& blocks   = w.block->cluster->blocks;
        const uint32_t ranks = i->imm4 ? w.reg<uint32_t>(more[i->more_count - 1])[l] & 0xffff : 1u << c.block->rank;
        if (ranks >> blocks.size())
            return void(refuse(w, i, l, Kind::OutOfBounds,
                               "the mask " + hex(ranks) + " of a multicast copy names blocks that the cluster of " +
                                   std::to_string(blocks.size()) + " does not have"));
        each_lane(ranks, [&](int rank) {
            BulkCopy part = c;
            part.block    = blocks[size_t(rank)].get();
            part.counts   = !(ranks & ((1u << rank) - 1));
            if (loads && (!good_shared(w, i, l, *part.block, c.to, c.bytes, align, "the destination of a bulk copy") ||
                          !good_shared(w, i, l, *part.block, c.barrier, 8, 8, "the mbarrier of a bulk copy")))
                return;
            start(w, std::move(part));
        });
    });
    return i + 1;
}

// st.async stores registers in another block's shared memory, where the mbarrier is, too. imm: the bytes of a value,
// more: the address, the mbarrier, the values.
const Instr* store_async(Warp& w, const Instr* i) {
    const Ref* more     = &w.frame->function->more[i->more];
    const size_t values = i->more_count - 2, size = size_t(i->imm);
    each_lane(w.mask, [&](int l) {
        BulkCopy c;
        c.way = BulkCopy::Within, c.warp = &w, c.instr = i, c.function = w.frame->function, c.lane = l;
        c.block = shared_at(w, c.to = w.reg<uint64_t>(more[0])[l]);
        if (shared_at(w, c.barrier = w.reg<uint64_t>(more[1])[l]) != c.block || !c.block)
            return void(refuse(w, i, l, Kind::OutOfBounds, kTwoBlocks));
        c.bytes = uint32_t(values * size);
        if (!good_shared(w, i, l, *c.block, c.to, c.bytes, c.bytes, "the destination of st.async") ||
            !good_shared(w, i, l, *c.block, c.barrier, 8, 8, "the mbarrier of st.async"))
            return;
        c.data.resize(c.bytes);
        for (size_t k = 0; k < values; k++)
            std::memcpy(&c.data[k * size], w.reg<std::byte>(more[2 + k]) + size_t(l) * size, size);
        c.pieces.push_back({0, c.to, c.bytes});
        start(w, std::move(c));
    });
    return i + 1;
}

const Instr* commit_bulk(Warp& w, const Instr* i) {
    each_lane(w.mask, [&](int l) { w.bulk_groups[l]++; });
    return i + 1;
}
// imm: the number of groups that may stay open, imm2: whether only their sources must have been read.
const Instr* wait_bulk(Warp& w, const Instr* i) {
    auto& list = w.block->bulk;
    for (auto& c : list)
        if (c.way == BulkCopy::ToGlobal && c.warp == &w && w.mask >> c.lane & 1 &&
            uint64_t(c.group) + uint64_t(i->imm) < w.bulk_groups[c.lane]) {
            // Until now the copy was reading: who writes there must know that this thread has waited.
            if (w.block->launch->check_all && c.data.empty()) {
                Acting as(c);
                touch_range(w, c.instr, c.lane, *w.block, c.from, c.bytes, Touch::Load);
            }
            if (i->imm2) read_source(c);
            else write_global(c), c.bytes = 0;
        }
    std::erase_if(list, [](const BulkCopy& c) { return !c.bytes; });
    return i + 1;
}

Ref address_in(Builder& b, const Operand& o) {
    if (!o.memory) throw Undecodable("an address expected");
    const auto at = b.address(o);
    if (at.base.none()) return b.constant(uint64_t(at.offset), 8);
    if (!at.offset) return at.base;
    const Ref to = b.scratch(8);
    Instr& x     = b.emit(op::add_offset(8));
    x.d = to, x.a = at.base, x.imm = at.offset;
    return to;
}

void build_bulk(Builder& b, const ptx::Instruction& i) {
    const bool tensor = has(i, "tensor"), stores = has(i, "bulk_group"), multicast = has(i, "multicast::cluster");
    const auto way     = stores ? BulkCopy::ToGlobal : has(i, "global") ? BulkCopy::ToShared : BulkCopy::Within;
    int rank           = 0;
    const bool reduces = has(i, "reduce");
    if (tensor) rank = i.mods[reduces ? 5 : 4][0] - '0';
    const size_t wanted = (tensor ? (stores ? 2 : 3) : (stores ? 3 : 4)) + multicast;  // a cache policy may follow
    if (i.ops.size() < wanted) throw Undecodable(std::to_string(wanted) + " operands expected");
    const Operand &near = i.ops[stores ? 1 : 0], &far = i.ops[stores ? 0 : 1];
    std::vector<Ref> refs{address_in(b, near), address_in(b, far)};
    refs.push_back(stores ? refs[0] : address_in(b, i.ops[tensor ? 2 : 3]));
    if (tensor) {
        if (far.parts.size() != 1 || parts_of(far.parts[0]).size() != size_t(rank))
            throw Undecodable(std::to_string(rank) + " coordinates expected");
        for (const Operand& p : parts_of(far.parts[0])) refs.push_back(b.read(p, Type::b32));
    } else refs.push_back(b.read(i.ops[2], Type::b32));
    if (multicast) {
        const Ref narrow = b.read(i.ops[wanted - 1], Type::b16), wide = b.scratch(4);
        Instr& x = b.emit(op::resize(2, 4, false));
        x.a = narrow, x.d = wide;
        refs.push_back(wide);
    }
    const Type type = reduces && !tensor ? type_of(i) : Type::none;
    if (reduces && !tensor && !reduction_of(atomic_op(i), type)) throw Undecodable("no such operation on this type");
    const uint16_t site = b.site();
    Instr& x            = b.emit(bulk);
    x.imm = way, x.imm2 = uint8_t(rank), x.imm4 = multicast, x.site = site;
    if (reduces) x.imm3 = kReduces | uint32_t(type) << 8 | uint32_t(atomic_op(i));
    b.more(x, {}, refs);
}
void build_store_async(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 3) throw Undecodable("3 operands expected");
    const Type t = type_of(i);
    std::vector<Ref> refs{address_in(b, i.ops[0]), address_in(b, i.ops[2])};
    for (const Operand& p : parts_of(i.ops[1])) refs.push_back(b.read(p, t));
    const uint16_t site = b.site();
    Instr& x            = b.emit(store_async);
    x.imm = reg_bytes(t), x.site = site;
    b.more(x, {}, refs);
}
void build_commit(Builder& b, const ptx::Instruction&) { b.emit(commit_bulk); }
void build_wait(Builder& b, const ptx::Instruction& i) {
    if (i.ops.size() != 1 || i.ops[0].kind != Operand::Int) throw Undecodable("a constant expected");
    Instr& x = b.emit(wait_bulk);
    x.imm = int64_t(i.ops[0].bits), x.imm2 = has(i, "read");
}
void build_prefetch(Builder&, const ptx::Instruction&) {}

}  // namespace

void poll_bulk(Block& b, uint64_t barrier) {
    for (auto& c : b.bulk)
        if (c.way != BulkCopy::ToGlobal && c.barrier == barrier && c.polls++) write_shared(c), c.bytes = 0;
    std::erase_if(b.bulk, [](const BulkCopy& c) { return !c.bytes; });
}

void end_bulk(Block& b) {
    if (b.launch->stop->load()) return;
    for (const auto& other : b.cluster->blocks)
        for (const auto& c : other->bulk)
            if (b.launch->check_all && other.get() != &b && c.way == BulkCopy::Within && c.warp->block == &b &&
                !c.stores())
                report(finding_at(*c.warp, c.instr, Kind::AsyncCopyRace, c.lane,
                                  "the block ends while this copy may still read its shared memory"));
    for (auto& c : b.bulk) {
        const bool loads = c.way != BulkCopy::ToGlobal;
        Acting as(c);
        if (b.launch->check_all && (loads || c.data.empty()))
            report(finding_at(*c.warp, c.instr, Kind::AsyncCopyRace, c.lane,
                              loads
                                  ? "the block ends before its mbarrier has been waited for, while this copy may still "
                                    "write shared memory"
                                  : "the block ends before a wait_group for this copy, which may still read shared "
                                    "memory"));
        if (!loads) write_global(c);
    }
    b.bulk.clear();
}

std::vector<Row> bulk_rows() {
    return {
        {"cp .async .bulk .{shared::cluster,shared::cta} .global .mbarrier::complete_tx::bytes .multicast::cluster? "
         ".L2::cache_hint?",
         build_bulk},
        {"cp .async .bulk .shared::cluster .shared::cta .mbarrier::complete_tx::bytes", build_bulk},
        {"cp .async .bulk .global .shared::cta .bulk_group .L2::cache_hint?", build_bulk},
        {"cp .async .bulk .tensor .{1d,2d,3d,4d,5d} .{shared::cluster,shared::cta} .global .tile? "
         ".mbarrier::complete_tx::bytes .multicast::cluster? .L2::cache_hint?",
         build_bulk},
        {"cp .async .bulk .tensor .{1d,2d,3d,4d,5d} .global .shared::cta .tile? .bulk_group .L2::cache_hint?",
         build_bulk},
        {"cp .reduce .async .bulk .global .shared::cta .bulk_group .L2::cache_hint? "
         ".{add,min,max,inc,dec,and,or,xor} .noftz? .{f16,bf16,b32,u32,s32,b64,u64,s64,f32,f64}",
         build_bulk},
        {"cp .reduce .async .bulk .tensor .{1d,2d,3d,4d,5d} .global .shared::cta .{add,min,max,inc,dec,and,or,xor} "
         ".tile? .bulk_group .L2::cache_hint?",
         build_bulk},
        {"st .async .weak? .shared::cluster? .mbarrier::complete_tx::bytes .{v2,v4}? "
         ".{b32,b64,u32,u64,s32,s64,f32,f64}",
         build_store_async},
        {"cp .async .bulk .commit_group", build_commit},
        {"cp .async .bulk .wait_group .read?", build_wait},
        {"cp .async .bulk .prefetch .L2 .global .L2::cache_hint?", build_prefetch},
        {"cp .async .bulk .prefetch .tensor .{1d,2d,3d,4d,5d} .L2 .global .tile? .L2::cache_hint?", build_prefetch},
    };
}

}  // namespace emu
