// ptx_parser.h - what the two halves of the parser share
#pragma once
#include "ptx_lexer.h"

namespace emu::ptx {

uint64_t parse_integer(const Token& t);
Operand parse_number(Lexer& lex);  // with sign
Variable parse_variable(Lexer& lex, const std::string& space);

}  // namespace emu::ptx
