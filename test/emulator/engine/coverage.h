// coverage.h - --coverage: which instruction forms a module needs, and which of them we lack
#pragma once
#include "ptx.h"

namespace emu {
void print_coverage(ptx::Module& m);
}
