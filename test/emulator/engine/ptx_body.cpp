// ptx_body.cpp - the body of a function: registers, scopes, labels, instructions
#include <algorithm>
#include <array>

#include "ptx_parser.h"

namespace emu::ptx {
namespace {

constexpr size_t kMaxRegisters = 1 << 22;
constexpr int kMaxDepth        = 200;  // of scopes and operands, so that a damaged text cannot overflow the stack

// Inline assembly opens scopes in braces, which may redeclare the registers, variables and labels of outer scopes.
constexpr const char* kParts[] = {".x", ".y", ".z", ".w"};
struct Scope {
    int parent;
    std::unordered_map<std::string, int> registers;
    std::unordered_map<std::string, std::pair<int, int>> ranges;  // of %r<9>: prefix, first register, count
    std::unordered_map<std::string, std::string> variables;       // the unique name of each name
    std::unordered_map<std::string, int> vectors = {};            // the number of parts of a vector register
};

class BodyParser {
  public:
    explicit BodyParser(Function& f) : f(f), lex(f.body_text, f.body_line) { scopes.push_back({-1, {}, {}, {}}); }

    void run() {
        while (lex.peek().kind != Token::End) statement();
        if (depth) throw SyntaxError(lex.peek().line, "'{' without '}' in " + f.name);
        resolve_labels();
        f.parsed = true;
    }

  private:
    Function& f;
    Lexer lex;
    std::vector<Scope> scopes;
    std::vector<int> scope_of;  // of each instruction
    int scope = 0, depth = 0;
    int file = 0, source_line = 0, outer_file = 0, outer_line = 0;
    using Place = std::array<int, 3>;  // file, line, column
    std::map<Place, Place> inlined_at;

    Place take_place() {
        Place p;
        for (int& part : p) part = int(parse_integer(lex.take()));
        return p;
    }

    void statement() {
        const Token& t = lex.peek();
        if (t.is("{")) {
            if (++depth > kMaxDepth) throw SyntaxError(t.line, "scopes nest too deeply");
            lex.take();
            scopes.push_back({scope, {}, {}, {}});
            scope = int(scopes.size()) - 1;
        } else if (t.is("}")) {
            if (!depth--) throw SyntaxError(t.line, "'}' without '{'");
            lex.take();
            scope = scopes[scope].parent;
        } else if (t.is(";")) lex.take();
        else if (t.kind == Token::Directive) directive();
        else if (t.is("@")) instruction();
        else if (t.kind == Token::Word) {
            // A name followed by a colon is a label. Otherwise it is an opcode, which is read again with its modifiers.
            Lexer before     = lex;
            const Token name = lex.take();
            if (lex.accept(":")) {
                if (lex.peek().is(".branchtargets") || lex.peek().is(".calltargets") || lex.peek().is(".callprototype"))
                    table(std::string(name.text));
                else f.labels[std::to_string(scope) + ":" + std::string(name.text)] = int(f.code.size());
            } else {
                lex = before;
                instruction();
            }
        } else throw SyntaxError(t.line, "an instruction expected, found '" + std::string(t.text) + "'");
    }

    void table(const std::string& label) {
        auto& list       = f.targets[label];
        const bool names = lex.take().text != ".callprototype";
        while (!lex.accept(";")) {
            if (lex.peek().kind == Token::End) throw SyntaxError(lex.peek().line, "';' expected");
            const Token t = lex.take();
            if (names && t.kind == Token::Word) list.push_back(std::string(t.text));
        }
    }

    void directive() {
        const Token t = lex.take();
        if (t.text == ".reg") registers();
        else if (t.text == ".local" || t.text == ".shared" || t.text == ".param" || t.text == ".const" ||
                 t.text == ".global") {
            for (Variable& v : parse_variables(lex, std::string(t.text.substr(1)))) {
                const std::string name = v.name;
                const bool taken       = std::any_of(f.variables.begin(), f.variables.end(),
                                                     [&](const Variable& o) { return o.name == name; });
                // The scopes of calls reuse param0, retval0 and so on, which become param0'17.
                if (taken) v.name.append(1, '\'').append(std::to_string(scope));
                scopes[scope].variables[name] = v.name;
                f.variables.push_back(std::move(v));
            }
        } else if (t.text == ".loc") {
            const Place place = take_place();
            // ", function_name label+offset, inlined_at file line column" may follow. That place had an earlier .loc.
            while (lex.accept(",")) {
                if (lex.accept("function_name")) {
                    lex.take();
                    if (lex.accept("+")) lex.take();
                } else {
                    lex.take();
                    inlined_at[place] = take_place();
                }
            }
            Place outer = place;
            for (int k = 0; k < 100 && inlined_at.count(outer); k++) outer = inlined_at[outer];
            file = place[0], source_line = place[1];
            outer_file = outer[0], outer_line = outer[1];
        } else {
            // .pragma "nounroll"; and the like are ignored.
            while (!lex.accept(";")) {
                if (lex.peek().kind == Token::End) throw SyntaxError(t.line, "';' expected");
                lex.take();
            }
        }
    }

    void registers() {
        const bool pair = lex.accept(".v2"), four = !pair && lex.accept(".v4");
        const Token t   = lex.take();
        const Type type = type_of(t.text.substr(1));
        if (t.kind != Token::Directive || type == Type::none)
            throw SyntaxError(t.line, "register type " + std::string(t.text) + " is not supported");
        do {
            const Token name  = lex.word();
            const auto prefix = std::string(name.text);
            uint64_t count    = 1;
            const bool range  = lex.accept("<");
            if (range) {
                count = parse_integer(lex.take());
                lex.expect(">");
            }
            if (count > kMaxRegisters || f.regs.size() + count > kMaxRegisters)
                throw SyntaxError(name.line, "more than four million registers");
            if (pair || four) {  // the register v consists of v.x, v.y …
                scopes[scope].vectors[prefix] = pair ? 2 : 4;
                for (int k = 0; k < (pair ? 2 : 4); k++) {
                    const std::string part        = prefix + kParts[k];
                    scopes[scope].registers[part] = int(f.regs.size());
                    f.regs.push_back({part, type});
                }
                continue;
            }
            if (range) scopes[scope].ranges[prefix] = {int(f.regs.size()), int(count)};
            else scopes[scope].registers[prefix] = int(f.regs.size());
            for (uint64_t i = 0; i < count; i++) f.regs.push_back({range ? prefix + std::to_string(i) : prefix, type});
        } while (lex.accept(","));
        lex.expect(";");
    }

    int find_register(const std::string& name) const {
        const size_t digits = name.find_last_not_of("0123456789") + 1;
        const bool numbered = digits < name.size() && name.size() - digits < 9;
        for (int s = scope; s >= 0; s = scopes[s].parent) {
            if (auto it = scopes[s].registers.find(name); it != scopes[s].registers.end()) return it->second;
            if (!numbered) continue;
            // The prefix of a range may end in digits (%r1<3>), so every split of the name is tried.
            for (size_t cut = digits; cut < name.size(); cut++) {
                auto it = scopes[s].ranges.find(name.substr(0, cut));
                if (it == scopes[s].ranges.end()) continue;
                const int n = std::atoi(name.c_str() + cut);
                if (n < it->second.second) return it->second.first + n;
            }
        }
        return -1;
    }

    int parts_of_vector(const std::string& name) const {
        for (int s = scope; s >= 0; s = scopes[s].parent)
            if (auto it = scopes[s].vectors.find(name); it != scopes[s].vectors.end()) return it->second;
        return 0;
    }

    void instruction() {
        Instruction i;
        i.line        = lex.peek().line;
        i.file        = file;
        i.source_line = source_line;
        i.outer_file  = outer_file;
        i.outer_line  = outer_line;
        if (lex.accept("@")) {
            i.guard_negated  = lex.accept("!");
            const Token name = lex.word();
            i.guard          = find_register(std::string(name.text));
            if (i.guard < 0) throw SyntaxError(name.line, "unknown predicate " + std::string(name.text));
        }
        if (lex.peek().kind != Token::Word) throw SyntaxError(i.line, "an instruction expected");
        i.form = lex.opcode();
        if (i.form == "call" || i.form.starts_with("call.")) call(i);
        else if (!lex.peek().is(";")) {
            do i.ops.push_back(operand(0));
            while (lex.accept(","));
        }
        lex.expect(";");
        f.code.push_back(std::move(i));
        scope_of.push_back(scope);
    }

    void call(Instruction& i) {
        auto list = [&](std::vector<Operand>& out) {
            lex.expect("(");
            if (lex.accept(")")) return;
            do out.push_back(operand(0));
            while (lex.accept(","));
            lex.expect(")");
        };
        if (lex.peek().is("(")) {
            list(i.results);
            lex.expect(",");
        }
        i.ops.push_back(operand(0));
        if (lex.accept(",")) {
            if (lex.peek().is("(")) list(i.arguments);
            else i.ops.push_back(operand(0));
            if (lex.accept(",")) i.ops.push_back(operand(0));  // the prototype of an indirect call
        }
    }

    Operand operand(int nesting) {
        if (nesting > kMaxDepth) throw SyntaxError(lex.peek().line, "operands nest too deeply");
        Operand o;
        const Token t = lex.peek();
        if (starts_constant(lex)) return parse_constant(lex);
        if (lex.accept("!")) {
            o         = operand(nesting + 1);
            o.negated = !o.negated;
            return o;
        }
        if (lex.accept("{")) {
            o.kind = Operand::Vector;
            do o.parts.push_back(operand(nesting + 1));
            while (lex.accept(","));
            lex.expect("}");
            return o;
        }
        if (lex.accept("[")) {
            o = operand(nesting + 1);
            if (lex.accept(",")) {  // tensor coordinates are only parsed, so that a message can name the instruction
                o.parts.push_back(operand(nesting + 1));
                while (lex.accept(",")) o.parts.push_back(operand(nesting + 1));
            }
            lex.expect("]");
            if (o.kind == Operand::Int) o.offset = int64_t(o.bits);
            o.memory = true;
            return o;
        }
        std::string name(lex.word().text);
        if (const int parts = parts_of_vector(name)) {
            for (int k = 0; k < parts; k++) {
                if (lex.accept(kParts[k])) {
                    name += kParts[k];
                    break;
                }
                o.parts.emplace_back();
                o.parts.back().kind = Operand::Reg, o.parts.back().reg = find_register(name + kParts[k]);
            }
            o.kind = Operand::Vector;
            if (int(o.parts.size()) == parts) return o;
            o.parts.clear();
        }
        if (name == "_") {
            o.kind = Operand::Discard;
        } else if (const int reg = find_register(name); reg >= 0) {
            o.kind = Operand::Reg;
            o.reg  = reg;
        } else if (name[0] == '%') {
            o.kind = Operand::Special;
            o.name = name.substr(1);
        } else {
            o.kind = Operand::Symbol;
            o.name = name;
            for (int s = scope; s >= 0; s = scopes[s].parent)
                if (auto it = scopes[s].variables.find(name); it != scopes[s].variables.end()) {
                    o.name = it->second;
                    break;
                }
        }
        if (lex.accept("|")) {
            const Operand second = operand(nesting + 1);
            if (second.kind == Operand::Discard) o.also = -1;
            else if (second.kind != Operand::Reg) throw SyntaxError(t.line, "a predicate expected after '|'");
            else o.also = second.reg;
        }
        o.offset += parse_offset(lex);
        return o;
    }

    void resolve_labels() {
        auto resolve = [&](std::string& name, int at) {
            for (int s = at; s >= 0; s = scopes[s].parent) {
                const std::string key = std::to_string(s) + ":" + name;
                if (f.labels.count(key)) {
                    name = key;
                    return;
                }
            }
        };
        for (size_t i = 0; i < f.code.size(); i++) {
            const auto& form = f.code[i].form;
            if (!form.starts_with("bra") && !form.starts_with("brx")) continue;
            for (Operand& o : f.code[i].ops)
                if (o.kind == Operand::Symbol) resolve(o.name, scope_of[i]);
        }
        for (auto& [label, list] : f.targets)
            for (auto& name : list) resolve(name, 0);
    }
};

}  // namespace

void parse_body(Function& f) {
    if (f.parsed || !f.defined) return;
    BodyParser(f).run();
    // The views are made last, because f.code moves its strings while it grows.
    for (auto& i : f.code) {
        const std::string_view form = i.form;
        for (size_t from = 0; from <= form.size();) {
            const size_t dot = std::min(form.find('.', from), form.size());
            i.mods.push_back(form.substr(from, dot - from));
            from = dot + 1;
        }
    }
}

}  // namespace emu::ptx
