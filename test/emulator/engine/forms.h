// forms.h - the instruction table: one row per form, with the function that decodes it
#pragma once
#include "decode.h"

namespace emu {

// A pattern names the modifiers in order: literal ones, {one,of,these}, and a ? behind what may be absent. Upper-case
// words stand for the families in forms.cpp: "add .{INT}", "ld .{SPACE}? .{CACHE}? .{VEC}? .{ANY}".
struct Row {
    const char* pattern;
    void (*build)(Builder&, const ptx::Instruction&);
};

// Null: we lack this form.
const Row* find_row(const ptx::Instruction& i);

// Each file of handlers brings its rows.
std::vector<Row> integer_rows(), float_rows(), half_rows(), convert_rows(), move_rows(), memory_rows(), atomic_rows(),
    control_rows(), warp_rows(), tensor_rows(), matrix_rows(), video_rows(), mbarrier_rows();
size_t row_count();
std::vector<std::string> rows_without_use();  // patterns that no instruction of this process has matched

}  // namespace emu
