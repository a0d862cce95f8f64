// decode.h - from parsed PTX to handlers and operands
#pragma once
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <unordered_map>

#include "exec.h"

namespace emu {

using ptx::Operand;
using ptx::Type;

struct Undecodable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Where a kernel finds the module's variables: shared ones at offsets in shared memory, the others at addresses.
struct Layout {
    std::unordered_map<std::string, uint64_t> addresses;
    std::unordered_map<std::string, uint32_t> shared;
    uint32_t shared_bytes = 0;                                 // of the static variables
    uint32_t dynamic_at   = 0;                                 // where the extern arrays begin
    bool reserved_shared  = false;                             // the kernel reads %reserved_smem_offset_…
    std::function<uint64_t(const std::string&)> code_address;  // of a function; 0 when it is unknown
    bool track_unset = false;                                  // unset registers are to be reported
};

class Builder {
  public:
    // Registers that may be unset, each with the instruction that first reads the unset value: see follow_unset.
    using Unset = std::map<int, const ptx::Instruction*>;
    Builder(Function& f, const Layout& layout, Unset unset = {});
    void build();

    // Operands. `t` is the type in which the instruction works, and that of an immediate. A wider register is truncated
    // when it is read and extended when it is written, as PTX requires for ld, st and cvt.
    Ref read(const Operand& o, Type t);
    Ref write(const Operand& o, Type t);
    Ref read_pred(const Operand& o, bool& negated);
    Ref write_pred(int reg);
    Ref scratch(int bytes);  // a register of the emulator's own; 0 bytes: a predicate
    Ref constant(uint64_t bits, int bytes);
    Type reg_type(const Operand& o) const;  // none when o is not a register

    Instr& emit(Handler h);  // the reference holds until the next emit
    void more(Instr& i, const std::vector<Ref>& results, const std::vector<Ref>& sources);
    void branch_to(Instr& i, const std::string& label);
    const std::vector<std::string>& branch_table(const std::string& label) const;
    uint16_t site();

    // The address of a memory operand. Without a base register it is absolute.
    struct Place {
        Ref base;
        int64_t offset;
        bool narrow = false;  // the base has 32 bits
    };
    void mark_loaded(const Operand& to, Place from, int64_t offset, int bytes, int window);  // for --check all
    Place address(const Operand& o, bool may_be_narrow = false);
    const ParamBlob* blob(const std::string& name) const;
    // Returns the offset of a kernel's parameter, or -1 when there is none, and its size.
    int entry_param(const std::string& name, uint64_t* bytes = nullptr) const;

    Function& f;
    const Layout& layout;
    const bool entry;
    const ptx::Instruction* now = nullptr;
    void keep(Ref r) { kept.insert(r.offset); }  // no other register gets its place
    // Returns the index in Function::tables of those registers of the operands that a wgmma uses, or -1 without any.
    int64_t watched(const ptx::Instruction& i, size_t operands);
    const std::set<int>& live_at_entry() const { return entry_live; }

  private:
    int virtual_of(int reg);
    int new_virtual(int bytes);
    void check_unset(int reg);
    void mark_stored();
    void decode_one(const ptx::Instruction& i);
    void lay_out_frame();
    void resolve_labels();
    void allocate();
    template <class F> void each_ref(Instr& i, F f);

    const ptx::Function& source;
    std::vector<int> bytes_of_virtual;  // 0 for a predicate
    std::vector<int> virtual_of_reg;    // -1 before its first use
    std::vector<int> reg_of_virtual;
    std::vector<std::pair<uint32_t, std::string>> label_uses;
    std::vector<std::pair<uint32_t, uint32_t>> skips;  // branches around guarded instructions: code index, target
    std::vector<int> start_of;                         // the code index of each PTX instruction
    struct Extension {
        Ref from;
        Ref to;
        Type type;
        int bytes;
    };
    // Of the instruction that is being decoded:
    std::vector<Extension> extensions;  // results to extend after it
    std::vector<int> marks;             // results that are tracked by unset_mask
    std::vector<Ref> sources_unset;     // the masks of its tracked sources
    std::vector<int> stored;            // the registers that st stores, in order

    std::unordered_map<std::string, uint32_t> constant_place;
    std::vector<std::pair<uint64_t, int>> constants;
    uint32_t pool_bytes = 0;
    std::vector<ParamBlob> blobs;
    uint32_t blob_bytes = 0;
    std::unordered_map<std::string, uint32_t> locals;
    Unset unset;
    std::set<int> kept;                       // virtual registers
    std::map<int, uint32_t> wgmma_register;   // the index in Function::wgmma_registers of a PTX register
    std::set<int> entry_live;                 // PTX registers that are read before they are written
    std::unordered_map<int, Ref> unset_mask;  // per tracked register: a predicate of the lanes that are set
};

// Decodes a function. When that fails, Function::missing says why, which matters only if the function is launched.
void decode(Function& f, ptx::Module& m, ptx::Function& source, const Layout& layout);

int reg_bytes(Type t);

}  // namespace emu
