// ptx.h - PTX text as data: types, operands, instructions, functions
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace emu::ptx {

struct SyntaxError : std::runtime_error {
    SyntaxError(int line, const std::string& what)
        : std::runtime_error("PTX line " + std::to_string(line) + ": " + what) {}
};

// clang-format off
enum class Type : uint8_t {
    none, pred, b8, b16, b32, b64, b128, u8, u16, u32, u64, s8, s16, s32, s64,
    f16, f16x2, bf16, bf16x2, tf32, f32, f64, e4m3x2, e5m2x2, u16x2, s16x2,
};
// clang-format on
Type type_of(std::string_view name);  // none when the name is not a type
int bytes_of(Type t);                 // 0 for a predicate
bool is_float(Type t);
bool is_signed(Type t);

struct Operand {
    enum Kind : uint8_t { None, Reg, Int, Float, Symbol, Special, Vector, Discard };
    Kind kind      = None;
    bool negated   = false;      // written as !p
    bool memory    = false;      // written in brackets
    int reg        = -1;         // of a Reg, or the base register of a memory operand
    int also       = -1;         // the second destination p of d|p
    uint64_t bits  = 0;          // of an Int: its value; of a Float: the bits of a double, or of a float when single
    bool single    = false;      // the Float was written as 0f…
    int64_t offset = 0;          // of memory operands and symbols
    std::string name;            // of a Symbol, Special or label
    std::vector<Operand> parts;  // of a Vector
};

struct Instruction {
    std::string form;                    // as it is written: "fma.rn.ftz.f32"
    std::vector<std::string_view> mods;  // the parts of the form: "fma", "rn", "ftz", "f32"
    int guard          = -1;
    bool guard_negated = false;
    std::vector<Operand> ops;
    std::vector<Operand> results, arguments;  // of call
    int line = 0;                             // in the PTX text
    int file = 0, source_line = 0;            // from .loc
    int outer_file = 0, outer_line = 0;       // the place in the kernel's own code where that was inlined
};

struct Variable {
    std::string name;
    std::string space;  // global, const, shared, local or param
    Type type      = Type::b8;
    uint64_t bytes = 0;
    uint32_t align = 1;
    bool external = false, managed = false;
    std::string init;  // the initial bytes, which are followed by zeros
    struct Address {
        uint64_t offset;
        std::string symbol;
        int64_t add;
        int bytes, shift;
    };
    std::vector<Address> addresses;  // initialisers that are addresses of other variables
};

struct Register {
    std::string name;
    Type type;
};

struct Function {
    std::string name;
    bool entry = false, defined = false;
    std::vector<Variable> params, results;
    uint32_t maxntid[3] = {}, reqntid[3] = {}, cluster[3] = {};  // cluster: .reqnctapercluster
    bool wants_cluster = false, counts_clusters = false;         // .explicitcluster, .blocksareclusters
    std::string_view body_text;  // the text between the braces, which is parsed on demand
    int body_line = 0;

    bool parsed = false;
    std::vector<Register> regs;
    std::vector<Instruction> code;
    std::vector<Variable> variables;  // local, shared and param ones; names that are declared again get a suffix
    std::unordered_map<std::string, int> labels;                        // the index of an instruction
    std::unordered_map<std::string, std::vector<std::string>> targets;  // of .branchtargets, for brx.idx
};

struct Module {
    std::string text;
    int version = 0, target = 0;  // 90 for 9.0; 80 for sm_80
    std::vector<Variable> variables;
    std::vector<std::unique_ptr<Function>> functions;
    std::unordered_map<std::string, Function*> by_name;
    std::map<int, std::string> files;  // from .file
};

// parse() reads the declarations, and parse_body() the body of a function. Both throw SyntaxError.
std::unique_ptr<Module> parse(std::string text);
void parse_body(Function& f);

}  // namespace emu::ptx
