// ptx_constant.cpp - numbers, and constant expressions of integers, which follow the rules of C for .s64 and .u64
#include <cstring>

#include "ptx_parser.h"

namespace emu::ptx {

uint64_t parse_integer(const Token& t) {
    std::string s(t.text);
    while (!s.empty() && (s.back() == 'U' || s.back() == 'u')) s.pop_back();
    const bool hex    = s.size() > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
    const bool binary = s.size() > 2 && s[0] == '0' && (s[1] == 'b' || s[1] == 'B');
    const bool octal  = !hex && !binary && s.size() > 1 && s[0] == '0';
    const int base    = hex ? 16 : binary ? 2 : octal ? 8 : 10;
    char* end;
    const char* digits = s.c_str() + (binary ? 2 : 0);
    const uint64_t v   = std::strtoull(digits, &end, base);
    if (*end || end == digits) throw SyntaxError(t.line, "'" + s + "' is not an integer");
    return v;
}

namespace {

struct Value {
    Operand o;  // an Int or a Float
    bool is_unsigned = false;
    int64_t number() const { return int64_t(o.bits); }
};
Value integer(uint64_t bits, bool is_unsigned) {
    Value v;
    v.o.kind = Operand::Int, v.o.bits = bits, v.is_unsigned = is_unsigned;
    return v;
}

// A number is 0fXXXXXXXX (the bits of a float), 0dXXXXXXXXXXXXXXXX (of a double), a decimal fraction or an integer.
Value parse_literal(Lexer& lex) {
    const Token t = lex.take();
    if (t.text == "WARP_SZ") return integer(32, false);
    if (t.kind != Token::Number) throw SyntaxError(t.line, "a number expected, found '" + std::string(t.text) + "'");
    const bool exact  = t.text.size() > 2 && t.text[0] == '0';
    const bool single = exact && (t.text[1] == 'f' || t.text[1] == 'F') && t.text.size() == 10;
    const bool dbl    = exact && (t.text[1] == 'd' || t.text[1] == 'D') && t.text.size() == 18;
    const bool hex    = exact && (t.text[1] == 'x' || t.text[1] == 'X');
    Value v;
    v.o.kind = Operand::Float;
    if (single || dbl) {
        v.o.single = single;
        v.o.bits   = std::strtoull(std::string(t.text.substr(2)).c_str(), nullptr, 16);
    } else if (!hex && t.text.find_first_of(".eE") != std::string_view::npos) {
        const double d = std::strtod(std::string(t.text).c_str(), nullptr);
        std::memcpy(&v.o.bits, &d, 8);
    } else {
        const uint64_t bits = parse_integer(t);
        return integer(bits, bits >> 63 || t.text.back() == 'U' || t.text.back() == 'u');
    }
    return v;
}

struct Operator {
    const char* text;
    int level;  // a higher one binds its operands first
};
// Those of two characters come first.
constexpr Operator kOperators[] = {{"<<", 8}, {">>", 8}, {"<=", 7}, {">=", 7}, {"==", 6}, {"!=", 6},
                                   {"&&", 2}, {"||", 1}, {"*", 10}, {"/", 10}, {"%", 10}, {"+", 9},
                                   {"-", 9},  {"<", 7},  {">", 7},  {"&", 5},  {"^", 4},  {"|", 3}};

// Takes the operator that comes next, if it has at least this level. Returns null when there is none.
const Operator* take_operator(Lexer& lex, int least) {
    for (const Operator& op : kOperators) {
        Lexer ahead        = lex;
        const char* second = op.text + 1;
        if (!ahead.accept(std::string_view(op.text, 1)) || (*second && !ahead.accept(second))) continue;
        if (op.level < least) return nullptr;
        lex = ahead;
        return &op;
    }
    return nullptr;
}

Value apply(const std::string_view op, const Value& a, const Value& b, int line) {
    if (a.o.kind != Operand::Int || b.o.kind != Operand::Int)
        throw SyntaxError(line, "an expression of floats, which the emulator lacks");
    const bool u     = a.is_unsigned || b.is_unsigned;
    const uint64_t x = a.o.bits, y = b.o.bits;
    const auto truth = [](bool yes) { return integer(yes, false); };
    if (op == "<<") return integer(x << (y & 63), a.is_unsigned);
    if (op == ">>") return integer(a.is_unsigned ? x >> (y & 63) : uint64_t(a.number() >> (y & 63)), a.is_unsigned);
    if (op == "==") return truth(x == y);
    if (op == "!=") return truth(x != y);
    if (op == "&&") return truth(x && y);
    if (op == "||") return truth(x || y);
    if (op[0] == '<' || op[0] == '>') {
        const bool less = u ? x < y : a.number() < b.number();
        return truth((op[0] == '<' ? less : !less && x != y) || (op.size() == 2 && x == y));
    }
    if (op == "*") return integer(x * y, u);
    if (op == "+") return integer(x + y, u);
    if (op == "-") return integer(x - y, u);
    if (op == "&") return integer(x & y, u);
    if (op == "^") return integer(x ^ y, u);
    if (op == "|") return integer(x | y, u);
    if (!y) throw SyntaxError(line, "division by zero");
    if (!u && y == ~0ull) return integer(op == "/" ? 0 - x : 0, u);  // the smallest number has no opposite
    if (op == "/") return integer(u ? x / y : uint64_t(a.number() / b.number()), u);
    return integer(u ? x % y : uint64_t(a.number() % b.number()), u);
}

Value parse_expression(Lexer& lex, int least, int depth);

Value parse_unary(Lexer& lex, int depth) {
    const int line = lex.peek().line;
    if (depth > 200) throw SyntaxError(line, "an expression nests too deeply");
    if (lex.accept("(")) {
        if (lex.peek().is(".s64") || lex.peek().is(".u64")) {
            const bool is_unsigned = lex.take().text == ".u64";
            lex.expect(")");
            Value v       = apply("+", parse_unary(lex, depth + 1), integer(0, false), line);
            v.is_unsigned = is_unsigned;
            return v;
        }
        const Value v = parse_expression(lex, 0, depth + 1);
        lex.expect(")");
        return v;
    }
    if (lex.accept("+")) return parse_unary(lex, depth + 1);
    if (lex.accept("-")) {
        Value v = parse_unary(lex, depth + 1);
        if (v.o.kind == Operand::Int) v.o.bits = -v.o.bits;
        else v.o.bits ^= v.o.single ? 0x80000000ull : 0x8000000000000000ull;
        return v;
    }
    if (lex.accept("~")) return apply("^", parse_unary(lex, depth + 1), integer(~0ull, false), line);
    if (lex.accept("!")) return apply("==", parse_unary(lex, depth + 1), integer(0, false), line);
    return parse_literal(lex);
}

Value parse_expression(Lexer& lex, int least, int depth) {
    const int line = lex.peek().line;
    Value v        = parse_unary(lex, depth);
    while (const Operator* op = take_operator(lex, least))
        v = apply(op->text, v, parse_expression(lex, op->level + 1, depth + 1), line);
    if (least > 0 || !lex.accept("?")) return v;
    const Value yes = parse_expression(lex, 0, depth + 1);
    lex.expect(":");
    const Value no = parse_expression(lex, 0, depth + 1);
    return apply("+", v.o.bits ? yes : no, integer(0, yes.is_unsigned || no.is_unsigned), line);
}

}  // namespace

bool starts_constant(const Lexer& lex) {
    Lexer ahead = lex;
    ahead.accept("!");  // a "!" in front of a predicate does not begin an expression
    const Token& t = ahead.peek();
    return t.kind == Token::Number || t.is("-") || t.is("+") || t.is("(") || t.is("~") || t.is("WARP_SZ");
}
Operand parse_constant(Lexer& lex) { return parse_expression(lex, 0, 0).o; }
int64_t parse_offset(Lexer& lex) {
    int64_t sum = 0;
    while (lex.peek().is("+") || lex.peek().is("-")) {
        const bool minus = lex.take().text == "-";
        const Value v    = parse_expression(lex, 10, 0);
        sum += minus ? -v.number() : v.number();
    }
    return sum;
}

}  // namespace emu::ptx
