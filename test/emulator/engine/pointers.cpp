// pointers.cpp - finds the allocation in which an access should be, from the pointer parameters of the kernel
#include "access.h"

namespace emu {
namespace {

bool one_of(std::string_view word, std::initializer_list<std::string_view> list) {
    for (const auto& w : list)
        if (w == word) return true;
    return false;
}

// Returns the offsets of the 64-bit parameters from which an instruction's address is computed. The list is empty when
// the address may come from memory, another lane or a call. Products, shifts and conversions are taken for indices.
std::vector<uint32_t> parameters_behind(const Kernel& kernel, const ptx::Function& f, const ptx::Instruction& access) {
    std::vector<uint32_t> found;
    std::vector<int> todo;
    for (const auto& o : access.ops)
        if (o.memory && o.reg >= 0 && todo.empty()) todo.push_back(o.reg);
    std::vector<bool> seen(f.regs.size());
    while (!todo.empty()) {
        const int reg = todo.back();
        todo.pop_back();
        if (seen[size_t(reg)]) continue;
        seen[size_t(reg)] = true;
        for (const auto& i : f.code) {
            if (i.ops.empty() || i.ops[0].memory) continue;
            bool defines = i.ops[0].reg == reg || i.ops[0].also == reg;
            for (const auto& part : i.ops[0].parts) defines |= part.reg == reg;
            for (const auto& result : i.results) defines |= result.reg == reg;
            if (!defines || i.mods[0] == "st") continue;
            const auto follow = [&](size_t first) {
                for (size_t k = first; k < i.ops.size(); k++)
                    if (i.ops[k].reg >= 0) todo.push_back(i.ops[k].reg);
            };
            const ptx::Operand* from = i.ops.size() > 1 ? &i.ops[1] : nullptr;
            if (i.mods[0] == "mov" && from && from->kind != ptx::Operand::Symbol && from->parts.empty()) follow(1);
            else if (one_of(i.mods[0], {"add", "cvta"}) && from && from->kind != ptx::Operand::Symbol) follow(1);
            else if (i.mods[0] == "sub" && from && from->reg >= 0) todo.push_back(from->reg);
            else if (i.mods[0] == "mad") follow(3);
            else if (one_of(i.mods[0], {"mul", "shl", "shr", "cvt", "bfe"})) continue;
            else if (i.mods[0] == "ld" && i.mods[1] == "param" && from && from->reg < 0 && i.ops[0].parts.empty()) {
                for (const auto& p : kernel.params)
                    if (p.name == from->name) found.push_back(p.offset + uint32_t(from->offset));
            } else return {};
        }
    }
    return found;
}

}  // namespace

const Allocation* pointed_to(Warp& w, const Instr* i, const Allocation* in) {
    const Launch& launch = *w.block->launch;
    const Function& f    = *w.frame->function;
    if (&f != launch.function || !f.origin[i->index]) return nullptr;
    // This is never destroyed, because kernels may still run when the program ends.
    thread_local auto& known = *new std::unordered_map<const Instr*, std::vector<uint32_t>>;
    auto row                 = known.find(i);
    if (row == known.end())
        row = known.emplace(i, parameters_behind(*launch.kernel, *f.source, *f.origin[i->index])).first;
    const Allocation* only = nullptr;
    for (const uint32_t offset : row->second) {
        uint64_t value = 0;
        if (offset + sizeof value > launch.param_bytes) continue;
        std::memcpy(&value, launch.params + offset, sizeof value);
        if (in && in->holds(value, 1)) return in;
        const Allocation* there = Memory::get().find(value);
        if (there && only && there != only) return nullptr;
        if (there) only = there;
    }
    return only;
}

}  // namespace emu
