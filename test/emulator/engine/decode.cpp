// decode.cpp - see decode.h; registers get their places in allocate.cpp
#include "decode.h"

#include <algorithm>

#include "access.h"
#include "data_flow.h"
#include "forms.h"
#include "handlers.h"

namespace emu {

int reg_bytes(Type t) { return ptx::bytes_of(t) == 1 ? 2 : ptx::bytes_of(t); }

void AlignedBytes::resize(size_t n) {
    size = n;
    data = {static_cast<std::byte*>(::operator new[](std::max<size_t>(n, 64), std::align_val_t(64))),
            [](std::byte* p) { ::operator delete[](p, std::align_val_t(64)); }};
}

Builder::Builder(Function& f, const Layout& layout, Unset unset)
    : f(f), layout(layout), entry(f.source->entry), source(*f.source), unset(std::move(unset)) {
    virtual_of_reg.assign(source.regs.size(), -1);
    f.wgmma_registers.clear();
    for (const auto& i : source.code) {
        if (!layout.track_unset || !entry || i.mods[0] != "wgmma" || i.mods[1] != "mma_async" || i.ops.size() < 2)
            continue;
        const auto add = [&](int reg) {
            if (wgmma_register.emplace(reg, uint32_t(f.wgmma_registers.size())).second)
                f.wgmma_registers.push_back(reg);
        };
        each_register(i.ops[0], add);
        if (i.ops[1].kind == Operand::Vector) each_register(i.ops[1], add);
    }
}

int64_t Builder::watched(const ptx::Instruction& i, size_t operands) {
    std::vector<uint32_t> found;
    for (size_t k = 0; k < std::min(operands, i.ops.size()); k++)
        each_register(i.ops[k], [&](int reg) {
            const auto it = wgmma_register.find(reg);
            if (it != wgmma_register.end()) found.push_back(it->second);
        });
    if (found.empty()) return -1;
    f.tables.push_back(found);
    return int64_t(f.tables.size()) - 1;
}

int Builder::new_virtual(int bytes) {
    bytes_of_virtual.push_back(bytes);
    reg_of_virtual.push_back(-1);
    return int(bytes_of_virtual.size()) - 1;
}

int Builder::virtual_of(int reg) {
    int& v = virtual_of_reg[reg];
    if (v < 0) {
        v                 = new_virtual(reg_bytes(source.regs[reg].type));
        reg_of_virtual[v] = reg;
    }
    return v;
}

Ref Builder::scratch(int bytes) { return {new_virtual(bytes), 0}; }

Ref Builder::constant(uint64_t bits, int bytes) {
    if (bytes < 8 && bytes > 0) bits &= (1ull << (8 * bytes)) - 1;
    const std::string key = std::to_string(bits) + "/" + std::to_string(bytes);
    auto [it, fresh]      = constant_place.try_emplace(key, pool_bytes);
    if (fresh) {
        constants.push_back({bits, bytes});
        pool_bytes += std::max(64, bytes * kLanes);
    }
    return {int32_t(it->second), 1};
}

Type Builder::reg_type(const Operand& o) const { return o.kind == Operand::Reg ? source.regs[o.reg].type : Type::none; }

Instr& Builder::emit(Handler h) {
    f.code.emplace_back();
    f.origin.push_back(now);
    f.code.back().run   = h;
    f.code.back().index = uint32_t(f.code.size() - 1);
    return f.code.back();
}

void Builder::more(Instr& i, const std::vector<Ref>& results, const std::vector<Ref>& sources) {
    i.more       = uint32_t(f.more.size());
    i.more_count = uint32_t(results.size() + sources.size());
    i.more_defs  = uint8_t(results.size());
    f.more.insert(f.more.end(), results.begin(), results.end());
    f.more.insert(f.more.end(), sources.begin(), sources.end());
}

uint16_t Builder::site() {
    if (f.sites >= 65535) throw Undecodable("more than 65535 memory instructions in a function");
    return uint16_t(f.sites++);
}

static uint64_t immediate(const Operand& o, Type t) {
    if (o.kind == Operand::Int) return o.bits;
    const bool wants_single = t == Type::f32 || t == Type::b32 || t == Type::u32 || t == Type::s32 || t == Type::tf32;
    if (o.single == wants_single) return o.bits;
    float single;
    double wide;
    uint64_t bits = 0;
    if (o.single) {
        std::memcpy(&single, &o.bits, 4);
        wide = single;
        std::memcpy(&bits, &wide, 8);
    } else {
        std::memcpy(&wide, &o.bits, 8);
        single = float(wide);
        std::memcpy(&bits, &single, 4);
    }
    return bits;
}

namespace {

// Returns every register into which the values of `roots` may get, with the instruction that first reads such a value.
Builder::Unset follow_unset(const ptx::Function& f, const std::set<int>& roots) {
    Builder::Unset reached;
    for (int r : roots) reached[r] = nullptr;
    bool stored = false;
    for (bool changed = true; changed;) {
        changed = false;
        for (const auto& i : f.code) {
            const ptx::Instruction* origin = nullptr;
            if (stores_to_block(i) && i.ops.size() > 1)
                each_register(i.ops[1], [&](int r) { stored |= reached.count(r) > 0; });
            if (stored && loads_from_block(i) && !i.ops.empty())
                each_register(i.ops[0], [&](int r) { changed |= reached.emplace(r, &i).second; });
            for (size_t k = is_sink(i) ? 0 : 1; k < i.ops.size(); k++)
                each_register(i.ops[k], [&](int r) {
                    auto it = reached.find(r);
                    if (it == reached.end() || origin) return;
                    if (!it->second) it->second = &i;
                    origin = it->second;
                });
            if (!origin || !is_followed(i) || i.ops.empty()) continue;
            each_register(i.ops[0], [&](int r) { changed |= reached.emplace(r, origin).second; });
        }
    }
    return reached;
}

}  // namespace

void Builder::check_unset(int reg) {
    if (!unset.count(reg)) return;
    if (!is_sink(*now)) {
        if (is_followed(*now)) sources_unset.push_back(unset_mask[reg]);
        return;
    }
    Instr& check = emit(op::check_set);
    check.a      = unset_mask[reg];
    check.imm    = reg;
    check.target = reinterpret_cast<const Instr*>(unset.at(reg));
}

void Builder::mark_loaded(const Operand& to, Place from, int64_t offset, int bytes, int window) {
    if (!unset.count(to.reg) || !loads_from_block(*now)) return;
    Instr& x = emit(op::load_unset);
    x.a = from.base, x.d = unset_mask[to.reg];
    x.imm = from.offset + offset, x.imm2 = uint8_t(bytes), x.window = uint8_t(window);
    x.flags = kReadsD | (from.narrow ? kAddress32 : 0);
}

void Builder::mark_stored() {
    if (stored.empty()) return;
    const Instr store = f.code.back();
    for (size_t k = 0; k < stored.size(); k++) {
        if (!unset.count(stored[k])) continue;
        const int bytes = ptx::bytes_of(ptx::type_of(now->mods.back()));
        Instr& x        = emit(op::store_unset);
        x.a = store.a, x.b = unset_mask[stored[k]];
        x.imm = store.imm + int64_t(k) * bytes, x.imm2 = uint8_t(bytes), x.imm3 = uint32_t(stored[k]);
        x.flags = store.flags & kAddress32, x.window = store.window;
        x.target = reinterpret_cast<const Instr*>(unset.at(stored[k]));
    }
    stored.clear();
}

Ref Builder::read(const Operand& o, Type t) {
    const int bytes = reg_bytes(t);
    switch (o.kind) {
        case Operand::Reg: {
            const int v = virtual_of(o.reg), have = bytes_of_virtual[v];
            if (stores_to_block(*now)) stored.push_back(o.reg);
            else check_unset(o.reg);
            if (have == bytes) return {v, 0};
            if (have < bytes) throw Undecodable("register " + source.regs[o.reg].name + " is too narrow");
            const Ref cut = scratch(bytes);
            Instr& i      = emit(op::resize(have, bytes, false));
            i.a           = {v, 0};
            i.d           = cut;
            return cut;
        }
        case Operand::Int:
        case Operand::Float: return constant(immediate(o, t), bytes);
        case Operand::Special: {
            const Ref to = scratch(bytes);
            op::special(*this, to, o.name, bytes);
            return to;
        }
        case Operand::Symbol: {
            const Place p = address(o);
            if (p.base.none() && layout.shared.count(o.name) && bytes >= 4) {
                const Ref to = scratch(bytes);
                Instr& i     = emit(op::shared_address(bytes));
                i.d = to, i.imm = p.offset;
                return to;
            }
            if (p.base.none()) return constant(uint64_t(p.offset), bytes);
            const Ref to = scratch(bytes);
            Instr& i     = emit(op::add_offset(bytes));
            i.d = to, i.a = p.base, i.imm = p.offset;
            return to;
        }
        default: throw Undecodable("operand not understood");
    }
}

Ref Builder::write(const Operand& o, Type t) {
    const int bytes = reg_bytes(t);
    if (o.kind == Operand::Discard) return scratch(bytes);
    if (o.kind != Operand::Reg) throw Undecodable("the result is not a register");
    const int v = virtual_of(o.reg), have = bytes_of_virtual[v];
    if (unset.count(o.reg)) marks.push_back(o.reg);
    if (have == bytes) return {v, 0};
    if (have < bytes) throw Undecodable("register " + source.regs[o.reg].name + " is too narrow");
    const Ref narrow = scratch(bytes);
    extensions.push_back({narrow, {v, 0}, t, have});
    return narrow;
}

Ref Builder::read_pred(const Operand& o, bool& negated) {
    negated = o.negated;
    if (o.kind == Operand::Int) return constant(o.bits ? kAll : 0, 4);
    if (o.kind != Operand::Reg || source.regs[o.reg].type != Type::pred) throw Undecodable("a predicate expected");
    check_unset(o.reg);
    return {virtual_of(o.reg), 0};
}

Ref Builder::write_pred(int reg) {
    if (reg < 0) return scratch(0);
    if (source.regs[reg].type != Type::pred) throw Undecodable("a predicate expected");
    if (unset.count(reg)) marks.push_back(reg);
    return {virtual_of(reg), 0};
}

const ParamBlob* Builder::blob(const std::string& name) const {
    for (const auto& b : blobs)
        if (b.name == name) return &b;
    return nullptr;
}

int Builder::entry_param(const std::string& name, uint64_t* bytes) const {
    if (!entry) return -1;
    for (size_t i = 0, offset = 0; i < source.params.size(); i++) {
        const auto& p = source.params[i];
        offset        = (offset + p.align - 1) / p.align * p.align;
        if (p.name == name) {
            if (bytes) *bytes = p.bytes;
            return int(offset);
        }
        offset += p.bytes;
    }
    return -1;
}

// A symbol stands for an address, an offset in shared memory, or a place in the thread's local memory.
Builder::Place Builder::address(const Operand& o, bool may_be_narrow) {
    if (o.kind == Operand::Int) return {{}, o.memory ? o.offset : int64_t(o.bits)};
    if (o.kind == Operand::Reg) {
        const int v = virtual_of(o.reg);
        check_unset(o.reg);
        if (bytes_of_virtual[v] == 8) return {{v, 0}, o.offset};
        if (bytes_of_virtual[v] != 4) throw Undecodable("address register must have 32 or 64 bits");
        if (may_be_narrow) return {{v, 0}, o.offset, true};
        const Ref wide = scratch(8);
        Instr& i       = emit(op::resize(4, 8, false));
        i.a = {v, 0}, i.d = wide;
        return {wide, o.offset};
    }
    if (o.kind != Operand::Symbol) throw Undecodable("address not understood");
    if (auto it = locals.find(o.name); it != locals.end()) {
        const Ref base = scratch(8);
        Instr& i       = emit(op::local_base);
        i.d = base, i.imm = it->second;
        return {base, o.offset};
    }
    if (auto it = layout.shared.find(o.name); it != layout.shared.end()) return {{}, int64_t(it->second) + o.offset};
    if (auto it = layout.addresses.find(o.name); it != layout.addresses.end())
        return {{}, int64_t(it->second) + o.offset};
    if (const int at = entry_param(o.name); at >= 0) return {{}, int64_t(kParamWindow) + at + o.offset};
    if (const uint64_t code = layout.code_address(o.name)) return {{}, int64_t(code) + o.offset};
    throw Undecodable("unknown symbol " + o.name);
}

void Builder::branch_to(Instr& i, const std::string& label) { label_uses.push_back({i.index, label}); }

const std::vector<std::string>& Builder::branch_table(const std::string& label) const {
    auto it = source.targets.find(label);
    if (it == source.targets.end()) throw Undecodable("unknown branch table " + label);
    return it->second;
}

void Builder::decode_one(const ptx::Instruction& i) {
    now            = &i;
    const Row* row = find_row(i);
    if (!row) throw Undecodable("unknown form");
    const size_t first = f.code.size();
    if (i.guard >= 0 && is_sink(i)) check_unset(i.guard);
    if (!wgmma_register.empty() && i.mods[0] != "wgmma")
        if (const int64_t registers = watched(i, i.ops.size()); registers >= 0) {
            Instr& x = emit(op::touch_wgmma);
            x.imm = registers, x.imm2 = i.mods[0] == "mov";
        }
    row->build(*this, i);
    mark_stored();
    for (const auto& e : extensions) {
        Instr& x = emit(op::resize(reg_bytes(e.type), e.bytes, ptx::is_signed(e.type)));
        x.a = e.from, x.d = e.to;
    }
    if (loads_from_block(i)) marks.clear();  // mark_loaded has handled them
    for (int reg : marks) {
        auto mask_of_operand = [&](const Operand& o) {
            auto it = o.kind == Operand::Reg ? unset_mask.find(o.reg) : unset_mask.end();
            return it == unset_mask.end() ? constant(kAll, 4) : it->second;
        };
        const bool chooses = i.mods[0] == "selp" && i.ops.size() == 4 && i.ops[3].kind == Operand::Reg;
        Instr& x           = emit(chooses ? op::mark_chosen : op::mark_set);
        x.d                = unset_mask[reg], x.flags |= kReadsD;
        if (chooses) {
            x.a = mask_of_operand(i.ops[1]), x.b = mask_of_operand(i.ops[2]);
            x.c = {virtual_of(i.ops[3].reg), 0}, x.imm = i.ops[3].negated;
        } else more(x, {}, sources_unset);
    }
    extensions.clear(), marks.clear(), sources_unset.clear();
    if (i.guard < 0) return;

    bool splits = false;
    for (size_t k = first; k < f.code.size(); k++)
        splits |= f.code[k].flags & kSplits && !(f.code[k].flags & kOwnGuard);
    const Ref guard{virtual_of(i.guard), 0};
    if (splits) {  // @p X becomes: @!p bra to the instruction after X; X
        Instr bra;
        bra.run   = op::branch_guarded;
        bra.guard = guard, bra.guard_negated = !i.guard_negated;
        bra.flags = kSplits | kOwnGuard;
        f.code.insert(f.code.begin() + first, bra);
        f.origin.insert(f.origin.begin() + first, now);
        for (size_t k = first; k < f.code.size(); k++) f.code[k].index = uint32_t(k);
        for (auto& use : label_uses) use.first += use.first >= first;
        skips.push_back({uint32_t(first), uint32_t(f.code.size())});
        return;
    }
    for (size_t k = first; k < f.code.size(); k++) {
        Instr& x        = f.code[k];
        x.guard         = guard;
        x.guard_negated = i.guard_negated;
        if (x.flags & kOwnGuard) continue;
        x.inner = x.run;
        x.run   = op::guarded;
    }
}

void Builder::lay_out_frame() {
    auto add_blob = [&](const ptx::Variable& v) {
        blobs.push_back({v.name, blob_bytes, uint32_t(v.bytes)});
        blob_bytes += uint32_t((v.bytes * kLanes + 63) / 64 * 64);
    };
    if (!entry) {
        for (const auto& v : source.results) add_blob(v), f.results.push_back(blobs.back());
        for (const auto& v : source.params) add_blob(v), f.params.push_back(blobs.back());
    }
    for (const auto& v : source.variables) {
        if (v.space == "param") add_blob(v);
        if (v.space != "local") continue;
        f.local_bytes  = (f.local_bytes + v.align - 1) / v.align * v.align;
        locals[v.name] = f.local_bytes;
        f.local_bytes += uint32_t(v.bytes);
    }
    f.local_bytes = (f.local_bytes + 15) / 16 * 16;
}

void Builder::resolve_labels() {
    auto find = [&](const std::string& label) {
        auto it = source.labels.find(label);
        if (it == source.labels.end()) throw Undecodable("unknown label " + label.substr(label.find(':') + 1));
        return uint32_t(start_of[it->second]);
    };
    for (const auto& [instr, label] : label_uses) {
        if (source.targets.count(label)) {
            f.code[instr].imm = int64_t(f.tables.size());
            f.tables.emplace_back();
            for (const auto& l : branch_table(label)) f.tables.back().push_back(find(l));
        } else f.code[instr].imm = find(label);
    }
    for (const auto& [instr, target] : skips) f.code[instr].imm = target;
}

void Builder::build() {
    lay_out_frame();
    for (const auto& [reg, origin] : unset) unset_mask[reg] = scratch(0);
    for (const auto& i : source.code) {
        start_of.push_back(int(f.code.size()));
        try {
            decode_one(i);
        } catch (const Undecodable& e) {
            throw Undecodable(f.name + ", PTX line " + std::to_string(i.line) + ": " + i.form + ": " + e.what());
        }
    }
    now = nullptr;
    start_of.push_back(int(f.code.size()));
    emit(entry ? op::leave : op::return_to_caller).flags = kSplits | kLeaves;
    resolve_labels();
    allocate();

    f.pool.resize(pool_bytes + 64);
    size_t at = 0;
    for (const auto& [bits, bytes] : constants) {
        for (int l = 0; l < (bytes ? kLanes : 1); l++)
            std::memcpy(f.pool.data.get() + at + l * bytes, &bits, std::min(bytes, 8));
        at += std::max(64, bytes * kLanes);
    }
    for (Instr& i : f.code) {
        const bool branches = i.run == op::branch || i.run == op::branch_guarded;
        if (branches) i.target = &f.code[size_t(i.imm)];
    }
}

void decode(Function& f, ptx::Module& m, ptx::Function& source, const Layout& layout) {
    f.source = &source;
    f.module = &m;
    f.name   = source.name;
    try {
        ptx::parse_body(source);
        Builder first(f, layout);
        first.build();
        if (!layout.track_unset || first.live_at_entry().empty()) return;
        auto unset = follow_unset(source, first.live_at_entry());
        f.code.clear(), f.origin.clear(), f.more.clear(), f.tables.clear(), f.params.clear(), f.results.clear();
        f.sites = f.local_bytes = 0;
        Builder(f, layout, std::move(unset)).build();
    } catch (const std::exception& e) { f.missing = e.what(); }
}

}  // namespace emu
