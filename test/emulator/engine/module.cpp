// module.cpp - see module.h
#include "module.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "coverage.h"
#include "fatbin.h"
#include "findings.h"
#include "kernel_code.h"
#include "options.h"
#include "spec.h"

namespace emu {

struct Module {
    std::unique_ptr<ptx::Module> ptx;
    std::map<std::string, int> registers;  // from the cubins
    std::map<std::string, std::unique_ptr<Kernel>> kernels;
    std::map<std::string, Variable> variables;
    std::unordered_map<std::string, uint64_t> addresses;
    std::map<std::string, std::shared_ptr<KernelCode>> codes;
    std::string trouble;  // why there are no kernels, or empty
};

namespace {

// Returns the PTX that a driver would compile for this device: that with the newest target that the device supports.
// `found` gets a list of all entries.
const FatbinEntry* best_entry(const std::vector<FatbinEntry>& entries, std::string& found) {
    const int device        = device_spec().major * 10 + device_spec().minor;
    const FatbinEntry* best = nullptr;
    for (const auto& e : entries) {
        found += std::string(found.empty() ? "" : ", ") + (e.ptx ? "PTX for compute_" : "a cubin for sm_") +
                 std::to_string(e.arch) + (e.suffix ? std::string(1, e.suffix) : "");
        if (!e.ptx || e.arch > device || (e.suffix == 'a' && e.arch != device)) continue;
        if (e.suffix == 'f' && (e.arch / 10 != device / 10)) continue;
        if (!best || e.arch > best->arch || (e.arch == best->arch && e.suffix > best->suffix)) best = &e;
    }
    return best;
}

void place_variables(Module& m, int device, const Module* other) {
    Memory& memory = Memory::get();
    for (const auto& v : m.ptx->variables) {
        if (v.space == "shared" || v.external || m.variables.count(v.name)) continue;
        if (v.managed && other) {
            m.variables[v.name] = other->variables.at(v.name);
            m.addresses[v.name] = m.variables[v.name].address;
            continue;
        }
        const Address a = memory.allocate(std::max<uint64_t>(v.bytes, 1),
                                          v.managed            ? Space::Managed
                                          : v.space == "const" ? Space::Constant
                                                               : Space::Symbol,
                                          (v.managed            ? "__managed__ "
                                           : v.space == "const" ? "__constant__ "
                                                                : "__device__ ") +
                                              demangle(v.name),
                                          true, device);
        if (!a) give_up("device memory is full: no room for variable " + v.name);
        // Variables without an initial value are zero.
        std::memset(memory.host(a), 0, v.bytes);
        std::memcpy(memory.host(a), v.init.data(), std::min<size_t>(v.init.size(), v.bytes));
        memory.mark_written(a, v.bytes);
        m.variables[v.name] = {v.name, a, v.bytes, v.space == "const", v.managed};
        m.addresses[v.name] = a;
    }
    for (const auto& v : m.ptx->variables)
        for (const auto& at : v.addresses) {
            uint64_t value = 0;
            if (auto it = m.addresses.find(at.symbol); it != m.addresses.end()) value = it->second;
            else if (auto f = m.ptx->by_name.find(at.symbol); f != m.ptx->by_name.end())
                value = reinterpret_cast<uintptr_t>(f->second);
            value = (value + uint64_t(at.add)) >> at.shift;
            if (auto it = m.addresses.find(v.name); it != m.addresses.end())
                std::memcpy(memory.host(it->second) + at.offset, &value, size_t(at.bytes));
        }
}

// Returns the names that code moves into registers. Functions are among them, whose addresses are taken so.
std::set<std::string> addresses_taken(ptx::Module& m) {
    std::set<std::string> names;
    for (const auto& f : m.functions) {
        try {
            ptx::parse_body(*f);
        } catch (const ptx::SyntaxError&) { continue; }  // matters only to kernels that reach the function
        for (const auto& i : f->code)
            if (i.mods[0] == "mov" && i.ops.size() == 2 && i.ops[1].kind == Operand::Symbol)
                names.insert(i.ops[1].name);
    }
    return names;
}

// Gives places to the shared variables that a kernel can reach, including through calls.
void lay_out_shared(Module& m, KernelCode& code) {
    std::vector<ptx::Function*> todo{code.source};
    std::set<const ptx::Function*> seen{code.source};
    Layout& layout = code.layout;
    uint32_t at    = 0;
    auto place     = [&](const ptx::Variable& v) {
        if (v.bytes == 0 || layout.shared.count(v.name)) return;
        at = (at + v.align - 1) / v.align * v.align;
        if (v.bytes > (1u << 30)) throw Undecodable(v.name + ": shared variable of more than a gigabyte");
        layout.shared[v.name] = at;
        at += uint32_t(v.bytes);
    };
    std::vector<const ptx::Variable*> dynamic;
    std::unordered_map<std::string, const ptx::Variable*> module_shared;
    for (const auto& v : m.ptx->variables)
        if (v.space == "shared") module_shared[v.name] = &v;
    auto reach = [&](const std::string& name) {
        if (auto f = m.ptx->by_name.find(name);
            f != m.ptx->by_name.end() && !f->second->entry && seen.insert(f->second).second)
            todo.push_back(f->second);
    };
    auto visit = [&](const ptx::Operand& o, auto&& self) -> void {
        for (const auto& p : o.parts) self(p, self);
        if (o.kind == Operand::Special && o.name.starts_with("reserved_smem")) layout.reserved_shared = true;
        if (o.kind != Operand::Symbol) return;
        if (auto v = module_shared.find(o.name); v != module_shared.end()) {
            if (v->second->bytes == 0) dynamic.push_back(v->second);
            else place(*v->second);
        }
        reach(o.name);
    };
    bool any_function = false;  // one may be called by its address
    while (!todo.empty()) {
        ptx::Function* f = todo.back();
        todo.pop_back();
        ptx::parse_body(*f);
        for (const auto& v : f->variables)
            if (v.space == "shared") {
                if (v.bytes) place(v);
                else dynamic.push_back(&v);
            }
        bool calls_address = false;
        for (const auto& i : f->code) {
            for (const auto& o : i.ops) visit(o, visit);
            calls_address |= i.mods[0] == "call" && i.ops[0].kind == Operand::Reg;
        }
        if (!calls_address || std::exchange(any_function, true)) continue;
        // It may be any function whose address stands in a table, such as those of virtual functions, or is taken in
        // the code of any kernel.
        for (const auto& v : m.ptx->variables)
            for (const auto& a : v.addresses) reach(a.symbol);
        for (const std::string& name : addresses_taken(*m.ptx)) reach(name);
    }
    layout.shared_bytes = at;
    uint32_t align      = 16;
    for (const auto* v : dynamic) align = std::max(align, v->align);
    layout.dynamic_at = (at + align - 1) / align * align;
    for (const auto* v : dynamic) layout.shared[v->name] = layout.dynamic_at;  // all extern arrays share one place
}

std::shared_ptr<KernelCode> make_code(Module& m, ptx::Function* source) {
    auto code                 = std::make_shared<KernelCode>();
    code->module              = m.ptx.get();
    code->source              = source;
    code->layout.addresses    = m.addresses;
    code->layout.track_unset  = options().check == Check::All;
    ptx::Module* ptx          = m.ptx.get();
    code->layout.code_address = [ptx](const std::string& name) -> uint64_t {
        auto f = ptx->by_name.find(name);
        return f == ptx->by_name.end() ? 0 : reinterpret_cast<uintptr_t>(f->second);
    };
    lay_out_shared(m, *code);
    return code;
}

}  // namespace

std::string demangle(const std::string& name) {
    int status       = 0;
    char* text       = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    std::string good = text && status == 0 ? text : name;
    std::free(text);
    return good;
}

Function* KernelCode::get(const ptx::Function* f) {
    const std::lock_guard hold(lock);
    if (!f || !f->defined) return nullptr;
    auto& slot = functions[f];
    if (!slot) {
        slot = std::make_unique<Function>();
        decode(*slot, *module, *const_cast<ptx::Function*>(f), layout);
    }
    return slot.get();
}

Function* KernelCode::by_address(uint64_t address) {
    for (const auto& f : module->functions)
        if (reinterpret_cast<uintptr_t>(f.get()) == address) return get(f.get());
    return nullptr;
}

Module* load_module(const void* fatbin, const void* const* units, int device, const Module* other) {
    auto m = std::make_unique<Module>();
    try {
        auto entries = read_fatbin(fatbin);
        std::string found;
        const FatbinEntry* best = best_entry(entries, found);
        std::vector<std::string> texts;
        for (; units && *units; units++) {
            const auto of_unit = read_fatbin(*units);
            if (const FatbinEntry* e = best_entry(of_unit, found)) texts.push_back(e->data);
        }
        if (!texts.empty()) {
            entries.push_back({true, 0, 0, link_units(std::move(texts))});
            best = &entries.back();
        }
        for (const auto& e : entries)
            if (!e.ptx)
                for (const auto& [name, n] : cubin_registers(e.data)) m->registers[name] = n;
        if (best) {
            m->ptx = ptx::parse(best->data);
            place_variables(*m, device, other);
            if (options().coverage) print_coverage(*m->ptx);
        } else {
            m->trouble = "no PTX that " + std::string(device_spec().name) + " could run: the binary holds " +
                         (found.empty() ? "nothing" : found) +
                         ". Build with -arch=sm_80 or add -gencode arch=compute_80,code=compute_80" +
                         (units ? ", to every unit of this -rdc=true program" : "");
        }
    } catch (const std::exception& e) {
        m->ptx     = nullptr;
        m->trouble = e.what();
    }
    return m.release();
}

Kernel* find_kernel(Module* m, const std::string& name) {
    if (auto it = m->kernels.find(name); it != m->kernels.end()) return it->second.get();
    if (!m->ptx) return nullptr;
    auto f = m->ptx->by_name.find(name);
    if (f == m->ptx->by_name.end() || !f->second->entry || !f->second->defined) return nullptr;
    auto k      = std::make_unique<Kernel>();
    k->name     = name;
    k->pretty   = demangle(name);
    k->module   = m;
    uint32_t at = 0;
    for (const auto& p : f->second->params) {
        at = (at + p.align - 1) / p.align * p.align;
        k->params.push_back({p.name, at, uint32_t(p.bytes)});
        at += uint32_t(p.bytes);
    }
    k->param_bytes = at;
    std::copy_n(f->second->maxntid, 3, k->maxntid);
    std::copy_n(f->second->reqntid, 3, k->reqntid);
    std::copy_n(f->second->cluster, 3, k->cluster);
    k->wants_cluster   = f->second->wants_cluster;
    k->counts_clusters = f->second->counts_clusters;
    k->ptx_target      = m->ptx->target;
    const auto* limit  = k->reqntid[0] ? k->reqntid : k->maxntid[0] ? k->maxntid : nullptr;
    if (limit) k->max_threads = int(std::min<uint64_t>(1024, uint64_t(limit[0]) * limit[1] * limit[2]));
    try {
        auto code        = make_code(*m, f->second);
        k->static_shared = code->layout.shared_bytes;
        for (const auto& v : f->second->variables)
            if (v.space == "local") k->local_bytes += uint32_t(v.bytes);
        m->codes[name] = std::move(code);
    } catch (const std::exception& e) { m->trouble = e.what(); }
    if (auto r = m->registers.find(name); r != m->registers.end()) k->registers = r->second, k->registers_known = true;
    else k->registers = 32;
    if (!limit && k->registers)
        k->max_threads = std::min(1024, device_spec().registers_per_sm / ((k->registers + 7) / 8 * 8) / 32 * 32);
    return (m->kernels[name] = std::move(k)).get();
}

Variable* find_variable(Module* m, const std::string& name) {
    auto it = m->variables.find(name);
    return it == m->variables.end() ? nullptr : &it->second;
}

std::string why_missing(Module* m, const std::string& name) {
    if (!m->trouble.empty()) return m->trouble;
    return "no kernel " + name + " in the PTX";
}

std::shared_ptr<KernelCode> code_of(Kernel& kernel) {
    auto it = kernel.module->codes.find(kernel.name);
    return it == kernel.module->codes.end() ? nullptr : it->second;
}

}  // namespace emu
