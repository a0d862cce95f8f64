// forms.h - the instruction table: one row per form, with the function that decodes it
#pragma once
#include "decode.h"

namespace emu {

// A pattern lists the opcode and its modifiers. {one,of,these} are alternatives, and ? marks what may be absent. Words
// in upper case stand for the families in forms.cpp: "add .{INT}", "ld .{SPACE}? .{CACHE}? .{VEC}? .{ANY}".
struct Row {
    const char* pattern;
    void (*build)(Builder&, const ptx::Instruction&);
};

// Returns null when the emulator lacks this form.
const Row* find_row(const ptx::Instruction& i);

// The rows of each file of handlers.
std::vector<Row> integer_rows(), float_rows(), half_rows(), convert_rows(), move_rows(), memory_rows(), atomic_rows(),
    control_rows(), warp_rows(), tensor_rows(), matrix_rows(), video_rows(), mbarrier_rows(), bulk_rows(), wgmma_rows();
size_t row_count();
std::vector<std::string> rows_without_use();  // patterns that no instruction of this process has matched

}  // namespace emu
