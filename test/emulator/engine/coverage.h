// coverage.h - --coverage lists the instruction forms that a module needs, and those of them that the emulator lacks
#pragma once
#include "ptx.h"

namespace emu {
void print_coverage(ptx::Module& m);
}
