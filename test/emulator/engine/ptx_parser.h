// ptx_parser.h - what ptx_parser.cpp, ptx_body.cpp and ptx_constant.cpp share
#pragma once
#include "ptx_lexer.h"

namespace emu::ptx {

uint64_t parse_integer(const Token& t);
bool starts_constant(const Lexer& lex);  // whether a number or a constant expression comes next
Operand parse_constant(Lexer& lex);      // an Int or a Float
int64_t parse_offset(Lexer& lex);        // reads the +N or -N behind a symbol or register; 0 if none
std::vector<Variable> parse_variables(Lexer& lex, const std::string& space);  // up to the semicolon

}  // namespace emu::ptx
