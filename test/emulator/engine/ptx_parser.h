// ptx_parser.h - what ptx_parser.cpp and ptx_body.cpp share
#pragma once
#include "ptx_lexer.h"

namespace emu::ptx {

uint64_t parse_integer(const Token& t);
Operand parse_number(Lexer& lex);                                             // reads a number and its sign
std::vector<Variable> parse_variables(Lexer& lex, const std::string& space);  // up to the semicolon

}  // namespace emu::ptx
