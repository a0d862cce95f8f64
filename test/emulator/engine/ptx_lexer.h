// ptx_lexer.h - PTX text to tokens, with line numbers
#pragma once
#include "ptx.h"

namespace emu::ptx {

struct Token {
    enum Kind : uint8_t { End, Word, Directive, Number, Text, Punctuation } kind = End;
    std::string_view text;
    int line = 0;
    bool is(std::string_view s) const { return text == s && kind != Text; }
};

class Lexer {
  public:
    Lexer(std::string_view text, int line) : p(text.data()), end(p + text.size()), line(line) { next(); }
    const Token& peek() const { return token; }
    Token take() {
        Token t = token;
        next();
        return t;
    }
    bool accept(std::string_view s) {
        if (!token.is(s)) return false;
        next();
        return true;
    }
    void expect(std::string_view s);
    Token word();
    // The word at hand with all its .modifiers and ::qualifiers, which the ordinary tokens would split.
    std::string opcode();
    // From an opening brace, consumed already, to its partner: the text between.
    std::string_view braces(int& first_line);
    void skip_line();
    const char* place() const { return token.text.data(); }

  private:
    void next();
    void skip_blanks();
    const char *p, *end;
    int line;
    Token token;
};

}  // namespace emu::ptx
