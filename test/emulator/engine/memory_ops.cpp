// memory_ops.cpp - ld, st and ldu, and the parameters of functions
#include "access.h"
#include "checker.h"
#include "handlers.h"
#include "lanes.h"
#include "options.h"
#include "races.h"

namespace emu {
namespace {

template <Window S> inline void reach(Warp& w, const Instr* i, uint32_t size, Touch touch, Reach& r) {
    if constexpr (S == Window::Global) reach_global(w, i, size, touch, r);
    else if constexpr (S == Window::Shared) reach_shared(w, i, size, touch, r);
    else reach_any(w, i, size, touch, r);
}

template <Window S> inline std::byte* straight(Warp& w, const Instr* i, uint32_t size, bool write) {
    if constexpr (S == Window::Global) return straight_global(w, i, size, write);
    else if constexpr (S == Window::Shared) return straight_shared(w, i, size, write);
    else return nullptr;
}

constexpr int kPoll = 1;  // Instr::c.pool of a volatile, relaxed or acquiring access, with which the warp may poll

// The registers of a vector operand.
template <class R, int V> struct Parts {
    R* of[V];
    Parts(Warp& w, const Instr* i, Ref only) {
        of[0] = w.reg<R>(only);
        if constexpr (V > 1) {
            const Ref* more = &w.frame->function->more[i->more];
            for (int k = 0; k < V; k++) of[k] = w.reg<R>(more[k]);
        }
    }
};

template <class M, class R, int V> inline void load_row(const M* from, const Parts<R, V>& to) {
    for (int k = 0; k < V; k++) {
        R* d = to.of[k];
#pragma GCC ivdep
        for (int l = 0; l < kLanes; l++) d[l] = R(from[l * V + k]);
    }
}
template <class M, class R, int V> inline void store_row(M* to, const Parts<R, V>& from) {
    for (int k = 0; k < V; k++) {
        const R* v = from.of[k];
#pragma GCC ivdep
        for (int l = 0; l < kLanes; l++) to[l * V + k] = M(v[l]);
    }
}

template <class M, class R, int V, Window S>
[[gnu::noinline]] const Instr* load_anywhere(Warp& w, const Instr* i, Touch touch) {
    Reach r;
    reach<S>(w, i, sizeof(M) * V, touch, r);
    const Parts<R, V> d(w, i, i->d);
    const uint32_t mask = r.mask;
    if (r.shape == Reach::Contiguous) load_row(reinterpret_cast<const M*>(r.first), d);
    else if (r.shape == Reach::Uniform) {
        const M* from = reinterpret_cast<const M*>(r.first);
        for (int k = 0; k < V; k++) {
            const R v = R(from[k]);
            for_lanes(w, d.of[k], [=](int) { return v; });
        }
    } else if (mask == kAll) {
        for (int k = 0; k < V; k++)
            for (int l = 0; l < kLanes; l++) d.of[k][l] = R(reinterpret_cast<const M*>(r.at[l])[k]);
    } else {
        each_lane(mask, [&](int l) {
            for (int k = 0; k < V; k++) d.of[k][l] = R(reinterpret_cast<const M*>(r.at[l])[k]);
        });
    }
    if (w.idle.empty()) return i + 1;
    w.groups[w.current].pc = i + 1;  // the group goes on in run_following
    return kStop;
}

// Loads V values per lane, which have the type M in memory and R in a register.
template <class M, class R, int V, Window S> const Instr* load(Warp& w, const Instr* i) {
    if (i->c.pool == kPoll) {
        w.polls++;
        return load_anywhere<M, R, V, S>(w, i, Touch::VolatileLoad);
    }
    if (const std::byte* from = straight<S>(w, i, sizeof(M) * V, false)) {
        load_row(reinterpret_cast<const M*>(from), Parts<R, V>(w, i, i->d));
        return i + 1;
    }
    return load_anywhere<M, R, V, S>(w, i, Touch::Load);
}

template <class M, class R, int V, Window S>
[[gnu::noinline]] const Instr* store_anywhere(Warp& w, const Instr* i, Touch touch) {
    Reach r;
    reach<S>(w, i, sizeof(M) * V, touch, r);
    const Parts<R, V> v(w, i, i->b);
    if (r.shape == Reach::Contiguous) store_row(reinterpret_cast<M*>(r.first), v);
    else if (r.mask) {  // when lanes write the same place, the last one wins, which CUDA allows
        each_lane(r.mask, [&](int l) {
            M* to = reinterpret_cast<M*>(r.shape == Reach::Uniform ? r.first : r.at[l]);
            for (int k = 0; k < V; k++) to[k] = M(v.of[k][l]);
        });
    }
    settle(w);
    return i + 1;
}

template <class M, class R, int V, Window S> const Instr* store(Warp& w, const Instr* i) {
    if (i->imm2) checker_fence(w, true);  // for st.release
    if (i->c.pool == kPoll) return store_anywhere<M, R, V, S>(w, i, Touch::VolatileStore);
    if (std::byte* to = straight<S>(w, i, sizeof(M) * V, true)) {
        store_row(reinterpret_cast<M*>(to), Parts<R, V>(w, i, i->b));
        return i + 1;
    }
    return store_anywhere<M, R, V, S>(w, i, Touch::Store);
}

// Loads a kernel's parameter, which is the same for every lane.
template <class M, class R> const Instr* load_param(Warp& w, const Instr* i) {
    M v;
    std::memcpy(&v, w.block->launch->params + i->imm, sizeof v);
    const R wide = R(v);
    for_lanes(w, w.reg<R>(i->d), [=](int) { return wide; });
    return i + 1;
}

// Reports a load or store beyond the end of a parameter, where the next one lies or nothing. imm: the bytes that the
// parameter has, imm4: those of the access.
const Instr* beyond_parameter(Warp& w, const Instr* i) {
    const ptx::Instruction& x = *w.frame->function->origin[i->index];
    const bool stores         = x.mods[0] == "st";
    const Operand& place      = x.ops[stores ? 0 : 1];
    const std::string what = std::string(stores ? "write" : "read") + " of " + std::to_string(i->imm4) + " bytes at " +
                             place.name + "+" + std::to_string(place.offset) + ": the parameter has " +
                             std::to_string(i->imm) + " bytes";
    if (options().check == Check::Off) return fail_launch(w, Fault::IllegalAddress, what);
    report(finding_at(w, i, Kind::OutOfBounds, __builtin_ctz(w.mask), what));
    return i + 1;
}

// Loads or stores a parameter or result of a device function. c.offset: the bytes per lane.
template <class M, class R, bool Store> const Instr* blob(Warp& w, const Instr* i) {
    std::byte* at      = w.frame->regs + w.frame->function->blob_base + i->imm;
    const size_t pitch = size_t(i->c.offset);
    R* reg             = w.reg<R>(Store ? i->b : i->d);
    each_lane(w.mask, [&](int l) {
        M v = Store ? M(reg[l]) : M{};
        if (Store) std::memcpy(at + size_t(l) * pitch, &v, sizeof v);
        else std::memcpy(&v, at + size_t(l) * pitch, sizeof v), reg[l] = R(v);
    });
    return i + 1;
}

// The following choose the handler for a kind of access, a type in memory and a width of the register.
enum class Op { Load, Store, Param, BlobLoad, BlobStore };
template <class M, class R, int V> Handler by_window(Op op, Window s) {
    if (op == Op::Load)
        return s == Window::Global   ? &load<M, R, V, Window::Global>
               : s == Window::Shared ? &load<M, R, V, Window::Shared>
                                     : &load<M, R, V, Window::Generic>;
    return s == Window::Global   ? &store<M, R, V, Window::Global>
           : s == Window::Shared ? &store<M, R, V, Window::Shared>
                                 : &store<M, R, V, Window::Generic>;
}
template <class M, class R> Handler by_count(Op op, Window s, int v) {
    switch (op) {
        case Op::Param: return load_param<M, R>;
        case Op::BlobLoad: return blob<M, R, false>;
        case Op::BlobStore: return blob<M, R, true>;
        default: break;
    }
    if (v == 1) return by_window<M, R, 1>(op, s);
    if (v == 2) return by_window<M, R, 2>(op, s);
    if constexpr (sizeof(M) <= 4)
        if (v == 4) return by_window<M, R, 4>(op, s);
    throw Undecodable("vectors of more than 16 bytes are not supported");
}
template <class M> Handler by_register(Op op, Window s, int v, int reg) {
    if constexpr (sizeof(M) <= 2)
        if (reg == 2) return by_count<M, std::conditional_t<std::is_signed_v<M>, int16_t, uint16_t>>(op, s, v);
    if constexpr (sizeof(M) <= 4)
        if (reg == 4) return by_count<M, std::conditional_t<std::is_signed_v<M>, int32_t, uint32_t>>(op, s, v);
    if (reg == 8) return by_count<M, std::conditional_t<std::is_signed_v<M>, int64_t, uint64_t>>(op, s, v);
    throw Undecodable("register too narrow");
}
Handler memory_handler(Op op, Type t, Window s, int v, int reg) {
    switch (t) {
        case Type::s8: return by_register<int8_t>(op, s, v, reg);
        case Type::s16: return by_register<int16_t>(op, s, v, reg);
        case Type::s32: return by_register<int32_t>(op, s, v, reg);
        case Type::s64: return by_register<int64_t>(op, s, v, reg);
        case Type::b128:
            if (v != 1) throw Undecodable("vectors of more than 16 bytes are not supported");
            return by_count<Bits128, Bits128>(op, s, 1);
        default: break;
    }
    switch (ptx::bytes_of(t)) {
        case 1: return by_register<uint8_t>(op, s, v, reg);
        case 2: return by_register<uint16_t>(op, s, v, reg);
        case 4: return by_register<uint32_t>(op, s, v, reg);
        default: return by_register<uint64_t>(op, s, v, reg);
    }
}

Window window_of(const ptx::Instruction& i) {
    if (has(i, "global") || has(i, "const")) return Window::Global;
    if (has(i, "shared") || has(i, "shared::cta") || has(i, "shared::cluster")) return Window::Shared;
    if (has(i, "local")) return Window::Local;
    if (has(i, "param") || has(i, "param::entry") || has(i, "param::func")) return Window::Param;
    return Window::Generic;
}

// The width of the registers that are loaded or stored. It may be larger than that of the type in memory.
int width_of(Builder& b, const std::vector<Operand>& parts, Type t) {
    for (const Operand& p : parts)
        if (const Type r = b.reg_type(p); r != Type::none) return reg_bytes(r);
    return reg_bytes(t);
}

void build_memory(Builder& b, const ptx::Instruction& i) {
    const bool stores = i.mods[0] == "st";
    if (i.ops.size() != 2 && i.ops.size() != 3) throw Undecodable("2 operands expected");
    const Operand &place = i.ops[stores ? 0 : 1], &value = i.ops[stores ? 1 : 0];
    const Type t     = type_of(i);
    const int v      = has(i, "v2") ? 2 : has(i, "v4") ? 4 : has(i, "v8") ? 8 : 1;
    const auto parts = parts_of(value);
    if (int(parts.size()) != v) throw Undecodable("the vector has " + std::to_string(parts.size()) + " parts");
    if (!place.memory) throw Undecodable("an address expected");
    Window window = window_of(i);

    const int reg   = width_of(b, parts, t);
    const Type wide = bits_type(reg);
    std::vector<Ref> refs;
    for (const Operand& p : parts) refs.push_back(stores ? b.read(p, wide) : b.write(p, wide));

    if (window == Window::Param && place.kind == Operand::Symbol) {
        const ParamBlob* in_frame = b.blob(place.name);
        uint64_t bytes            = 0;
        const int in_kernel       = b.entry_param(place.name, &bytes);
        if (!in_frame && in_kernel < 0) throw Undecodable("unknown parameter " + place.name);
        const auto limit = int64_t(in_frame ? in_frame->bytes : bytes);
        if (const int wanted = v * ptx::bytes_of(t); place.offset < 0 || place.offset + wanted > limit) {
            Instr& x = b.emit(beyond_parameter);
            x.imm = limit, x.imm4 = wanted;
            return;
        }
        for (int k = 0; k < v; k++) {
            const Op op          = in_frame ? (stores ? Op::BlobStore : Op::BlobLoad) : Op::Param;
            const int64_t offset = place.offset + k * ptx::bytes_of(t);
            Instr& x             = b.emit(memory_handler(op, t, window, 1, reg));
            (stores ? x.b : x.d) = refs[size_t(k)];
            x.imm                = offset + (in_frame ? in_frame->offset : in_kernel);
            if (in_frame) x.c = {int32_t(in_frame->bytes), 1};
        }
        return;
    }
    const Builder::Place at = b.address(place, window == Window::Shared);
    if (window == Window::Shared || window == Window::Generic)  // a generic address may be a shared one
        b.f.shared_granule = std::min(b.f.shared_granule, __builtin_ctz(unsigned(ptx::bytes_of(t))));
    const Window seen = window == Window::Param ? Window::Generic : window;
    for (int k = 0; k < v && !stores; k++)
        b.mark_loaded(parts[size_t(k)], at, k * ptx::bytes_of(t), ptx::bytes_of(t), int(seen));
    const uint16_t site = b.site();
    Instr& x            = b.emit(memory_handler(stores ? Op::Store : Op::Load, t, window, v, reg));
    x.a = at.base, x.imm = at.offset, x.site = site;
    if (at.narrow) x.flags |= kAddress32;
    // An absolute address in the Param window was made generic by Builder::address.
    if (window == Window::Param) window = Window::Generic;
    (stores ? x.b : x.d) = refs[0];
    if (v > 1) {
        if (stores) b.more(x, {}, refs);
        else b.more(x, refs, {});
        if (!stores) x.d = {};
        else x.b = {};
    }
    if (has(i, "volatile") || has(i, "relaxed") || has(i, "acquire") || has(i, "release") || has(i, "mmio"))
        x.c.pool = kPoll;
    x.imm2   = stores && has(i, "release");
    x.window = uint8_t(window);
}

}  // namespace

std::vector<Row> memory_rows() {
    return {
        {"ld .{SEM}? .{SCOPE}? .{SPACE}? .{CACHE}? .{CACHE}? .{L1HINT}? .{L2HINT}? .{L2HINT}? .{VEC}? .{ANY}",
         build_memory},
        {"ldu .{SPACE}? .{VEC}? .{ANY}", build_memory},
        {"st .{SEM}? .{SCOPE}? .{SPACE}? .{CACHE}? .{L1HINT}? .{L2HINT}? .{VEC}? .{ANY}", build_memory},
    };
}

}  // namespace emu
