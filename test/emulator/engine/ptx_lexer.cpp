// ptx_lexer.cpp - see ptx_lexer.h
#include "ptx_lexer.h"

#include <cctype>

namespace emu::ptx {
namespace {
bool starts_word(char c) { return std::isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%'; }
bool in_word(char c) { return std::isalnum((unsigned char)c) || c == '_' || c == '$'; }
}  // namespace

void Lexer::skip_blanks() {
    while (p < end) {
        if (*p == '\n') line++, p++;
        else if (std::isspace((unsigned char)*p)) p++;
        else if (*p == '/' && end - p > 1 && p[1] == '/') {
            while (p < end && *p != '\n') p++;
        } else if (*p == '/' && end - p > 1 && p[1] == '*') {
            for (p += 2; p < end && !(*p == '*' && end - p > 1 && p[1] == '/'); p++) line += *p == '\n';
            p = end - p > 2 ? p + 2 : end;
        } else break;
    }
}

void Lexer::next() {
    skip_blanks();
    token = {Token::End, std::string_view(p, 0), line};
    if (p >= end) return;
    const char* start = p;
    if (starts_word(*p)) {
        token.kind = Token::Word;
        p++;
        while (p < end && in_word(*p)) p++;
        // %tid.x is one name, but x.y is not.
        if (*start == '%' && end - p > 1 && *p == '.' && starts_word(p[1])) {
            p++;
            while (p < end && in_word(*p)) p++;
        }
    } else if (*p == '.' && end - p > 1 && starts_word(p[1])) {
        token.kind = Token::Directive;
        p++;
        while (p < end && in_word(*p)) p++;
    } else if (std::isdigit((unsigned char)*p)) {
        token.kind = Token::Number;
        while (p < end && (in_word(*p) || *p == '.')) {
            // The digits of a hexadecimal number (0x…, 0f… and 0d…) may also be an E.
            const bool hex      = start[0] == '0' && p - start > 1 && std::isalpha((unsigned char)start[1]);
            const bool exponent = (*p == 'e' || *p == 'E') && !hex;
            p++;
            if (exponent && p < end && (*p == '+' || *p == '-')) p++;
        }
    } else if (*p == '"') {
        token.kind = Token::Text;
        for (p++; p < end && *p != '"'; p++) {
            if (*p == '\\' && end - p > 1) p++;
            line += *p == '\n';
        }
        if (p >= end) throw SyntaxError(token.line, "string without end");
        token.text = std::string_view(start + 1, p - start - 1);
        p++;
        return;
    } else {
        token.kind = Token::Punctuation;
        p++;
    }
    token.text = std::string_view(start, p - start);
}

void Lexer::expect(std::string_view s) {
    if (!accept(s))
        throw SyntaxError(token.line, "'" + std::string(s) + "' expected, found '" + std::string(token.text) + "'");
}

Token Lexer::word() {
    if (token.kind != Token::Word)
        throw SyntaxError(token.line, "a name expected, found '" + std::string(token.text) + "'");
    return take();
}

std::string Lexer::opcode() {
    const char* start = token.text.data();
    p                 = start;
    while (p < end && (in_word(*p) || *p == '.' || (*p == ':' && end - p > 1 && p[1] == ':') ||
                       (*p == ':' && p > start && p[-1] == ':')))
        p++;
    std::string name(start, p - start);
    next();
    return name;
}

std::string_view Lexer::braces(int& first_line) {
    // The current token is the first one after the brace, so the text begins there.
    p                 = token.text.data() - (token.kind == Token::Text ? 1 : 0);
    line              = token.line;
    first_line        = line;
    const char* start = p;
    for (int depth = 1; p < end; p++) {
        skip_blanks();
        if (p >= end) break;
        if (*p == '"') {
            for (p++; p < end && *p != '"'; p++) {
                if (*p == '\\' && end - p > 1) p++;
                line += *p == '\n';
            }
        } else if (*p == '{') depth++;
        else if (*p == '}' && --depth == 0) {
            const std::string_view inside(start, p - start);
            p++;
            next();
            return inside;
        }
    }
    throw SyntaxError(first_line, "'{' without '}'");
}

void Lexer::skip_line() {
    const int here = token.line;
    while (token.kind != Token::End && token.line == here) next();
}

}  // namespace emu::ptx
