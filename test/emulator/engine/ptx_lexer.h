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
    // Takes the current word with its .modifiers and ::qualifiers, which are tokens of their own elsewhere.
    std::string opcode();
    // Takes the text up to the closing brace. The opening one has been taken.
    std::string_view braces(int& first_line);
    void skip_line();

  private:
    void next();
    void skip_blanks();
    const char *p, *end;
    int line;
    Token token;
};

}  // namespace emu::ptx
