// ptx_parser.cpp - the declarations of a module; ptx_body.cpp parses the bodies of functions
#include "ptx_parser.h"

#include <cstring>

namespace emu::ptx {
namespace {

struct TypeRow {
    const char* name;
    Type type;
    int bytes;
};
constexpr TypeRow kTypes[] = {
    {"pred", Type::pred, 0},   {"b8", Type::b8, 1},         {"b16", Type::b16, 2},       {"b32", Type::b32, 4},
    {"b64", Type::b64, 8},     {"b128", Type::b128, 16},    {"u8", Type::u8, 1},         {"u16", Type::u16, 2},
    {"u32", Type::u32, 4},     {"u64", Type::u64, 8},       {"s8", Type::s8, 1},         {"s16", Type::s16, 2},
    {"s32", Type::s32, 4},     {"s64", Type::s64, 8},       {"f16", Type::f16, 2},       {"f16x2", Type::f16x2, 4},
    {"bf16", Type::bf16, 2},   {"bf16x2", Type::bf16x2, 4}, {"tf32", Type::tf32, 4},     {"f32", Type::f32, 4},
    {"f64", Type::f64, 8},     {"e4m3x2", Type::e4m3x2, 2}, {"e5m2x2", Type::e5m2x2, 2}, {"u16x2", Type::u16x2, 4},
    {"s16x2", Type::s16x2, 4},
};

constexpr uint64_t kMaxVariable = uint64_t(1) << 36;  // larger array sizes are damaged

}  // namespace

Type type_of(std::string_view name) {
    for (const auto& row : kTypes)
        if (name == row.name) return row.type;
    return Type::none;
}

int bytes_of(Type t) {
    for (const auto& row : kTypes)
        if (t == row.type) return row.bytes;
    return 0;
}

bool is_float(Type t) { return t >= Type::f16 && t <= Type::f64; }
bool is_signed(Type t) { return t == Type::s8 || t == Type::s16 || t == Type::s32 || t == Type::s64; }

namespace {

void store(Variable& v, uint64_t offset, const void* bytes, size_t n, int line) {
    if (offset + n > v.bytes) throw SyntaxError(line, v.name + ": more initial values than elements");
    if (v.init.size() < offset + n) v.init.resize(offset + n);
    std::memcpy(v.init.data() + offset, bytes, n);
}

// An initial value is a number, an address (symbol, generic(symbol), symbol+4) or a byte of one (0xFF00(symbol)).
void parse_value(Lexer& lex, Variable& v, uint64_t& offset) {
    const int size  = bytes_of(v.type);
    const int line  = lex.peek().line;
    auto address_of = [&](int bytes, int shift) {
        std::string symbol(lex.word().text);
        if (symbol == "generic" && lex.accept("(")) {
            symbol = std::string(lex.word().text);
            lex.expect(")");
        }
        const int64_t add = parse_offset(lex);
        if (offset + bytes > v.bytes) throw SyntaxError(line, v.name + ": more initial values than elements");
        v.addresses.push_back({offset, symbol, add, bytes, shift});
        offset += bytes;
    };
    if (!starts_constant(lex)) return address_of(size, 0);
    const Operand o = parse_constant(lex);
    if (o.kind == Operand::Int && lex.accept("(")) {
        int shift = 0;
        for (uint64_t mask = o.bits; mask && !(mask & 0xff); mask >>= 8) shift += 8;
        address_of(1, shift);
        return lex.expect(")");
    }
    uint64_t bits = o.bits;
    if (o.kind == Operand::Float && o.single != (v.type == Type::f32)) {
        double d;
        float f;
        if (o.single) std::memcpy(&f, &bits, 4), d = f;
        else std::memcpy(&d, &bits, 8), f = float(d);
        bits = 0;
        if (v.type == Type::f32) std::memcpy(&bits, &f, 4);
        else std::memcpy(&bits, &d, 8);
    } else if (o.kind == Operand::Int && v.type == Type::f32) {
        const float f = float(int64_t(o.bits));
        std::memcpy(&bits, &f, 4);
    } else if (o.kind == Operand::Int && v.type == Type::f64) {
        const double d = double(int64_t(o.bits));
        std::memcpy(&bits, &d, 8);
    }
    store(v, offset, &bits, size, line);
    offset += size;
}

void parse_initialiser(Lexer& lex, Variable& v, uint64_t& offset) {
    if (!lex.accept("{")) return parse_value(lex, v, offset);
    if (lex.accept("}")) return;
    do parse_initialiser(lex, v, offset);
    while (lex.accept(","));
    lex.expect("}");
}

// Parses what follows the state space up to the name: .align 8 .v4 .f32, also .ptr and .attribute.
Variable parse_element(Lexer& lex, const std::string& space) {
    Variable v;
    v.space      = space;
    int vector   = 1;
    bool aligned = false;
    while (lex.peek().kind == Token::Directive) {
        const Token t = lex.take();
        if (t.text == ".align") {
            const uint64_t align = parse_integer(lex.take());
            if (align == 0 || align > 4096 || (align & (align - 1))) throw SyntaxError(t.line, "impossible alignment");
            if (!aligned) v.align = uint32_t(align);
            aligned = true;
        } else if (t.text == ".v2" || t.text == ".v4") vector = t.text[2] - '0';
        else if (t.text == ".attribute") {
            lex.expect("(");
            for (int depth = 1; depth && lex.peek().kind != Token::End;) {
                v.managed |= lex.peek().is(".managed");
                depth += lex.peek().is("(") - lex.peek().is(")");
                lex.take();
            }
        } else if (t.text == ".ptr") {
            // .ptr .global .align 4 describes the memory that the pointer points to.
            if (lex.peek().is(".global") || lex.peek().is(".shared") || lex.peek().is(".const") ||
                lex.peek().is(".local"))
                lex.take();
            if (lex.accept(".align")) lex.take();
        } else {
            v.type = type_of(t.text.substr(1));
            if (v.type == Type::none) throw SyntaxError(t.line, "unknown type " + std::string(t.text));
        }
    }
    v.bytes = uint64_t(bytes_of(v.type)) * vector;
    if (!aligned) v.align = uint32_t(std::max<uint64_t>(v.bytes, 1));
    return v;
}

// Parses the rest, name[16][4] = {…}, of a variable with such elements.
Variable parse_name(Lexer& lex, Variable v) {
    v.name    = std::string(lex.word().text);
    bool open = false;
    while (lex.accept("[")) {
        const int line = lex.peek().line;
        if (lex.accept("]")) {
            open = true;
            continue;
        }
        const uint64_t n = parse_integer(lex.take());
        if (n && v.bytes > kMaxVariable / n) throw SyntaxError(line, v.name + " is impossibly large");
        v.bytes *= n;
        lex.expect("]");
    }
    if (open) v.bytes = 0;  // the size of an extern shared array is given at the launch
    if (lex.accept("=")) {
        if (open) v.bytes = kMaxVariable;
        uint64_t offset = 0;
        parse_initialiser(lex, v, offset);
        if (open) v.bytes = offset;
    }
    return v;
}

}  // namespace

std::vector<Variable> parse_variables(Lexer& lex, const std::string& space) {
    std::vector<Variable> list;
    const Variable element = parse_element(lex, space);
    do list.push_back(parse_name(lex, element));
    while (lex.accept(","));
    lex.expect(";");
    return list;
}

namespace {

std::vector<Variable> parse_params(Lexer& lex) {
    std::vector<Variable> list;
    lex.expect("(");
    if (lex.accept(")")) return list;
    do {
        const Token t = lex.take();
        if (t.text != ".param" && t.text != ".reg") throw SyntaxError(t.line, "'.param' expected");
        list.push_back(parse_name(lex, parse_element(lex, "param")));
    } while (lex.accept(","));
    lex.expect(")");
    return list;
}

void parse_limits(Lexer& lex, uint32_t (&limits)[3]) {
    limits[0] = limits[1] = limits[2] = 1;
    int i                             = 0;
    do {
        const Token t = lex.take();
        if (i == 3) throw SyntaxError(t.line, "more than three dimensions");
        limits[i++] = uint32_t(parse_integer(t));
    } while (lex.accept(","));
}

void parse_function(Lexer& lex, Module& m, bool entry) {
    auto f   = std::make_unique<Function>();
    f->entry = entry;
    if (!entry && lex.peek().is("(")) f->results = parse_params(lex);
    f->name = std::string(lex.word().text);
    if (lex.peek().is("(")) f->params = parse_params(lex);
    for (;;) {
        if (lex.accept(";")) break;
        if (lex.accept("{")) {
            f->body_text = lex.braces(f->body_line);
            f->defined   = true;
            break;
        }
        const Token t = lex.take();
        if (t.text == ".maxntid") parse_limits(lex, f->maxntid);
        else if (t.text == ".reqntid") parse_limits(lex, f->reqntid);
        else if (t.text == ".minnctapersm" || t.text == ".maxnctapersm" || t.text == ".maxnreg" ||
                 t.text == ".maxclusterrank")
            lex.take();
        else if (t.text == ".reqnctapercluster") parse_limits(lex, f->cluster);
        else if (t.text == ".explicitcluster") f->wants_cluster = true;
        else if (t.text == ".blocksareclusters") f->counts_clusters = true;
        else if (t.text == ".pragma") {
            while (!lex.peek().is(";") && lex.peek().kind != Token::End) lex.take();
        } else if (t.kind != Token::Directive) throw SyntaxError(t.line, "'{' expected in " + f->name);
    }
    Function*& slot = m.by_name[f->name];
    if (slot && slot->defined) return;  // this is a declaration after the definition
    slot = f.get();
    m.functions.push_back(std::move(f));
}

void parse_declaration(Lexer& lex, Module& m) {
    bool external = false;
    for (;;) {
        const Token t = lex.take();
        if (t.text == ".extern") external = true;
        else if (t.text == ".visible" || t.text == ".weak" || t.text == ".common") continue;
        else if (t.text == ".func" || t.text == ".entry") return parse_function(lex, m, t.text == ".entry");
        else if (t.text == ".global" || t.text == ".const" || t.text == ".shared") {
            for (Variable& v : parse_variables(lex, std::string(t.text.substr(1)))) {
                v.external = external;
                m.variables.push_back(std::move(v));
            }
            return;
        } else if (t.text == ".file") {
            const int number = int(parse_integer(lex.take()));
            m.files[number]  = std::string(lex.take().text);
            if (lex.accept(",")) {
                lex.take();
                lex.expect(",");
                lex.take();
            }
            return;
        } else if (t.text == ".section") {
            int line;
            while (!lex.peek().is("{") && lex.peek().kind != Token::End) lex.take();
            lex.expect("{");
            lex.braces(line);
            return;
        } else if (t.text == ".version") {
            const std::string v(lex.take().text);
            m.version = int(std::strtod(v.c_str(), nullptr) * 10 + 0.5);
            return;
        } else if (t.text == ".target") {
            const std::string v(lex.word().text);
            m.target = v.starts_with("sm_") ? std::atoi(v.c_str() + 3) : 0;
            while (lex.accept(",")) lex.take();
            return;
        } else if (t.text == ".address_size") {
            if (lex.take().text != "64") throw SyntaxError(t.line, "only .address_size 64 is supported");
            return;
        } else if (t.text == ".loc") return lex.skip_line();
        else if (t.text == ".pragma" || t.text == ".alias") {
            while (!lex.accept(";") && lex.peek().kind != Token::End) lex.take();
            return;
        } else throw SyntaxError(t.line, "unexpected '" + std::string(t.text) + "' between functions");
    }
}

}  // namespace

std::unique_ptr<Module> parse(std::string text) {
    auto m  = std::make_unique<Module>();
    m->text = std::move(text);
    Lexer lex(m->text, 1);
    while (lex.peek().kind != Token::End) parse_declaration(lex, *m);
    if (m->version == 0) throw SyntaxError(1, "no .version: not a PTX text");
    return m;
}

}  // namespace emu::ptx
